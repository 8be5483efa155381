import errno
import hashlib
import os
from dataclasses import replace

import aiohttp
import fsspec
import pytest
import requests

from making import make_row
from pipelines.images import fetch
from pipelines.images.fetch import FetchPolicy, allowed_uri, fetch_image
from pipelines.object_stores import retry_after
from pipelines.records import RowFault
from pipelines.storage import reading
from pipelines.storage.retries import RetryPolicy
from schemas.rejects import Reason

POLICY = FetchPolicy(retries=RetryPolicy(backoff_s=0))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").write_bytes(b"inside")
    (root / "sub" / "b c.png").write_bytes(b"deeper")
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "secret.png").write_bytes(b"outside")
    return root


def row_in(folder, url, **changes):
    return make_row(url=url, image_root=str(folder), **changes)


def reason_of(row, policy=POLICY, **settings):
    with pytest.raises(RowFault) as fault:
        fetch_image(row, policy, **settings)
    assert fault.value.stage == "fetch"
    return fault.value.reason


@pytest.mark.parametrize(
    ("url", "data"),
    [("a.png", b"inside"), ("sub/b c.png", b"deeper"), ("./sub/../a.png", b"inside")],
)
def test_relative_image_is_read_from_the_root(folder, url, data):
    assert fetch_image(row_in(folder, url), POLICY) == data


def test_absolute_paths_and_file_uris_inside_the_root_are_read(folder):
    for url in (f"{folder}/a.png", f"file://{folder}/a.png", f"FILE://{folder}/a.png"):
        assert fetch_image(row_in(folder, url), POLICY) == b"inside"


@pytest.mark.parametrize(
    "url",
    [
        "../data2/secret.png",
        "sub/../../data2/secret.png",
        "{outside}/secret.png",
        "file://{outside}/secret.png",
        "/etc/hostname",
        "file:///etc/hostname",
        "file:/etc/hostname",
        "local:///etc/hostname",
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.png",
        "HTTP://127.0.0.1/a.png",
        "ftp://example.com/a.png",
        "zip://a.png::file:///x.zip",
        "simplecache::http://example.com/a.png",
        "reference://a.png",
        "gs://other-bucket/a.png",
        "s3://other-bucket/a.png",
        "a.png\0",
        "half \ud800 a pair.png",
        "sub/http://127.0.0.1/a.png",
        "sub/file://{outside}/secret.png",
        "FILE://{outside}/secret.png",
        "sub/zip://a.png::file://{outside}/x.zip",
        "",
        ".",
        "data:image/png;base64,AAAA",
    ],
)
def test_image_outside_the_root_is_not_allowed(folder, url):
    outside = folder.parent / "data2"
    assert reason_of(row_in(folder, url.format(outside=outside))) is Reason.NOT_ALLOWED


@pytest.mark.parametrize(
    "url", ["%2e%2e/data2/secret.png", "..%2fdata2/secret.png", "..\\data2\\secret.png", "~/x"]
)
def test_names_are_never_decoded_or_expanded(folder, url):
    assert reason_of(row_in(folder, url)) is Reason.NOT_FOUND
    (folder / "%2e.png").write_bytes(b"literal")
    assert fetch_image(row_in(folder, "%2e.png"), POLICY) == b"literal"


def test_neighbour_whose_name_begins_alike_is_not_allowed(folder):
    assert reason_of(row_in(folder, f"{folder}2/secret.png")) is Reason.NOT_ALLOWED
    row = make_row(url="gs://bucket/images2/a.png", image_root="gs://bucket/images")
    assert reason_of(row) is Reason.NOT_ALLOWED


def test_link_that_leaves_the_root_is_not_allowed(folder):
    os.symlink(folder.parent / "data2" / "secret.png", folder / "link.png")
    os.symlink(folder.parent / "data2", folder / "folder")
    assert reason_of(row_in(folder, "link.png")) is Reason.NOT_ALLOWED
    assert reason_of(row_in(folder, "folder/secret.png")) is Reason.NOT_ALLOWED


def test_links_are_resolved_once_a_second(folder, monkeypatch):
    now, inside, link = [100.0], folder / "sub", folder / "link"
    monkeypatch.setattr(fetch.time, "monotonic", lambda: now[0])
    os.symlink(inside, link)
    assert fetch_image(row_in(folder, "link/b c.png"), POLICY) == b"deeper"
    (inside / "new.png").write_bytes(b"new")
    assert fetch_image(row_in(folder, "link/new.png"), POLICY) == b"new"
    link.unlink()
    os.symlink(folder.parent / "data2", link)
    now[0] += 1
    assert reason_of(row_in(folder, "link/secret.png")) is Reason.NOT_ALLOWED


