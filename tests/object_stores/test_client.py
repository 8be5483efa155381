"""One request an object, many at once, and the same bytes whatever passes by."""

import queue
import sys
import threading

import pytest

from asking import fetch_all
from pipelines.object_stores.answers import Ask
from pipelines.object_stores.attempts import Patience
from pipelines.object_stores.faults import (
    DeniedError,
    MissingError,
    ObjectFault,
    StoreFault,
    TooLargeError,
)
from pipelines.object_stores.loop import new_loop

PASSING = ["429", "500", "503", "reset", "refused", "stall", "short", "corrupt"]


def fill(stand_in, count, size=1000):
    bodies = {f"{n}.jpg": bytes([n % 256]) * size for n in range(count)}
    for key, body in bodies.items():
        stand_in.objects.put(f"/bucket/{key}", body)
    return bodies


@pytest.mark.parametrize("key", ["a.jpg", "a b/ü+%2f.jpg", "x//y~(1)'&=?#;.jpg"])
def test_object_is_one_request(stand_in, bucket, client, key):
    stand_in.objects.put(f"/bucket/{key}", b"bytes")
    assert client.fetch(bucket, key, 5) == b"bytes"
    assert len(stand_in.log) == 1


def test_empty_object_is_one(stand_in, bucket, client):
    stand_in.objects.put("/bucket/empty", b"")
    assert client.fetch(bucket, "empty", 5) == b""


def test_what_is_wrong_with_an_object_is_told_by_one_request(stand_in, bucket, client):
    stand_in.objects.put("/bucket/large", bytes(2_000_000))
    with pytest.raises(MissingError):
        client.fetch(bucket, "none", 10)
    with pytest.raises(TooLargeError, match="2000000 bytes, more than 1000000"):
        client.fetch(bucket, "large", 1_000_000)
    stand_in.set(share=1, fault="403")
    with pytest.raises(DeniedError, match="HTTP 403"):
        client.fetch(bucket, "large", 10)
    assert len(stand_in.log) == 3


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("fault", PASSING)
def test_fault_that_passes_is_not_noticed(stand_in, bucket, make_client, monkeypatch, fault, loop):
    if loop == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    client = make_client()
    bodies = fill(stand_in, 4)
    stand_in.set(first=2, fault=fault)
    found = fetch_all(client, bucket, list(bodies))
    assert [one.data for one in found] == list(bodies.values())
    assert stand_in.counts.faults[fault] == 8


def test_no_more_are_in_flight_than_asked_for(stand_in, bucket, make_client):
    bodies = fill(stand_in, 60)
    stand_in.set(latency=0.02)
    fetch_all(make_client(concurrency=8), bucket, list(bodies))
    assert stand_in.counts.most == 8
    assert stand_in.counts.connections == 8


def test_bytes_that_are_held_hold_up_what_follows(stand_in, bucket, make_client):
    bodies = fill(stand_in, 12, size=50_000)
    arrived = queue.SimpleQueue()
    asks = [Ask(bucket, key, 50_000, lambda f, k=key: arrived.put((k, f))) for key in bodies]
    make_client(body_bytes=200_000).begin(asks)
    held = [arrived.get(timeout=10) for _ in range(4)]
    with pytest.raises(queue.Empty):
        arrived.get(timeout=0.05)
    for _ in range(8):  # each that is given back lets one more come
        key, found = held.pop()
        assert found.data == bodies[key]
        found.give_back()
        held.append(arrived.get(timeout=10))


def test_object_that_fails_while_others_do_not_is_given_up(stand_in, bucket, make_client):
    bodies = fill(stand_in, 2)
    client = make_client(patience=Patience(object_s=0, host_s=30, first_wait_s=0))
    client.fetch(bucket, "0.jpg", 1000)
    stand_in.set(failing="/bucket/1.jpg", fault="500")
    with pytest.raises(ObjectFault, match="1 attempts failed: HTTP 500"):
        client.fetch(bucket, "1.jpg", 1000)
    assert client.fetch(bucket, "0.jpg", 1000) == bodies["0.jpg"]


@pytest.mark.parametrize("fault", ["500", "503", "refused"])
def test_store_that_answers_nothing_ends_in_a_sentence(stand_in, bucket, make_client, fault):
    fill(stand_in, 20)
    client = make_client(patience=Patience(object_s=0, host_s=0.2, first_wait_s=0.01))
    client.fetch(bucket, "0.jpg", 1000)
    stand_in.set(share=1, fault=fault)
    for found in fetch_all(client, bucket, [f"{n}.jpg" for n in range(20)]):
        assert isinstance(found, StoreFault)
        assert "has answered nothing for" in str(found) and "run again" in str(found)


def test_what_nobody_wants_any_more_is_not_asked_for(stand_in, bucket, client):
    fill(stand_in, 1)
    done, found = threading.Event(), []
    hears = lambda what: (found.append(what), done.set())  # noqa: E731
    client.begin([Ask(bucket, "0.jpg", 1000, hears, still=lambda: False)])
    assert done.wait(10) and stand_in.log == []
    assert isinstance(found[0], ObjectFault)


def test_loop_is_python_s_own_where_no_other_is_installed(monkeypatch):
    loops = [new_loop()]
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loops.append(new_loop())
    assert [type(loop).__module__.partition(".")[0] for loop in loops] == ["uvloop", "asyncio"]
    for loop in loops:
        loop.close()
