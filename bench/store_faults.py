"""Whole runs through each fault of a store: `python -m bench.store --faults`.

Their tables must be those of the undisturbed run. A tenth of all requests fail, or the credentials
end in the middle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import fsspec
from google.oauth2.credentials import Credentials

from bench.launched import differences
from bench.quiet import embed_quietly
from bench.stand_in_process import ENVIRONMENT
from bench.stand_in_store import StandIn
from pipelines.storage import listing

PASSING = ("429", "500", "503", "reset", "refused", "stall", "short", "expired")
SCHEMES = ("s3", "gs")
SHARE = 0.1  # of all requests that fail
STALL_S = 1.0  # after which a connection on which nothing arrives is given up
_FLAGS = ("--model", "tiny")
_ENVIRONMENT = ENVIRONMENT | {
    "AWS_SESSION_TOKEN": "old",
    "AWS_MAX_ATTEMPTS": "1",  # or botocore's own waits would be measured
}


class _Renewable(Credentials):  # type: ignore[misc]
    """A token of GCS that is another one once it has been renewed."""

    def __init__(self) -> None:
        super().__init__("old")

    def refresh(self, request: object) -> None:
        self.token = "new"


@contextlib.contextmanager
def asked_by(scheme: str, store: StandIn, stall_s: float = STALL_S) -> Iterator[None]:
    """Has filesystems of a scheme ask a stand-in, with credentials that will be renewed."""
    settings: dict[str, Any] = {"endpoint_url": f"http://127.0.0.1:{store.port}"}
    if scheme == "s3":
        settings["config_kwargs"] = {"connect_timeout": 5, "read_timeout": stall_s}
    else:
        settings["requests_timeout"] = aiohttp.ClientTimeout(sock_connect=5, sock_read=stall_s)
        settings["token"] = _Renewable()
    conf = mock.patch.dict(fsspec.config.conf, {scheme: settings})
    with conf, mock.patch.dict(os.environ, _ENVIRONMENT):
        listing.exists(f"{scheme}://any/data")  # so that the old ones are taken up
        os.environ["AWS_SESSION_TOKEN"] = "new"
        yield


@dataclass(frozen=True)
class Through:
    """A run through a fault.

    Attributes:
        faults: that it has met.
        requests: that it has made.
        differences: of its tables from the undisturbed run's, which are on the disk.
    """

    faults: int
    requests: int
    differences: list[str]


def run_through(
    fault: str, manifest: str, store: StandIn, expected: Path, *flags: str, **settings: Any
) -> Through:
    """Embeds a manifest of a bucket into the bucket while the store fails.

    Args:
        expected: the output of the undisturbed run.
        flags: further ones of the command.
        settings: of the stand-in, which decide how often the fault comes.

    Raises:
        SystemExit: if the run fails.
    """
    given = {"token": "new"} if fault == "expired" else {"fault": fault}
    store.set(**given, **settings)
    output = "/".join([*manifest.split("/")[:3], f"out-{fault}"])
    embed_quietly(["--manifest", manifest, "--output", output, "--overwrite", *flags])
    counts = store.counts
    store.set()
    here = _copied(store, output.partition("://")[2], expected.parent)
    return Through(counts.faults[fault], counts.methods.total(), differences(here, expected))


def _copied(store: StandIn, output: str, folder: Path) -> Path:
    """Copies what lies under `bucket/output` to a folder; returns where it is then."""
    for path, found in store.objects.under(f"/{output}/").items():
        copy = folder / path[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(found)
    return folder / output


def print_faults(manifest: Path, rows: int) -> None:
    """Embeds a manifest through each fault, and prints what came of it.

    Args:
        manifest: of images beside it.
        rows: that it has.
    """
    expected, data = manifest.parents[1] / "undisturbed", manifest.parent
    embed_quietly(["--manifest", str(manifest), "--output", str(expected), *_FLAGS])
    store = StandIn().start()
    for scheme in SCHEMES:
        for path in data.rglob("*.*"):
            store.objects.put(f"/{scheme}/data/{path.relative_to(data)}", path.read_bytes())
        there = f"{scheme}://{scheme}/data/{manifest.name}"
        with asked_by(scheme, store):
            for fault in PASSING:
                settings = {"token_after": rows // 2} if fault == "expired" else {"share": SHARE}
                found = run_through(fault, there, store, expected, *_FLAGS, **settings)
                said = "; ".join(found.differences) or "the tables are equal"
                print(f"{scheme:<4}{fault:<9}{found.faults:5} of {found.requests} requests; {said}")
    store.stop()
