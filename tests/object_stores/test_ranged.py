"""Objects as files: few requests, many at once where somebody reads on, and the same bytes."""

import gzip
import io
from functools import partial

import numpy as np
import pytest

from pipelines.object_stores import ranged
from pipelines.object_stores.faults import ChangedError, MissingError, StoreFault
from pipelines.object_stores.ranged import RangedFile

SIZE = 400_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for name, size in (("FIRST_BYTES", 4000), ("PART_BYTES", 16_000), ("TAIL_BYTES", 1000)):
        monkeypatch.setattr(ranged, name, size)


@pytest.fixture
def data(stand_in):
    data = np.random.default_rng(0).bytes(SIZE)
    stand_in.objects.put("/bucket/file", data)
    return data


@pytest.fixture
def opened(bucket, client):
    files = []

    def open_file(key="file", at_end=False):
        raw = RangedFile(partial(client.begin_part, bucket, key), key, at_end)
        files.append(io.BufferedReader(raw, 100))
        return files[-1]

    yield open_file
    for file in files:
        file.close()
    assert ranged._AHEAD._left == ranged.AHEAD_BYTES


@pytest.mark.parametrize("size", [0, 1, 4000])
@pytest.mark.parametrize("at_end", [False, True])
def test_small_object_is_few_requests(stand_in, opened, size, at_end):
    stand_in.objects.put("/bucket/small", bytes(size))
    assert opened("small", at_end).read() == bytes(size)
    assert len(stand_in.log) == 1 + (at_end and size > 1000)


def test_end_of_an_object_is_one_request(stand_in, data, opened):
    file = opened(at_end=True)
    assert file.seek(0, io.SEEK_END) == SIZE
    file.seek(SIZE - 1000)
    assert file.read() == data[-1000:]
    assert len(stand_in.log) == 1


def test_who_reads_on_has_parts_asked_for_ahead(stand_in, data, opened):
    stand_in.set(latency=0.01)
    file = opened()
    assert b"".join(iter(lambda: file.read(5000), b"")) == data
    assert len(stand_in.log) == 1 + -(-(SIZE - 4000) // 16_000)  # nothing twice
    assert 4 <= stand_in.counts.most <= 1 + ranged.MOST_AHEAD


def test_who_looks_at_a_place_has_nothing_asked_for_ahead(stand_in, data, opened):
    file = opened(at_end=True)
    for number, at in enumerate((300_000, 10, 200_000)):
        file.seek(at)
        assert file.read(2000) == data[at : at + 2000]
        assert len(stand_in.log) == 2 + number


def test_places_read_by_turns_are_each_read_once(stand_in, data, opened):
    file, places = opened(), {100_000: b"", 200_000: b"", 300_000: b""}
    for _ in range(20):
        for start, read in places.items():
            file.seek(start + len(read))
            places[start] += file.read(2000)
    assert all(read == data[start : start + 40_000] for start, read in places.items())
    asked = stand_in.counts.methods["GET"] * 16_000
    assert asked < 3 * 16_000 * (3 + ranged.MOST_AHEAD)


def test_bytes_that_are_asked_for_ahead_are_bounded(stand_in, data, opened, monkeypatch):
    monkeypatch.setattr(ranged._AHEAD, "_left", 2 * 16_000)
    stand_in.set(latency=0.01)
    assert opened().read() == data
    assert stand_in.counts.most <= 3
    monkeypatch.setattr(ranged._AHEAD, "_left", ranged.AHEAD_BYTES)


def test_seeks_of_any_kind_give_the_right_bytes(data, opened):
    file, rng = opened(), np.random.default_rng(1)
    for _ in range(300):
        at = (
            int(rng.integers(SIZE)) if rng.random() < 0.2 else file.tell() + int(rng.integers(9000))
        )
        at, size = max(at - 3000, 0), int(rng.integers(20_000))
        file.seek(at)
        assert file.read(size) == data[at : at + size]


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_fault_that_passes_is_not_noticed(stand_in, data, opened, fault):
    stand_in.set(share=0.3, fault=fault)
    assert opened().read() == data
    assert stand_in.counts.faults[fault]


def test_object_that_is_changed_meanwhile_is_told(stand_in, data, opened):
    file = opened()
    stand_in.objects.put("/bucket/file", data[::-1])
    with pytest.raises(ChangedError, match="file was changed while it was read; run again"):
        file.read()


def test_what_is_wrong_is_told_by_name(stand_in, opened):
    with pytest.raises(MissingError, match="there is no none"):
        opened("none")
    stand_in.set(share=1, fault="403")
    with pytest.raises(PermissionError, match="access to file is denied"):
        opened()


def test_server_that_sends_all_is_read_all_the_same(data, opened, bucket, monkeypatch):
    monkeypatch.setattr("pipelines.object_stores.answers.Span.header", "none")
    for at_end in (False, True):
        file = opened(at_end=at_end)
        file.seek(SIZE - 50_000)
        assert file.read() == data[-50_000:]


def test_part_of_what_gcs_keeps_gzipped_is_refused(stand_in, data, gs, client):
    packed = gzip.compress(data)
    stand_in.objects.put("/bucket/zipped", packed, "Content-Encoding: gzip\r\n")
    begin = partial(client.begin_part, gs(), "zipped")
    with pytest.raises(StoreFault, match="zipped: .*gzip.*keep it under a name"):
        RangedFile(begin, "zipped")
    stand_in.objects.put("/bucket/zipped", gzip.compress(b"1" * 9000), "Content-Encoding: gzip\r\n")
    assert RangedFile(begin, "zipped").read() == b"1" * 9000
