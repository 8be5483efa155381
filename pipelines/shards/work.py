"""Writes one shard: its samples, then the ledger of its rows, and last its statistics.

<shard>.parquet      every row that belongs to the shard: its key, and `success` or why not
<shard>_stats.json   img2dataset's statistics; the shard is whole once they are there
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.images.trust import Trust
from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.parquet import write_parquet
from pipelines.output.run_json import DamagedFileError
from pipelines.output.scored_tables import ScoredTables
from pipelines.shards.formats import SHARD_FORMATS, ShardFormat
from pipelines.shards.plan import Shard
from pipelines.shards.samples import (
    SUCCESS,
    Outcomes,
    Sample,
    ShardRow,
    columns_of,
    rows_of,
    samples_of,
)
from pipelines.storage import reading, uris, writing

STATS = "_stats.json"
_LEDGER_BATCH = 8192
# img2dataset's name of a row that is not there; why it is not stands beside it.
MISSED = "failed_to_download"


@dataclass(frozen=True)
class ShardStats:
    """What is known of a finished shard; `count` = `successes` + all of `missed`.

    Attributes:
        bytes: of the shard's one file; 0 of a folder.
        remedies: what would allow more images, and how many.
    """

    count: int
    successes: int
    missed: Mapping[str, int]
    bytes: int
    remedies: Mapping[str, int]


@dataclass(frozen=True)
class ShardExport:
    """How the rows of a run are written as shards. It goes to workers as it is."""

    tables: ScoredTables
    trust: Trust
    output: str
    format: str
    reencode: bool = False

    @property
    def form(self) -> ShardFormat:
        """The form of the shards."""
        return SHARD_FORMATS[self.format]

    def data_uri(self, shard: Shard) -> str:
        """Names the file, or the folder, of a shard's samples."""
        return uris.join(self.output, self.form.data, self.form.name(shard))

    def ledger_uri(self, shard: Shard, ending: str) -> str:
        """Names a file about a shard."""
        return uris.join(self.output, self.form.ledger, f"{shard.name}{ending}")

    @property
    def schema(self) -> pa.Schema:
        """The columns that go with an image, with the metadata of the files."""
        schema = self.tables.schema
        fields = [schema.field(name) for name in columns_of(schema)]
        fingerprint = json.dumps(dict(self.tables.fingerprint), sort_keys=True)
        return pa.schema(fields, {FINGERPRINT_KEY: fingerprint})

    def write(self, shard: Shard) -> ShardStats:
        """Writes a shard.

        Raises:
            ScoredTablesError, OSError: if a table cannot be read, or nothing be written.
            DamagedFileError: if rows are lost on the way.
        """
        began = time.time()
        outcomes, rows, written = Outcomes(), [], set()

        def samples() -> Iterator[Sample]:
            for piece, found in rows_of(shard, self.schema.names):
                rows.extend(found)
                for sample in samples_of(
                    piece, found, self.tables, self.trust, outcomes, self.reencode
                ):
                    written.add(sample.key)
                    yield sample

        uri = self.data_uri(shard)
        self.form.write(uri, samples(), self.schema)
        if len(rows) != shard.rows or len(written) + len(outcomes.missed) != shard.rows:
            raise DamagedFileError(
                f"shard {shard.name} has {shard.rows} rows, of which {len(written)} were written "
                f"and {len(outcomes.missed)} missed; report this as a bug"
            )
        self._write_ledger(shard, rows, outcomes)
        size = reading.file_size(uri) if self.format != "folder" else 0
        missed = dict(Counter(outcomes.missed.values()))
        stats = ShardStats(shard.rows, len(written), missed, size, dict(outcomes.remedies))
        self._write_stats(shard, stats, began)
        return stats

    def _write_ledger(self, shard: Shard, rows: list[ShardRow], outcomes: Outcomes) -> None:
        own = [("key", pa.string()), ("status", pa.string()), ("error_message", pa.string())]
        names = {name for name, _ in own}
        fields = [field for field in self.schema if field.name not in names]
        schema = pa.schema([*own, *fields], self.schema.metadata)

        def batches() -> Iterator[pa.RecordBatch]:
            for first in range(0, len(rows), _LEDGER_BATCH):
                part = rows[first : first + _LEDGER_BATCH]
                found = [{**row.values, **_status(row.key, outcomes)} for row in part]
                yield pa.RecordBatch.from_pylist(found, schema)

        write_parquet(self.ledger_uri(shard, ".parquet"), schema, batches())

    def _write_stats(self, shard: Shard, stats: ShardStats, began: float) -> None:
        ended = time.time()
        own = {
            "failed_to_download": stats.count - stats.successes,
            "failed_to_resize": 0,
            "duration": ended - began,
            "start_time": began,
            "end_time": ended,
            "status_dict": {SUCCESS: stats.successes, **stats.missed},
        }
        text = json.dumps(asdict(stats) | own, indent=2, sort_keys=True) + "\n"
        writing.write_atomically(self.ledger_uri(shard, STATS), text.encode())


def read_stats(text: bytes) -> ShardStats:
    """Reads what is known of a finished shard.

    Raises:
        ValueError, KeyError, TypeError: if it is something else.
    """
    found: dict[str, Any] = json.loads(text)
    return ShardStats(**{name: found[name] for name in ShardStats.__dataclass_fields__})


def _status(key: str, outcomes: Outcomes) -> dict[str, Any]:
    reason = outcomes.missed.get(key)
    status = SUCCESS if reason is None else MISSED
    return {"key": key, "status": status, "error_message": reason}
