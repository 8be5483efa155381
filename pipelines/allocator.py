"""Keeps the memory of a long run flat: what a slice has freed goes back to the system.

Otherwise the peak keeps rising for several slices: each time a large buffer is freed, glibc raises
the size from which it maps buffers, and takes the next one from a fragmented heap.
"""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# Above the arrays of a batch, which are allocated all the time; below the tables of a unit.
_LARGE_BYTES = 8 << 20


def return_freed_memory() -> None:
    """Fixes glibc's thresholds where there is glibc, and lets Arrow use the same allocator."""
    pa.set_memory_pool(pa.system_memory_pool())
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
