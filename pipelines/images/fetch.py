"""Fetches the encoded image of a row, from where the operator allows and nowhere else."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pipelines.object_stores.answers import Places, Store
from pipelines.object_stores.faults import ObjectFault, StoreFault
from pipelines.records import Row, RowFault
from pipelines.storage import reading, stores, uris
from pipelines.storage.redaction import scrub
from pipelines.storage.retries import AttemptsFailed, RetryPolicy, describe, http_code, with_retries
from pipelines.web.faults import WebFault
from pipelines.web.settings import WebSettings
from pipelines.web.urls import AROUND, RefusedURL, is_allowed, is_http, parse_url
from schemas.rejects import Reason

MAX_IMAGE_BYTES = 64 << 20
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
# What else begins with a word and a colon is a name, such as `img:12.jpg`, save these.
_OPAQUE = re.compile(r"^(blob|data|file|ftp|gs|https?|local|s3):", re.IGNORECASE)
# "::" chains filesystems; NUL and halves of surrogate pairs are in no file's name.
_MALFORMED = re.compile("::|\0|[\ud800-\udfff]")


class Place(NamedTuple):
    """Where an image is, as the client of stores and of the web takes it."""

    store: Store | Places
    key: str


@dataclass(frozen=True)
class FetchPolicy:
    """Where images may come from, and the bounds of fetching one.

    Attributes:
        allow_images_from: URI prefixes beyond each row's own `image_root`.
        allow_image_root: whether that is allowed; not where strangers say what it is.
        max_bytes: larger images are rejected unread.
        retries: how long transient faults are tried again; S3, GCS and the web have rules of their
            own.
        concurrency: images of S3, GCS and the web that are asked for at once; None for as many as a
            process can make use of.
        web: how images are asked for over http(s).
    """

    allow_images_from: tuple[str, ...] = ()
    allow_image_root: bool = True
    max_bytes: int = MAX_IMAGE_BYTES
    retries: RetryPolicy = RetryPolicy()
    concurrency: int | None = None
    web: WebSettings = WebSettings()

    @property
    def asks_the_web(self) -> bool:
        """Whether a prefix allows images over http(s), beside those of rows' own roots."""
        return any(map(is_http, self.allow_images_from))


def fetch_image(
    row: Row, policy: FetchPolicy, sleep: Callable[[float], None] = time.sleep
) -> bytes:
    """Returns the encoded image of a row, inline or from storage.

    Raises:
        RowFault: `not_allowed`, `not_found`, `forbidden`, `too_large`, `fetch_failed` when
            transient faults outlast the attempts, `hash_mismatch`.
        StoreFault: if no image can be had of its store.
    """
    data = row.image_bytes
    if data is None:
        uri = allowed_uri(row, policy)
        place = _place(uri, row, policy)
        try:
            if place is not None:
                client = stores.direct_client(policy.concurrency)
                data = client.fetch(place.store, place.key, policy.max_bytes)
            else:
                data = with_retries(
                    lambda: reading.read_whole(uri, policy.max_bytes), policy.retries, sleep
                )
        except StoreFault:
            raise
        except Exception as error:  # noqa: BLE001 - each store has error types of its own
            raise fault_of(error) from error
    return checked(data, row, policy)


def direct_place(row: Row, policy: FetchPolicy) -> Place | None:
    """Returns where a row's image is, if one request brings it without a thread that waits.

    Raises:
        RowFault: `not_allowed`.
    """
    if (
        row.image_bytes is not None
        or stores.is_local(row.url or "")
        and stores.is_local(row.image_root)
        and not (row.url or "").lstrip(AROUND).startswith("//")
    ):
        return None
    return _place(allowed_uri(row, policy), row, policy)


def checked(data: bytes, row: Row, policy: FetchPolicy) -> bytes:
    """Returns the encoded image of a row, once it is known to be what the row says.

    Raises:
        RowFault: `too_large`, `hash_mismatch`.
    """
    if len(data) > policy.max_bytes:
        raise _fault(Reason.TOO_LARGE, f"more than {policy.max_bytes} bytes")
    _check_hash(data, row.expected_sha256)
    return data


def allowed_uri(row: Row, policy: FetchPolicy) -> str:
    """Resolves a row's image reference, and refuses what lies outside the allowed prefixes.

    Raises:
        RowFault: `not_allowed`.
    """
    uri = image_uri(row, policy)
    if is_http(uri):
        return uri  # checked when it is opened, as each of its redirects is
    if any(_is_under(uri, root) for root in allowed_roots(row, policy)):
        return uri
    where = "the image lies outside the manifest's directory"
    if (row.url or "").lstrip(AROUND).startswith("//"):
        where += ", unless `https:` is missing in front of it"
    raise _fault(Reason.NOT_ALLOWED, f"{where}; allow its prefix with `allow_images_from`")


def image_uri(row: Row, policy: FetchPolicy) -> str:
    """Returns the absolute URI of a row's image, allowed or not.

    Raises:
        RowFault: `not_allowed`, if no prefix could allow it.
    """
    reference = row.url or ""
    bare = reference.strip(AROUND)
    if is_http(bare):
        reference = bare
    elif bare.startswith("//") and _is_of_the_web(bare, row, policy):
        reference = f"{'http' if row.image_root.startswith('http://') else 'https'}:{bare}"
    return _resolve(reference, row.image_root)


