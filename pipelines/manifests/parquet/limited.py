"""Reads suspicious Parquet files in processes of their own, which may take so much memory.

Arrow has no memory pool with a limit, and a few kB can unfold to any number of GB. Such a process
gets an open file and nothing else: no environment, no store.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipelines.manifests.parquet.batches import DamagedParquet
from pipelines.manifests.parquet.worker import DAMAGED
from pipelines.storage.stores import is_local, locate

MAX_MEMORY_BYTES = 480 << 20
_ROOT = str(Path(__file__).parents[3])
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from pipelines.manifests.parquet.worker import main; main()"
)
# Arrow's own allocator reserves more than the limit; threads have stacks.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


def check_footer(uri: str, file: BinaryIO) -> None:
    """Makes sure that a footer does not take more memory than a process may.

    Raises:
        DamagedParquet: if it does, or cannot be read.
    """
    with _process(uri, file, {}) as process:
        _check_end(process)


def limited_batches(
    uri: str,
    file: BinaryIO,
    group: int,
    wanted: range,
    names: list[str],
    whole: Collection[str],
    in_us: Collection[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Does what `ParquetBatches.read` does, in a process with a limit.

    Args:
        file: the file at `uri`, which is copied unless it is local.

    Raises:
        DamagedParquet: if the file cannot be read within the limit.
    """
    bounds = (wanted.start, wanted.stop)
    job = {"group": group, "wanted": bounds, "names": names, "whole": list(whole)}
    job["in_us"] = list(in_us)
    with _process(uri, file, job) as process:
        try:
            with pa.ipc.open_stream(process.stdout) as stream:
                yield from stream
        except (pa.ArrowException, OSError):
            pass  # why it ended is in the process's status
        _check_end(process)


@contextmanager
def _process(uri: str, file: BinaryIO, job: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    with (
        _descriptor(uri, file) as descriptor,
        subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=[_ROOT, *sys.path])],
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**kept, **_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for the launcher to deal with
        ) as process,
    ):
        try:
            job = {**job, "descriptor": descriptor, "max_bytes": MAX_MEMORY_BYTES}
            with cast(BinaryIO, process.stdin) as stdin:
                stdin.write(json.dumps(job).encode())
            yield process
        finally:
            process.kill()


@contextmanager
def _descriptor(uri: str, file: BinaryIO) -> Iterator[int]:
    """Opens a file once more, as two processes that share a descriptor share its position."""
    if is_local(uri):
        with open(locate(uri)[1], "rb") as local:
            yield local.fileno()
        return
    with tempfile.TemporaryFile() as copy:
        file.seek(0)
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        copy.seek(0)
        yield copy.fileno()


def _check_end(process: subprocess.Popen[bytes]) -> None:
    status = process.wait()
    if status == DAMAGED:
        said = cast(BinaryIO, process.stderr)
        raise DamagedParquet(said.read(1000).decode("utf-8", "replace"))
    if status:
        raise DamagedParquet(f"it unfolds to more than {MAX_MEMORY_BYTES >> 20} MB of memory")
