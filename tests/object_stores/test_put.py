"""Objects are written where there is none, or in place of one version, as one step."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.object_stores import uploads
from pipelines.object_stores.answers import ANY
from pipelines.object_stores.faults import DeniedError, MissingError


def put(client, bucket, key, body, match):
    return client.put(bucket, key, io.BytesIO(body), match)


def test_one_of_many_creates_an_object(stand_in, bucket, client):
    stand_in.set(latency=0.01)
    with ThreadPoolExecutor(8) as threads:
        bodies = [f"writer {n}".encode() for n in range(8)]
        found = list(threads.map(lambda body: put(client, bucket, "lock", body, None), bodies))
    (winner,) = [n for n, version in enumerate(found) if version]
    assert stand_in.objects.get("/bucket/lock") == bodies[winner]


def test_object_is_replaced_while_it_is_of_the_version(stand_in, bucket, client):
    first = put(client, bucket, "lock", b"one", None)
    second = put(client, bucket, "lock", b"two", first)
    assert second not in (None, first)
    assert put(client, bucket, "lock", b"three", first) is None
    assert stand_in.objects.get("/bucket/lock") == b"two"
    assert put(client, bucket, "none", b"three", first) is None


@pytest.mark.parametrize("fault", ["500", "503", "reset", "refused", "stall"])
def test_fault_that_passes_leaves_what_was_written_first(stand_in, bucket, client, fault):
    """Some of them hide that the object was written, which is found out."""
    stand_in.set(first=2, fault=fault)
    assert put(client, bucket, "lock", b"mine", None)
    assert put(client, bucket, "lock", b"another's", None) is None
    assert stand_in.objects.get("/bucket/lock") == b"mine"


def test_denied_writes_are_told(stand_in, bucket, client):
    stand_in.set(share=1, fault="403")
    with pytest.raises(DeniedError):
        put(client, bucket, "lock", b"one", None)
    stand_in.set(share=1, fault="404")
    with pytest.raises(MissingError):
        put(client, bucket, "lock", b"one", None)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 18)  # GCS takes no others
    monkeypatch.setattr(uploads, "HELD_BYTES", 1 << 20)


BODY = bytes(range(256)) * 4096 + b"the end"


@pytest.fixture
def parts(small_parts, make_client):
    return make_client()


@pytest.mark.parametrize("match", [None, ANY])
def test_large_object_is_written_in_parts(stand_in, bucket, parts, match):
    assert put(parts, bucket, "large", BODY, match)
    assert stand_in.objects.get("/bucket/large") == BODY
    assert 5 <= len(stand_in.log) <= 7


def test_parts_in_any_order_are_sent_side_by_side_within_the_bytes(stand_in, s3, parts):
    stand_in.set(latency=0.05)
    assert put(parts, s3(), "large", BODY, None)
    assert stand_in.counts.most == 4


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall"])
def test_parts_that_fail_are_sent_again(stand_in, bucket, parts, fault):
    stand_in.set(share=0.3, fault=fault, seed=3)
    assert put(parts, bucket, "large", BODY, ANY)
    assert stand_in.objects.get("/bucket/large") == BODY
    assert stand_in.counts.faults[fault]


def test_store_that_answers_nothing_but_503_at_first_is_waited_for(stand_in, bucket, parts):
    stand_in.set(first=3, fault="503")
    assert put(parts, bucket, "large", BODY, None)
    assert stand_in.objects.get("/bucket/large") == BODY
    assert stand_in.counts.faults["503"]


def test_large_object_takes_the_place_of_its_version_alone(stand_in, bucket, parts):
    first = put(parts, bucket, "large", b"small", None)
    assert put(parts, bucket, "large", BODY, None) is None
    assert put(parts, bucket, "large", BODY, first)
    assert put(parts, bucket, "large", BODY[::-1], first) is None
    assert stand_in.objects.get("/bucket/large") == BODY


def test_upload_that_is_refused_is_given_up(stand_in, bucket, parts):
    stand_in.set(share=1, fault="403")
    with pytest.raises(DeniedError):
        put(parts, bucket, "large", BODY, ANY)
    assert stand_in.objects.get("/bucket/large") is None
