"""Memory of processes: what is freed goes back to the system, and what is allocated has a bound."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# Above the arrays of a batch, which are allocated all the time; below the tables of a unit.
_LARGE_BYTES = 8 << 20


def return_freed_memory() -> None:
    """Fixes glibc's thresholds where there is glibc, and lets Arrow use the same allocator.

    Otherwise the peak of a long run keeps rising: each time a large buffer is freed, glibc raises
    the size from which it maps buffers, and takes the next one from a fragmented heap.
    """
    import pyarrow as pa  # here, as decoding processes need nothing of it

    pa.set_memory_pool(pa.system_memory_pool())
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)


def limit_memory(max_bytes: int) -> None:
    """Bounds what is allocated from now on, on systems that can: Linux."""
    try:
        import resource  # not everywhere

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    bound = pages * resource.getpagesize() + max_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or bound < hard:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