def test_root_that_is_a_link_may_be_pointed_elsewhere(folder, monkeypatch):
    now, root = [100.0], folder.parent / "current"
    monkeypatch.setattr(fetch.time, "monotonic", lambda: now[0])
    os.symlink(folder, root)
    assert fetch_image(row_in(root, "a.png"), POLICY) == b"inside"
    root.unlink()
    os.symlink(folder.parent / "data2", root)
    now[0] += 1
    assert fetch_image(row_in(root, "secret.png"), POLICY) == b"outside"


def test_allowed_prefix_opens_its_tree_and_no_neighbour(folder):
    outside = folder.parent / "data2"
    policy = replace(POLICY, allow_images_from=(str(outside),))
    assert fetch_image(row_in(folder, f"{outside}/secret.png"), policy) == b"outside"
    narrower = replace(POLICY, allow_images_from=(str(folder.parent / "dat"),))
    assert reason_of(row_in(folder, f"{outside}/secret.png"), narrower) is Reason.NOT_ALLOWED


def test_object_stores_compare_bucket_and_path():
    row = make_row(url="../other/a.png", image_root="gs://bucket/images")
    assert reason_of(row) is Reason.NOT_ALLOWED
    row = make_row(url="sub/a.png", image_root="gs://bucket/images")
    assert allowed_uri(row, POLICY) == "gs://bucket/images/sub/a.png"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a//k.jpg", "gs://bucket/images/a//k.jpg"),
        ("gs://bucket/images//k.jpg", "gs://bucket/images//k.jpg"),
        ("gs:///bucket/images/k.jpg", "gs://bucket/images/k.jpg"),
        ("a/./k.jpg", "gs://bucket/images/a/k.jpg"),
        ("a/../k.jpg", "gs://bucket/images/k.jpg"),
        ("a//../k.jpg", "gs://bucket/images/a/k.jpg"),
        ("%2e%2e/k.jpg", "gs://bucket/images/%2e%2e/k.jpg"),
        ("../../../bucket/images/k.jpg", "gs://bucket/images/k.jpg"),
    ],
)
def test_keys_of_object_stores_keep_empty_segments_and_lose_dots(url, expected):
    row = make_row(url=url, image_root="gs://bucket/images")
    assert allowed_uri(row, POLICY) == expected


@pytest.mark.parametrize(
    "url",
    [
        "..//images/k.jpg",
        "a//../../../k.jpg",
        "a/..//../../../k.jpg",
        "gs://bucket//images/k.jpg",
        "gs://bucket/images/..//k.jpg",
        "gs://bucket/images/../../other/images/k.jpg",
        "gs:////other/images/k.jpg",
        "gs://bucket/images2//k.jpg",
        "gs://bucket/images//..",
        "gs://bucket/images//",
        "gs://bucket/images/.",
        "",
        ".",
        "/",
    ],
)
def test_empty_segments_open_nothing_outside_the_prefix(url):
    assert reason_of(make_row(url=url, image_root="gs://bucket/images")) is Reason.NOT_ALLOWED


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_key_with_an_empty_segment_is_read(stores, scheme):
    store = stores[scheme]
    store.files.pipe_file("dataset/keys/a//k.jpg", b"two slashes")
    row = make_row(url="a//k.jpg", image_root=f"{store.root}/keys")
    assert fetch_image(row, POLICY) == b"two slashes"
    row = make_row(url="a/k.jpg", image_root=f"{store.root}/keys")
    assert reason_of(row) is Reason.NOT_FOUND


def test_memory_filesystem_is_read():
    fsspec.filesystem("memory").pipe("/images/a.png", b"data")
    assert fetch_image(make_row(url="a.png", image_root="memory://images"), POLICY) == b"data"


def test_inline_bytes_are_used_whatever_the_url():
    row = make_row(url="http://example.com/a.png", image_bytes=b"inline")
    assert fetch_image(row, POLICY) == b"inline"


def test_missing_file_and_directory_are_not_found(folder):
    assert reason_of(row_in(folder, "none.png")) is Reason.NOT_FOUND
    assert reason_of(row_in(folder, "sub")) is Reason.NOT_FOUND
    assert reason_of(row_in(folder, "a.png/b.png")) is Reason.NOT_FOUND


def test_too_large_image_is_refused_inline_and_stored(folder):
    policy = replace(POLICY, max_bytes=3)
    assert reason_of(row_in(folder, "a.png"), policy) is Reason.TOO_LARGE
    assert reason_of(make_row(image_bytes=b"1234"), policy) is Reason.TOO_LARGE
    assert fetch_image(make_row(image_bytes=b"123"), policy) == b"123"


