"""Compares a body with the checksums that stores send along."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable

from multidict import CIMultiDictProxy

from pipelines.object_stores.faults import ChangedError, TooLargeError

Headers = CIMultiDictProxy[str]


def _crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


def _crc32c(body: bytes) -> bytes:
    import google_crc32c  # there wherever gcsfs is

    return bytes(google_crc32c.Checksum(body).digest())


# The cheapest first; S3 sends the one that an object was stored with. An ETag is none of them: it
# is not always an MD5, and costs ten times as much.
_OF_S3: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": _crc32,
    "x-amz-checksum-crc32c": _crc32c,
    "x-amz-checksum-sha1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
}


def check_s3(headers: Headers, body: bytes) -> None:
    """Compares a whole body of S3 with its checksum, if it has one that says something of it.

    Raises:
        ChangedError: if it is another body's.
    """
    for name, compute in _OF_S3.items():
        expected = headers.get(name)
        if expected is not None:
            if "-" not in expected:  # else a checksum of the checksums of its parts
                _compare(name.rpartition("-")[2], expected, compute(body))
            return


def check_gcs(headers: Headers, body: bytes) -> None:
    """Compares a body of GCS, as it is stored, with its CRC32C.

    Raises:
        ChangedError: if it is another body's.
    """
    for said in headers.getall("x-goog-hash", ()):
        for one in said.split(","):
            name, _, expected = one.strip().partition("=")
            if name == "crc32c":
                _compare(name, expected, _crc32c(body))


def _compare(name: str, expected: str, found: bytes) -> None:
    told = base64.b64encode(found).decode()
    if told != expected:
        raise ChangedError(f"expected a body with {name.upper()} {expected}, got {told}")


def unpacked(headers: Headers, body: bytes, max_bytes: int) -> bytes:
    """Unpacks a body that is stored gzipped; returns any other as it is.

    Raises:
        TooLargeError: if it has more than `max_bytes` bytes.
        ChangedError: if it is no whole gzip.
    """
    if headers.get("Content-Encoding") != "gzip":
        return body
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        data = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ChangedError(f"the body is no whole gzip: {error}") from error
    if len(data) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes")
    if not decoder.eof:
        raise ChangedError("the body is no whole gzip: it has no end")
    return data
