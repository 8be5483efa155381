"""Asks S3, and whatever speaks like it, with what an s3fs filesystem knows of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from fsspec.asyn import sync

from pipelines.object_stores.answers import Answer, Meaning, Request, by_status
from pipelines.object_stores.dialects.checksums import check_s3
from pipelines.object_stores.dialects.credentials import Renewing
from pipelines.object_stores.dialects.parts import S3Upload, conditional
from pipelines.object_stores.dialects.signing import Signer
from pipelines.object_stores.transport import proxy_of

_NO_HEADERS: Mapping[str, str] = {}
_LARGE_BYTES = 1 << 20  # whose digest the loop does not wait for
_FIRST_REGION = "us-east-1"
# Access points, directory buckets and Object Lambda have endpoints and sessions of their own.
_SPECIAL = re.compile(r"arn:|.*(--x-s3|--xa-s3|-s3alias|--ol-s3|\.mrap)$")
_KNOWN_CONFIG = {"connect_timeout", "read_timeout", "s3", "region_name", "retries"}
_KNOWN_CONFIG |= {"max_pool_connections", "user_agent_extra", "signature_version"}
EXPIRED = {
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId",
    "SignatureDoesNotMatch", "RequestTimeTooSkewed",
}  # fmt: skip
_MOVED = {
    "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"
}  # fmt: skip
_ETAG = re.compile(rb"<ETag>(?:&quot;|&#34;|\")?([^<&\"]+)")
_TOLD_BYTES = 4096
_AMAZON = re.compile(r"(.*\bs3(?:\.dualstack)?)[.-](?:[a-z0-9-]+\.)?(amazonaws\.com(?:\.cn)?)$")


@dataclass(frozen=True)
class _Access:
    """How a bucket is asked.

    Attributes:
        base: the URL before the key, with its slash.
        signer: None where nobody is to be named.
    """

    base: str
    signer: Signer | None
    timeout: aiohttp.ClientTimeout
    verify: Any
    proxy: str | None


class S3Bucket:
    """One bucket.

    Args:
        filesystem: whose endpoint, region, credentials and time limits are used.
        now: seconds since the epoch.
    """

    def __init__(self, filesystem: Any, bucket: str, now: Callable[[], float] = time.time) -> None:
        self._filesystem, self._bucket, self._now = filesystem, bucket, now
        self._access = Renewing(self._ask)
        self._region: str | None = None  # where the bucket turned out to be
        self._extra = {"x-amz-request-payer": "requester"} if filesystem.req_kw else {}

    @classmethod
    def of(cls, filesystem: Any, bucket: str) -> S3Bucket | None:
        """Returns a bucket, or None where only the filesystem itself knows how to ask it."""
        config = filesystem.config_kwargs
        plain = not (set(config) - _KNOWN_CONFIG or filesystem.s3_additional_kwargs)
        signature = config.get("signature_version")
        plain &= signature in (None, "s3v4") or not isinstance(signature, str)
        if not plain or filesystem.version_aware or _SPECIAL.match(bucket):
            return None
        return cls(filesystem, bucket)

    async def host(self) -> str:
        """Returns the host and, where the path holds it, the bucket."""
        access, _ = await self._access.get()
        return self._base(access).partition("://")[2]

    async def request(self, key: str) -> Request:
        """Returns a signed GET; raises `StoreFault` without credentials."""
        return await self.signed("GET", key, extra={"x-amz-checksum-mode": "ENABLED"})

    async def put(self, key: str, body: bytes, match: str | None) -> Request:
        """Returns a signed PUT on a condition; raises `StoreFault` without credentials."""
        return conditional(await self.signed("PUT", key, body), match)

    def upload(self, key: str, size: int, match: str | None) -> S3Upload:
        """Returns an upload in parts."""
        return S3Upload(self, key, match)

    def version(self, answer: Answer) -> str:
        """Returns the ETag, as s3fs has it; of what was put together it stands in the body."""
        told = answer.headers.get("ETag", "")
        found = None if told else _ETAG.search(answer.body[:_TOLD_BYTES])
        return f'"{found[1].decode()}"' if found else told

    async def signed(
        self,
        method: str,
        key: str,
        body: bytes | None = None,
        query: str = "",
        extra: Mapping[str, str] = _NO_HEADERS,
    ) -> Request:
        """Returns a signed request about an object; raises `StoreFault` without credentials.

        Args:
            query: in the order of its names, each with an equals sign.
            extra: headers, by lower-case names.
        """
        access, number = await self._access.get()
        url = self._base(access) + quoted(key)
        headers = {**self._extra, **extra}
        if access.signer is not None:
            signer = access.signer
            if self._region:
                signer = replace(signer, region=self._region)
            scheme, _, rest = url.partition("://")
            host, _, path = rest.partition("/")
            digest = await _sha256(body or b"")
            host = _without_port(scheme, host)
            headers = signer.signed(host, f"/{path}", headers, self._now(), method, digest, query)
        url = f"{url}?{query}" if query else url
        tls = _trusted(access.verify)
        return Request(url, headers, number, access.timeout, tls, access.proxy, method, body)

    def meaning(self, answer: Answer) -> tuple[Meaning, str]:
        """Tells a refusal of credentials or of a region from one of the object."""
        status, code = answer.status, _code(answer.body) if answer.status >= 300 else ""
        said = f"HTTP {status} {code}".rstrip()
        if status in (301, 307, 308) or code in _MOVED:
            return Meaning.MOVED, said
        if code in EXPIRED:
            return Meaning.EXPIRED, said
        if code in ("RequestTimeout", "SlowDown"):
            return Meaning.PASSING if status == 400 else Meaning.BUSY, said
        return by_status(status), said

    def whole(self, answer: Answer, max_bytes: int) -> bytes:
        """Returns the body, once it is compared with its checksum."""
        check_s3(answer.headers, answer.body)
        return answer.body

    def part(self, answer: Answer) -> bytes:
        """Returns the body."""
        return answer.body

    def worked(self) -> None:
        """Notes that the credentials are good."""
        self._access.worked()

    async def renew(self, access: int, said: str) -> None:
        """Makes the filesystem begin a new session; raises `StoreFault`."""
        await self._access.renew(access, said)

    def moved(self, answer: Answer) -> bool:
        """Takes up the region that S3 names."""
        found = re.search(rb"<Region>([a-z0-9-]+)</Region>", answer.body)
        region = answer.headers.get("x-amz-bucket-region") or (found and found[1].decode())
        if not region or region == self._region:
            return False
        self._region = region
        return True

    def _base(self, access: _Access) -> str:
        return _in_region(access.base, self._region) if self._region else access.base

    def _ask(self, anew: bool) -> _Access:
        filesystem = self._filesystem
        filesystem.connect(refresh=anew)
        client = sync(filesystem.loop, filesystem.get_s3, self._bucket)
        config, signer, region = client.meta.config, None, client.meta.region_name
        region = _FIRST_REGION if region in (None, "aws-global") else region
        if config.signature_version == "s3v4":
            found = client._request_signer._credentials
            if found is None:
                raise PermissionError("there are none")
            frozen = sync(filesystem.loop, found.get_frozen_credentials)
            signer = Signer(frozen.access_key, frozen.secret_key, frozen.token, region)
        # Where this bucket is asked, after all that may be configured: endpoint, style, dual stack.
        asked = {"Bucket": self._bucket, "Key": "k"}
        url = sync(filesystem.loop, client.generate_presigned_url, "get_object", Params=asked)
        parts = urlsplit(url)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout
        )
        base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('k')}"
        if region != _FIRST_REGION:  # URLs that are made ahead name none
            base = _in_region(base, region)
        return _Access(base, signer, timeout, _verify(client), proxy_of(base))


@cache
def _trusted(verify: Any) -> ssl.SSLContext | bool:
    """Returns whom a connection trusts; a file of authorities takes longer than a request."""
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _in_region(base: str, region: str) -> str:
    """Returns a URL with the host of a region; only Amazon's names it."""
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    host = _AMAZON.sub(rf"\1.{region}.\2", host)
    return f"{scheme}://{host}/{path}"


def _verify(client: Any) -> Any:
    """Returns what the client's TLS trusts: a file of authorities; or False for anybody."""
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    found = getattr(session, "_verify", True)
    return found if isinstance(found, str) else found is not False


async def _sha256(body: bytes) -> str:
    if len(body) < _LARGE_BYTES:
        return hashlib.sha256(body).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()


def _without_port(scheme: str, host: str) -> str:
    """Returns a host as its header names it: without the port that its scheme implies."""
    return host.removesuffix({"http": ":80", "https": ":443"}[scheme])


def _code(body: bytes) -> str:
    found = re.search(rb"<Code>([A-Za-z0-9._-]{1,80})</Code>", body)
    return found[1].decode() if found else ""


def quoted(key: str) -> str:
    """Returns a key as paths and signatures have it."""
    return quote(key, safe="/~")
