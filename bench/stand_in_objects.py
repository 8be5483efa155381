"""The objects of the stand-in store: what S3's XML and GCS's JSON interface answer about them."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import google_crc32c

from bench.stand_in_uploads import Uploads, content_of, in_base64

_JSON, _UPLOAD = "/storage/v1/b/", "/upload"
_WHEN = "2026-01-01T00:00:00.000Z"
_CODES = {
    "429": "TooManyRequests", "500": "InternalError", "503": "SlowDown", "404": "NoSuchKey",
    "403": "AccessDenied", "412": "PreconditionFailed", "expired": "ExpiredToken",
}  # fmt: skip


class Answer(NamedTuple):
    """What is sent: status line and headers with the empty line behind them, and a body."""

    head: bytes
    body: bytes


@dataclass
class Request:
    """A request, taken apart as far as needed."""

    method: str
    target: str
    head: bytes
    body: bytes = b""
    wants_go_ahead: bool = False
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> tuple[Request | None, bytes]:
        """Returns a whole request, or None, and what is left of the data."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None, data
        head, rest = data[:end], data[end + 4 :]
        method, target = (word.decode() for word in head.split(b" ", 2)[:2])
        request = cls(method, target, head)
        path, _, query = target.partition("?")
        request.path = unquote(path) if "%" in path else path
        if query:
            request.query = dict(parse_qsl(query, keep_blank_values=True))
        if method in ("GET", "HEAD"):
            return request, rest
        size = int(request.header("content-length") or 0)
        if len(rest) < size:
            if request.header("expect") and not rest:
                request.wants_go_ahead = True
                without = b"\r\n".join(
                    line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect")
                )
                return request, without + b"\r\n\r\n"
            return None, data
        request.body = rest[:size]
        return request, rest[size:]

    def header(self, name: str) -> str:
        """Returns a header by its lower-case name; "" if there is none."""
        start = self.head.lower().find(b"\r\n" + name.encode() + b":")
        if start < 0:
            return ""
        start += len(name) + 3
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end > 0 else None].decode().strip()

    @property
    def is_json(self) -> bool:
        """Whether it speaks GCS's JSON interface."""
        return _JSON in self.path

    @property
    def credentials(self) -> str:
        """What tells who asks: the key of S3 and its session's token, or GCS's token."""
        return self.header("authorization") + self.header("x-amz-security-token")


