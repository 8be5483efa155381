"""Objects that are written to the stand-in in parts, as S3 and GCS have it."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.stand_in_objects import Answer, Objects, Request


class Uploads:
    """What has begun and is no object yet."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._parts: dict[str, dict[int, bytes]] = {}
        self._resumable: dict[str, bytes] = {}
        self._count = 0

    def _new(self) -> str:
        self._count += 1
        return str(self._count)

    def begin(self) -> str:
        """Returns the name of a new upload to S3."""
        name = self._new()
        self._parts[name] = {}
        return name

    def part(self, request: Request) -> str | None:
        """Keeps a part; returns its ETag, or None where there is no such upload."""
        parts = self._parts.get(request.query["uploadId"])
        if parts is None:
            return None
        parts[int(request.query["partNumber"])] = request.body
        return hashlib.md5(request.body).hexdigest()

    def whole(self, request: Request) -> tuple[bytes, str] | None:
        """Returns the parts that are named, together, and their ETag; None where one is not."""
        parts = self._parts.get(request.query["uploadId"])
        named = re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)
        if parts is None or [int(number) for number in named] != sorted(parts):
            return None
        bodies = [parts[number] for number in sorted(parts)]
        digests = b"".join(hashlib.md5(body).digest() for body in bodies)
        return b"".join(bodies), f"{hashlib.md5(digests).hexdigest()}-{len(bodies)}"

    def end(self, name: str) -> None:
        """Forgets an upload to S3."""
        self._parts.pop(name, None)

    def resume(self, request: Request, path: str) -> Answer:
        """Begins an upload to GCS, or takes its next part."""
        from bench.stand_in_objects import answered, refusal

        if request.method == "DELETE":
            return answered(204)
        name = request.query.get("upload_id")
        if name is None:
            name = self._new()
            self._resumable[name] = b""
            url = f"http://{request.header('host')}{request.target}&upload_id={name}"
            return answered(200, f"Location: {url}\r\n")
        told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", request.header("content-range"))
        if name not in self._resumable or not told:
            return refusal("404", request)
        start, total = int(told[1]), int(told[3])
        self._resumable[name] = self._resumable[name][:start] + request.body
        if len(self._resumable[name]) < total:
            have = len(self._resumable[name]) - 1
            return answered(308, f"Range: bytes=0-{have}\r\n" if have >= 0 else "")
        return self._objects.put_json(request, path, self._resumable[name])


def content_of(body: bytes, boundary: bytes) -> tuple[bytes, bytes]:
    """Takes an upload of two parts in one body apart: what is told of it, and the object."""
    _, about, content = body.split(b"--" + boundary)[:3]
    told = about.partition(b"\n\n")[2] or about.partition(b"\r\n\r\n")[2]
    content = content.partition(b"\n\n")[2] or content.partition(b"\r\n\r\n")[2]
    return told, content.removesuffix(b"\n")


def in_base64(digest: bytes) -> str:
    """Returns a digest as headers have it."""
    return base64.b64encode(digest).decode()
