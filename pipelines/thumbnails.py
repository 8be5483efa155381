"""Small pictures of scored rows, fetched again under the rules that `embed` fetched them by."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from clip_core.preprocess import Preprocess
from pipelines import storage
from pipelines.decode import DecodeLimits, decode_image
from pipelines.fetch import FetchPolicy, fetch_image
from pipelines.manifest import file_id, format_of
from pipelines.parquet_manifests import read_footer, read_parquet
from pipelines.raw_rows import to_row
from pipelines.records import Reject, Row, RowFault, Unit
from pipelines.scored_tables import file_schema
from pipelines.unit_record import UNIT_KEY, unit_from_json
from pipelines.webdataset import columns_of, read_webdataset
from schemas.manifest import ColumnOverrides, Columns, resolve_columns
from schemas.rejects import Reason

SIDE = 224  # pixels; shown at half of that on most screens
JPEG_QUALITY = 80


class PictureRow(Protocol):
    """Where a scored row came from, and the hash of the picture that was scored."""

    @property
    def source(self) -> str: ...
    @property
    def source_row(self) -> int: ...
    @property
    def url(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG as a data URI, or why there is none."""

    data_uri: str | None
    reason: str | None = None


def thumbnails(
    rows: Sequence[PictureRow],
    options: Mapping[str, Any],
    units: Mapping[str, Unit],
    progress: Callable[[int], object] = lambda done: None,
) -> list[Thumbnail]:
    """Returns a thumbnail for each row, in order: the centre square, as the model sees it.

    A picture that has changed since it was scored, lies where the run was not allowed to read, or
    cannot be decoded gives its reason instead.

    Args:
        options: of the run, as run.json has them: where pictures may come from.
        units: one of each manifest, which says how it was read; see `source_units`. What is not
            there is read as the options say.
        progress: called with 1 for each picture.
    """
    allowed = tuple(options.get("allow_images_from") or ())
    root = options.get("image_root")
    policy = FetchPolicy(allowed=allowed + ((root,) if root else ()))
    by_source: defaultdict[str, dict[int, PictureRow]] = defaultdict(dict)
    for row in rows:  # by manifest, so that each tar is read once; a row may be wanted twice
        by_source[row.source][row.source_row] = row
    found: dict[tuple[str, int], Thumbnail] = {}
    for source, wanted in by_source.items():
        for number, original in _manifest_rows(source, wanted, units.get(source), options):
            found[source, number] = _thumbnail(original, wanted[number].sha256, policy)
            progress(1)
    return [found[row.source, row.source_row] for row in rows]


def source_units(files: Sequence[str], rows: Sequence[PictureRow]) -> dict[str, Unit]:
    """Returns a unit of each manifest that the rows came from, as the tables' files have it.

    Args:
        files: of a table, named by the units in them.
    """
    found = {}
    for source in {row.source for row in rows}:
        stem = file_id(source)
        file = next((uri for uri in files if storage.base_name(uri).startswith(stem)), None)
        metadata = (file_schema(file).metadata or {}) if file else {}
        if UNIT_KEY in metadata:
            found[source] = unit_from_json(metadata[UNIT_KEY])
    return found


def _recognised(source: str, options: Mapping[str, Any]) -> Unit:
    kind = options.get("manifest_format") or format_of(source) or ""
    root = storage.normalize(options.get("image_root") or storage.parent(source))
    columns = Columns()
    if kind == "webdataset":
        columns = columns_of(ColumnOverrides())
    elif kind == "parquet":
        overrides = ColumnOverrides(options.get("image_column"), options.get("text_column"))
        columns = resolve_columns(read_footer(source)[0], overrides)
    return Unit("", source, kind, columns, root, first_row=0, rows=None)


def _thumbnail(row: Row | RowFault, sha256: str | None, policy: FetchPolicy) -> Thumbnail:
    try:
        if isinstance(row, RowFault):
            raise row
        data = fetch_image(row._replace(expected_sha256=sha256), policy)
        return Thumbnail(thumbnail_uri(data))
    except RowFault as fault:
        return Thumbnail(None, fault.reason.value.replace("_", " "))


def thumbnail_uri(data: bytes) -> str:
    """Returns an encoded image's thumbnail as a data URI.

    Raises:
        RowFault: as `decode_image` does.
    """
    pixels = decode_image(data, [Preprocess(SIDE)], DecodeLimits()).pixels[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def _manifest_rows(
    source: str,
    wanted: Mapping[int, PictureRow],
    unit: Unit | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[int, Row | RowFault]]:
    """Yields the manifest's row, or what is wrong with it, for each wanted number."""
    left = set(wanted)
    reason = Reason.NOT_FOUND
    try:
        unit = unit or _recognised(source, options)
        for number, row in _READERS.get(unit.format, _named_rows)(unit, wanted):
            left.remove(number)
            yield number, row
    except FileNotFoundError:
        pass
    # Damaged, denied or out of reach, in the error types of each store: costs only its pictures.
    except Exception:  # noqa: BLE001
        reason = Reason.MANIFEST_UNREADABLE
    yield from ((number, RowFault("read", reason)) for number in left)


def _named_rows(
    unit: Unit, wanted: Mapping[int, PictureRow]
) -> Iterator[tuple[int, Row | RowFault]]:
    """Rows of text manifests: the scored row holds all that is needed."""
    for number, row in wanted.items():
        yield number, Row("", unit.uri, number, row.url, None, unit.image_root)


def _parquet_rows(
    unit: Unit, wanted: Mapping[int, PictureRow]
) -> Iterator[tuple[int, Row | RowFault]]:
    """Rows of Parquet manifests, which may hold the pictures themselves."""
    for number in wanted:
        one = replace(unit, first_row=number, rows=1)
        yield from ((number, _row(to_row(one, raw))) for raw in read_parquet(one))


def _tar_rows(unit: Unit, wanted: Mapping[int, PictureRow]) -> Iterator[tuple[int, Row | RowFault]]:
    """Rows of a tar, which has no index: one pass, up to the last row wanted."""
    for raw in read_webdataset(unit):
        if raw.number in wanted:
            yield raw.number, _row(to_row(unit, raw))
        if raw.number >= max(wanted):
            return


def _row(row: Row | Reject) -> Row | RowFault:
    return RowFault(row.stage, row.reason) if isinstance(row, Reject) else row


_READERS = {"parquet": _parquet_rows, "webdataset": _tar_rows}