def allowed_file(uri: str, prefixes: Sequence[str]) -> str | None:
    """Returns a file's URI in the form that was compared with the prefixes, which is to be opened.

    Returns:
        None if it lies under none of them, or may be read in two ways.
    """
    if _MALFORMED.search(uri):
        return None
    if not is_http(uri):
        canonical = _canonical(uri)
        return canonical if any(_is_under(canonical, prefix) for prefix in prefixes) else None
    try:
        url = parse_url(uri)
    except RefusedURL:
        return None
    return str(url) if is_allowed(url, prefixes) else None


def allowed_roots(row: Row, policy: FetchPolicy) -> tuple[str, ...]:
    """Returns the URI prefixes that a row's image may come from."""
    own = (row.image_root,) if policy.allow_image_root else ()
    return (*own, *policy.allow_images_from)


def _is_of_the_web(reference: str, row: Row, policy: FetchPolicy) -> bool:
    """Tells whether `//host/x` means a host, as in web pages, and no path of an allowed folder."""
    roots = allowed_roots(row, policy)
    if not any(map(is_http, roots)):
        return False
    return not any(_is_under(_canonical(reference), root) for root in roots)


def _resolve(reference: str, root: str) -> str:
    """Makes an absolute URI, with `..` and links resolved, so that prefixes can be compared."""
    reference = uris.canonical(reference)
    if is_http(reference):
        return reference
    match = _SCHEME.match(reference)
    path = reference[match.end() :] if match else reference
    if _MALFORMED.search(reference) or "://" in path:
        raise _fault(Reason.NOT_ALLOWED, "images from a chained or malformed URI are not allowed")
    if _OPAQUE.match(reference) and not match:
        raise _fault(Reason.NOT_ALLOWED, "expected a path or a URI with `://`")
    if not match and not (stores.is_local(root) and os.path.isabs(reference)):
        reference = uris.join(root, reference)
    return reference if is_http(reference) else _canonical(reference)


def _canonical(uri: str) -> str:
    if stores.is_local(uri):
        folder, name = os.path.split(uris.normalize(uri))
        path = os.path.join(_real_folder(folder, int(time.monotonic())), name)
        return os.path.realpath(path) if os.path.islink(path) else path
    scheme, _, path = uris.canonical(uri).partition("://")
    return f"{scheme}://{_without_dots(path)}"


@lru_cache(maxsize=1024)
def _real_folder(path: str, second: int) -> str:
    """Resolves links, once a second for all images of a folder; links may change meanwhile."""
    return os.path.realpath(path)


def _without_dots(path: str) -> str:
    """Resolves `.` and `..` in bucket and key. Empty segments stay: `a//k` is not the key `a/k`."""
    kept: list[str] = []
    for segment in path.strip("/").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    root = "/" if path.startswith("/") else ""  # of hdfs:///x, whose host is a default
    return root + "/".join(kept).strip("/")


def _is_under(uri: str, root: str) -> bool:
    """Compares whole path segments: /data/img does not contain /data/images2/x.jpg."""
    if not root:
        return False
    return uri.startswith(_prefix(root, int(time.monotonic())))


@lru_cache(maxsize=1024)
def _prefix(root: str, second: int) -> str:
    canonical = _canonical(uris.normalize(root))
    return canonical if canonical.endswith("/") else canonical + "/"


def _place(uri: str, row: Row, policy: FetchPolicy) -> Place | None:
    """Returns where an image is that one request brings; None of what only a filesystem reads."""
    if not is_http(uri):
        found = stores.place_of(uri)
        return Place(found.store, found.key) if found else None
    from pipelines.web.fetching import Allowed, web_of  # slow to import

    prefixes = tuple(filter(is_http, allowed_roots(row, policy)))
    if not prefixes:
        raise _fault(
            Reason.NOT_ALLOWED,
            "images over http(s) are off; allow a prefix with `allow_images_from`",
        )
    web = web_of(policy.web, policy.concurrency or stores.DIRECT_CONCURRENCY)
    return Place(Allowed(web, prefixes), uri)


def fault_of(error: Exception) -> RowFault:
    """Returns what the error of fetching an image makes of its row."""
    code = http_code(error)
    answered = f" (HTTP {code})" if code else ""
    if isinstance(error, WebFault):
        return _fault(error.reason, str(error))
    if isinstance(error, RefusedURL):
        return _fault(Reason.NOT_ALLOWED, str(error))
    if isinstance(error, reading.TooLargeError):
        return _fault(Reason.TOO_LARGE, str(error))
    missing = FileNotFoundError | IsADirectoryError | NotADirectoryError
    if isinstance(error, missing) or code in (404, 410):
        return _fault(Reason.NOT_FOUND, f"there is no such file{answered}")
    # gcsfs reports a 403 as a plain OSError with this text.
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")
    if isinstance(error, PermissionError) or code in (401, 403) or forbidden:
        answered = " (HTTP 403)" if forbidden else answered
        return _fault(Reason.FORBIDDEN, f"access denied{answered}")
    told = isinstance(error, AttemptsFailed | ObjectFault)
    text = str(error) if told else describe(error)
    return _fault(Reason.FETCH_FAILED, text)


def _check_hash(data: bytes, expected: str | None) -> None:
    if expected is None:
        return
    found = hashlib.sha256(data).hexdigest()
    if found != expected.strip().lower():
        raise _fault(Reason.HASH_MISMATCH, f"expected SHA-256 {expected}, got {found}")


def _fault(reason: Reason, detail: str) -> RowFault:
    return RowFault("fetch", reason, scrub(detail))
