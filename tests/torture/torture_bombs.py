"""Manifests of some kB that would become gigabytes, each read in a process whose peak is measured."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MAX_PEAK_MIB = 512
LONG = "x" * (20 << 20)
PEAK = """if True:
    import sys
    from pipelines.manifests.planning import plan_units
    from pipelines.manifests.request import ManifestRequest
    from pipelines.manifests.units import read_unit

    def peak_mib():
        text = open("/proc/self/status").read().split("VmHWM:")[1]
        return int(text.split()[0]) >> 10

    before = peak_mib()
    kept = tuple(sys.argv[2:])
    for unit in plan_units(ManifestRequest((sys.argv[1],), keep_columns=kept)).units:
        for record in read_unit(unit):
            pass
    print(peak_mib() - before)
"""


def repeated(value: object, times: int, kind: pa.DataType) -> pa.Array:
    """Returns one value many times, stored once."""
    values = pa.array([value], kind)
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), values)


def chunks(value: str, times: int) -> pa.ChunkedArray:
    """Returns one value many times, in memory once."""
    return pa.chunked_array([pa.array([value])] * times)


def rows_of(**columns: Any) -> dict[str, Any]:
    """Returns columns of a manifest, of which some are given."""
    times = len(next(iter(columns.values())))
    return {"url": ["u"] * times, "text": ["t"] * times} | columns


def one_list(length: int) -> pa.Array:
    """Returns one row, a list so long."""
    return pa.ListArray.from_arrays([0, length], np.ones(length, np.int8))


TABLES: dict[str, Callable[[], dict[str, Any]]] = {
    "captions": lambda: rows_of(text=repeated(LONG, 60, pa.string())),
    "ids": lambda: rows_of(uid=repeated(LONG, 60, pa.string())),
    "binary ids": lambda: rows_of(uid=repeated(LONG.encode(), 60, pa.binary())),
    "images": lambda: rows_of(image_bytes=repeated(LONG.encode(), 60, pa.binary())),
    "plain": lambda: rows_of(text=chunks(LONG, 25)),
    "prefixes": lambda: rows_of(text=["x" * (2 << 20)] * 250),
    "lists": lambda: rows_of(kept=one_list(60 << 20)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "prefixes": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


def write_table(path: Path, name: str) -> list[str]:
    """Writes one of `TABLES`; returns the columns to keep."""
    columns = TABLES[name]()
    settings = {"compression": "zstd", "write_statistics": False} | SETTINGS.get(name, {})
    pq.write_table(pa.table(columns), path, **settings)
    return ["kept"] if "kept" in columns else []


def _tar(kind: bytes, name: str, size: int, **about: Any) -> bytes:
    """Returns a tar with one member of so many bytes, packed."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        tar.addfile(member, _Zeros(size), **about)
    return sink.getvalue()


class _Zeros(io.RawIOBase):
    """So many zero bytes, none of which is held."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        self._left -= size
        return bytes(size)


TARS: dict[str, Callable[[], bytes]] = {
    "image of zeros": lambda: _tar(tarfile.REGTYPE, "a.png", 700 << 20),
    "caption of zeros": lambda: _tar(tarfile.REGTYPE, "a.txt", 700 << 20),
    "json of zeros": lambda: _tar(tarfile.REGTYPE, "a.json", 700 << 20),
    "long name": lambda: _tar(tarfile.GNUTYPE_LONGNAME, "././@LongLink", 700 << 20),
    "extended header": lambda: _tar(tarfile.XHDTYPE, "a", 700 << 20),
}


def bombs(folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Writes each; yields its name, its file and the columns to keep."""
    for name in TABLES:
        path = folder / f"{name.replace(' ', '-')}.parquet"
        yield name, path, write_table(path, name)
    for name, data in TARS.items():
        path = folder / f"{name.replace(' ', '-')}.tar.gz"
        path.write_bytes(data())
        yield name, path, []


def peak_mib(path: Path, kept: list[str]) -> int:
    """Returns how much memory a process takes to plan and read a manifest, beyond its start.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    command = [sys.executable, "-c", PEAK, str(path), *kept]
    found = subprocess.run(command, capture_output=True, text=True)
    found.check_returncode()
    return int(found.stdout)
