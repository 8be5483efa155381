"""Stores beside the emulated ones: one that tells what it was asked, and one whose package is not
installed."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from bench.stand_in_store import StandIn

_BUCKETS = itertools.count()


class OtherStore(MemoryFileSystem):
    """What adlfs or ocifs would be."""

    protocol = ("az", "oci")
    store: dict = {}
    pseudo_dirs = [""]
    cachable = False
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path):
        return path.partition("://")[2].strip("/") if "://" in path else path.strip("/")

    def unstrip_protocol(self, name):
        return f"az://{self._strip_protocol(name)}"


class AskedStore:
    """A bucket of a stand-in.

    Attributes:
        root: URI of the bucket.
        server: the stand-in.
    """

    def __init__(self, scheme: str, server: StandIn) -> None:
        self._bucket = f"asked-{next(_BUCKETS)}"  # what is known of a bucket lasts
        self.root, self.server = f"{scheme}://{self._bucket}", server
        server.log = []

    def upload(self, folder: Path, name: str) -> str:
        """Copies a folder's files; returns its URI."""
        for path in folder.rglob("*"):
            if path.is_file():
                key = path.relative_to(folder).as_posix()
                self.server.objects.put(f"/{self._bucket}/{name}/{key}", path.read_bytes())
        return f"{self.root}/{name}"

    def asked(self, method: str, part: str) -> list[str]:
        """Returns the requests of a method whose target has a part."""
        return [one for one in self.server.log or [] if one.startswith(method) and part in one]

    def forget(self) -> None:
        """Begins to note what is asked anew."""
        self.server.log = []


@contextmanager
def asked_store(scheme: str):
    """Starts a stand-in, and has filesystems of a scheme ask it."""
    server = StandIn().start()
    settings = {"endpoint_url": f"http://127.0.0.1:{server.port}"}
    settings |= {"key": "a", "secret": "b"} if scheme == "s3" else {"token": "anon"}
    before = fsspec.config.conf.get(scheme)
    fsspec.config.conf[scheme] = settings
    try:
        yield AskedStore(scheme, server)
    finally:
        if before is None:
            del fsspec.config.conf[scheme]
        else:
            fsspec.config.conf[scheme] = before
        server.stop()
