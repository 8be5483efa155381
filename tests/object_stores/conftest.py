"""Buckets of a stand-in store in this process, and clients that do not wait."""

from __future__ import annotations

import gcsfs
import pytest
import s3fs

from bench.stand_in_store import StandIn
from pipelines.object_stores.attempts import Patience
from pipelines.object_stores.client import Client
from pipelines.object_stores.dialects.gcs import GcsBucket
from pipelines.object_stores.dialects.s3 import S3Bucket
from quick_stores import quicken

quicken()
QUICK = Patience(object_s=30, host_s=30, first_wait_s=0.01, busy_wait_s=0.01)


@pytest.fixture(scope="module")
def server():
    store = StandIn().start()
    yield store
    store.stop()


@pytest.fixture
def stand_in(server):
    """The store, without objects or faults; `log` lists what it is asked."""
    server.objects.__init__()
    server.log = []
    server.set()
    return server


@pytest.fixture
def s3(stand_in, monkeypatch):
    """Makes buckets of S3; the environment holds the credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "old")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def bucket(**settings):
        settings = {"config_kwargs": {"read_timeout": 0.3, "connect_timeout": 5}} | settings
        url = f"http://127.0.0.1:{stand_in.port}"
        files = s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True, **settings)
        return S3Bucket.of(files, "bucket")

    return bucket


@pytest.fixture
def gs(stand_in):
    """Makes buckets of GCS."""

    def bucket(**settings):
        settings = {"token": "anon", "requests_timeout": 0.3} | settings
        url = f"http://127.0.0.1:{stand_in.port}"
        files = gcsfs.core.GCSFileSystem(endpoint_url=url, skip_instance_cache=True, **settings)
        return GcsBucket.of(files, "bucket")

    return bucket


@pytest.fixture(params=["s3", "gs"])
def bucket(request):
    return request.getfixturevalue(request.param)()


@pytest.fixture
def make_client():
    """Makes clients, and closes them afterwards."""
    made = []

    def make(concurrency=32, patience=QUICK, **settings):
        made.append(Client(concurrency, patience, **settings))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()
