"""The images of scored rows as they were found: read again where the run says, if allowed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pipelines.images.base64_text import is_beginning
from pipelines.images.fetch import FetchPolicy, allowed_file, allowed_roots, fetch_image, image_uri
from pipelines.images.trust import IMAGES, NotTrustedError, Trust
from pipelines.manifests.captions import image_row
from pipelines.manifests.formats import format_called, format_of
from pipelines.manifests.request import ManifestFormat, ManifestRequest, file_id
from pipelines.output.scored_tables import file_schema
from pipelines.output.unit_record import UNIT_KEY, unit_from_json
from pipelines.records import Reject, Row, RowFault, Unit
from pipelines.storage import uris
from schemas.manifest import BASE64, Columns, Dialect, ManifestError
from schemas.rejects import Reason


class ImageRow(Protocol):
    """Where a scored row came from, and the hash of the image that was scored."""

    @property
    def source(self) -> str: ...
    @property
    def source_row(self) -> int: ...
    @property
    def url(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...


def original_rows(
    rows: Sequence[ImageRow], options: Mapping[str, Any], units: Mapping[str, Unit], trust: Trust
) -> Iterator[tuple[str, int, Row | RowFault]]:
    """Yields what the manifests say of scored rows: source, source row, and the row or its fault.

    Each manifest is read once, in its own order; what it cannot give comes last.

    Args:
        options: of the run, as run.json has them.
        units: one of each manifest, which says how it was read; see `source_units`. What is not
            there is read as the options say.
        trust: which of the manifests are opened.
    """
    by_source: defaultdict[str, dict[int, ImageRow]] = defaultdict(dict)
    for row in rows:  # a row may be wanted twice
        by_source[row.source][row.source_row] = row
    for source, rows_of_source in by_source.items():
        unit = units.get(source)
        for wanted in _parts(rows_of_source, unit, options):
            for number, original in _manifest_rows(source, wanted, unit, options, trust):
                yield source, number, original


def fetch_original(original: Row | RowFault, sha256: str | None, policy: FetchPolicy) -> bytes:
    """Returns the bytes of an image as they were scored.

    Raises:
        NotTrustedError: if it lies where nobody has allowed, with what would.
        RowFault: if it is gone, or another than it was.
    """
    if isinstance(original, RowFault):
        raise original
    if original.image_bytes is None:
        uri = image_uri(original, policy)
        if allowed_file(uri, allowed_roots(original, policy)) is None:
            raise NotTrustedError(uri, IMAGES)
    return fetch_image(original._replace(expected_sha256=sha256), policy)


def source_units(files: Sequence[str], rows: Sequence[ImageRow]) -> dict[str, Unit]:
    """Returns a unit of each manifest that the rows came from, as the tables' files have it.

    Args:
        files: of a table, named by the units in them.
    """
    found = {}
    for source in {row.source for row in rows}:
        stem = file_id(source)
        file = next((uri for uri in files if uris.base_name(uri).startswith(stem)), None)
        unit = unit_of_file(file) if file else None
        if unit is not None:
            found[source] = unit
    return found


def unit_of_file(uri: str) -> Unit | None:
    """Returns the unit that a file of a table says it is of; None if it does not say."""
    metadata = file_schema(uri).metadata or {}
    return _unit(metadata[UNIT_KEY]) if UNIT_KEY in metadata else None


def _unit(text: bytes) -> Unit | None:
    """Reads a unit, which a stranger may have written; None if it has not the form of one."""
    try:
        unit = unit_from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    named = (unit.uri, unit.format, unit.image_root)
    return unit if all(isinstance(value, str) for value in named) else None


def _parts(
    wanted: Mapping[int, ImageRow], unit: Unit | None, options: Mapping[str, Any]
) -> Iterator[dict[int, ImageRow]]:
    """Takes rows apart from those with base64 text, of which tables have the beginning only."""
    encoding = unit.columns.image_encoding if unit else options.get("image_encoding")
    for is_text in (False, True):
        part = {n: row for n, row in wanted.items() if _is_text(row, encoding) == is_text}
        if part:
            yield part


def _is_text(row: ImageRow, encoding: object) -> bool:
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


def _manifest_rows(
    source: str,
    wanted: Mapping[int, ImageRow],
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
    wanted: Mapping[int, ImageRow],
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
    unit: Unit, form: ManifestFormat | None, wanted: Mapping[int, ImageRow]
) -> Iterator[tuple[int, Row | RowFault]]:
    if form is None or form.rows_at is None:
        for number, row in wanted.items():
            yield number, Row("", unit.uri, number, row.url, None, unit.image_root)
        return
    for raw in form.rows_at(unit, wanted):
        yield raw.number, _row(image_row(unit, raw))


def _row(row: Row | Reject) -> Row | RowFault:
    return RowFault(row.stage, row.reason) if isinstance(row, Reject) else row
