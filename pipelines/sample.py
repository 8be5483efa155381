"""`clip-beam sample`: writes a sample image-text dataset, with the truth about it beside it.

OUTPUT/manifest-00000.parquet ...   or .jsonl, .csv, .tsv, .tar
OUTPUT/images/...                   where the manifest names files
OUTPUT/_truth.jsonl                 swaps, damage and content of every row
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.command_line import exits
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import local_place
from pipelines.engine.cores import usable_cores
from pipelines.samples.rows import WORD_SWAPS, SampleConfig, SampleRow, make_row
from pipelines.samples.scenes import PAIR_CHOICES

FORMATS = ("parquet", "jsonl", "csv", "tsv", "webdataset")
TRUTH = "_truth.jsonl"  # the underscore keeps it out when the directory is read as a manifest
ROWS_PER_FILE = 10_000
CHUNK_ROWS = 256
WORTH_PROCESSES = 4_000  # rows; below, starting processes costs more than it saves


@dataclass(frozen=True)
class SampleSummary:
    """What was written: rows by kind of swap, and by kind of damage."""

    rows: int
    swaps: Counter[str]
    damages: Counter[str]


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    values = vars(options)
    try:
        config = SampleConfig(**{field.name: values[field.name] for field in fields(SampleConfig)})
        summary = write_sample(config, options.output, options.manifest_format)
    except (ValueError, OSError) as error:
        return exits.fail("sample", str(error), exits.WRONG_USAGE)
    print(f"rows      {summary.rows}")
    print(f"swapped   {_counts(summary.swaps)}")
    print(f"broken    {_counts(summary.damages)}")
    print(f"manifest  {options.output}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam sample`."""
    flags = Parser(prog="clip-beam sample", description="Write a sample image-text dataset.")
    defaults = SampleConfig()
    add = group(flags, "content").add_argument
    add(
        "--rows",
        type=int,
        default=defaults.rows,
        metavar="N",
        help=f"rows to draw [{defaults.rows}]",
    )
    add("--seed", type=int, default=defaults.seed, metavar="N", help="decides what is drawn [0]")
    add(
        "--image_size",
        type=int,
        default=defaults.image_size,
        metavar="PIXELS",
        help=f"about the shorter side of an image [{defaults.image_size}]",
    )
    add("--one_object", action="store_true", help="a single object in every image")
    add(
        "--colour_shape_pairs",
        choices=PAIR_CHOICES,
        default=defaults.colour_shape_pairs,
        help="`seen`: without eight pairs that are held out; `unseen`: those only "
        f"[{defaults.colour_shape_pairs}]",
    )
    for flag, what in (
        ("--swap_rate", "with another's caption"),
        ("--word_swap_rate", "with one word of the caption changed"),
        ("--broken_rate", "with a damaged or missing image"),
    ):
        add(flag, type=float, default=0.0, metavar="SHARE", help=f"share of rows {what} [0.0]")
    add(
        "--word_swap",
        choices=WORD_SWAPS,
        default=defaults.word_swap,
        help=f"which word is changed [{defaults.word_swap}]",
    )
    add = group(flags, "output").add_argument
    add("--output", type=local_place, required=True, metavar="DIR", help="directory to write")
    add(
        "--manifest_format",
        choices=FORMATS,
        default="parquet",
        help="form of the manifest; parquet and webdataset hold the images [parquet]",
    )
    return flags


def write_sample(config: SampleConfig, output: Path, manifest_format: str) -> SampleSummary:
    """Writes a dataset; the same config gives the same bytes.

    Args:
        manifest_format: one of `FORMATS`. Parquet and WebDataset hold the images, the others
            name files under OUTPUT/images.

    Raises:
        ValueError: if `output` is not an empty or new directory, or the format is unknown.
    """
    if manifest_format not in FORMATS:
        raise ValueError(f"`manifest_format` must be one of {FORMATS}, got {manifest_format!r}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"expected an empty or new directory, got {output}; name another")
    output.mkdir(parents=True, exist_ok=True)
    swaps: Counter[str] = Counter()
    damages: Counter[str] = Counter()
    rows = _rows(config)
    with open(output / TRUTH, "w", encoding="utf-8") as truth:
        for index in range(max(1, -(-config.rows // ROWS_PER_FILE))):
            shard = list(islice(rows, ROWS_PER_FILE))
            _write_shard(shard, output, manifest_format, index)
            for row in shard:
                truth.write(json.dumps(row.truth.to_json()) + "\n")
                swaps[row.truth.swap] += row.truth.swap != "none"
                damages[row.truth.damage] += row.truth.damage != "none"
    return SampleSummary(config.rows, +swaps, +damages)


def _rows(config: SampleConfig) -> Iterator[SampleRow]:
    """Makes all rows in order, in several processes when there are many."""
    make = partial(make_row, config)
    if config.rows < WORTH_PROCESSES:
        yield from map(make, range(config.rows))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), mp_context=spawn) as pool:
        # The pool runs ahead of the writer, so it is handed no more than one file's rows at a time.
        for start in range(0, config.rows, ROWS_PER_FILE):
            numbers = range(start, min(start + ROWS_PER_FILE, config.rows))
            yield from pool.map(make, numbers, chunksize=CHUNK_ROWS)


def _write_shard(rows: list[SampleRow], output: Path, manifest_format: str, index: int) -> None:
    suffix = "tar" if manifest_format == "webdataset" else manifest_format
    path = output / f"manifest-{index:05d}.{suffix}"
    if manifest_format == "parquet":
        _write_parquet(rows, path)
    elif manifest_format == "webdataset":
        _write_tar(rows, path)
    else:
        _write_images(rows, output / "images")
        _write_text(rows, path, manifest_format)


def _write_parquet(rows: list[SampleRow], path: Path) -> None:
    columns = {
        "uid": pa.array([row.uid for row in rows], pa.string()),
        "image_bytes": pa.array([row.image for row in rows], pa.binary()),
        "text": pa.array([row.text for row in rows], pa.string()),
    }
    pq.write_table(
        pa.table(columns), path, row_group_size=1000, use_dictionary=False, write_page_checksum=True
    )


def _write_images(rows: list[SampleRow], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for row in rows:
        if row.image is not None:
            (directory / f"{row.uid}.jpg").write_bytes(row.image)


def _write_text(rows: list[SampleRow], path: Path, manifest_format: str) -> None:
    records = ({"uid": r.uid, "image_path": f"images/{r.uid}.jpg", "text": r.text} for r in rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if manifest_format == "jsonl":
            file.writelines(json.dumps(record) + "\n" for record in records)
            return
        delimiter = "," if manifest_format == "csv" else "\t"
        names = ["uid", "image_path", "text"]
        writer = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def _write_tar(rows: list[SampleRow], path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for row in rows:
            for suffix, data in _members(row):
                member = tarfile.TarInfo(f"{row.uid}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _members(row: SampleRow) -> Iterable[tuple[str, bytes]]:
    if row.image is not None:
        yield "jpg", row.image
    yield "txt", row.text.encode()
    yield "json", json.dumps({"uid": row.uid}).encode()


def _counts(counts: Counter[str]) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{counts.total()} ({parts})" if parts else "0"


if __name__ == "__main__":
    exits.run(main)
