"""Clients of stores that do not wait between their attempts."""

import asyncio
from types import SimpleNamespace

import pytest

from pipelines.object_stores.attempts import Patience
from pipelines.object_stores.client import Client
from pipelines.storage import reading, writing
from pipelines.storage import stores as filesystems
from pipelines.storage.retries import RetryPolicy
from quick_stores import quicken

quicken()


@pytest.fixture
def impatient(monkeypatch):
    """gcsfs waits for seconds before it tries again."""
    import gcsfs.retry

    async def no_wait(seconds):
        await asyncio.sleep(0)

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=no_wait))
    monkeypatch.setattr(filesystems, "RETRIES", RetryPolicy(attempts=20, backoff_s=0))
    client = Client(64, Patience(object_s=60, host_s=60, first_wait_s=0, busy_wait_s=0))
    monkeypatch.setattr(filesystems, "direct_client", lambda concurrency=None: client)
    for room in (reading, writing):
        monkeypatch.setattr(room, "file_client", lambda: client)
    yield
    client.close()
