"""Bounds the memory of a process that was started for what may take too much."""

from __future__ import annotations

from pathlib import Path


def limit_memory(max_bytes: int) -> None:
    """Bounds what is allocated from now on, on systems that can: Linux."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    bound = pages * resource.getpagesize() + max_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or bound < hard:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
