"""Directories that commands write on this machine's disk, and nowhere else."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_FILE = re.compile(r"(?:file|local)://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")  # of two letters at least: `C:/` is a disk


def local_directory(text: str) -> Path:
    """Reads a flag that names a directory of this machine.

    Raises:
        argparse.ArgumentTypeError: if it is empty, or names a store, of which a path would make a
            folder called `gs:`.
    """
    path = _FILE.sub("", text, count=1) if _FILE.match(text) else text
    if not path.strip():
        raise argparse.ArgumentTypeError(f"expected a directory, got {text!r}")
    if _SCHEME.match(path):
        raise argparse.ArgumentTypeError(
            f"expected a directory on this machine's disk, got {text!r}; write to one and copy it"
        )
    return Path(path)
