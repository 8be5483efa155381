"""The layouts of clip-retrieval and LAION, and the run's own as two tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.exports.exported_run import (
    VECTORS,
    ExportedRun,
    check_needs,
    write_npy,
    write_rows,
)
from pipelines.output.scored_tables import KEY_COLUMNS
from pipelines.storage import uris, writing
from schemas.embeddings import KEY_NAMES

# LAION's columns of text that a run may have kept, and of scores that heads may have made.
_LAION_TEXTS = ("LICENSE", "NSFW")
_LAION_SCORES = {
    "aesthetic": ("AESTHETIC_SCORE", pa.float64()),
    "nsfw": ("punsafe", pa.float32()),
}
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")  # always within int64


class ClipRetrieval:
    """What `clip-retrieval index` and autofaiss take.

    OUTPUT/img_emb/img_emb_<k>.npy     [rows, dim] float16, L2-normalised
    OUTPUT/text_emb/text_emb_<k>.npy   likewise
    OUTPUT/metadata/metadata_<k>.parquet

    Embeddings files without rows are left out: readers skip an empty `.npy`, but not the metadata
    beside it, and would then pair all later files wrongly. Of images or captions alone there is one
    of the two.
    """

    outputs = ("img_emb", "text_emb", "metadata")

    def __init__(self, run: ExportedRun) -> None:
        self._vectors = [run.column(half) for half in run.tables.had(VECTORS)]
        check_needs(run.tables, self._vectors, "clip_retrieval")
        self._run = run
        self._names: dict[str, str] = {}

    def start(self) -> None:
        """Numbers the files that have rows, in names of one width."""
        tables = self._run.tables
        rows = zip(tables.embeddings, tables.row_counts.of(tables.embeddings), strict=True)
        files = [uri for uri, count in rows if count]
        width = len(str(max(len(files) - 1, 0)))
        self._names = {uri: f"{number:0{width}}" for number, uri in enumerate(files)}

    def write(self, uri: str) -> None:
        """Writes the three files of one embeddings file: its metadata last."""
        k = self._names.get(uri)
        if k is None:
            return
        for column in self._vectors:
            kind = "img_emb" if column.endswith(VECTORS[0]) else "text_emb"
            dim = self._run.tables.schema.field(column).type.list_size
            target = uris.join(self._run.output, kind, f"{kind}_{k}.npy")
            with writing.open_output(target) as file:
                write_npy(file, uri, column, (self._run.tables.rows_of([uri]), dim))
        target = uris.join(self._run.output, "metadata", f"metadata_{k}.parquet")
        score = self._run.column("similarity")
        columns = [*self._run.kept, *([score] if score in self._run.tables.schema.names else [])]
        write_rows(self._run, uri, target, columns, self._batch)

    def finish(self) -> Sequence[str]:
        """Returns lines for the summary."""
        return [f"files      {len(self._names)} of each kind"]

    def _batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """An image without a reference, whose bytes were in the manifest, goes by its uid."""
        own = {
            name: batch.column(column)
            for name, column in (
                ("image_path", "url"),
                ("caption", "text"),
                ("url", "url"),
                ("similarity", self._run.column("similarity")),
            )
            if column in batch.schema.names
        }
        if "image_path" in own:
            own["image_path"] = pc.coalesce(own["image_path"], batch.column("uid"))
        return _with_rest(own, batch, [name for name in self._run.kept if name != "text"])


class Laion:
    """LAION's metadata: OUTPUT/metadata/<unit>.parquet.

    `SAMPLE_ID` is the uid where that is a decimal number, else 63 bits of its SHA-256; the uid
    itself comes after LAION's columns, and then what the run kept. `LICENSE` and `NSFW` are columns
    that the run has as text, whatever their case, and null where it has none. What heads made goes
    by LAION's names: `aesthetic` as `AESTHETIC_SCORE`, and `nsfw`, where it is a number, as
    `punsafe`.
    """

    outputs = ("metadata",)

    def __init__(self, run: ExportedRun) -> None:
        check_needs(run.tables, ["url", "text", run.column("similarity")], "laion")
        self._run = run

    def start(self) -> None:
        """Nothing belongs before the files."""

    def write(self, uri: str) -> None:
        """Writes the rows of one embeddings file under its own name."""
        target = uris.join(self._run.output, "metadata", uris.base_name(uri))
        columns = [*self._run.kept, self._run.column("similarity")]
        write_rows(self._run, uri, target, columns, self._batch)

    def finish(self) -> Sequence[str]:
        """Returns lines for the summary."""
        return [f"files      {len(self._run.tables.embeddings)}"]

    def _batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = [sample_id(uid) for uid in batch.column("uid").to_pylist()]
        own = {
            "SAMPLE_ID": pa.array(ids, pa.int64()),
            "URL": batch.column("url"),
            "TEXT": batch.column("text"),
            "HEIGHT": batch.column("original_height").cast(pa.int32()),
            "WIDTH": batch.column("original_width").cast(pa.int32()),
            **{name: self._text(batch, name) for name in _LAION_TEXTS},
            "similarity": batch.column(self._run.column("similarity")).cast(pa.float64()),
        }
        taken = [*KEY_NAMES, "original_height", "original_width"]
        for name, (called, kind) in _LAION_SCORES.items():
            source = self._named(name)
            if source is not None and _is_number(batch.schema.field(source).type):
                own[called] = batch.column(source).cast(kind)
                taken.append(source)
        return _with_rest(own, batch, [name for name in self._run.kept if name not in taken])

    def _named(self, name: str) -> str | None:
        """Returns the run's column of a name, whatever its case."""
        return next((column for column in self._run.kept if column.lower() == name), None)

    def _text(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        source = self._named(name.lower())
        if source is None or not pa.types.is_string(batch.schema.field(source).type):
            return pa.nulls(len(batch), pa.string())
        return batch.column(source)


class SeparateTables:
    """The run as two tables, joined by the key of a row.

    OUTPUT/scores/<unit>.parquet    all columns but the embeddings, of every model
    OUTPUT/vectors/<unit>.parquet   uid, key and the embeddings
    """

    outputs = ("scores", "vectors")

    def __init__(self, run: ExportedRun) -> None:
        names = run.tables.schema.names
        self._run = run
        self._vectors = [name for name in names if name.endswith(VECTORS) and name not in run.kept]
        check_needs(run.tables, self._vectors or list(VECTORS), "tables")
        self._scores = [name for name in names if name not in self._vectors]

    def start(self) -> None:
        """Nothing belongs before the files."""

    def write(self, uri: str) -> None:
        """Writes the two files of one embeddings file."""
        tables = {"vectors": [*KEY_COLUMNS, *self._vectors], "scores": self._scores}
        for table, columns in tables.items():
            target = uris.join(self._run.output, table, uris.base_name(uri))
            write_rows(self._run, uri, target, columns, lambda batch: batch)

    def finish(self) -> Sequence[str]:
        """Returns lines for the summary."""
        return [f"tables     scores and vectors, joined by ({', '.join(KEY_NAMES)})"]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def sample_id(uid: str) -> int:
    """Returns a number for a uid: itself if it is one, else 63 bits of its SHA-256."""
    if _DECIMAL.fullmatch(uid):
        return int(uid)
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") >> 1


def _with_rest(
    own: dict[str, pa.Array], batch: pa.RecordBatch, rest: Sequence[str]
) -> pa.RecordBatch:
    """Appends columns of the run whose names, whatever their case, the layout does not have."""
    taken = {name.lower() for name in own}
    more = {name: batch.column(name) for name in rest if name.lower() not in taken}
    return pa.RecordBatch.from_pydict(own | more)
