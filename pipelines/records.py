r"""The records that cross stages. Stages import these and never each other.

Unit -> Row or Reject -> Chunk -> UnitResult

A chunk is some dozens of rows of one unit, side by side as arrays, on their way through the line:
Read fills in the rows and whose images are to be fetched, Prepare the pixels and tokens, the
encoder the vectors, Score the similarities. Each drops what the next one does not need. A row that
fails on the way moves from `rows` to `rejects` of its chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.embeddings import row_fields
from schemas.manifest import Columns
from schemas.pairs import BOTH, IMAGES, TEXTS
from schemas.rejects import MAX_DETAIL_CHARS, Reason

_OVERHEAD_BYTES = 512  # of a chunk


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
        manifest_bytes, manifest_version: size of the manifest file, and what else its store says of
            it that changes with it; "" where that is nothing.
        damage: what planning found wrong where this slice ends, or None.
        only: which of its rows are read; None for all.
        together: number of what is expensive to begin in the middle of, such as a large row group:
            units that share it are read by one worker, one after the other; None for others.
        between: of a folder of images, in which `uri` is a directory: the name at which the slice
            begins and that before which it ends, "" for the ends of the directory. None for files.
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
    manifest_version: str = ""
    damage: str | None = None
    only: Selection | None = None
    together: int | None = None
    between: tuple[str, str] | None = None

    @property
    def source(self) -> str:
        """What `source_row` counts in: the file, or a range of a directory by its first name."""
        return f"{self.uri}#{self.between[0]}" if self.between and self.between[0] else self.uri

    @property
    def rows_to_read(self) -> int | None:
        """Rows and rejects that reading gives, where damage is one reject; None if only reading
        tells."""
        if self.only is not None:
            return self.only.count
        return None if self.rows is None else self.rows + (self.damage is not None)


def known_sum(rows: Iterable[int | None]) -> int | None:
    """Adds up rows of units; None if only reading tells how many one of them has."""
    found = list(rows)
    return None if None in found else sum(row for row in found if row is not None)


@dataclass(frozen=True)
class Selection:
    """Rows of a unit that are read again. Workers look them up, so that no graph carries them.

    Attributes:
        tables: files of a run that hold the rows.
        reasons: of rejects, only rows with one of these; empty for all.
        embedded: the file of the unit's embeddings in the output that the rows are merged into;
            what has an embedding there is not read again. None if nothing is merged.
        count: how many rows these are, where that is known before they are looked up.
        digest: that all rows of the unit must have, where its file may be another than it was; ""
            where it is known to be the same.
    """

    tables: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    embedded: str | None = None
    count: int | None = None
    digest: str = ""


class Row(NamedTuple):
    """One row of a manifest, or one of its captions, before its image is fetched.

    Attributes:
        uid: the manifest's id, else 32 hex digits of a SHA-256 over image and text; followed by
            `#` and the caption's index where that is not 0.
        source, source_row: manifest URI and 0-based row in it.
        url: image reference as given (`tar-uri#member` in a tar); None when only bytes are there.
        text: caption as given.
        image_root: directory URI that a relative `url` resolves against.
        image_bytes: the encoded image when the manifest holds it inline, else None.
        expected_sha256: hex digest the image must have, or None.
        kept: values of the `keep_columns`, by name.
        caption_index: which of the row's captions it is; these records of it follow each other.
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
    caption_index: int = 0


def image_uid(uid: str, caption_index: int) -> str:
    """Returns the `uid` of the first caption of a record's row."""
    return uid.removesuffix(f"#{caption_index}") if caption_index else uid


class Reject(NamedTuple):
    """A row that could not be embedded, and why."""

    row: Row
    stage: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class UnitResult:
    """What became of a finished unit, whose `records` are `embedded` or among the `rejects`.

    Attributes:
        rows_read: rows of the manifest. Each has a record for each of its captions.
        rejects: number of rejected rows by reason.
        digest: of the rows as they were read, before any image was fetched.
    """

    unit_id: str
    rows_read: int
    embedded: int
    rejects: Mapping[str, int]
    digest: str = ""

    @property
    def records(self) -> int:
        """Rows of both tables, one for each caption."""
        return self.embedded + sum(self.rejects.values())


