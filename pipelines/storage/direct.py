"""Reads whole objects of S3 and GCS by one request each, as their fsspec filesystems are set up."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pipelines.object_stores.answers import Store
from pipelines.storage.stores import GCS, S3, locate

if TYPE_CHECKING:
    from pipelines.object_stores.client import Client

CONCURRENCY = 256  # requests; at 50 ms each, more a second than one process can sign and read
_LOCK = threading.Lock()


class Place(NamedTuple):
    """Where an object is."""

    store: Store
    key: str


def place_of(uri: str) -> Place | None:
    """Returns where an object is, or None where only its filesystem can read it.

    Raises:
        StorageError: if the filesystem is not installed.
    """
    scheme, _, path = uri.partition("://")
    if scheme not in S3 + GCS:
        return None
    bucket, _, key = path.partition("/")
    if not key:
        return None
    with _LOCK:  # one instance, also where several threads ask for the first time
        store = bucket_of(scheme, bucket)
    return Place(store, key) if store else None


@lru_cache(maxsize=1024)
def bucket_of(scheme: str, bucket: str) -> Store | None:
    """Returns a bucket as its filesystem was set up when it was first asked for; None where only
    the filesystem can read it."""
    filesystem, _ = locate(f"{scheme}://{bucket}/")
    if scheme in S3:
        from pipelines.object_stores.s3 import S3Bucket

        return S3Bucket.of(filesystem, bucket)
    from pipelines.object_stores.gcs import GcsBucket

    return GcsBucket.of(filesystem, bucket)


def client(concurrency: int | None = None) -> Client:
    """Returns the client of this process.

    Args:
        concurrency: requests in flight; None for as many as one process can make use of.
    """
    with _LOCK:
        return _client(os.getpid(), concurrency or CONCURRENCY)


@lru_cache(maxsize=4)
def _client(process: int, concurrency: int) -> Client:
    """Makes a client; a process that was forked has the other's client and not its thread."""
    from pipelines.object_stores.client import Client

    return Client(concurrency)
