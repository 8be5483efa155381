"""Threads that fetch and decode the images of chunks, and tokenise their captions."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from pipelines.encoding.image_work import IMAGES_A_PIECE, STEPS, ImageWork, Job
from pipelines.engine.cores import threads_for, usable_cores
from pipelines.images.fetch import Place, checked, fault_of
from pipelines.object_stores.answers import Ask, Fetched
from pipelines.object_stores.faults import StoreFault
from pipelines.records import RowFault
from pipelines.storage import stores

# A thread decodes what it has fetched of a piece in one go: to pass the cores on for each image
# costs more than a small one does. More bytes than these it does not hold back.
BYTES_AT_ONCE = 1 << 20


class _Cores:
    """Lets as many threads compute at once as there are cores; others wait for a token.

    More threads fetch than decode, since a decoded image may take a quarter of a gigabyte. Python's
    own semaphore costs ten times as much, which counts where images are small.
    """

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.count = usable_cores()
        for _ in range(self.count):
            self._tokens.put(None)

    def __enter__(self) -> None:
        self._tokens.get()

    def __exit__(self, *_: object) -> None:
        self._tokens.put(None)


_CORES = _Cores()


class _Arrived(NamedTuple):
    """An image that was asked for and has arrived, or what has gone wrong with it."""

    job: Job
    image: int
    found: Fetched | BaseException

    def give_back(self) -> None:
        """Gives back the bytes that were taken for it."""
        if isinstance(self.found, Fetched):
            self.found.give_back()


class WorkThreads:
    """Threads that take the pieces of jobs, in order.

    Images of S3, GCS and the web are asked for and left. As many threads as there are cores take up
    what has arrived, each until nothing is left; waking one for each image would cost more.

    Args:
        count: None for as many as `threads_for` lets fetch.
    """

    def __init__(self, work: ImageWork, count: int | None = None) -> None:
        self._work = work
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = count or threads_for().fetch
        self._open, self._lock = True, threading.Lock()
        self._arrived: deque[_Arrived] = deque()
        self._takers = 0
        for _ in range(self._count):
            threading.Thread(target=self._run, daemon=True).start()

    def begin(self, job: Job) -> None:
        """Hands over the pieces of a job: its captions, and its images some at a time."""
        self._tasks.put(partial(_do, job, self._tokenize))
        images = range(len(job.chunk.images))
        for first in images[::IMAGES_A_PIECE]:
            piece = images[first : first + IMAGES_A_PIECE]
            self._tasks.put(partial(_do, job, self._prepare, piece))

    def close(self) -> None:
        """Ends the threads once they have done what lies before them."""
        with self._lock:
            self._open = False
            for _ in range(self._count):
                self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _prepare(self, job: Job, seconds: list[float], images: range) -> None:
        asks, fetched, size = [], [], 0
        for image in images:
            row = job.chunk.images[image]
            with _faults_of(job, image):
                place = self._work.fetched_ahead(row)
                if place is not None:
                    asks.append(self._ask(job, image, place))
                    continue
                began = time.perf_counter()
                try:
                    data = self._work.fetch(row)
                finally:
                    seconds[0] += time.perf_counter() - began
                fetched.append((image, data))
                size += len(data)
            if size >= BYTES_AT_ONCE:
                self._decode(job, seconds, fetched)
                fetched, size = [], 0
        self._decode(job, seconds, fetched)
        if asks:
            job.expect(len(asks))
            stores.direct_client(self._work.fetch_policy.concurrency).begin(asks)

    def _ask(self, job: Job, image: int, place: Place) -> Ask:
        def arrived(found: Fetched | BaseException) -> None:
            self._arrive(_Arrived(job, image, found))

        most = self._work.fetch_policy.max_bytes
        return Ask(place.store, place.key, most, arrived, lambda: not job.account.closed)

    def _arrive(self, arrived: _Arrived) -> None:
        with self._lock:
            if not self._open:
                arrived.give_back()
                return
            self._arrived.append(arrived)
            if self._takers < _CORES.count:
                self._takers += 1
                self._tasks.put(self._take_arrived)

    def _take_arrived(self) -> None:
        while (arrived := self._next_arrived()) is not None:
            _do(arrived.job, self._go_on, arrived, at_end=arrived.give_back)

    def _next_arrived(self) -> _Arrived | None:
        with self._lock:
            if self._arrived:
                return self._arrived.popleft()
            self._takers -= 1
            return None

    def _go_on(self, job: Job, seconds: list[float], arrived: _Arrived) -> None:
        """Goes on with an image that has been fetched."""
        image, found = arrived.image, arrived.found
        with _faults_of(job, image):
            if isinstance(found, Fetched):
                seconds[0] += found.seconds
                row, policy = job.chunk.images[image], self._work.fetch_policy
                data = checked(found.data, row, policy)
                self._decode(job, seconds, [(image, data)])
            elif isinstance(found, Exception) and not isinstance(found, StoreFault):
                raise fault_of(found)
            else:
                raise found

    def _decode(self, job: Job, seconds: list[float], fetched: list[tuple[int, bytes]]) -> None:
        """Puts the pixels of images where they belong, and notes what is known of them."""
        if not fetched:
            return
        with _CORES:
            began = time.thread_time()
            try:
                for image, data in fetched:
                    with _faults_of(job, image):
                        found = self._work.decode(data)
                        for pixels, into in zip(found.pixels, job.chunk.pixels, strict=True):
                            into[image] = pixels
                        known = (column.compute(data, found) for column in self._work.columns)
                        job.known[image] = tuple(known)
            finally:
                seconds[1] += time.thread_time() - began

    def _tokenize(self, job: Job, seconds: list[float]) -> None:
        tokenizers = self._work.inputs.tokenizers
        if not tokenizers:
            return
        texts = [text or "" for text in job.chunk.rows.column("text").to_pylist()]
        with _CORES:
            began = time.thread_time()
            found = [tokenizer.tokenize_rows(texts) for tokenizer in tokenizers]
            seconds[2] += time.thread_time() - began
        job.chunk.tokens = tuple(tokens for tokens, _ in found)
        job.chunk.truncated = tuple(truncated for _, truncated in found)


def _nothing() -> None:
    pass


def _do(
    job: Job, work: Callable[..., None], *arguments: Any, at_end: Callable[[], None] = _nothing
) -> None:
    """Does a piece of a job, and tells the job of its error and its end."""
    seconds = [0.0] * len(STEPS)
    try:
        if not job.account.closed:
            work(job, seconds, *arguments)
    except BaseException as error:  # noqa: BLE001 - it is raised in the bundle's thread
        job.error = error
    finally:
        at_end()
    job.done(seconds)


@contextmanager
def _faults_of(job: Job, image: int) -> Iterator[None]:
    """Notes what is wrong with an image, which is no error of the work."""
    try:
        yield
    except RowFault as fault:
        job.faults[image] = fault