class Objects:
    """Objects by the path `/bucket/key`."""

    def __init__(self) -> None:
        self._found: dict[str, Answer] = {}
        self._uploads = Uploads(self)
        self._written = 0

    def put(self, path: str, body: bytes, headers: str = "", etag: str = "") -> None:
        """Keeps an object."""
        crc = in_base64(google_crc32c.Checksum(body).digest())
        crc32 = in_base64(zlib.crc32(body).to_bytes(4, "big"))
        self._written += 1
        head = (
            f'ETag: "{etag or hashlib.md5(body).hexdigest()}"\r\nContent-Type: image/jpeg\r\n'
            f"x-goog-hash: crc32c={crc}\r\nx-goog-generation: {self._written}\r\n"
            f"x-amz-checksum-crc32: {crc32}\r\n"
            f"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{headers}"
        )
        self._found[path] = Answer(_head(200, len(body), head), body)

    def get(self, path: str) -> bytes | None:
        """Returns the bytes of an object, or None."""
        found = self._found.get(path)
        return found.body if found else None

    def under(self, start: str) -> dict[str, bytes]:
        """Returns the objects whose paths begin so."""
        return {path: found.body for path, found in self._found.items() if path.startswith(start)}

    def pop(self, path: str) -> bytes:
        """Takes an object away; returns its bytes."""
        return self._found.pop(path).body

    def answer(self, request: Request) -> Answer:
        """Does what is asked."""
        if request.method == "GET" and not request.query and not request.is_json:
            return self._read(request, request.path)
        if request.is_json:
            return self._json(request)
        if request.method in ("GET", "HEAD"):
            if request.path.count("/") < 2 or request.path.endswith("/"):
                return self._listing(request, request.path.strip("/"))
            return self._read(request, request.path)
        if request.method == "DELETE":
            self._uploads.end(request.query.get("uploadId", ""))
            if not request.query:
                self._found.pop(request.path, None)
            return Answer(_head(204, 0), b"")
        if request.method == "POST":
            return self._post(request)
        return self._put(request)

    def _read(self, request: Request, path: str) -> Answer:
        found = self._found.get(path)
        if found is None:
            return refusal("404", request)
        if request.method == "HEAD":
            return Answer(found.head, b"")
        wanted = request.header("range") if b"ange: bytes=" in request.head else ""
        if not wanted:
            return found
        size = len(found.body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if begin >= size:
            return refusal("416", request)
        part = found.body[begin : end + 1]
        about = found.head.partition(b"\r\n")[2].partition(b"Content-Length")[0].decode()
        return Answer(
            _head(206, len(part), f"Content-Range: bytes {begin}-{end}/{size}\r\n{about}"), part
        )

    def _put(self, request: Request) -> Answer:
        if "partNumber" in request.query:
            etag = self._uploads.part(request)
            return answered(200, f'ETag: "{etag}"\r\n') if etag else refusal("404", request)
        if conflict := self._conflict(request):
            return conflict
        if request.path.count("/") > 1:
            self.put(request.path, request.body)
        return answered(200, f'ETag: "{hashlib.md5(request.body).hexdigest()}"\r\n')

    def _conflict(self, request: Request) -> Answer | None:
        """Returns the refusal of what is to be written on a condition that is not met."""
        found, match = self._found.get(request.path), request.header("if-match").encode()
        if match and not found:
            return refusal("404", request)
        if found and (request.header("if-none-match") or match not in found.head):
            return refusal("412", request)
        return None

    def _post(self, request: Request) -> Answer:
        """Begins and ends uploads in parts, and deletes several."""
        if "uploads" in request.query:
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{self._uploads.begin()}"
                        "</UploadId></InitiateMultipartUploadResult>")  # fmt: skip
        if "uploadId" in request.query:
            whole = self._uploads.whole(request)
            refused = refusal("404", request) if whole is None else self._conflict(request)
            if whole is None or refused is not None:
                return refused or refusal("404", request)
            self._uploads.end(request.query["uploadId"])
            self.put(request.path, whole[0], etag=whole[1])
            return _xml(f'<CompleteMultipartUploadResult><ETag>"{whole[1]}"</ETag>'
                        "</CompleteMultipartUploadResult>")  # fmt: skip
        for key in request.body.decode().split("<Key>")[1:]:
            self._found.pop(f"{request.path.rstrip('/')}/{key.partition('</Key>')[0]}", None)
        return _xml("<DeleteResult></DeleteResult>")

    def _names(self, bucket: str, query: dict[str, str]) -> tuple[list[str], list[str]]:
        """Returns keys and common prefixes."""
        prefix, start = query.get("prefix", ""), f"/{bucket}/"
        keys = sorted(p[len(start) :] for p in self._found if p.startswith(start + prefix))
        if not query.get("delimiter"):
            return keys, []
        deeper = [key for key in keys if "/" in key[len(prefix) :]]
        common = sorted({prefix + key[len(prefix) :].split("/")[0] + "/" for key in deeper})
        return [key for key in keys if "/" not in key[len(prefix) :]], common

    def _listing(self, request: Request, bucket: str) -> Answer:
        keys, common = self._names(bucket, request.query)
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>{_WHEN}</LastModified><ETag>&quot;0&quot;</ETag>"
            f"<Size>{len(self._found[f'/{bucket}/{key}'].body)}</Size></Contents>" for key in keys
        )  # fmt: skip
        prefixes = "".join(f"<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>" for p in common)
        return _xml(
            f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(keys)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{contents}{prefixes}</ListBucketResult>"
        )

    def _json(self, request: Request) -> Answer:
        bucket, _, key = request.path.partition(_JSON)[2].partition("/o")
        key = key.removeprefix("/")
        path = f"/{bucket}/{key}"
        if request.path.startswith(_UPLOAD):
            return self._upload(request, bucket)
        if request.method == "DELETE":
            gone = self._found.pop(path, None)
            return Answer(_head(204, 0), b"") if gone else refusal("404", request)
        if key and request.query.get("alt") == "media":
            return self._read(request, path)
        if not key:
            keys, common = self._names(bucket, request.query)
            items = [self._about(bucket, name) for name in keys]
            return _said({"kind": "storage#objects", "items": items, "prefixes": common})
        return _said(self._about(bucket, key)) if path in self._found else refusal("404", request)

    def _upload(self, request: Request, bucket: str) -> Answer:
        if request.query.get("uploadType") == "resumable":
            return self._uploads.resume(request, f"/{bucket}/{request.query['name']}")
        boundary = request.header("content-type").partition("boundary=")[2].strip('"').encode()
        if boundary:
            told, body = content_of(request.body, boundary)
            key = json.loads(told)["name"]
        else:
            key, body = request.query["name"], request.body
        return self.put_json(request, f"/{bucket}/{key}", body)

    def put_json(self, request: Request, path: str, body: bytes) -> Answer:
        """Keeps an object if the condition of a request to GCS is met, and tells of it."""
        found, wanted = self._found.get(path), request.query.get("ifGenerationMatch")
        if wanted is not None and wanted != (_generation(found) if found else "0"):
            return refusal("412", request)
        self.put(path, body)
        return _said(self._about(*path[1:].split("/", 1)))

    def _about(self, bucket: str, key: str) -> dict[str, str]:
        found = self._found[f"/{bucket}/{key}"]
        crc = found.head.partition(b"crc32c=")[2].partition(b"\r\n")[0].decode()
        told = {"name": key, "bucket": bucket, "size": str(len(found.body)), "crc32c": crc}
        generation = _generation(found)
        return {**told, "kind": "storage#object", "generation": generation, "updated": _WHEN}


def refusal(status: str, request: Request, retry_after: str | None = None) -> Answer:
    """Returns an answer that says no, as the store that is asked says it."""
    code = _CODES.get(status, "Refused")
    number = (
        401 if status == "expired" and request.is_json else 400 if status == "expired" else status
    )
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    if request.is_json:
        body = json.dumps({"error": {"code": number, "message": code}}).encode()
    told = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    return Answer(_head(number, len(body), told), b"" if request.method == "HEAD" else body)


def answered(status: int, headers: str = "") -> Answer:
    """Returns an answer without a body."""
    return Answer(_head(status, 0, headers), b"")


def _generation(found: Answer) -> str:
    return found.head.partition(b"x-goog-generation: ")[2].partition(b"\r\n")[0].decode()


def _head(status: object, size: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {size}\r\n\r\n".encode()


def _xml(body: str) -> Answer:
    data = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()
    return Answer(_head(200, len(data), "Content-Type: application/xml\r\n"), data)


def _said(body: object) -> Answer:
    data = json.dumps(body).encode()
    return Answer(_head(200, len(data), "Content-Type: application/json\r\n"), data)
