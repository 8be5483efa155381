"""Objects are written where there is none, or in place of one version, as one step."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.object_stores.faults import DeniedError, MissingError


def test_one_of_many_creates_an_object(stand_in, bucket, client):
    stand_in.set(latency=0.01)
    with ThreadPoolExecutor(8) as threads:
        bodies = [f"writer {n}".encode() for n in range(8)]
        found = list(threads.map(lambda body: client.put(bucket, "lock", body, None), bodies))
    (winner,) = [n for n, version in enumerate(found) if version]
    assert stand_in.objects.get("/bucket/lock") == bodies[winner]


def test_object_is_replaced_while_it_is_of_the_version(stand_in, bucket, client):
    first = client.put(bucket, "lock", b"one", None)
    second = client.put(bucket, "lock", b"two", first)
    assert second not in (None, first)
    assert client.put(bucket, "lock", b"three", first) is None
    assert stand_in.objects.get("/bucket/lock") == b"two"
    assert client.put(bucket, "none", b"three", first) is None


@pytest.mark.parametrize("fault", ["500", "503", "reset", "refused", "stall"])
def test_fault_that_passes_leaves_what_was_written_first(stand_in, bucket, client, fault):
    """Some of them hide that the object was written, which is found out."""
    stand_in.set(first=2, fault=fault)
    assert client.put(bucket, "lock", b"mine", None)
    assert client.put(bucket, "lock", b"another's", None) is None
    assert stand_in.objects.get("/bucket/lock") == b"mine"


def test_denied_writes_are_told(stand_in, bucket, client):
    stand_in.set(share=1, fault="403")
    with pytest.raises(DeniedError):
        client.put(bucket, "lock", b"one", None)
    stand_in.set(share=1, fault="404")
    with pytest.raises(MissingError):
        client.put(bucket, "lock", b"one", None)
