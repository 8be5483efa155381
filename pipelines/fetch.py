"""Fetches the encoded image of a row, from where the operator allows and nowhere else."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines import storage
from pipelines.records import Row, RowFault
from schemas.rejects import Reason

SCHEMES = ("file", "memory", "gs", "gcs", "s3", "s3a")
MAX_IMAGE_BYTES = 64 << 20
_TRANSIENT_CODES = {408, 429}
# Faults of a connection by the names that Python, requests, aiohttp, botocore, google-auth and
# gcsfs give them: those packages are too many, and some too slow, to import for their names.
_TRANSIENT_NAMES = {
    "ChecksumError",
    "ChunkedEncodingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "Timeout",
    "TimeoutError",
    "TransportError",
}
# s3fs says EBUSY and EIO for 503 and 500; the last two are too many open files, here.
_TRANSIENT_ERRNOS = {
    errno.EBUSY,
    errno.EIO,
    errno.ESTALE,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EMFILE,
    errno.ENFILE,
}
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(//)?")
# "::" chains filesystems; NUL and halves of surrogate pairs are in no file's name.
_MALFORMED = re.compile("::|\0|[\ud800-\udfff]")
# What a message of a library may carry that must not reach the output: object addresses, user
# names and passwords, signed query strings.
_SECRETS = re.compile(r"0x[0-9a-fA-F]+|(?<=://)[^/\s]*@|\?[^\s'\"]*")


@dataclass(frozen=True)
class FetchPolicy:
    """Where images may come from, and the bounds of fetching one.

    Attributes:
        allowed: URI prefixes beyond each row's own `image_root`.
        max_bytes: larger images are rejected unread.
        attempts: how often a transient fault is tried, in all.
        backoff_s: the longest wait before the second attempt; it doubles with each further one.
    """

    allowed: tuple[str, ...] = ()
    max_bytes: int = MAX_IMAGE_BYTES
    attempts: int = 4
    backoff_s: float = 0.5


def fetch_image(
    row: Row, policy: FetchPolicy, sleep: Callable[[float], None] = time.sleep
) -> bytes:
    """Returns the encoded image of a row, inline or from storage.

    Raises:
        RowFault: `not_allowed`, `not_found`, `forbidden`, `too_large`, `fetch_failed` when
            transient faults outlast the attempts, `hash_mismatch`.
    """
    if row.image_bytes is not None:
        data = row.image_bytes
    else:
        data = _read_with_retries(allowed_uri(row, policy), policy, sleep)
    if len(data) > policy.max_bytes:
        raise _fault(Reason.TOO_LARGE, f"more than {policy.max_bytes} bytes")
    _check_hash(data, row.expected_sha256)
    return data


def allowed_uri(row: Row, policy: FetchPolicy) -> str:
    """Resolves a row's image reference, and refuses what lies outside the allowed prefixes.

    Raises:
        RowFault: `not_allowed`.
    """
    uri = _resolve(row.url or "", row.image_root)
    if any(_is_under(uri, root) for root in (row.image_root, *policy.allowed)):
        return uri
    raise _fault(
        Reason.NOT_ALLOWED,
        "the image lies outside the manifest's directory; allow its prefix with "
        "`--allow_images_from`",
    )


def scrub(message: str) -> str:
    """Takes addresses of objects, credentials and query strings out of a message."""
    return _SECRETS.sub("…", message)


def _resolve(reference: str, root: str) -> str:
    """Makes an absolute URI, with `..` and links resolved, so that prefixes can be compared."""
    match = _SCHEME.match(reference)
    scheme = match.group(1).lower() if match else None
    path = reference[match.end() :] if match else reference
    if _MALFORMED.search(reference) or "://" in path:
        raise _fault(Reason.NOT_ALLOWED, "images from a chained or malformed URI are not allowed")
    if scheme and scheme not in SCHEMES:  # it may open anything at all
        raise _fault(Reason.NOT_ALLOWED, f"images from {scheme} are not allowed")
    if match and not match.group(2):
        raise _fault(Reason.NOT_ALLOWED, "expected a path or a URI with `://`")
    if match and scheme:
        reference = scheme + reference[len(scheme) :]
    elif not (storage.is_local(root) and os.path.isabs(reference)):
        reference = storage.join(root, reference)
    return _canonical(reference)


def _canonical(uri: str) -> str:
    if storage.is_local(uri):
        return os.path.realpath(storage.normalize(uri))
    scheme, _, path = uri.partition("://")
    return f"{scheme}://{posixpath.normpath('/' + path).lstrip('/')}"


def _is_under(uri: str, root: str) -> bool:
    """Compares whole path segments: /data/img does not contain /data/images2/x.jpg."""
    if not root:
        return False
    canonical = _canonical(storage.normalize(root))
    return uri.startswith(canonical if canonical.endswith("/") else canonical + "/")


def _read_with_retries(uri: str, policy: FetchPolicy, sleep: Callable[[float], None]) -> bytes:
    for attempt in range(policy.attempts):
        if attempt:
            # Full jitter, so that many workers do not come back at the same moment.
            sleep(random.uniform(0, policy.backoff_s * 2 ** (attempt - 1)))
        try:
            return _read(uri, policy.max_bytes)
        except Exception as error:  # noqa: BLE001 - each store has error types of its own
            if not _is_transient(error):
                raise _permanent(error) from error
            last = error
    raise _fault(Reason.FETCH_FAILED, f"{policy.attempts} attempts failed: {_text(last)}") from last


def _read(uri: str, max_bytes: int) -> bytes:
    size = storage.file_size(uri)
    if size > max_bytes:
        raise _fault(Reason.TOO_LARGE, f"{size} bytes, more than {max_bytes}")
    data = storage.read_bytes(uri, max_bytes)
    if len(data) < size:
        raise ConnectionError(f"got {len(data)} of {size} bytes")
    return data


def _is_transient(error: Exception) -> bool:
    code = _http_code(error)
    if code is not None:
        return code in _TRANSIENT_CODES or code >= 500
    if any(kind.__name__ in _TRANSIENT_NAMES for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def _permanent(error: Exception) -> RowFault:
    if isinstance(error, RowFault):
        return error
    code = _http_code(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or code == 404:
        return _fault(Reason.NOT_FOUND, "there is no such file")
    # gcsfs reports a 403 as a plain OSError with this text.
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")
    if isinstance(error, PermissionError) or code in (401, 403) or forbidden:
        return _fault(Reason.FORBIDDEN, f"access denied{f' (HTTP {code})' if code else ''}")
    return _fault(Reason.FETCH_FAILED, _text(error))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _http_code(error: Exception) -> int | None:
    """Finds the HTTP status that gcsfs, aiohttp and botocore carry under names of their own."""
    for name in ("status", "code", "status_code"):
        code = str(getattr(error, name, None))  # gcsfs may pass on the text of the answer
        if re.fullmatch("[1-5][0-9]{2}", code):
            return int(code)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None


def _check_hash(data: bytes, expected: str | None) -> None:
    if expected is None:
        return
    found = hashlib.sha256(data).hexdigest()
    if found != expected.strip().lower():
        raise _fault(Reason.HASH_MISMATCH, f"expected SHA-256 {expected}, got {found}")


def _fault(reason: Reason, detail: str) -> RowFault:
    return RowFault("fetch", reason, scrub(detail))
