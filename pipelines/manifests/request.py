"""What is asked of a manifest, what a format makes of one of its files, and what a format is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipelines.manifests.rows import RawRow
from pipelines.records import Unit
from pipelines.storage import uris
from pipelines.storage.foreign_names import escaped, safe_stem
from schemas.manifest import ColumnOverrides, Columns, Dialect, ManifestError, resolve_columns
from schemas.rejects import Reason

DEFAULT_ROWS_PER_UNIT = 10_000


@dataclass(frozen=True)
class ManifestRequest(Dialect):
    """What the user asked for; None means what is recognised.

    Attributes:
        patterns: URIs of files, directories or globs.
        format: the name of a format, or None to go by each file's name.
        image_root: where relative image references start, or None for each manifest's directory.
        only_reasons: of a rejects table, only rows with one of these; empty for all.
        output: directory whose tables are no manifests, should it lie where the manifest is.
        allow_manifests_from: URI prefixes that the manifest which a table of a run names may lie
            under, beside the run's own directory.
        trust_run: whether all that such a table names is read.
    """

    patterns: tuple[str, ...]
    format: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    image_root: str | None = None
    rows_per_unit: int = DEFAULT_ROWS_PER_UNIT
    only_reasons: tuple[str, ...] = ()
    output: str | None = None
    allow_manifests_from: tuple[str, ...] = ()
    trust_run: bool = False

    @property
    def columns(self) -> ColumnOverrides:
        """What it says about columns."""
        return ColumnOverrides(
            self.image_column,
            self.text_column,
            self.id_column,
            self.keep_columns,
            **self.dialect(),
        )


@dataclass(frozen=True)
class FilePlan:
    """What a format makes of one file.

    Attributes:
        units: that the file is cut into; none if it has no rows.
        kept: the `keep_columns` with their types.
        readable: whether the file could be read as far as its first row.
    """

    units: list[Unit]
    kept: list[pa.Field]
    readable: bool = True


@dataclass(frozen=True)
class ManifestFormat:
    """A form that manifests have. Workers find it by its name, so it needs to be registered there.

    Attributes:
        name: stands in each unit, and is what `ManifestRequest.format` takes.
        suffixes: endings of file names that show it, in lower case and with their dot.
        plan: cuts a file into units. It is given the file as one unit without rows, the request,
            and the formats of files of the same stem beside it.
        read: yields the rows of a unit, in order.
        rows_at: yields the rows of a unit that have one of the numbers; None if a scored row says
            by itself where its image is.
        is_scanned: whether planning reads a file from its beginning to its end.
        damage: the reason of the reject that stands for what planning found wrong with a file.
        names_images: whether a scored row says so unless its image is base64 text, so that others
            need no `rows_at`.
    """

    name: str
    suffixes: tuple[str, ...]
    plan: Callable[[Unit, ManifestRequest, Collection[str]], FilePlan]
    read: Callable[[Unit], Iterator[RawRow]]
    rows_at: Callable[[Unit, Collection[int]], Iterator[RawRow]] | None = None
    is_scanned: bool = False
    damage: Reason = Reason.MANIFEST_TRUNCATED
    names_images: bool = False


def unit_id(uri: str, index: int) -> str:
    """Names a slice of a file."""
    return f"{file_id(uri)}-{index:05d}"


def file_id(uri: str) -> str:
    """Names a file: readable by its stem, unique by a hash of its URI."""
    name = escaped(uri)
    hashed = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{safe_stem(uris.base_name(name))}-{hashed}"


def columns_of_file(fields: Iterable[pa.Field], uri: str, request: ManifestRequest) -> Columns:
    """Finds the columns of a file.

    Raises:
        ManifestError: names the file.
    """
    try:
        return resolve_columns(fields, request.columns)
    except ManifestError as error:
        raise ManifestError(f"{uri}: {error}") from None
