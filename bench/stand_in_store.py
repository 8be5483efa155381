"""A stand-in for S3 and GCS, in a process of its own: `python -m bench.stand_in_store PORT [ROOT]`.

Objects lie in memory, and each answer costs some dozens of microseconds, so that a client that is
measured beside it is not measured with it. `POST /_set` takes `Settings` as JSON and begins to
count anew; `GET /_stats` tells what was asked, what it cost and the most that were in flight.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import random
import resource
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from bench.stand_in_objects import Answer, Objects, Request, refusal
from pipelines.object_stores.loop import new_loop

FAULTS = ("429", "500", "503", "403", "404", "reset", "refused", "stall", "short", "corrupt")


@dataclass
class Settings:
    """How the store behaves.

    Attributes:
        latency: seconds before an answer.
        bandwidth: bytes a second of all answers together; 0 for no limit.
        throttle: requests a second that are allowed, beside a burst of `burst`; 0 for no limit.
        refusal_cost: the part of a request that a refused one uses up of it.
        throttle_status, retry_after: what a refused one is answered.
        share, fault: requests that fail at random, and how: one of `FAULTS`.
        first: so many tries of each object fail so.
        failing: the path of an object that always fails so.
        outage, outage_fault: seconds from and to which all fail, and how.
        token: what a request's credentials must hold; others are told that they have expired.
        token_after: so many requests, before which any credentials will do.
    """

    latency: float = 0.0
    bandwidth: float = 0.0
    throttle: float = 0.0
    burst: float = 50.0
    refusal_cost: float = 0.1
    throttle_status: int = 503
    retry_after: str | None = None
    share: float = 0.0
    fault: str = "503"
    first: int = 0
    failing: str = ""
    outage: tuple[float, float] = (0.0, 0.0)
    outage_fault: str = "503"
    token: str | None = None
    token_after: int = 0
    seed: int = 0


@dataclass
class Counts:
    """What has happened since the settings were set."""

    began: float
    cpu: float = field(default_factory=lambda: _cpu())
    methods: collections.Counter = field(default_factory=collections.Counter)
    faults: collections.Counter = field(default_factory=collections.Counter)
    in_flight: int = 0
    most: int = 0
    connections: int = 0

    def to_json(self) -> bytes:
        """Returns all of it, and the processor time of a request."""
        used, requests = _cpu() - self.cpu, sum(self.methods.values())
        told = {"requests": requests, "methods": self.methods, "faults": self.faults}
        told |= {"most_in_flight": self.most, "connections": self.connections}
        return json.dumps({**told, "cpu_s": used, "cpu_us": 1e6 * used / max(requests, 1)}).encode()


class StandIn:
    """The store: `objects`, `settings`, `counts` and a log of requests where `log` is a list.

    Attributes:
        port: where it listens on this machine, once `start` has been called.
    """

    def __init__(self) -> None:
        self.objects = Objects()
        self.loop = new_loop()
        self.log: list[str] | None = None
        self.port = 0
        self.set()

    def set(self, **settings: object) -> None:
        """Behaves so from now on, and counts anew."""
        self.settings = Settings(**settings)  # type: ignore[arg-type]
        self.counts = Counts(self.loop.time())
        self.rng = random.Random(self.settings.seed)
        self.tries: collections.Counter = collections.Counter()
        self.tokens, self.filled = self.settings.burst, self.loop.time()
        self.line = 0.0  # when the bandwidth is free again

    def start(self, port: int = 0) -> StandIn:
        """Listens, and answers in a thread of its own."""
        self.listen(port)
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        return self

    def listen(self, port: int) -> None:
        """Begins to listen; the loop is the caller's to run."""
        serving = self.loop.create_server(
            lambda: _Connection(self), "127.0.0.1", port, backlog=2048
        )
        self.server = self.loop.run_until_complete(serving)
        self.port = self.server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Closes what it listens on, and ends its thread."""
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def fault_of(self, request: Request, now: float) -> str | None:
        """Chooses what goes wrong with a request."""
        settings, since = self.settings, now - self.counts.began
        if settings.outage[0] <= since < settings.outage[1]:
            return settings.outage_fault
        if settings.throttle and not self._allowed(now):
            return "throttled"
        if settings.share and self.rng.random() < settings.share:
            return settings.fault
        if settings.first or settings.failing:
            self.tries[request.path] += 1
            again = self.tries[request.path] > settings.first
            if not again or settings.failing == self._object(request):
                return settings.fault
        return "expired" if self._is_expired(request) else None

    def _is_expired(self, request: Request) -> bool:
        token, asked = self.settings.token, self.counts.methods.total()
        late = token is not None and asked > self.settings.token_after
        return late and token not in request.credentials

    @staticmethod
    def _object(request: Request) -> str:
        """Returns the path of what is asked for, as `Objects` has it."""
        return request.path.rpartition("/storage/v1/b")[2].replace("/o/", "/", 1)

    def _allowed(self, now: float) -> bool:
        settings = self.settings
        filled = self.tokens + (now - self.filled) * settings.throttle
        self.tokens, self.filled = min(settings.burst, filled), now
        allowed = self.tokens >= 1
        self.tokens = max(self.tokens - (1 if allowed else settings.refusal_cost), 0.0)
        return allowed

    def delay(self, size: int, now: float) -> float:
        """Returns seconds until an answer of so many bytes is through."""
        due = now + self.settings.latency
        if self.settings.bandwidth:
            self.line = max(self.line, due) + size / self.settings.bandwidth
            due = self.line
        return due - now


class _Connection(asyncio.Protocol):
    def __init__(self, store: StandIn) -> None:
        self._store, self._buffer = store, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._store.counts.connections += 1

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer:
            request, self._buffer = Request.parse(self._buffer)
            if request is None:
                return
            if request.wants_go_ahead:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._answer(request)

    def _answer(self, request: Request) -> None:
        store, counts = self._store, self._store.counts
        if request.path.startswith("/_"):
            self._control(request)
            return
        if store.log is not None:
            store.log.append(f"{request.method} {request.target}")
        now = store.loop.time()
        counts.methods[request.method] += 1
        counts.in_flight += 1
        counts.most = max(counts.most, counts.in_flight)
        fault = store.fault_of(request, now)
        answer = self._faulty(request, fault) if fault else store.objects.answer(request)
        delay = store.delay(len(answer.body), now)
        if delay > 0:
            store.loop.call_later(delay, self._send, answer, fault, counts)
        else:
            self._send(answer, fault, counts)

    def _faulty(self, request: Request, fault: str) -> Answer:
        store, settings = self._store, self._store.settings
        store.counts.faults[fault] += 1
        status = settings.throttle_status if fault == "throttled" else fault
        if fault == "expired" or str(status).isdigit():
            return refusal(str(status), request, settings.retry_after)
        return store.objects.answer(request)

    def _send(self, answer: Answer, fault: str | None, counts: Counts) -> None:
        counts.in_flight -= 1
        body = answer.body
        if self._transport.is_closing():
            return
        if fault in ("reset", "refused"):
            if fault == "reset":
                self._transport.write(answer.head + body[: len(body) // 2])
            linger = struct.pack("ii", 1, 0)
            found = self._transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif fault in ("stall", "short"):
            self._transport.write(answer.head + body[: len(body) // 2])
            if fault == "short":
                self._transport.close()
        elif fault == "corrupt" and body:
            self._transport.writelines([answer.head, bytes([body[0] ^ 1]), body[1:]])
        else:
            self._transport.writelines([answer.head, body])

    def _control(self, request: Request) -> None:
        said = b"{}"
        if request.path == "/_set":
            self._store.set(**json.loads(request.body))
        elif request.path == "/_stats":
            said = self._store.counts.to_json()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(argv: list[str]) -> None:
    """Serves what lies under ROOT, a folder a bucket, until the process is ended."""
    store = StandIn()
    root = Path(argv[1]) if len(argv) > 1 else None
    for path in sorted(root.rglob("*")) if root else []:
        if path.is_file():
            store.objects.put("/" + path.relative_to(root).as_posix(), path.read_bytes())
    gc.freeze()
    store.listen(int(argv[0]))
    print(store.port, flush=True)
    store.loop.run_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
