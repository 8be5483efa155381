"""What every manifest reader yields: a row's number, and its values or what is wrong with it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from pipelines.images.base64_text import Base64Image, base64_image, is_base64
from pipelines.records import Reject, Row, RowFault, Unit
from pipelines.storage.foreign_names import escaped
from pipelines.storage.redaction import redact, scrub
from schemas.manifest import BASE64, DOWNLOADED, Columns
from schemas.pairs import IMAGES, TEXTS
from schemas.rejects import Reason

MAX_RECORD_BYTES = 16 << 20  # of one line of a text manifest
MAX_TEXT_CHARS = 1 << 20  # of a caption, an id or another text
MAX_TEXT_BYTES = 4 * (MAX_TEXT_CHARS + 1)  # what readers cut longer texts to: still too long
SHOWN_TEXT_CHARS = 1000  # of a text that is too long
_HASH_CHARS = 1000  # what has more is no hash, and equals none


@dataclass(frozen=True)
class Fault:
    """A row that its reader could not make out; `text` is what is known of its caption."""

    reason: Reason
    detail: str
    text: str | None = None


class RawRow(NamedTuple):
    """Row `number` of a manifest, 0-based, as values by column name or as a fault.

    `hint` says why it may lack an image or a caption, should it lack one.
    """

    number: int
    values: Mapping[str, Any] | Fault
    hint: str | None = None


def to_row(unit: Unit, raw: RawRow) -> Row | Reject:
    """Takes the fields of a row with one caption from its values; one without image or caption
    becomes a reject."""
    if isinstance(raw.values, Fault):
        return reject(unit, raw.number, raw.values)
    row, fault = row_of(unit, raw.number, raw.values)
    return row if fault is None else rejected(row, fault, raw.hint)


def rejected(row: Row, fault: Fault, hint: str | None) -> Reject:
    """Returns the reject of a row, without the bytes of its image."""
    lacks = hint is not None and fault.reason in (Reason.MISSING_IMAGE, Reason.EMPTY_TEXT)
    detail = f"{fault.detail}; {hint}" if lacks else fault.detail
    return RowFault("read", fault.reason, detail).to_reject(row._replace(image_bytes=None))


def reject(unit: Unit, number: int, fault: Fault) -> Reject:
    """Returns the reject of a row of which nothing but its place is known."""
    row = Row(
        uid=_position_uid(unit.source, number),
        source=source_of(unit.source),
        source_row=number,
        url=None,
        text=fault.text,
    )
    return RowFault("read", fault.reason, fault.detail).to_reject(row)


def row_of(unit: Unit, number: int, values: Mapping[str, Any]) -> tuple[Row, Fault | None]:
    """Returns a row and what is wrong with it; of several captions, which are a list, only the
    first counts, for the id."""
    columns, given = unit.columns, values
    values, list_fault = _with_one_image(columns, values)
    inline = _base64_image(columns, values)
    if inline is not None:
        values = _with_image(columns, values, inline)
    values, fault = valid_text(columns, values)
    fault = list_fault or fault
    url, image_bytes = _image(columns, values)
    if inline is not None:
        image_bytes, fault = inline.data, fault or _base64_fault(inline)
    text = values.get(columns.text) if columns.text else None
    uid, uid_fault = _uid(values.get(columns.uid) if columns.uid else None)
    sha256 = values.get(columns.sha256) if columns.sha256 else None
    status = values.get(columns.status) if columns.status else None
    if status is not None and image_bytes is not None:
        sha256 = None  # img2dataset took it of the image that it then resized
    fault = fault or uid_fault or _not_downloaded(columns, values)
    fault = fault or (_fault(url, image_bytes) if columns.pairs != TEXTS else None)
    if isinstance(text, list):
        text = text[0] if text else None
    elif columns.pairs != IMAGES:
        fault = fault or caption_fault(text)
    url, text = (url if isinstance(url, str) else None, text if isinstance(text, str) else None)
    url = url[:SHOWN_TEXT_CHARS] if url and _is_long(url) else url
    if uid is None:
        reference = None if inline is not None and url == inline.shown else url
        uid = content_uid(reference, image_bytes, text) if fault is None else None
    row = Row(
        uid=_position_uid(unit.source, number) if uid is None else uid,
        source=source_of(unit.source),
        source_row=number,
        url=url,
        text=text,
        image_root=unit.image_root,
        image_bytes=image_bytes,
        expected_sha256=sha256[:_HASH_CHARS] if isinstance(sha256, str) and sha256 else None,
        kept={name: _kept(given.get(name), values.get(name)) for name in columns.kept},
    )
    return row, fault


def valid_text(
    columns: Columns, values: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Fault | None]:
    """Replaces halves of surrogate pairs, which JSON can spell but no file can hold, and cuts what
    is too long."""
    used = (columns.uid, columns.image_uri, columns.text, *columns.kept)
    if all(_is_plain(values.get(name)) for name in used if name):
        return values, None
    if any(_is_long(values.get(name)) for name in used if name):
        return _cut(columns, values, used)
    texts = {name: values[name] for name in used if name and isinstance(values.get(name), str)}
    valid = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    if valid == texts:
        return values, None
    return {**values, **valid}, Fault(Reason.MALFORMED_ROW, "the row holds half a surrogate pair")


def _is_plain(value: Any) -> bool:
    """Tells what most values are, without a look at their characters."""
    return value is None or (
        isinstance(value, str) and value.isascii() and len(value) <= MAX_TEXT_CHARS
    )


def _is_long(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > MAX_TEXT_CHARS
    return isinstance(value, bytes) and len(value) > MAX_RECORD_BYTES


def _cut(
    columns: Columns, values: Mapping[str, Any], used: Collection[str | None]
) -> tuple[Mapping[str, Any], Fault]:
    """Leaves the beginning of each text of a row that has a value which is too long."""
    cut = {name: _beginning(values[name]) for name in used if name and name in values}
    long = [name for name in cut if _is_long(values[name])]
    what = "the caption" if columns.text in long else f"column {long[0]!r}"
    most = f"{MAX_TEXT_CHARS} characters, or {MAX_RECORD_BYTES} bytes"
    return {**values, **cut}, Fault(Reason.TOO_LARGE, f"{what} has more than {most}")


def _beginning(value: Any) -> Any:
    if isinstance(value, str):
        return value[:SHOWN_TEXT_CHARS].encode("utf-8", "replace").decode()
    return None if _is_long(value) else value


@lru_cache(maxsize=64)
def source_of(uri: str) -> str:
    """Returns the manifest's URI as rows hold it: without credentials, in text of any name."""
    return escaped(redact(uri))


