"""Makes names of files that others chose fit to be written down, and to name files of our own."""

from __future__ import annotations

import re

_SURROGATES = re.compile("[\ud800-\udfff]")
MAX_STEM_CHARS = 64  # some disks take 143 bytes for a name, of which the rest of ours are few


def escaped(name: str) -> str:
    r"""Returns a name as text that any table and console takes.

    Bytes of it that are not UTF-8, which Python keeps as surrogates, are spelt out: `caf\xe9.jpg`.
    """
    if name.isascii():
        return name
    return _SURROGATES.sub(lambda found: _spelt(ord(found[0])), name)


def safe_stem(name: str) -> str:
    """Returns the part of a file name before its first dot, as every file system takes it.

    Leading dots, dashes and underscores are left out: readers of tables skip hidden files, and
    commands take a dash for a flag.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name.lstrip(".").split(".")[0])
    return stem.lstrip("-_")[:MAX_STEM_CHARS] or "manifest"


def _spelt(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
