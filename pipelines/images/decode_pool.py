"""Decodes images in processes of their own, so that a crash, a hang or a flood costs one row.

A worker is started when it is first needed, serves one image after the other, and is replaced when
it dies or is killed for taking too long. It does not import Beam, nor torch unless an inexact
resize needs it. What it answers is never unpickled: a decoder that an image has taken over can at
most lie about pixels.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.preprocess import Preprocess
from pipelines.images.decode import DecodedImage, DecodeLimits, ImageDecoder, decode_image
from pipelines.records import RowFault
from schemas.rejects import Reason

START_S = 120.0  # for a worker's imports, on a busy machine
END_S = 5.0  # for a process that has crashed to be gone
MAX_ANSWER_BYTES = 1 << 16
# The worker looks for modules where this process does, but here first, so that a folder called
# `pipelines` in the working directory cannot take this package's place.
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from pipelines.images.decode_worker import main; main({fd})"
)
_ROOT = str(Path(__file__).parents[2])
# What a worker's environment has: what Python, shared libraries and their threads are set up by.
# Keys and tokens have no business in a process that looks at bytes of strangers.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV"
    r"|PYTHON(HOME|PATH|HASHSEED|UTF8|MALLOC|DONTWRITEBYTECODE|FAULTHANDLER|WARNINGS)"
    r"|(LD|DYLD)_(LIBRARY_PATH|PRELOAD|FALLBACK_LIBRARY_PATH|INSERT_LIBRARIES)"
    r"|(OMP|MKL|KMP|GOMP|OPENBLAS)_[A-Z_]+|MALLOC_[A-Z_]+|SYSTEMROOT"
)


class WorkerLostError(RuntimeError):
    """A worker process cannot be started: the machine is at fault, and not an image."""


def worker_environment() -> dict[str, str]:
    """Returns the environment of a worker: without what is not known to be harmless."""
    known = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    return {**known, "OPENBLAS_NUM_THREADS": "1"}


class DecodeWorkers:
    """As many worker processes as there are threads that decode at once.

    Args:
        decode: what the workers run; imported there by its name.
    """

    def __init__(
        self,
        preprocesses: Sequence[Preprocess],
        limits: DecodeLimits,
        decode: ImageDecoder = decode_image,
    ) -> None:
        self._job = pickle.dumps((decode, tuple(preprocesses), limits))
        self._limits = limits
        self._sizes = [preprocess.size for preprocess in preprocesses]
        self._bytes = sum(3 * size**2 for size in self._sizes)
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()

    def decode(self, data: bytes) -> DecodedImage:
        """Decodes an image in a worker.

        Raises:
            RowFault: what the decoder raises; `decode_timeout` when it takes too long and
                `decode_failed` when it dies.
            WorkerLostError: if no worker can be started.
        """
        worker = self._take()
        try:
            image = self._result(*worker.ask(data, self._limits.max_seconds, self._bytes))
        except RowFault:
            self._idle.put(worker)
            raise
        except TimeoutError:
            self._drop(worker, wait_s=0)
            detail = f"took longer than {self._limits.max_seconds:g} s"
            raise RowFault("decode", Reason.DECODE_TIMEOUT, detail) from None
        except (EOFError, OSError, ValueError, KeyError, TypeError):
            raise RowFault("decode", Reason.DECODE_FAILED, self._drop(worker)) from None
        except BaseException:
            self._drop(worker, wait_s=0)  # an interrupted thread leaves its answer behind
            raise
        self._idle.put(worker)
        return image

    def close(self) -> None:
        """Ends all workers."""
        with self._lock:
            workers = list(self._all)
        for worker in workers:
            self._drop(worker, wait_s=0)

    def _take(self) -> _Worker:
        with suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker.is_alive:
                    return worker
                self._drop(worker)  # killed by somebody else; the next image is not to blame
        worker = _Worker(self._job)
        with self._lock:
            self._all.add(worker)
        return worker

    def _drop(self, worker: _Worker, wait_s: float = END_S) -> str:
        with self._lock:
            self._all.discard(worker)
        return worker.stop(wait_s)

    def _result(self, answer: dict[str, Any], pixels: bytes) -> DecodedImage:
        if "reason" in answer:
            raise RowFault("decode", Reason(answer["reason"]), str(answer["detail"]))
        if len(pixels) != self._bytes:
            raise ValueError(f"expected {self._bytes} bytes of pixels, got {len(pixels)}")
        ends = np.cumsum([3 * size**2 for size in self._sizes])
        flat = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
        images = [part.reshape(3, s, s) for part, s in zip(flat, self._sizes, strict=True)]
        return DecodedImage(tuple(images), int(answer["width"]), int(answer["height"]))


class _Worker:
    """One process, and the socket to it."""

    def __init__(self, job: bytes) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(path=[_ROOT, *sys.path], fd=theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where native decoders print a line for each bad file
                env=worker_environment(),
                start_new_session=True,  # Ctrl-C is for the launcher to deal with
            )
        self._connection = Connection(ours.detach())
        try:
            self._connection.send_bytes(job)
            self._receive(START_S, MAX_ANSWER_BYTES)
        except (EOFError, OSError) as error:
            raise WorkerLostError(
                f"a decoding process could not start: {self.stop(END_S)}"
            ) from error

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, data: bytes, timeout_s: float, max_bytes: int) -> tuple[dict[str, Any], bytes]:
        """Sends an image; returns the answer, and the pixels if there are any."""
        self._connection.send_bytes(data)
        answer = json.loads(self._receive(timeout_s, MAX_ANSWER_BYTES))
        return answer, b"" if "reason" in answer else self._receive(timeout_s, max_bytes)

    def stop(self, wait_s: float) -> str:
        """Ends the process, after `wait_s` by force; returns what its status tells."""
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        status = self._process.returncode
        self._process.kill()
        self._process.wait()
        if status is None:
            return "the decoder was killed"
        if status == 0:  # once nobody was listening any more
            return "the decoder gave no sensible answer"
        if status < 0:
            return f"the decoder died of {signal.Signals(-status).name}"
        return f"the decoder ended with status {status}"

    def _receive(self, timeout_s: float, max_bytes: int) -> bytes:
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        return self._connection.recv_bytes(max_bytes)


@lru_cache(maxsize=4)
def shared_workers(preprocesses: tuple[Preprocess, ...], limits: DecodeLimits) -> DecodeWorkers:
    """Returns the workers of this process: pipelines that follow each other share them."""
    workers = DecodeWorkers(preprocesses, limits)
    atexit.register(workers.close)
    return workers


def decode_isolated(
    data: bytes, preprocesses: Sequence[Preprocess], limits: DecodeLimits
) -> DecodedImage:
    """Does what `decode_image` does, in another process, within `limits.max_seconds` and
    `limits.max_memory_bytes`.

    Raises:
        RowFault: as `DecodeWorkers.decode` does.
    """
    return shared_workers(tuple(preprocesses), limits).decode(data)
