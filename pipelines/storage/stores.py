"""Finds the fsspec filesystem of a URI, or the bucket that can be asked without it, and makes a
store's passing faults pass unnoticed."""

from __future__ import annotations

import functools
import importlib
import io
import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, ParamSpec, TypeVar, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations, registry
from fsspec.utils import get_protocol

from pipelines.object_stores.answers import Store
from pipelines.object_stores.faults import StoreFault
from pipelines.storage.redaction import redact, scrub
from pipelines.storage.retries import AttemptsFailed, RetryPolicy, describe, with_retries

if TYPE_CHECKING:
    from pipelines.object_stores.client import Client

P = ParamSpec("P")
T = TypeVar("T")

STALL_S = 30.0  # a connection on which nothing arrives for so long is given up
RETRIES = RetryPolicy()
GCS, S3, HTTP = ("gs", "gcs"), ("s3", "s3a"), ("http", "https")
DIRECT_CONCURRENCY = 256  # at 50 ms, more a second than one process can sign and read
FILE_CONCURRENCY, FILE_BYTES = 64, 128 << 20
_LOCAL = ("file", "local")
_KINDS_OF_BUCKETS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
BUFFER_BYTES = 1 << 20
_LOCK = threading.Lock()


class StorageError(ValueError):
    """A URI whose filesystem cannot be used: says what to install."""


def is_local(uri: str) -> bool:
    """Tells whether a URI names a file of this machine."""
    return ":" not in uri or get_protocol(uri) in _LOCAL  # mostly the former, and each row asks


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the filesystem, one instance in a process, and the path in it.

    Raises:
        StorageError: if the filesystem is not installed.
    """
    protocol = get_protocol(uri)
    try:
        if protocol in GCS and _KINDS_OF_BUCKETS not in os.environ:
            return _plain_gcs(uri, _options(protocol))
        filesystem, path = url_to_fs(uri, **_options(protocol))
    except (ImportError, ValueError) as error:
        remedy = missing_filesystem(protocol) or str(error)
        raise StorageError(f"no filesystem for {protocol}:// is installed; {remedy}") from error
    return filesystem, path


def missing_filesystem(protocol: str) -> str | None:
    """Says what to do about a scheme that cannot be opened here; None if it can.

    Packages of stores are looked for and not imported, which takes seconds of some.
    """
    known = known_implementations.get(protocol)
    if protocol in registry or protocol in HTTP:
        return None
    if known is None:
        return "check its spelling"
    module = str(known["class"]).rpartition(".")[0]
    own = module.startswith("fsspec.")
    try:
        found = importlib.import_module(module) if own else find_spec(module.partition(".")[0])
    except ImportError:
        found = None
    if found is not None:
        return None
    if protocol in S3:
        return 'run `pip install "clip-beam[s3]"`'
    return str(known.get("err") or f"install the package of {module.partition('.')[0]}")


def _plain_gcs(uri: str, options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """Does what fsspec does, but for one question.

    gcsfs asks each bucket for its kind over gRPC, and waits a minute where nobody answers that, as
    behind proxies and of emulators. Only zonal buckets need it; who has some sets the variable.
    """
    from gcsfs.core import GCSFileSystem

    options = options | GCSFileSystem._get_kwargs_from_urls(uri)
    return GCSFileSystem(**options), GCSFileSystem._strip_protocol(uri)


def retried(function: Callable[P, T]) -> Callable[P, T]:
    """Lets a function of a URI, its first argument, try again on a store that is not local.

    Where S3 or GCS refuses the credentials, it is asked once more with others. Errors that are no
    OSError, such as those of gcsfs and google-auth, become `StoreFault`.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        uri = str(args[0])
        if is_local(uri):
            return function(*args, **kwargs)
        try:
            return _attempted(uri, lambda: function(*args, **kwargs))
        except (OSError, ValueError):
            raise
        except AttemptsFailed as error:
            raise StoreFault(scrub(f"{redact(uri)}: {error}")) from error
        except Exception as error:  # noqa: BLE001 - each store has error types of its own
            raise StoreFault(scrub(f"{redact(uri)}: {describe(error)}")) from error

    return call


def _attempted(uri: str, call: Callable[[], T]) -> T:
    try:
        return with_retries(call, RETRIES)
    except Exception as error:
        if get_protocol(uri) not in S3 + GCS or not _renewed(uri, error):
            raise
    return with_retries(call, RETRIES)


def _renewed(uri: str, error: Exception) -> bool:
    from pipelines.object_stores.dialects.renewal import renewed

    return renewed(locate(uri)[0], error)


def open_retried(uri: str) -> BinaryIO:
    """Opens a file whose reads try again; a local one as it is."""
    filesystem, path = locate(uri)
    file = cast(BinaryIO, filesystem.open(path, "rb"))
    if is_local(uri):
        return file
    return cast(BinaryIO, io.BufferedReader(_RetriedFile(uri, file), BUFFER_BYTES))


class _RetriedFile(io.RawIOBase):
    """A file of a store that goes back to where a read began when it failed."""

    def __init__(self, uri: str, file: BinaryIO) -> None:
        self._uri = uri
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = _read_again(self._uri, self._file, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@retried
def _read_again(uri: str, file: BinaryIO, size: int) -> bytes:
    start = file.tell()
    try:
        return file.read(size)
    except BaseException:
        file.seek(start)
        raise


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


@functools.lru_cache(maxsize=1024)
def bucket_of(scheme: str, bucket: str) -> Store | None:
    """Returns a bucket as its filesystem was set up when it was first asked for; None where only
    the filesystem can read it."""
    filesystem, _ = locate(f"{scheme}://{bucket}/")
    if type(filesystem).__module__.partition(".")[0] not in ("s3fs", "gcsfs"):
        return None  # somebody registered another one
    if scheme in S3:
        from pipelines.object_stores.dialects.s3 import S3Bucket

        return S3Bucket.of(filesystem, bucket)
    from pipelines.object_stores.dialects.gcs import GcsBucket

    return GcsBucket.of(filesystem, bucket)


def direct_client(concurrency: int | None = None) -> Client:
    """Returns the client of this process.

    Args:
        concurrency: requests in flight; None for as many as one process can make use of.
    """
    with _LOCK:
        return _new_client(os.getpid(), concurrency or DIRECT_CONCURRENCY)


def file_client() -> Client:
    """Returns the client of this process for all that is no image.

    It has bytes of its own: who waits for rows must not wait for images that wait for rows.
    """
    with _LOCK:
        return _new_client(os.getpid(), FILE_CONCURRENCY, FILE_BYTES)


@functools.lru_cache(maxsize=4)
def _new_client(process: int, concurrency: int, body_bytes: int | None = None) -> Client:
    """Makes a client; a process that was forked has the other's client and not its thread."""
    from pipelines.object_stores.client import BODY_BYTES, Client

    return Client(concurrency, body_bytes=body_bytes or BODY_BYTES)


def _options(protocol: str) -> dict[str, Any]:
    """Bounds the wait for a store that does not answer: gcsfs would wait for ever.

    What the user has configured for fsspec goes first.
    """
    ours: dict[str, Any] = {}
    if protocol in GCS:
        import aiohttp  # slow, and there wherever gcsfs is

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
        ours = {"requests_timeout": timeout}
    elif protocol in S3:
        ours = {"config_kwargs": {"connect_timeout": STALL_S, "read_timeout": STALL_S}}
    return ours | fsspec.config.conf.get(protocol, {})