def _uid(value: Any) -> tuple[str | None, Fault | None]:
    """Returns an id as text, or None for a row without one."""
    try:
        return uid_text(value), None
    except UnicodeDecodeError:
        return None, Fault(Reason.MALFORMED_ROW, "the id is not valid UTF-8")


def uid_text(value: Any) -> str | None:
    """Returns an id as the tables hold it; None where there is none.

    A whole number is written as one, also where a missing value beside it made fractions of all.

    Raises:
        UnicodeDecodeError: if it is bytes that are no UTF-8.
    """
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        value = int(value) if math.isfinite(value) and value == int(value) else value
    text = value.decode() if isinstance(value, bytes) else str(value)
    return None if value is None or not text else text


def _with_one_image(
    columns: Columns, values: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Fault | None]:
    """Takes the image out of a list of one."""
    names = (columns.image_uri, columns.image_bytes)
    lists = {n: values[n] for n in names if n and isinstance(values.get(n), list)}
    if not lists:
        return values, None
    most = max(map(len, lists.values()))
    fault = Fault(Reason.MALFORMED_ROW, f"expected one image, got {most}") if most > 1 else None
    return {**values, **{name: found[0] if found else None for name, found in lists.items()}}, fault


def _kept(given: Any, value: Any) -> Any:
    """Returns a kept value as it is, where the list of one image was taken apart."""
    return given if isinstance(given, list) else value


