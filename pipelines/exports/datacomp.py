"""DataComp's layout: pairs of metadata and embeddings, and the subset file of uids.

OUTPUT/metadata/<32 hex>.parquet   rows of one embeddings file, columns as in CommonPool
OUTPUT/metadata/<32 hex>.npz       its embeddings in the same order, float16
OUTPUT/subset.npy                  all uids, sorted, as the resharder takes them
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from pipelines.engine.per_file import begun, side_by_side
from pipelines.exports.exported_run import (
    ExportedRun,
    ExportError,
    check_needs,
    write_npz,
    write_rows,
)
from pipelines.exports.uid_subset import is_hex, packed, write_subset
from pipelines.output.scored_tables import iterate_batches
from pipelines.storage import uris
from schemas.embeddings import model_column, model_names

SUBSET = "subset.npy"
KEYS = ("b32", "l14")
_KEY_OF = {"ViT-B/32": "b32", "ViT-L/14": "l14"}
_BOXES = pa.list_(pa.list_(pa.float64()))


class DataComp:
    """Writes pairs that DataComp's `baselines.py` reads.

    A uid that is not 32 hex digits becomes the first 32 of its SHA-256, with the original in the
    column `original_uid`, which is there only when that happened.

    Args:
        models: name of the model in the run by DataComp's key, `b32` or `l14`.

    Raises:
        ExportError: if the run has no embeddings.
    """

    outputs = ("metadata", SUBSET)

    def __init__(self, run: ExportedRun, models: Mapping[str, str | None]) -> None:
        self._run = run
        self._models = dict(sorted(models.items()))
        needed = ("similarity", "image_embedding", "text_embedding")
        columns = [model_column(c, name) for name in self._models.values() for c in needed]
        check_needs(run.tables, columns, "datacomp")
        self._rows, self._foreign = 0, 0

    def start(self) -> None:
        """Writes the subset file, and learns whether any uid has to be mapped."""
        target = uris.join(self._run.output, SUBSET)
        self._rows = write_subset(target, self._uids())

    def write(self, uri: str) -> None:
        """Writes the pair of one embeddings file: its `.parquet` comes last."""
        stem = hashlib.sha256(uris.base_name(uri).encode()).hexdigest()[:32]
        target = uris.join(self._run.output, "metadata", stem)
        vectors = {
            f"{key}_{kind}": model_column(column, name)
            for key, name in self._models.items()
            for kind, column in (("img", "image_embedding"), ("txt", "text_embedding"))
        }
        write_npz(self._run, f"{target}.npz", uri, vectors)
        columns = [source for _, source, _ in self._columns()]
        write_rows(self._run, uri, f"{target}.parquet", list(dict.fromkeys(columns)), self._batch)

    def finish(self) -> Sequence[str]:
        """Returns lines for the summary."""
        names = ", ".join(f"clip_{key}_similarity_score" for key in self._models)
        lines = [f"scores     {names}", f"subset     {self._rows} uids in {SUBSET}"]
        if self._foreign:
            lines.append(f"uids       {self._foreign} hashed to 32 hex digits, see original_uid")
        return lines

    def _uids(self) -> Iterator[bytes]:
        files = self._run.tables.embeddings
        for batches in side_by_side(lambda uri: begun(iterate_batches(uri, ["uid"])), files):
            for batch in batches:
                uids = batch.column(0).to_pylist()
                self._foreign += sum(not is_hex(uid) for uid in uids)
                yield packed(map(hex_uid, uids))

    def _columns(self) -> list[tuple[str, str, pa.DataType]]:
        """Name in the layout, column it comes from, type; in CommonPool's order."""
        text, whole = pa.string(), pa.int64()
        scores = [
            (f"clip_{key}_similarity_score", model_column("similarity", name), pa.float32())
            for key, name in self._models.items()
        ]
        boxes = [("face_bboxes", "face_bboxes", _BOXES)]
        return [
            ("uid", "uid", text),
            ("url", "url", text),
            ("text", "text", text),
            ("original_width", "original_width", whole),
            ("original_height", "original_height", whole),
            *scores,
            *(boxes if self._has_boxes() else []),
            ("sha256", "sha256", text),
            *([("original_uid", "uid", text)] if self._foreign else []),
        ]

    def _has_boxes(self) -> bool:
        schema = self._run.tables.schema
        kind = schema.field("face_bboxes").type if "face_bboxes" in schema.names else None
        return kind is not None and pa.types.is_list(kind) and pa.types.is_list(kind.value_type)

    def _batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = {name: batch.column(src).cast(kind) for name, src, kind in self._columns()}
        uids = [hex_uid(uid) for uid in batch.column("uid").to_pylist()]
        return pa.RecordBatch.from_pydict(arrays | {"uid": pa.array(uids, pa.string())})


def choose_keys(run: ExportedRun, names: Sequence[str], key: str | None) -> dict[str, str | None]:
    """Returns the model by DataComp's key.

    Args:
        names: models of the run to choose among; empty for a run of one without a name.

    Raises:
        ExportError: if nothing tells the key.
    """
    named: dict[str, str | None] = {name: name for name in names if name in KEYS}
    if key is None and named:
        return named
    architecture = str(run.tables.model_fingerprint.get("architecture"))
    key = key or (_KEY_OF.get(architecture) if len(names) < 2 else None)
    if key is None:
        raise ExportError(
            f"expected `datacomp_key` {' or '.join(KEYS)}, as the architecture "
            f"{architecture!r} is neither of DataComp's; name the columns to fill"
        )
    return {key: names[0] if names else None}


def datacomp(run: ExportedRun, key: str | None) -> DataComp:
    """Returns the layout for the model that was chosen, else for those named b32 and l14."""
    models = model_names(run.tables.schema)
    chosen = run.tables.model_name
    names = [chosen] if chosen else models
    if len(names) > 1 and (key or not set(names) & set(KEYS)):
        raise ExportError(f"expected `model_name`, as the run has models {', '.join(names)}")
    return DataComp(run, choose_keys(run, names, key))


def hex_uid(uid: str) -> str:
    """Returns a uid of 32 hex digits in lower case, else the first 32 of its SHA-256."""
    return uid.lower() if is_hex(uid) else hashlib.sha256(uid.encode()).hexdigest()[:32]
