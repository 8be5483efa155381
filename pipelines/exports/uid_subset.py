"""DataComp's subset files: the uids of kept rows, as its resharder takes them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable

import numpy as np

from pipelines.storage import writing

_HEX = re.compile(r"[0-9a-fA-F]{32}")
_UID = np.dtype("u8,u8")
_SORTED_ROWS = 1 << 20  # turned into numbers at once


def is_hex(uid: str) -> bool:
    """Tells whether a uid can be in a subset file: 32 hex digits."""
    return _HEX.fullmatch(uid) is not None


def packed(uids: Iterable[str]) -> bytes:
    """Returns uids of 32 hex digits as a subset file has them, 16 bytes each."""
    return bytes.fromhex("".join(uids))


def write_subset(target: str, uids: Iterable[bytes]) -> int:
    """Writes a subset file: uids as pairs of uint64, sorted; returns how many.

    They are sorted on the disk: as 16 big-endian bytes, whose order is that of the numbers.

    Args:
        uids: as `packed` makes them.
    """
    with tempfile.TemporaryFile() as scratch, writing.open_output(target) as file:
        for batch in uids:
            scratch.write(batch)
        scratch.flush()
        rows = scratch.tell() // _UID.itemsize
        descr = np.lib.format.dtype_to_descr(_UID)
        header = {"descr": descr, "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(file, header)
        if rows:
            keys = np.memmap(scratch, "S16", "r+", shape=(rows,))
            keys.sort()
            for start in range(0, rows, _SORTED_ROWS):
                block = keys[start : start + _SORTED_ROWS]
                file.write(block.view(">u8").astype("<u8").tobytes())
    return rows
