"""Object stores for tests: emulators of GCS and S3, each behind a proxy that can be made to fail."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import fsspec
import pytest

from pipelines.storage.stores import locate

BUCKET = "dataset"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # or its own waits would hide those that are tested
}

Fault = str | int
Schedule = Callable[[str, str], Fault | None]


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, save where its schedule names a fault.

    `schedule(method, path)` returns None, a status to answer with, or one of `reset` (the connection
    breaks in the middle of the body), `short` (the body ends early), `corrupt` (a byte of the body
    is wrong) and `stall` (no answer while it fails). `requests` counts what arrived, `faults`
    what went wrong.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.schedule: Schedule = lambda method, path: None
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.recovered = threading.Event()
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    @contextmanager
    def failing(self, schedule: Schedule) -> Iterator[FaultyProxy]:
        self.schedule, before = schedule, self.schedule
        self.faults, self.requests = [], []
        self.recovered = threading.Event()
        try:
            yield self
        finally:
            self.schedule = before
            self.recovered.set()

    def handle_error(self, request, client_address) -> None:
        """Clients hang up on faults; that is what the tests are about."""


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for its acknowledgement

    def _forward(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        proxy.requests.append(f"{self.command} {self.path}")
        fault = proxy.schedule(self.command, self.path)
        if fault is not None:
            proxy.faults.append(fault)
        if fault == "stall":
            proxy.recovered.wait()
        if fault == "stall" or isinstance(fault, int):
            # Like GCS, which repeats what it was asked for; S3 answers in XML, or with nothing.
            says = json.dumps({"error": {"message": f"no {self.path}"}}).encode()
            body = says if "/storage/v1/" in self.path else b""
            self._answer(fault if isinstance(fault, int) else 503, {}, body)
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        self._answer(answer.status, dict(answer.getheaders()), data, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _forward

    def _answer(self, status: int, headers: dict, data: bytes, fault: Fault | None = None) -> None:
        self.send_response_only(status)
        skipped = {"connection", "transfer-encoding", "content-length"}
        for name, value in headers.items():
            if name.lower() not in skipped:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = headers.get("Content-Length", "0") if is_head else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "corrupt" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault in ("reset", "short"):
            data = data[: len(data) // 2]
        if not is_head:
            self.wfile.write(data)
        if fault in ("reset", "short"):
            self._hang_up(reset=fault == "reset")

    def _hang_up(self, *, reset: bool) -> None:
        self.wfile.flush()
        self.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def log_message(self, format, *args) -> None:
        pass


class Store:
    """A bucket of an emulated store.

    Attributes:
        root: URI of the bucket.
        proxy: what stands before the store.
    """

    def __init__(self, scheme: str, proxy: FaultyProxy) -> None:
        self.root = f"{scheme}://{BUCKET}"
        self.proxy = proxy
        self.files, _ = locate(self.root)

    def upload(self, folder) -> str:
        """Copies a folder's files into the bucket, under the folder's name."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{folder.name}/{path.relative_to(folder)}"
                self.files.pipe_file(f"{BUCKET}/{name}", path.read_bytes())
        return f"{self.root}/{folder.name}"


@contextmanager
def emulators() -> Iterator[dict[str, Store]]:
    """Starts both stores, points the environment at them, and stops them again."""
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    gcs = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    s3 = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    gcs.start()
    s3.start()
    proxies = [
        FaultyProxy(f"http://127.0.0.1:{port}")
        for port in (gcs._api._httpd.server_address[1], s3.get_host_and_port()[1])
    ]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            patch.setenv("STORAGE_EMULATOR_HOST", proxies[0].url)
            patch.setenv("AWS_ENDPOINT_URL_S3", proxies[1].url)
            fsspec.filesystem("s3").mkdir(BUCKET)
            yield {"gs": Store("gs", proxies[0]), "s3": Store("s3", proxies[1])}
    finally:
        for proxy in proxies:
            proxy.shutdown()
            proxy.server_close()
        gcs.stop()
        s3.stop()


def seeded(seed: int, rate: float = 0.3, burst: int = 3) -> Schedule:
    """A schedule of faults that pass: at most `burst` in a row for one request.

    Bodies are damaged only where whole objects are read, which is what checksums are for.
    """
    rng = random.Random(seed)
    left: dict[str, int] = {}

    def schedule(method: str, path: str) -> Fault | None:
        request = f"{method} {path}"
        if left.get(request, burst) == 0 or rng.random() > rate:
            left[request] = burst
            return None
        left[request] = left.get(request, burst) - 1
        return rng.choice(
            [500, 502, 503, 429] + (["reset", "short", "corrupt"] * is_media(method, path))
        )

    return schedule


def is_media(method: str, path: str) -> bool:
    """Tells whether a request is for the bytes of an image."""
    in_gcs = "/storage/v1/" in path
    asks_bytes = "alt=media" in path if in_gcs else "?list-type" not in path
    return method == "GET" and ".jpg" in path and asks_bytes