class RowFault(Exception):
    """A fault of one row: raised by a stage's function, turned into a `Reject` by the stage.

    Args:
        stage: `read`, `fetch`, `decode` or `encode`.
        reason: one of the closed list.
        detail: free text; capped, and never an address, a credential or a query string.
    """

    def __init__(self, stage: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason.value}: {detail}")
        self.stage, self.reason = stage, reason
        self.detail = detail[:MAX_DETAIL_CHARS]

    def to_reject(self, row: Row) -> Reject:
        """Names the row that failed."""
        return Reject(row, self.stage, self.reason, self.detail)


class End(NamedTuple):
    """What the last chunk of a unit tells: the chunks, rows and records that the reader counted,
    and a digest of the records. Where some of these are read again, they are the rows."""

    chunks: int
    rows: int
    records: int
    digest: str = ""


class Vectors(NamedTuple):
    """What one model makes of the rows of a chunk; None of the half that is not embedded.

    Attributes:
        image, text: [rows, dim] float32, L2-normalised.
        text_truncated: [rows] bool.
    """

    image: np.ndarray | None
    text: np.ndarray | None
    text_truncated: np.ndarray | None

    @property
    def pairs(self) -> str:
        """Which halves there are."""
        return IMAGES if self.text is None else TEXTS if self.image is None else BOTH

    @property
    def halves(self) -> list[np.ndarray]:
        """The embeddings that there are."""
        return [half for half in (self.image, self.text) if half is not None]

    def of(self, rows: Any) -> Vectors:
        """Returns those of some rows."""
        return Vectors(*(None if array is None else array[rows] for array in self))


class Lease(Protocol):
    """Bytes of a process's budget; they stay in the process."""

    def give_back(self, size: int | None = None) -> None:
        """Gives so many bytes back, or all that are left."""


@dataclass(eq=False)
class Chunk:
    """Consecutive rows of one unit.

    Attributes:
        unit: None for rows of one's own, which belong to none.
        number: of the chunk in its unit, from 0.
        rows: those that have not failed, as `row_schema` has them, in manifest order.
        rejects: those that have, as `rejects_schema` has them, in manifest order.
        index: [rows] int, which image a row has; the captions of one image share it.
        images: a row for each image that is to be fetched; empty behind Prepare.
        known: what is known of each image, a row an image: a table that `image_fields` describes.
        pixels: for each distinct preprocessing [images, 3, size, size] uint8.
        tokens, truncated: for each distinct tokenizer [rows, context_length] int64, [rows] bool.
        vectors: of each model.
        similarities: of each model [rows] float32, the cosine of image and text; () of one half.
        end: of the last chunk of a unit, else None.
        lease: the bytes that it holds of its process's budget.
    """

    unit: Unit | None
    number: int
    rows: pa.RecordBatch
    rejects: pa.RecordBatch
    index: np.ndarray
    images: tuple[Row, ...] = ()
    known: pa.RecordBatch | None = None
    pixels: tuple[np.ndarray, ...] = ()
    tokens: tuple[np.ndarray, ...] = ()
    truncated: tuple[np.ndarray, ...] = ()
    vectors: tuple[Vectors, ...] = ()
    similarities: tuple[np.ndarray, ...] = ()
    end: End | None = None
    lease: Lease | None = field(default=None, repr=False)

    @property
    def pairs(self) -> str:
        """Which halves its rows were read with."""
        return self.unit.columns.pairs if self.unit else BOTH

    @property
    def kept(self) -> list[pa.Field]:
        """The columns behind those that each table has of a row."""
        return list(self.rows.schema)[len(row_fields(self.pairs)) :]

    @property
    def size(self) -> int:
        """Rows, rejected ones among them."""
        return int(self.rows.num_rows + self.rejects.num_rows)

    @cached_property
    def source_rows(self) -> int:
        """Rows of the manifest, all of whose records are in one chunk and stay there."""
        numbers = [table["source_row"] for table in (self.rows, self.rejects)]
        return len(pc.unique(pa.chunked_array(numbers)))

    @property
    def nbytes(self) -> int:
        """Bytes that the chunk holds, about."""
        tables = [table for table in (self.rows, self.rejects, self.known) if table is not None]
        arrays = [self.index, *self.pixels, *self.tokens, *self.truncated, *self.similarities]
        arrays += [array for vectors in self.vectors for array in vectors if array is not None]
        inline = sum(len(row.image_bytes or b"") for row in self.images)
        return _OVERHEAD_BYTES + inline + sum(part.nbytes for part in (*tables, *arrays))
