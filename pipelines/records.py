r"""The records that cross stages. Stages import these and never each other.

Unit -> Row or Reject -> Chunk (`pipelines.chunks`) -> UnitResult
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from schemas.manifest import Columns
from schemas.rejects import MAX_DETAIL_CHARS, Reason


@dataclass(frozen=True)
class Unit:
    """A slice of one manifest file: what is read, embedded, written and resumed as a whole.

    Attributes:
        unit_id: readable and unique; also the stem of the unit's output files.
        uri: the manifest file.
        format: `parquet`, `jsonl`, `csv`, `tsv`, `webdataset`, or `img2dataset` for the Parquet
            file beside a tar, of which only the rows that are not in the tar are read.
        columns: which columns of the manifest hold what.
        image_root: directory URI that relative image references resolve against.
        first_row: 0-based row of the manifest at which the slice begins.
        rows: rows in the slice; None when only reading tells (a tar, or the file beside it).
        offset: byte offset of the first row in the decompressed text (text forms only).
        manifest_bytes: size of the manifest file, so that a changed manifest is noticed on resume.
        damage: what planning found wrong where this slice ends, or None.
        only: which of its rows are read; None for all.
    """

    unit_id: str
    uri: str
    format: str
    columns: Columns
    image_root: str
    first_row: int
    rows: int | None
    offset: int | None = None
    manifest_bytes: int = 0
    damage: str | None = None
    only: Selection | None = None

    @property
    def rows_to_read(self) -> int | None:
        """Rows and rejects that reading gives, where damage is one reject; None if only reading
        tells."""
        if self.only is not None:
            return self.only.count
        return None if self.rows is None else self.rows + (self.damage is not None)


@dataclass(frozen=True)
class Selection:
    """Rows of a unit that are read again. Workers look them up, so that no graph carries them.

    Attributes:
        tables: files of a run that hold the rows.
        reasons: of rejects, only rows with one of these; empty for all.
        embedded: the file of the unit's embeddings in the output that the rows are merged into;
            what has an embedding there is not read again. None if nothing is merged.
        count: how many rows these are, where that is known before they are looked up.
    """

    tables: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    embedded: str | None = None
    count: int | None = None


class Row(NamedTuple):
    """One row of a manifest, before its image is fetched.

    Attributes:
        uid: the manifest's id; else 32 hex digits of a SHA-256 over image and text.
        source, source_row: manifest URI and 0-based row in it.
        url: image reference as given (`tar-uri#member` in a tar); None when only bytes are there.
        text: caption as given.
        image_root: directory URI that a relative `url` resolves against.
        image_bytes: the encoded image when the manifest holds it inline, else None.
        expected_sha256: hex digest the image must have, or None.
        kept: values of the `--keep_columns`, by name.
    """

    uid: str
    source: str
    source_row: int
    url: str | None
    text: str | None
    image_root: str = ""
    image_bytes: bytes | None = None
    expected_sha256: str | None = None
    kept: Mapping[str, Any] = {}


class Reject(NamedTuple):
    """A row that could not be embedded, and why."""

    row: Row
    stage: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class UnitResult:
    """What became of the rows of a finished unit: `rows_read` = `embedded` + all `rejects`.

    Attributes:
        rejects: number of rejected rows by reason.
    """

    unit_id: str
    rows_read: int
    embedded: int
    rejects: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, for file metadata."""
        return asdict(self)


class RowFault(Exception):
    """A fault of one row: raised by a stage's function, turned into a `Reject` by the stage.

    Args:
        stage: `read`, `fetch`, `decode` or `encode`.
        reason: one of the closed list.
        detail: free text; capped, and never an address, a credential or a query string.
    """

    def __init__(self, stage: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason.value}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail[:MAX_DETAIL_CHARS]

    def to_reject(self, row: Row) -> Reject:
        """Names the row that failed."""
        return Reject(row, self.stage, self.reason, self.detail)
