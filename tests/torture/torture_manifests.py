"""Seeded bad manifests of every form, and what must be true of whatever is read of them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import read_unit
from pipelines.records import Reject
from schemas.manifest import ManifestError
from torture_images import DAMAGES

ROWS = 40
PICTURE = b"\x89PNG not decoded here"
STRANGE = (
    "", " ", "\0", "a,b", 'quo"te', "line\nbreak", "tab\tbed", "=cmd()", "<b>html</b>", "שלום",
    "\u202eright to left", "x" * 3000, "\ufeffbom", "{}", "null", "😀" * 50, "\r", "\x1a",
)  # fmt: skip


def rows(rng: np.random.Generator) -> list[dict[str, str]]:
    """Returns rows with hostile captions; every id is one of a kind."""
    return [
        {"uid": f"uid-{n:04d}", "url": f"{n}.png", "text": f"caption {rng.choice(STRANGE)} {n}"}
        for n in range(ROWS)
    ]


def _jsonl(found: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()


def _separated(delimiter: str) -> Callable[[list[dict]], bytes]:
    def write(found: list[dict]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(found[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(found)
        return text.getvalue().encode()

    return write


def _parquet(found: list[dict]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([{**row, "image_bytes": PICTURE} for row in found])
    pq.write_table(table, sink, row_group_size=10, write_page_checksum=True)
    return sink.getvalue()


def _tar(found: list[dict]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for row in found:
            about = {"uid": row["uid"], "text": row["text"]}
            for suffix, data in (("png", PICTURE), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{row['uid']}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


_CSV = _separated(",")
FORMS: dict[str, Callable[[list[dict]], bytes]] = {
    "m.jsonl": _jsonl,
    "m.csv": _CSV,
    "m.tsv": _separated("\t"),
    "m.parquet": _parquet,
    "m.tar": _tar,
    "m.jsonl.gz": lambda found: gzip.compress(_jsonl(found), mtime=0),
    "m.jsonl.zst": lambda found: _zstd(_jsonl(found)),
    "m.csv.bz2": lambda found: bz2.compress(_CSV(found)),
    "m.csv.gz": lambda found: gzip.compress(_CSV(found), mtime=0),
    "m.tar.gz": lambda found: gzip.compress(_tar(found), mtime=0),
}


def with_header(data: bytes, offset: int, changes: Mapping[int, bytes]) -> bytes:
    """Changes bytes of the tar header at `offset`, and mends its checksum."""
    header = bytearray(data[offset : offset + tarfile.BLOCKSIZE])
    for at, value in changes.items():
        header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:offset] + bytes(header) + data[offset + tarfile.BLOCKSIZE :]


def mutated_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes a header of a tar so that nothing but its content tells."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        offsets = [member.offset for member in tar]
    size, kind, any_field = range(124, 136), range(156, 157), range(tarfile.BLOCKSIZE)
    changes = {}
    for _ in range(rng.choice([1, 3, 12])):
        place = (size, kind, any_field)[rng.integers(3)]
        changes[int(rng.choice(place))] = bytes([rng.choice([0, 0x80, 0xFF, rng.integers(256)])])
    return with_header(data, int(rng.choice(offsets)), changes)


def bad_manifests(count: int, seed: int) -> Iterator[tuple[str, bytes, set[str]]]:
    """Yields file name, content and the ids it must give; each form whole, then damaged.

    A plain text file does not tell how long it once was, nor does a tar whose tail has become
    zeros: these must give what is still in them.
    """
    rng = np.random.default_rng(seed)
    names = list(FORMS)
    for number in range(count):
        found = rows(rng)
        name = names[number % len(names)]
        data = FORMS[name](found)
        if number >= len(names) and name == "m.tar" and rng.random() < 0.5:
            data = mutated_header(data, rng)
        elif number >= len(names):
            data = DAMAGES[number // len(names) % len(DAMAGES)](data, rng)
        ids = {row["uid"] for row in found}
        plain = name.endswith(("jsonl", "csv", "tsv", "tar"))
        yield name, data, {uid for uid in ids if uid.encode() in data} if plain else ids


def read_manifest(path: Path) -> tuple[list[str], list[Reject]] | None:
    """Plans and reads a manifest in units of seven rows, as a job would.

    Returns:
        The ids read and the rejects; None where the manifest is refused in one sentence.
    """
    try:
        plan = plan_units(ManifestRequest((str(path),), rows_per_unit=7))
    except ManifestError as error:
        assert str(error) and "\n" not in str(error), error
        return None
    records = [record for unit in plan.units for record in read_unit(unit)]
    rejects = [record for record in records if isinstance(record, Reject)]
    numbers = [getattr(record, "row", record).source_row for record in records]
    assert numbers == sorted(set(numbers)), "rows are numbered twice or out of order"
    assert plan.rows in (None, len(records)), f"{plan.rows} planned, {len(records)} read"
    return [record.uid for record in records if not isinstance(record, Reject)], rejects


def unaccounted(whole: set[str], found: list[str], rejects: list[Reject]) -> int:
    """Returns how many rows of the whole file vanished without a word.

    A row may come back under another id, where the damage hit its id; else its loss must be told by
    a reject, which may stand for all that follows it in the file.
    """
    lost = len(whole - set(found))
    renamed = len([uid for uid in found if uid not in whole])
    return 0 if rejects else max(lost - renamed, 0)
