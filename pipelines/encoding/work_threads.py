"""Threads that fetch and decode the images of chunks, and tokenise their captions."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.encoding.image_work import IMAGES_A_PIECE, STEPS, ImageWork, Job
from pipelines.engine.cores import threads_for, usable_cores
from pipelines.images.fetch import Place, checked, fault_of
from pipelines.object_stores.answers import Ask, Fetched
from pipelines.object_stores.faults import StoreFault
from pipelines.records import RowFault
from pipelines.storage import stores


class _Cores:
    """Lets as many threads compute at once as there are cores; others wait for a token.

    More threads fetch than decode, since a decoded image may take a quarter of a gigabyte. Python's
    own semaphore costs ten times as much, which counts where images are small.
    """

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(usable_cores()):
            self._tokens.put(None)

    def __enter__(self) -> None:
        self._tokens.get()

    def __exit__(self, *_: object) -> None:
        self._tokens.put(None)


_CORES = _Cores()


@dataclass(eq=False)
class _Piece:
    """What a thread does in one go: the captions of a job, some of its images, or one that has
    arrived."""

    job: Job
    images: range | None = None
    image: int = 0
    found: Fetched | BaseException | None = None


class WorkThreads:
    """Threads that take the pieces of jobs, in order.

    Images of S3 and GCS are asked for and left; each comes back as a piece when it has arrived.

    Args:
        count: None for as many as `threads_for` lets fetch.
    """

    def __init__(self, work: ImageWork, count: int | None = None) -> None:
        self._work = work
        self._pieces: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._count = count or threads_for().fetch
        self._open, self._lock = True, threading.Lock()
        for _ in range(self._count):
            threading.Thread(target=self._run, daemon=True).start()

    def begin(self, job: Job) -> None:
        """Hands over the pieces of a job: its captions, and its images some at a time."""
        self._pieces.put(_Piece(job))
        images = range(len(job.chunk.images))
        for first in images[::IMAGES_A_PIECE]:
            self._pieces.put(_Piece(job, images[first : first + IMAGES_A_PIECE]))

    def close(self) -> None:
        """Ends the threads once they have done what lies before them."""
        with self._lock:
            self._open = False
            for _ in range(self._count):
                self._pieces.put(None)

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            job, seconds = piece.job, [0.0] * len(STEPS)
            try:
                if job.account.closed:
                    continue
                if piece.found is not None:
                    self._take_up(job, piece.image, piece.found, seconds)
                elif piece.images is None:
                    self._tokenize(job, seconds)
                else:
                    self._prepare(job, piece.images, seconds)
            except BaseException as error:  # noqa: BLE001 - it is raised in the bundle's thread
                job.error = error
            finally:
                if isinstance(piece.found, Fetched):
                    piece.found.give_back()
            job.done(seconds)

    def _prepare(self, job: Job, images: range, seconds: list[float]) -> None:
        asks = []
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
                self._decode(job, image, data, seconds)
        if asks:
            job.expect(len(asks))
            stores.direct_client(self._work.fetch_policy.concurrency).begin(asks)

    def _ask(self, job: Job, image: int, place: Place) -> Ask:
        def arrived(found: Fetched | BaseException) -> None:
            with self._lock:
                if self._open:
                    self._pieces.put(_Piece(job, image=image, found=found))
                elif isinstance(found, Fetched):
                    found.give_back()

        most = self._work.fetch_policy.max_bytes
        return Ask(place.store, place.key, most, arrived, lambda: not job.account.closed)

    def _take_up(
        self, job: Job, image: int, found: Fetched | BaseException, seconds: list[float]
    ) -> None:
        """Goes on with an image that has been fetched."""
        with _faults_of(job, image):
            if isinstance(found, Fetched):
                seconds[0] += found.seconds
                row, policy = job.chunk.images[image], self._work.fetch_policy
                self._decode(job, image, checked(found.data, row, policy), seconds)
            elif isinstance(found, Exception) and not isinstance(found, StoreFault):
                raise fault_of(found)
            else:
                raise found

    def _decode(self, job: Job, image: int, data: bytes, seconds: list[float]) -> None:
        """Puts the pixels of an image where they belong, and notes what is known of it."""
        with _CORES:
            began = time.thread_time()
            try:
                found = self._work.decode(data)
                for pixels, into in zip(found.pixels, job.chunk.pixels, strict=True):
                    into[image] = pixels
                known = [column.compute(data, found) for column in self._work.columns]
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


@contextmanager
def _faults_of(job: Job, image: int) -> Iterator[None]:
    """Notes what is wrong with an image, which is no error of the work."""
    try:
        yield
    except RowFault as fault:
        job.faults[image] = fault
