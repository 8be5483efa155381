"""Asks Google Cloud Storage with what a gcsfs filesystem knows of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from pipelines.object_stores.answers import ANY, Answer, Meaning, Request, by_status
from pipelines.object_stores.dialects.checksums import check_gcs, unpacked
from pipelines.object_stores.dialects.credentials import Renewing
from pipelines.object_stores.dialects.parts import GcsUpload
from pipelines.object_stores.faults import ObjectFault
from pipelines.object_stores.transport import proxy_of

_NO_HEADERS: Mapping[str, str] = {}
_TOLD_BYTES = 4096  # an upload is answered by less


class GcsBucket:
    """One bucket.

    Args:
        filesystem: whose location, credentials, payer and time limits are used.
    """

    def __init__(self, filesystem: Any, bucket: str) -> None:
        self._filesystem, self._bucket = filesystem, bucket
        self._access: Renewing[dict[str, str]] = Renewing(self._ask)
        self._base = f"{filesystem._location}/storage/v1/b/{quote(bucket, safe='')}/o/"
        self._uploads = f"{filesystem._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        payer = filesystem._get_params({}).get("userProject")
        self._payer = f"&userProject={quote(payer, safe='')}" if payer else ""
        timeout = filesystem.requests_timeout
        self._timeout = timeout if isinstance(timeout, aiohttp.ClientTimeout) else _default(timeout)
        self._proxy = proxy_of(self._base) if filesystem.session_kwargs.get("trust_env") else None

    @classmethod
    def of(cls, filesystem: Any, bucket: str) -> GcsBucket | None:
        """Returns a bucket, or None where only the filesystem itself knows how to ask it."""
        own = set(filesystem.session_kwargs) - {"trust_env"}
        certified = getattr(filesystem, "_use_client_cert", False)  # not in older releases
        if own or certified or filesystem.version_aware:
            return None
        return cls(filesystem, bucket)

    async def host(self) -> str:
        """Returns the host; GCS limits who asks, and not the bucket."""
        return self._base.partition("://")[2].partition("/")[0]

    async def request(self, key: str) -> Request:
        """Returns an authorised request; raises `StoreFault` without credentials."""
        access, number = await self._access.get()
        # Else a body that is stored gzipped would be unpacked on the way, and have no checksum.
        headers = {**access, "Accept-Encoding": "gzip"}
        url = f"{self._base}{quote(key, safe='')}?alt=media{self._payer}"
        return Request(url, headers, number, self._timeout, proxy=self._proxy)

    async def put(self, key: str, body: bytes, match: str | None) -> Request:
        """Returns an authorised upload on a condition; raises `StoreFault` without credentials."""
        return await self.authorised("POST", self.upload_url("media", key, match), body)

    def upload(self, key: str, size: int, match: str | None) -> GcsUpload:
        """Returns an upload in parts."""
        return GcsUpload(self, key, size, match)

    def upload_url(self, kind: str, key: str, match: str | None) -> str:
        """Returns where an object of a name is sent to."""
        condition = "" if match == ANY else f"&ifGenerationMatch={match or 0}"
        name = quote(key, safe="")
        return f"{self._uploads}?uploadType={kind}&name={name}{condition}{self._payer}"

    async def authorised(
        self, method: str, url: str, body: bytes = b"", extra: Mapping[str, str] = _NO_HEADERS
    ) -> Request:
        """Returns an authorised request; raises `StoreFault` without credentials."""
        access, number = await self._access.get()
        headers = {**access, **extra}
        return Request(
            url, headers, number, self._timeout, proxy=self._proxy, method=method, body=body
        )

    def version(self, answer: Answer) -> str:
        """Returns the generation."""
        told = answer.headers.get("x-goog-generation")
        if told:
            return told
        found = re.search(rb'"generation"\s*:\s*"?([0-9]+)', answer.body[:_TOLD_BYTES])
        return found[1].decode() if found else ""

    def meaning(self, answer: Answer) -> tuple[Meaning, str]:
        """Tells a refusal of a token from one of the object."""
        said = f"HTTP {answer.status}"
        if answer.status == 401 and self._filesystem.credentials.credentials is not None:
            return Meaning.EXPIRED, said
        if answer.status == 308:  # more parts of an upload are to come
            return Meaning.GIVEN, said
        return by_status(answer.status), said

    def whole(self, answer: Answer, max_bytes: int) -> bytes:
        """Returns the object, once what arrived is compared with its checksum and unpacked."""
        check_gcs(answer.headers, answer.body)
        return unpacked(answer.headers, answer.body, max_bytes)

    def part(self, answer: Answer) -> bytes:
        """Returns the body; raises `ObjectFault` of an object that is unpacked as a whole."""
        if answer.headers.get("Content-Encoding") == "gzip":
            raise ObjectFault(
                "it is kept gzipped (Content-Encoding), so that no part of it can be read; keep it "
                "under a name that ends in .gz instead"
            )
        return answer.body

    def worked(self) -> None:
        """Notes that the credentials are good."""
        self._access.worked()

    async def renew(self, access: int, said: str) -> None:
        """Has the token renewed; raises `StoreFault`."""
        await self._access.renew(access, said)

    def moved(self, answer: Answer) -> bool:
        """Tells that GCS moves no buckets."""
        return False

    def _ask(self, anew: bool) -> dict[str, str]:
        credentials = self._filesystem.credentials
        headers: dict[str, str] = {}
        if anew:
            refresh(credentials)
        credentials.apply(headers)
        return headers


def refresh(credentials: Any) -> bool:
    """Has gcsfs's credentials get another token; returns whether there are any."""
    if credentials.credentials is None:
        return False
    from google.auth.transport.requests import Request as Transport

    with credentials.lock:
        credentials.credentials.refresh(Transport())
    return True


def _default(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
