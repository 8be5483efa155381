"""How a bucket of S3 is asked is what its filesystem says; a real server checks the signatures."""

import asyncio
import io
import shutil
import socket
import subprocess
import time
from functools import partial

import pytest
import s3fs
from multidict import CIMultiDict, CIMultiDictProxy

from asking import fetch_all
from pipelines.object_stores import uploads
from pipelines.object_stores.answers import ANY, Answer
from pipelines.object_stores.client import Client
from pipelines.object_stores.dialects.s3 import S3Bucket
from pipelines.object_stores.ranged import RangedFile


@pytest.fixture(autouse=True)
def of_amazon(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def bucket_of(name="bucket", **settings):
    settings = {"key": "id", "secret": "secret", "skip_instance_cache": True} | settings
    return S3Bucket.of(s3fs.S3FileSystem(**settings), name)


def request(bucket, key="a b.jpg"):
    return asyncio.run(bucket.request(key))


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"client_kwargs": {"region_name": "eu-west-1"}},
         "https://bucket.s3.eu-west-1.amazonaws.com/a%20b.jpg"),
        ({"client_kwargs": {"region_name": "eu-west-1"}, "config_kwargs": {"s3": {"use_dualstack_endpoint": True}}},
         "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/a%20b.jpg"),
        ({"endpoint_url": "http://host:9000"}, "http://host:9000/bucket/a%20b.jpg"),
        ({"endpoint_url": "https://host", "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
         "https://bucket.host/a%20b.jpg"),
    ],
)  # fmt: skip
def test_url_is_what_the_filesystem_would_ask(settings, url):
    assert request(bucket_of(**settings)).url == url


def test_anonymity_payer_and_session_are_the_filesystems():
    anonymous = request(bucket_of(anon=True)).headers
    assert "Authorization" not in anonymous
    paid = request(bucket_of(requester_pays=True, token="session")).headers
    assert paid["x-amz-request-payer"] == "requester" and paid["x-amz-security-token"] == "session"
    for name in ("x-amz-request-payer", "x-amz-security-token", "x-amz-checksum-mode"):
        assert f";{name}" in paid["Authorization"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint", {}),
        ("zone--euw1-az1--x-s3", {}),
        ("name-abc-s3alias", {}),
        ("bucket", {"version_aware": True}),
        ("bucket", {"s3_additional_kwargs": {"SSECustomerKey": "key"}}),
        ("bucket", {"config_kwargs": {"signature_version": "s3"}}),
        ("bucket", {"config_kwargs": {"proxies": {"https": "http://proxy"}}}),
    ],
)
def test_what_only_the_filesystem_can_ask_is_left_to_it(name, settings):
    assert bucket_of(name, **settings) is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amz-bucket-region": "eu-west-3"}, b""),
        ({}, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>"),
    ],
)
def test_bucket_of_another_region_is_asked_there(headers, body):
    bucket = bucket_of(client_kwargs={"region_name": "us-east-1"})
    request(bucket)
    assert bucket.moved(Answer(301, CIMultiDictProxy(CIMultiDict(headers)), body))
    found = request(bucket)
    assert found.url == "https://bucket.s3.eu-west-3.amazonaws.com/a%20b.jpg"
    assert "/eu-west-3/s3/aws4_request" in found.headers["Authorization"]


def test_redirect_that_names_no_region_is_no_move():
    headers = {"Location": "http://169.254.169.254/"}
    bucket = bucket_of(client_kwargs={"region_name": "us-east-1"})
    assert not bucket.moved(Answer(307, CIMultiDictProxy(CIMultiDict(headers)), b""))


@pytest.mark.skipif(shutil.which("versitygw") is None, reason="versitygw is not on PATH")
def test_real_server_takes_the_signatures(tmp_path, monkeypatch):
    """Of reading names of every kind, and of writing on conditions, which it heeds."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    root = tmp_path / "objects"
    (root / "bucket").mkdir(parents=True)
    keys = ["a.jpg", "a b/ü.jpg", "a+b=c&d;e,f@g:h$i!j*k'l(m)n", "100%25", "~x_y-z.0", "é/日本.jpg"]
    command = ["versitygw", "--access", "id", "--secret", "secret", "--port", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "--region", "us-east-1", "--quiet", "posix", str(root)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = Client(16)
    try:
        files = s3fs.S3FileSystem(key="id", secret="secret", skip_instance_cache=True,
                                  endpoint_url=f"http://127.0.0.1:{port}")  # fmt: skip
        _until_it_listens(port)
        for key in keys:
            files.pipe_file(f"bucket/{key}", key.encode())
        bucket = S3Bucket.of(files, "bucket")
        found = fetch_all(client, bucket, keys)
        assert [one.data.decode() for one in found] == keys
        first = client.put(bucket, "é/lock", io.BytesIO(b"one"), None)
        assert client.put(bucket, "é/lock", io.BytesIO(b"two"), None) is None
        assert client.put(bucket, "é/lock", io.BytesIO(b"two"), first)
        assert client.put(bucket, "é/lock", io.BytesIO(b"three"), first) is None
        assert files.cat_file("bucket/é/lock") == b"two"
        body = bytes(range(256)) * (11 << 12)
        monkeypatch.setattr(uploads, "PART_BYTES", 5 << 20)  # it takes no smaller ones
        for match, is_written in ((None, True), (None, False), (ANY, True)):
            got = client.put(bucket, "é/large", io.BytesIO(body), match)
            assert bool(got) is is_written
        begin = partial(client.begin_part, bucket, "é/large")
        assert io.BufferedReader(RangedFile(begin, "large", at_end=True)).read() == body
    finally:
        client.close()
        server.kill()
        server.wait()


def _until_it_listens(port):
    for _ in range(500):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
