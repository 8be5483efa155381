"""Seeded faults of stores and kills, thrown at whole runs of `embed` until they get through.

All of the command is real, Beam's graph included; the store is in memory, so a run takes a second.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from pipelines import embed
from pipelines.images.fetch import FetchPolicy
from pipelines.runs import job
from pipelines.storage import stores
from pipelines.storage.retries import RetryPolicy

ROWS = 14
BAD = {3: b"<html>", 8: None, 9: b""}  # no picture, not there, empty
DATA, OUTPUT = "memory://torture/data", "memory://torture/out"
ATTEMPTS = 5  # with faults; the one after them has none


class Killed(BaseException):
    """The process is gone: every later use of the store fails, too, until the next one starts."""


@dataclass
class Faults:
    """What the store does wrong, drawn from a seed.

    Attributes:
        rate: share of operations that fail for now, or cut a picture short.
        kill_at: number of the operation at which the process dies, or None.
    """

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rate: float = 0.0
    kill_at: int | None = None
    operations: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self, operation: str) -> None:
        """Counts an operation, which may fail."""
        with self.lock:
            self.operations += 1
            if self.kill_at is not None and self.operations >= self.kill_at:
                self.counts["kill"] += self.operations == self.kill_at
                raise Killed
            if self.rng.random() >= self.rate:
                return
            self.counts[operation] += 1
            raise self.rng.choice(
                [
                    ConnectionResetError("reset by the store"),
                    TimeoutError("no answer"),
                    OSError(errno.EBUSY, "503 slow down"),
                    OSError(errno.EIO, "500 internal error"),
                ]
            )

    def cuts(self) -> bool:
        """Decides whether a body is cut short."""
        with self.lock:
            cut = self.rng.random() < self.rate
            self.counts["cut"] += cut
            return cut


FAULTS = Faults()
SAID = io.StringIO()  # on stderr, by the last run


class FaultyMemory(MemoryFileSystem):
    """A store in memory with the faults of `FAULTS`."""

    def _open(self, path: str, mode: str = "rb", **settings: object) -> object:
        if "r" in mode:
            FAULTS.strike("open")
        file = super()._open(path, mode, **settings)
        if path.endswith(".png") and mode == "rb" and FAULTS.cuts():
            data = file.getvalue()
            return io.BytesIO(data[: len(data) // 2])
        return file

    def info(self, path: str, **settings: object) -> dict:
        FAULTS.strike("info")
        return super().info(path, **settings)

    def ls(self, path: str, detail: bool = True, **settings: object) -> list:
        FAULTS.strike("list")
        return super().ls(path, detail, **settings)

    def rm_file(self, path: str) -> None:
        FAULTS.strike("remove")
        super().rm_file(path)
        FAULTS.strike("remove, done")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        FAULTS.strike("write")
        super().pipe_file(path, value, mode)
        FAULTS.strike("write, done")  # and the caller is told otherwise

    def put_file(self, lpath: str, rpath: str, **settings: object) -> None:
        FAULTS.strike("write")
        super().put_file(lpath, rpath, **settings)
        FAULTS.strike("write, done")


@contextlib.contextmanager
def faulty_store() -> Iterator[None]:
    """Puts the faulty store in the place of `memory://`."""
    before = job.FetchPolicy, stores.RETRIES
    at_once = RetryPolicy(backoff_s=0)
    fsspec.register_implementation("memory", FaultyMemory, clobber=True)
    job.FetchPolicy = partial(FetchPolicy, retries=at_once)
    stores.RETRIES = at_once
    try:
        yield
    finally:
        job.FetchPolicy, stores.RETRIES = before
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
        MemoryFileSystem.store.clear()


def write_data(form: str, mended: bool = False) -> str:
    """Writes a manifest and its pictures; returns its URI."""
    store = fsspec.filesystem("memory")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        data = _png(rng.integers(0, 256, (20, 20, 3), np.uint8))
        data = data if mended else BAD.get(number, data)
        path = f"/torture/data/{number}.png"
        if data is not None:
            store.pipe_file(path, data)
        rows.append({"uid": f"u{number}", "url": f"{number}.png", "text": f"star {number}"})
    if form == "jsonl":
        store.pipe_file("/torture/data/m.jsonl", _lines(rows))
    else:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=5)
        store.pipe_file("/torture/data/m.parquet", sink.getvalue())
    return f"{DATA}/m.{form}"


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tables() -> tuple[dict[str, list[float]], dict[str, str]]:
    """Returns similarity and image embedding by id, and reason by id.

    Raises:
        AssertionError: if a row is there twice.
    """
    store = fsspec.filesystem("memory")
    found: dict[str, list[dict]] = {"embeddings": [], "rejects": []}
    for name, rows in found.items():
        for path in store.glob(f"/torture/out/{name}/*.parquet"):
            rows += pq.read_table(io.BytesIO(store.cat_file(path))).to_pylist()
    uids = [row["uid"] for rows in found.values() for row in rows]
    assert len(uids) == len(set(uids)), f"rows are there twice: {sorted(uids)}"
    vectors = {
        row["uid"]: [row["similarity"], *row["image_embedding"]] for row in found["embeddings"]
    }
    return vectors, {row["uid"]: row["reason"] for row in found["rejects"]}


@dataclass
class FaultRun:
    """What came of one seeded run."""

    attempts: int
    struck: Counter[str]
    unaccounted: int
    differing: int


def fault_run(seed: int, model: str, expected: tuple[dict, dict]) -> FaultRun:
    """Runs `embed` under faults until it gets through, then without, and compares.

    Odd seeds also mend the bad pictures and retry the rejects, under faults, too.

    Args:
        expected: `tables()` of a run without faults, all pictures mended.
    """
    global FAULTS
    rng = random.Random(seed)
    struck: Counter[str] = Counter()
    FAULTS = Faults()
    fsspec.filesystem("memory").store.clear()
    manifest = write_data(rng.choice(["jsonl", "parquet"]))
    flags = ["--manifest", manifest, "--output", OUTPUT, "--model", model, "--rows_per_unit", "4"]
    attempts = _until_done(rng, flags, struck)
    if seed % 2:
        write_data(manifest.rpartition(".")[2], mended=True)
        attempts += _until_done(rng, [*flags, "--retry_rejects"], struck)
    FAULTS = Faults()
    write_data(manifest.rpartition(".")[2], mended=True)
    status = _embed([*flags, "--retry_rejects"])  # what faults outlasted the attempts at
    assert status == 0, f"a run without faults ended with {status}: {SAID.getvalue()}"
    vectors, reasons = tables()
    lost = set(expected[0]) - set(vectors) - set(reasons)
    differing = [
        uid
        for uid in expected[0]
        if not np.allclose(vectors.get(uid, np.nan), expected[0][uid], atol=1e-5)
    ]
    return FaultRun(attempts, struck, len(lost), len(differing))


def fault_free(model: str) -> tuple[dict, dict]:
    """Returns the tables that every run must come to."""
    global FAULTS
    FAULTS = Faults()
    fsspec.filesystem("memory").store.clear()
    manifest = write_data("jsonl", mended=True)
    assert _embed(["--manifest", manifest, "--output", OUTPUT, "--model", model]) == 0
    return tables()


def _until_done(rng: random.Random, flags: list[str], struck: Counter[str]) -> int:
    global FAULTS
    for attempt in range(ATTEMPTS):
        kill_at = rng.randrange(1, 150) if rng.random() < 0.5 else None
        FAULTS = Faults(random.Random(rng.random()), rng.choice([0, 0.003, 0.02, 0.1]), kill_at)
        status = _embed(flags)
        struck.update(FAULTS.counts)
        assert status in (0, 1, 2, None), f"ended with {status}"
        FAULTS = Faults()
        done = fsspec.filesystem("memory").exists("/torture/out/_SUCCESS")
        assert done or status != 0, "ended with 0 and without _SUCCESS"
        if done:
            assert sum(map(len, tables())) == ROWS, "_SUCCESS beside tables that are not whole"
        if status == 0:
            return attempt + 1
    assert _embed(flags) == 0, f"a run without faults failed: {SAID.getvalue()}"
    return ATTEMPTS + 1


def _embed(flags: list[str]) -> int | None:
    """Returns the exit status; None for a process that was killed."""
    SAID.seek(0)
    SAID.truncate()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(SAID),
        contextlib.suppress(Killed),
    ):
        return embed.main(flags)
    return None
