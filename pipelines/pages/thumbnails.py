"""Small images of scored rows, fetched again from where the operator allows."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from clip_core.preprocess import Preprocess
from pipelines.images.base64_text import is_beginning
from pipelines.images.decode import DecodeLimits, decode_image, limits_of
from pipelines.images.fetch import FetchPolicy, allowed_file, allowed_roots, fetch_image, image_uri
from pipelines.images.trust import IMAGES, TRUST, NotTrustedError, Trust
from pipelines.manifests.formats import format_called, format_of
from pipelines.manifests.request import ManifestFormat, ManifestRequest, file_id
from pipelines.manifests.rows import to_row
from pipelines.output.scored_tables import file_schema
from pipelines.output.unit_record import UNIT_KEY, unit_from_json
from pipelines.records import Reject, Row, RowFault, Unit
from pipelines.storage import uris
from schemas.manifest import BASE64, Columns, Dialect, ManifestError
from schemas.rejects import Reason

SIDE = 224  # pixels; shown at half of that on most screens
JPEG_QUALITY = 80
MAX_REMEDIES = 3  # flags named in a summary, of a run that names many places


class PictureRow(Protocol):
    """Where a scored row came from, and the hash of the image that was scored."""

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
    """A JPEG as a data URI, or why there is none, and the flag that would allow it."""

    data_uri: str | None
    reason: str | None = None
    remedy: str | None = None


def thumbnails(
    rows: Sequence[PictureRow],
    options: Mapping[str, Any],
    units: Mapping[str, Unit],
    trust: Trust,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Thumbnail]:
    """Returns a thumbnail for each row, in order: the centre square, as the model sees it.

    An image that has changed since it was scored, lies where nobody allowed to read, or cannot be
    decoded gives its reason instead.

    Args:
        options: of the run, as run.json has them.
        units: one of each manifest, which says how it was read; see `source_units`. What is not
            there is read as the options say.
        trust: which of the manifests and images are opened.
        progress: called with 1 for each image.
    """
    policy, limits = trust.fetch_policy(options), limits_of(options)
    by_source: defaultdict[str, dict[int, PictureRow]] = defaultdict(dict)
    for row in rows:  # by manifest, so that each tar is read once; a row may be wanted twice
        by_source[row.source][row.source_row] = row
    found: dict[tuple[str, int], Thumbnail] = {}
    for source, rows_of_source in by_source.items():
        for wanted in _parts(rows_of_source, units.get(source), options):
            read = _manifest_rows(source, wanted, units.get(source), options, trust)
            for number, original in read:
                found[source, number] = _thumbnail(original, wanted[number].sha256, policy, limits)
                progress(1)
    return [found[row.source, row.source_row] for row in rows]


def remedy_lines(pictures: Sequence[Thumbnail]) -> list[str]:
    """Returns lines for the summary: the flags that would show what was not allowed."""
    needed = Counter(picture.remedy for picture in pictures if picture.remedy)
    lines = [
        f"images     {count} of {len(pictures)} not shown; allow them with {remedy}"
        for remedy, count in needed.most_common(MAX_REMEDIES)
    ]
    return [*lines, f"           or all that the run names with `{TRUST}`"] if lines else []


def source_units(files: Sequence[str], rows: Sequence[PictureRow]) -> dict[str, Unit]:
    """Returns a unit of each manifest that the rows came from, as the tables' files have it.

    Args:
        files: of a table, named by the units in them.
    """
    found = {}
    for source in {row.source for row in rows}:
        stem = file_id(source)
        file = next((uri for uri in files if uris.base_name(uri).startswith(stem)), None)
        metadata = (file_schema(file).metadata or {}) if file else {}
        unit = _unit(metadata[UNIT_KEY]) if UNIT_KEY in metadata else None
        if unit is not None:
            found[source] = unit
    return found


def _unit(text: bytes) -> Unit | None:
    """Reads a unit, which a stranger may have written; None if it has not the form of one."""
    try:
        unit = unit_from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    named = (unit.uri, unit.format, unit.image_root)
    return unit if all(isinstance(value, str) for value in named) else None


def _parts(
    wanted: Mapping[int, PictureRow], unit: Unit | None, options: Mapping[str, Any]
) -> Iterator[dict[int, PictureRow]]:
    """Takes rows apart from those with base64 text, of which tables have the beginning only."""
    encoding = unit.columns.image_encoding if unit else options.get("image_encoding")
    for is_text in (False, True):
        part = {n: row for n, row in wanted.items() if _is_text(row, encoding) == is_text}
        if part:
            yield part


def _is_text(row: PictureRow, encoding: object) -> bool:
    return encoding == BASE64 or (row.url is not None and is_beginning(row.url))


def _recognised(source: str, form: ManifestFormat | None, options: Mapping[str, Any]) -> Unit:
    root = uris.normalize(options.get("image_root") or uris.parent(source))
    unit = Unit("", source, form.name if form else "", Columns(), root, first_row=0, rows=None)
    if form is None:
        return unit
    request = ManifestRequest(
        (source,),
        image_column=options.get("image_column"),
        text_column=options.get("text_column"),
        **{name: options[name] for name in Dialect().dialect() if options.get(name)},
    )
    planned = form.plan(replace(unit, rows=0), request, ())
    return replace(unit, columns=planned.units[0].columns)


def _thumbnail(
    row: Row | RowFault, sha256: str | None, policy: FetchPolicy, limits: DecodeLimits
) -> Thumbnail:
    try:
        if isinstance(row, RowFault):
            raise row
        if row.image_bytes is None:
            _check_allowed(row, policy)
        data = fetch_image(row._replace(expected_sha256=sha256), policy)
        return Thumbnail(thumbnail_uri(data, limits))
    except NotTrustedError as fault:
        return Thumbnail(None, f"not allowed; pass {fault.remedy}", fault.remedy)
    except RowFault as fault:
        return Thumbnail(None, fault.reason.value.replace("_", " "))


def _check_allowed(row: Row, policy: FetchPolicy) -> None:
    """Makes sure of an image's place, so that a refusal names the flag with its value."""
    uri = image_uri(row)
    if allowed_file(uri, allowed_roots(row, policy)) is None:
        raise NotTrustedError(uri, IMAGES)


