"""Decodes a manifest once for pretraining: pixels in memory-mapped files, captions beside them.

Every epoch then reads uint8 pixels instead of decoding again; the operating system keeps in memory
what fits. Costs 3 * size * size bytes of disk per row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.manifests.planning import manifest_files
from pipelines.manifests.request import ManifestRequest
from pipelines.records import Reject, Row, RowFault, image_uid
from pipelines.storage import reading
from pipelines.storage.redaction import redact
from pipelines.storage.stores import locate, retried

FOLDER = "data"
SPLITS = ("train", "held_out")
DONE = "done.json"  # written last: what the decoded files were made from, and the counts


_DATA_FILES = (
    *(f"{split}.{kind}" for split in SPLITS for kind in ("pixels", "captions.jsonl")),
    f"{DONE}.partial",
    DONE,
)
_FILES = (
    "checkpoint.pt",
    "checkpoint.partial",
    *(f"{FOLDER}/{name}" for name in _DATA_FILES),
)


@dataclass(frozen=True)
class DecodedSplit:
    """One split: `pixels` [rows, 3, size, size] uint8, memory-mapped, and their captions."""

    pixels: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class DecodedData:
    """Both splits and how many rows were rejected, by reason."""

    train: DecodedSplit
    held_out: DecodedSplit
    rejects: dict[str, int]


class DataError(ValueError):
    """The decoded data of another manifest, or of another image size, stands in the way."""


def is_own_file(path: Path) -> bool:
    """Tells whether a path in a model directory is of what a pretraining keeps beside the model."""
    return path.parts[0] == "training" and path.relative_to("training").as_posix() in _FILES


def remove_training(directory: Path) -> None:
    """Removes what a pretraining keeps beside the model, and nothing else."""
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)


def split_of(uid: str, holdout_fraction: float) -> str:
    """Names the split of a row: by its id alone, so that adding rows moves none."""
    draw = int(hashlib.sha256(uid.encode()).hexdigest()[:8], 16) / 2**32
    return "held_out" if draw < holdout_fraction else "train"


def source_files(request: ManifestRequest) -> list[list[str | int]]:
    """Returns what tells whether a manifest has changed: URI, size and age of each of its files.

    Raises:
        ManifestError, OSError: if there is none, or it cannot be looked at.
    """
    uris = [uri for uri, _ in manifest_files(request)]
    return [[redact(uri), reading.file_size(uri), _changed_at(uri)] for uri in uris]


@retried
def _changed_at(uri: str) -> str:
    """Returns when a file was changed last, or nothing where the filesystem does not tell."""
    filesystem, path = locate(uri)
    try:
        return str(filesystem.modified(path))
    except (NotImplementedError, KeyError):
        return ""


def decode_manifest(
    rows: Iterable[Row | Reject],
    decode: Callable[[Row], np.ndarray],
    directory: Path,
    *,
    size: int,
    holdout_fraction: float,
    made_from: dict,
    threads: int,
) -> None:
    """Decodes every row into `directory`, unless that was done before from the same source.

    Args:
        rows: what a manifest's reader yields.
        decode: row -> [3, size, size] uint8; raises `RowFault`.
        made_from: identifies the source; compared on a later run.

    Raises:
        DataError: if `directory` holds data made from something else.
    """
    if (directory / DONE).exists():
        _check_same_source(directory, made_from)
        return
    directory.mkdir(parents=True, exist_ok=True)
    rejects: Counter[str] = Counter()
    with _SplitWriter(directory, "train") as train, _SplitWriter(directory, "held_out") as held_out:
        for row, outcome in _decode_ahead(rows, decode, threads):
            if isinstance(outcome, str):
                rejects[outcome] += 1
                continue
            split = split_of(image_uid(row.uid, row.caption_index), holdout_fraction)
            (train if split == "train" else held_out).add(outcome, row.text or "")
    done = {"made_from": made_from, "size": size, "rejects": dict(rejects)}
    partial = directory / (DONE + ".partial")
    partial.write_text(json.dumps(done), encoding="utf-8")
    os.replace(partial, directory / DONE)


def open_decoded(directory: Path) -> DecodedData:
    """Opens what `decode_manifest` left in `directory`."""
    done = json.loads((directory / DONE).read_text(encoding="utf-8"))
    train, held_out = (_open_split(directory, split, done["size"]) for split in SPLITS)
    return DecodedData(train, held_out, done["rejects"])


def _open_split(directory: Path, split: str, size: int) -> DecodedSplit:
    lines = (directory / f"{split}.captions.jsonl").read_text(encoding="utf-8").splitlines()
    captions = [json.loads(line) for line in lines]
    shape = (len(captions), 3, size, size)
    if not captions:
        return DecodedSplit(np.empty(shape, np.uint8), captions)
    pixels = np.memmap(directory / f"{split}.pixels", np.uint8, mode="r", shape=shape)
    return DecodedSplit(pixels, captions)


def _check_same_source(directory: Path, made_from: dict) -> None:
    found = json.loads((directory / DONE).read_text(encoding="utf-8"))["made_from"]
    differing = sorted(name for name in made_from if made_from[name] != found.get(name))
    if differing:
        raise DataError(
            f"{directory} holds data decoded with another {', '.join(differing)}; "
            "remove it or use another output"
        )


def _decode_ahead(
    rows: Iterable[Row | Reject], decode: Callable[[Row], np.ndarray], threads: int
) -> Iterator[tuple[Row, np.ndarray | str]]:
    """Yields each row, in order, with its pixels or the reason why there are none."""

    def outcome(row: Row) -> np.ndarray | str:
        try:
            return decode(row)
        except RowFault as fault:
            return fault.reason.value

    pending: deque[tuple[Row, Future | str]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row in rows:
            if isinstance(row, Reject):
                pending.append((row.row, row.reason.value))
            else:
                pending.append((row, pool.submit(outcome, row)))
            while len(pending) > 8 * threads:
                yield _resolve(pending.popleft())
        while pending:
            yield _resolve(pending.popleft())


def _resolve(item: tuple[Row, Future | str]) -> tuple[Row, np.ndarray | str]:
    row, outcome = item
    return row, outcome if isinstance(outcome, str) else outcome.result()


class _SplitWriter:
    """Appends rows to the two files of one split."""

    def __init__(self, directory: Path, split: str) -> None:
        self._pixels_path = directory / f"{split}.pixels"
        self._captions_path = directory / f"{split}.captions.jsonl"

    def __enter__(self) -> _SplitWriter:
        self._pixels = self._pixels_path.open("wb")
        self._captions = self._captions_path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        self._pixels.close()
        self._captions.close()

    def add(self, pixels: np.ndarray, caption: str) -> None:
        self._pixels.write(pixels.tobytes())
        self._captions.write(json.dumps(caption) + "\n")  # escaped, so one line is one caption