def test_expected_hash_is_compared():
    digest = hashlib.sha256(b"x").hexdigest().upper()
    assert fetch_image(make_row(image_bytes=b"x", expected_sha256=digest), POLICY) == b"x"
    row = make_row(image_bytes=b"y", expected_sha256=digest)
    assert reason_of(row) is Reason.HASH_MISMATCH


class HttpError(Exception):
    def __init__(self, code):
        super().__init__(
            f"HTTP {code} at https://user:secret@host/x?token=secret <obj at 0x7f00aa>"
        )
        self.code = code


class ClientError(Exception):
    def __init__(self, code):
        super().__init__("client error")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": code}}


def failing(monkeypatch, *errors):
    """Makes the store fail with `errors`, one after the other, and then answer."""
    left = list(errors)

    def read_whole(uri, max_bytes):
        if left:
            raise left.pop(0)
        return b"data"

    monkeypatch.setattr(reading, "read_whole", read_whole)
    return left


@pytest.mark.parametrize(
    "error",
    [
        HttpError(500),
        HttpError(503),
        HttpError(429),
        ClientError(500),
        HttpError("503"),
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.EBUSY, "SlowDown"),
        OSError(errno.EIO, "InternalError"),
        aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(),
        requests.exceptions.ProxyError(),
    ],
)
def test_transient_fault_is_tried_again_with_growing_waits(monkeypatch, error):
    failing(monkeypatch, error, error)
    waits = []
    monkeypatch.setattr(retry_after.random, "uniform", lambda low, high: high)
    policy = FetchPolicy(retries=RetryPolicy(backoff_s=0.5))
    row = make_row(url="a.png", image_root="memory://x")
    assert fetch_image(row, policy, sleep=waits.append) == b"data"
    assert waits == [0.5, 1.0]


def test_transient_fault_that_stays_is_a_reject_without_secrets(monkeypatch):
    failing(monkeypatch, *[HttpError(503)] * 9)
    row = make_row(url="a.png", image_root="memory://x")
    with pytest.raises(RowFault) as fault:
        fetch_image(row, POLICY)
    assert fault.value.reason is Reason.FETCH_FAILED
    assert "4 attempts failed" in fault.value.detail
    assert "secret" not in fault.value.detail and "0x7f" not in fault.value.detail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HttpError(404), Reason.NOT_FOUND),
        (HttpError(403), Reason.FORBIDDEN),
        (ClientError(403), Reason.FORBIDDEN),
        (PermissionError(), Reason.FORBIDDEN),
        (OSError("Forbidden: bucket/a.png\nno access"), Reason.FORBIDDEN),
        (OSError(errno.ENAMETOOLONG, "long"), Reason.FETCH_FAILED),
        (ValueError("odd"), Reason.FETCH_FAILED),
    ],
)
def test_permanent_fault_is_not_tried_again(monkeypatch, error, reason):
    left = failing(monkeypatch, error, error)
    assert reason_of(make_row(url="a.png", image_root="memory://x")) is reason
    assert len(left) == 1


def test_attempts_end_with_the_time(monkeypatch):
    left = failing(monkeypatch, *[HttpError(503)] * 9)
    policy = replace(POLICY, retries=RetryPolicy(backoff_s=0, max_seconds=0))
    assert reason_of(make_row(url="a.png", image_root="memory://x"), policy) is Reason.FETCH_FAILED
    assert len(left) == 8


def test_short_body_is_transient(monkeypatch):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/short/a.png", b"data")
    bodies = [b"da", b"data"]
    monkeypatch.setattr(type(filesystem), "cat_file", lambda self, path: bodies.pop(0))
    assert fetch_image(make_row(url="a.png", image_root="memory://short"), POLICY) == b"data"
    assert not bodies


def test_file_that_is_being_written_is_read_again(folder, monkeypatch):
    read, found = reading._read_file, [b"ins", b"inside and more"]
    monkeypatch.setattr(reading, "_read_file", lambda *args: found.pop(0) if found else read(*args))
    assert fetch_image(row_in(folder, "a.png"), POLICY) == b"inside"
    assert not found


@pytest.mark.parametrize("name", ["img:1.jpg", "a:b/c:d.jpg", "sub/12:30.jpg", "C:x.jpg"])
def test_name_with_a_colon_is_a_name(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"colon")
    assert fetch_image(row_in(folder, name), POLICY) == b"colon"


def test_pipe_in_the_place_of_an_image_does_not_hang(folder):
    os.mkfifo(folder / "pipe.png")
    assert fetch_image(row_in(folder, "pipe.png"), POLICY) == b""
