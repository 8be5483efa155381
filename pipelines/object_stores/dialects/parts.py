"""Uploads in parts, as S3 and GCS have them."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipelines.object_stores.answers import ANY, Got, Request
from pipelines.object_stores.faults import StoreFault

if TYPE_CHECKING:
    from pipelines.object_stores.dialects.gcs import GcsBucket
    from pipelines.object_stores.dialects.s3 import S3Bucket


class S3Upload:
    """Parts in any order, which one more request puts together."""

    is_in_order = False

    def __init__(self, bucket: S3Bucket, key: str, match: str | None) -> None:
        self._bucket, self._key, self._match = bucket, key, match
        self._query = ""
        self._etags: dict[int, str] = {}

    async def begin(self) -> Request:
        """Asks for an upload."""
        return await self._bucket.signed("POST", self._key, b"", "uploads=")

    def begun(self, got: Got) -> None:
        """Takes up its name; raises `StoreFault` if there is none."""
        found = re.search(rb"<UploadId>([^<]+)</UploadId>", got.data)
        if not found:
            raise StoreFault("the store begins no upload in parts")
        self._query = f"uploadId={quote(found[1].decode(), safe='')}"

    async def part(self, number: int, start: int, body: bytes) -> Request:
        """Sends a part."""
        query = f"partNumber={number}&{self._query}"
        return await self._bucket.signed("PUT", self._key, body, query)

    def noted(self, number: int, got: Got) -> int | None:
        """Takes up the part's ETag."""
        self._etags[number] = got.version
        return None

    async def finish(self) -> Request:
        """Asks for the object."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        request = await self._bucket.signed("POST", self._key, body, self._query)
        return conditional(request, self._match)

    def made(self, got: Got) -> bool:
        """Looks for the answer that says so, as S3 may say 200 and then no; or, in an object, for
        the ETag that those of several parts have."""
        if b"<CompleteMultipartUploadResult" in got.data:
            return True
        with suppress(ValueError):  # the ETags are no digests
            digests = [bytes.fromhex(self._etags[n].strip('"')) for n in sorted(self._etags)]
            whole = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
            return got.version.strip('"') == f"{whole}-{len(digests)}"
        return False

    async def abort(self) -> Request:
        """Gives the upload up."""
        return await self._bucket.signed("DELETE", self._key, b"", self._query)


class GcsUpload:
    """Parts one after the other; the last one makes the object."""

    is_in_order = True

    def __init__(self, bucket: GcsBucket, key: str, size: int, match: str | None) -> None:
        self._bucket, self._size = bucket, size
        self._url = bucket.upload_url("resumable", key, match)

    async def begin(self) -> Request:
        """Asks for an upload."""
        return await self._bucket.authorised("POST", self._url)

    def begun(self, got: Got) -> None:
        """Takes up its URL; raises `StoreFault` if there is none."""
        url = (got.headers or {}).get("Location")
        if not url:
            raise StoreFault("the store begins no upload in parts")
        self._url = url

    async def part(self, number: int, start: int, body: bytes) -> Request:
        """Sends a part."""
        told = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{self._size}"}
        return await self._bucket.authorised("PUT", self._url, body, told)

    def noted(self, number: int, got: Got) -> int | None:
        """Returns where the next part begins: what the store has may be less than was sent."""
        if self.made(got):
            return None
        found = re.fullmatch(r"bytes=0-([0-9]+)", (got.headers or {}).get("Range", ""))
        return int(found[1]) + 1 if found else 0

    async def finish(self) -> Request:
        """Asks what the store has."""
        told = {"Content-Range": f"bytes */{self._size}"}
        return await self._bucket.authorised("PUT", self._url, b"", told)

    def made(self, got: Got) -> bool:
        """Looks for the object's generation."""
        return bool(got.version)

    async def abort(self) -> Request:
        """Gives the upload up."""
        return await self._bucket.authorised("DELETE", self._url)


def conditional(request: Request, match: str | None) -> Request:
    """Returns a request to S3 that replaces an object of one version, or none, or any."""
    if match == ANY:
        return request
    name = "If-None-Match" if match is None else "If-Match"
    return replace(request, headers={**request.headers, name: match or "*"})
