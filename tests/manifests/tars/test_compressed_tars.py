"""Tars that are unpacked before they are read: to their end, to where they break, to a bound."""

import bz2
import gzip
import random

import pytest
import zstandard

from pipelines.manifests.tars import webdataset
from pipelines.records import Row
from schemas.rejects import Reason
from tars import make_tar, read, sample

CODECS = {
    "shard.tar.gz": gzip.compress,
    "shard.tgz": gzip.compress,
    "shard.tar.bz2": bz2.compress,
    "shard.tar.zst": zstandard.ZstdCompressor().compress,
}
COUNT = 40


@pytest.fixture(scope="module")
def tar():
    """Images that cannot be packed, so that a cut lies as far into the tar as into its packing."""
    noise = random.Random(0).randbytes
    return make_tar(*(m for n in range(COUNT) for m in sample(f"{n:04d}", noise(9000))))


def uids(found):
    return [record.uid for record in found if isinstance(record, Row)]


@pytest.mark.parametrize("name", CODECS)
def test_compressed_tar_is_read_to_its_end(tmp_path, tar, name):
    assert len(uids(read(tmp_path, CODECS[name](tar), name))) == COUNT


@pytest.mark.parametrize("name", ["shard.tar.gz", "shard.tgz"])
def test_samples_before_a_cut_are_kept(tmp_path, tar, name):
    packed = CODECS[name](tar)
    found = read(tmp_path, packed[: len(packed) // 2], name)
    assert COUNT // 2 - 2 < len(uids(found)) <= COUNT // 2
    assert found[-1].reason is Reason.MANIFEST_TRUNCATED
    assert "damaged or cut short" in found[-1].detail


@pytest.mark.parametrize("name", CODECS)
def test_packing_that_is_damaged_anywhere_is_one_reject_after_the_samples(tmp_path, tar, name):
    whole = CODECS[name](tar)
    for end in range(1, len(whole), len(whole) // 20):
        found = read(tmp_path, whole[:end], name)
        assert found[-1].reason is Reason.MANIFEST_TRUNCATED
        assert uids(found) == [f"{n:04d}" for n in range(len(uids(found)))]


def test_damage_behind_the_end_of_the_tar_is_reported(tmp_path, tar):
    """The checksum that follows the data is all that tells."""
    packed = bytearray(gzip.compress(tar))
    packed[-8] ^= 1
    found = read(tmp_path, bytes(packed), "shard.tar.gz")
    assert len(uids(found)) == COUNT
    assert found[-1].reason is Reason.MANIFEST_TRUNCATED and "CRC" in found[-1].detail


@pytest.mark.parametrize("name", CODECS)
def test_small_file_cannot_fill_the_disk(tmp_path, monkeypatch, name):
    monkeypatch.setattr(webdataset, "ALWAYS_UNPACKED_BYTES", 1 << 20)
    tar = make_tar(*sample("1"), *sample("2", bytes(4 << 20)))
    found = read(tmp_path, CODECS[name](tar), name)
    assert uids(found) == ["1"] and len(found) == 2
    assert found[1].reason is Reason.MANIFEST_TRUNCATED
    assert "unpacks to more than 1048576 bytes" in found[1].detail


def test_bound_grows_with_the_file_up_to_a_limit(tmp_path, monkeypatch, tar):
    monkeypatch.setattr(webdataset, "ALWAYS_UNPACKED_BYTES", 1)
    assert len(read(tmp_path, gzip.compress(tar), "shard.tar.gz")) == COUNT
    monkeypatch.setattr(webdataset, "MAX_UNPACKED_BYTES", len(tar) // 2)
    assert len(read(tmp_path, gzip.compress(tar), "shard.tar.gz")) < COUNT