def _image(columns: Columns, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the image reference and the inline image bytes."""
    url = values.get(columns.image_uri) if columns.image_uri else None
    image_bytes = values.get(columns.image_bytes) if columns.image_bytes else None
    if isinstance(image_bytes, Mapping):  # Hugging Face's struct of bytes and path
        url = url or image_bytes.get("path")
        image_bytes = image_bytes.get("bytes")
    return url, image_bytes


def _base64_image(columns: Columns, values: Mapping[str, Any]) -> Base64Image | None:
    """Returns the image of a row that has it as base64 text."""
    given = values.get(columns.image_bytes) if columns.image_bytes else None
    if given is not None:
        is_text = isinstance(given, str) or columns.image_encoding == BASE64
        return base64_image(given) if is_text and isinstance(given, str | bytes) else None
    given = values.get(columns.image_uri) if columns.image_uri else None
    if not given or not isinstance(given, str):
        return None
    return base64_image(given) if columns.image_encoding == BASE64 or is_base64(given) else None


def _with_image(
    columns: Columns, values: Mapping[str, Any], image: Base64Image
) -> Mapping[str, Any]:
    """Leaves the beginning of an image's text, in whatever column it stands."""
    given = values.get(columns.image_bytes) if columns.image_bytes else None
    if isinstance(given, bytes):
        return values
    columns_of_image = {columns.image_uri, columns.image_bytes} - {None}
    return {**values, **{str(name): image.shown for name in columns_of_image}}


def _base64_fault(image: Base64Image) -> Fault | None:
    if image.damage is None:
        return None
    return Fault(Reason.TOO_LARGE if image.is_too_long else Reason.MALFORMED_ROW, image.damage)


def _not_downloaded(columns: Columns, values: Mapping[str, Any]) -> Fault | None:
    status = values.get(columns.status) if columns.status else None
    if status is None or status == DOWNLOADED:
        return None
    error = values.get(columns.error) if columns.error else None
    return Fault(Reason.NOT_DOWNLOADED, scrub(f"img2dataset: {status}: {error}"))


def _fault(url: Any, image_bytes: Any) -> Fault | None:
    if _is_long(url):
        return Fault(Reason.TOO_LARGE, f"the path has more than {MAX_TEXT_CHARS} characters")
    if image_bytes is None and not url:
        return Fault(Reason.MISSING_IMAGE, "the row names no image")
    if image_bytes is None and not isinstance(url, str):
        kind = type(url).__name__
        return Fault(Reason.MALFORMED_ROW, f"expected an image reference of text, got {kind}")
    return None


def caption_fault(text: Any) -> Fault | None:
    """Says what is wrong with a caption, which is no text of a length that is none."""
    if text is None:
        return Fault(Reason.EMPTY_TEXT, "the row has no caption")
    if not isinstance(text, str):
        return Fault(Reason.MALFORMED_ROW, f"expected a caption of text, got {type(text).__name__}")
    if not text.strip():
        return Fault(Reason.EMPTY_TEXT, "the caption is blank")
    return None


def content_uid(url: str | None, image_bytes: bytes | None, text: str | None) -> str:
    """Returns 32 hex digits of a SHA-256 over image reference, or image bytes, and text."""
    image = url.encode("utf-8", "surrogatepass") if url is not None else image_bytes or b""
    caption = (text or "").encode("utf-8", "surrogatepass")
    # The length keeps image and text apart: ("ab", "c") and ("a", "bc") are different rows.
    return hashlib.sha256(b"%d:%b%b" % (len(image), image, caption)).hexdigest()[:32]


def _position_uid(uri: str, number: int) -> str:
    """An id for a row that has no content to make one of: it is told by its place."""
    return hashlib.sha256(f"{escaped(uri)}#{number}".encode()).hexdigest()[:32]
