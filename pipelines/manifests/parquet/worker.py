"""The processes of `pipelines.manifests.parquet.limited`: each reads a part of one file and ends.

Rows go to stdout as an Arrow stream; what is wrong with the file goes to stderr in one line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pyarrow as pa

from pipelines.engine.memory import limit_memory
from pipelines.manifests.parquet.batches import DamagedParquet, ParquetBatches, damage_named
from pipelines.manifests.parquet.types import FinerThanMicroseconds

DAMAGED, TOO_LARGE = 3, 4  # exit status


def main() -> NoReturn:
    """Does what the JSON object on stdin says.

    It holds `descriptor` of the file, open for reading, and `max_bytes` that may be taken; and, for
    rows of a row group rather than a look at the footer, the arguments of `ParquetBatches.read`.
    """
    job = json.load(sys.stdin)
    file, max_bytes = os.fdopen(job.pop("descriptor"), "rb"), job.pop("max_bytes")
    _run(max_bytes, lambda: _write(ParquetBatches(file, is_limited=True), job))


def _write(batches: ParquetBatches, job: dict[str, Any]) -> None:
    if not job:
        return
    writer = None
    for batch in batches.read(**{**job, "wanted": range(*job["wanted"])}):
        writer = writer or pa.ipc.new_stream(sys.stdout.buffer, batch.schema)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()
    sys.stdout.flush()


def _run(max_bytes: int, work: Callable[[], None]) -> NoReturn:
    """Does the work and ends the process, without what Python does at its end: memory is short."""
    status = 0
    limit_memory(max_bytes)
    try:
        with damage_named():
            work()
    except MemoryError:
        status = TOO_LARGE
    except (DamagedParquet, FinerThanMicroseconds, OSError) as error:
        status = DAMAGED
        os.write(2, str(error)[:1000].encode("utf-8", "replace"))
    os._exit(status)