def thumbnail_uri(data: bytes, limits: DecodeLimits) -> str:
    """Returns an encoded image's thumbnail as a data URI.

    Raises:
        RowFault: as `decode_image` does.
    """
    pixels = decode_image(data, [Preprocess(SIDE)], limits).pixels[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def _manifest_rows(
    source: str,
    wanted: Mapping[int, PictureRow],
    unit: Unit | None,
    options: Mapping[str, Any],
    trust: Trust,
) -> Iterator[tuple[int, Row | RowFault]]:
    """Yields the manifest's row, or what is wrong with it, for each wanted number."""
    left = set(wanted)
    fault = RowFault("read", Reason.NOT_FOUND)
    try:
        form = _reader(source, unit, wanted, options)
        unit = _readable(source, unit, form, options, trust)
        for number, row in _rows(unit, form, wanted):
            left.remove(number)
            yield number, row
    except FileNotFoundError:
        pass
    except NotTrustedError as error:
        fault = error
    # Damaged, denied or out of reach, in the error types of each store: costs only its images.
    except Exception:  # noqa: BLE001
        fault = RowFault("read", Reason.MANIFEST_UNREADABLE)
    yield from ((number, fault) for number in left)


def _reader(
    source: str,
    unit: Unit | None,
    wanted: Mapping[int, PictureRow],
    options: Mapping[str, Any],
) -> ManifestFormat | None:
    """Returns the format to read a manifest by; None if the scored rows hold all that is needed."""
    form = _format(unit.format if unit else options.get("manifest_format") or format_of(source))
    encoding = unit.columns.image_encoding if unit else options.get("image_encoding")
    if form is None or form.rows_at is None:
        return None
    named = form.names_images and not any(_is_text(row, encoding) for row in wanted.values())
    return None if named else form


def _readable(
    source: str,
    unit: Unit | None,
    form: ManifestFormat | None,
    options: Mapping[str, Any],
    trust: Trust,
) -> Unit:
    """Returns the unit to read a manifest by; what only names images is not opened.

    Raises:
        NotTrustedError: if the manifest has to be opened and nobody allowed it.
    """
    uri = unit.uri if unit else source
    if form is not None:
        uri = trust.manifest(uri)
    return replace(unit, uri=uri) if unit else _recognised(uri, form, options)


def _format(name: str | None) -> ManifestFormat | None:
    """Returns a format; None of a name that a stranger made up."""
    try:
        return format_called(name or "")
    except ManifestError:
        return None


def _rows(
    unit: Unit, form: ManifestFormat | None, wanted: Mapping[int, PictureRow]
) -> Iterator[tuple[int, Row | RowFault]]:
    if form is None or form.rows_at is None:
        for number, row in wanted.items():
            yield number, Row("", unit.uri, number, row.url, None, unit.image_root)
        return
    for raw in form.rows_at(unit, wanted):
        yield raw.number, _row(to_row(unit, raw))


def _row(row: Row | Reject) -> Row | RowFault:
    return RowFault(row.stage, row.reason) if isinstance(row, Reject) else row
