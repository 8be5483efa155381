import bz2
import gzip
import io
import random

import pytest
import zstandard

from pipelines.storage.compression import DamagedStream, decompressed, is_compressed

TEXT = b"".join(b"line %d of a manifest\n" % number for number in range(5000))
CODECS = {
    "m.csv.gz": gzip.compress,
    "m.csv.bz2": bz2.compress,
    "m.csv.zst": zstandard.ZstdCompressor().compress,
}


def read(name, data):
    return decompressed(name, io.BytesIO(data)).read()


@pytest.mark.parametrize("name", CODECS)
def test_whole_stream_reads_back(name):
    assert is_compressed(name.upper())
    assert read(name, CODECS[name](TEXT)) == TEXT


@pytest.mark.parametrize("name", CODECS)
def test_several_members_are_read_one_after_the_other(name):
    assert read(name, CODECS[name](TEXT[:1000]) + CODECS[name](TEXT[1000:])) == TEXT


@pytest.mark.parametrize("name", CODECS)
def test_stream_cut_anywhere_is_noticed(name):
    whole = CODECS[name](TEXT)
    rng = random.Random(0)
    for length in [1, len(whole) - 1, *(rng.randrange(1, len(whole)) for _ in range(60))]:
        with pytest.raises(DamagedStream):
            read(name, whole[:length])


@pytest.mark.parametrize("name", CODECS)
def test_second_member_cut_is_noticed(name):
    whole = CODECS[name](TEXT)
    with pytest.raises(DamagedStream):
        read(name, whole + whole[: len(whole) // 2])


@pytest.mark.parametrize("name", ["m.csv.gz", "m.csv.bz2"])
def test_flipped_bit_is_noticed(name):
    data = bytearray(CODECS[name](TEXT))
    data[len(data) // 2] ^= 4
    with pytest.raises(DamagedStream):
        read(name, bytes(data))


def test_plain_file_is_returned_as_it_is():
    file = io.BytesIO(TEXT)
    assert decompressed("m.csv", file) is file
    assert not is_compressed("m.csv")


@pytest.mark.parametrize("name", CODECS)
def test_second_member_with_a_damaged_head_is_noticed(name):
    whole = CODECS[name](TEXT)
    with pytest.raises(DamagedStream):
        read(name, whole + b"\x00" + whole[1:] + b"rest")


def test_small_frame_of_much_text_is_read_in_pieces():
    stream = decompressed(
        "m.csv.zst", io.BytesIO(zstandard.ZstdCompressor().compress(bytes(1 << 26)))
    )
    assert stream.read(10) == bytes(10)
    assert sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b"")) == (1 << 26) - 10
