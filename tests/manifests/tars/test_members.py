"""Odd tars: what is legal is read as `tarfile` reads it, what is not becomes a reject."""

import gzip
import io
import tarfile

import pytest

from pipelines.manifests.tars.members import MAX_HEADER_BYTES, DamagedTar, TarMembers
from pipelines.records import Reject
from schemas.rejects import Reason
from tars import make_tar, read, sample
from torture_manifests import with_header

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "folder/" + "x" * 80 + "/" + "y" * 90


def tar_of(names, kind="gnu", **attributes):
    buffer = io.BytesIO()
    settings = {"encoding": "utf-8", "errors": "surrogateescape"}
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind], **settings) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(b"a caption")
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(b"a caption"))
    return buffer.getvalue()


def header(name, kind=b"0", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def block(data):
    return data + bytes(-len(data) % 512)


def extended(content, kind=b"x"):
    return header("PaxHeaders/1", kind, len(content)) + block(content)


def record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def reasons(found):
    return [record.reason if isinstance(record, Reject) else None for record in found]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("key", ["a", LONG, "名前/b"])
def test_names_are_those_of_every_format(tmp_path, kind, key):
    found = read(tmp_path, tar_of([f"{key}.jpg", f"{key}.txt"], kind))
    assert [(row.uid, row.text) for row in found] == [(key.rpartition("/")[2], "a caption")]
    assert found[0].url.endswith(f"#{key}.jpg")


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_names_longer_than_a_header_are_read(tmp_path, kind):
    key = "deep/" * 60 + "z" * 300
    assert read(tmp_path, tar_of([f"{key}.jpg", f"{key}.txt"], kind))[0].uid == "z" * 300


@pytest.mark.parametrize("attributes", [{"uid": 2**40}, {"mtime": 2**34}, {"size": 9}])
def test_numbers_in_base_256_are_read(tmp_path, attributes):
    assert [row.uid for row in read(tmp_path, tar_of(["a.jpg", "a.txt"], **attributes))] == ["a"]


@pytest.mark.parametrize("kind", FORMATS)
def test_old_tars_without_magic_are_read(kind):
    data = with_header(tar_of(["a.jpg"], kind), 0, {257: bytes(8), 156: b"\0"})
    assert [(m.name, m.kind, m.size) for m in TarMembers(io.BytesIO(data))] == [
        ("a.jpg", "file", 9)
    ]


def test_size_of_pax_goes_before_that_of_the_header(tmp_path):
    member = header("a.txt", size=0) + block(b"a caption")
    data = extended(record(b"size", b"9")) + member + header("a.jpg", size=1) + block(b"x")
    assert read(tmp_path, data + bytes(1024))[0].text == "a caption"


@pytest.mark.parametrize(
    "size",
    [
        b"\x80" + b"\x7f" * 11,
        b"\xff" * 11 + b"\x00",
        b"\xff" * 10 + b"\xfa\x00",
        b"77777777777\0",
        b"9" * 12,
        b"-0000000512\0",
        b"0o000000010\0",
        b"\xd9\xa1" * 6,
    ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_impossible_size_is_one_reject(tmp_path, size, at):
    """Negative ones would lead back to a header that has been read, for ever."""
    data = make_tar(*sample("0"), *sample("1"))
    found = read(tmp_path, with_header(data, at * 1024, {124: size}))
    assert reasons(found) == [None] * (at // 2) + [Reason.MANIFEST_TRUNCATED]
    assert "\n" not in found[-1].detail


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"7 a=b\n",
        b"99 path=a\n",
        b"0 path=a\n",
        b"-6 a=bc\n",
        record(b"size", b"-5"),
        record(b"size", b"1e3"),
        record(b"size", "٣".encode()),
        record(b"size", b"9" * 400_000),
        record(b"path", b"n" * 70_000),
    ],
)
def test_impossible_pax_header_is_one_reject(tmp_path, content):
    data = extended(content) + make_tar(*sample("1"))
    assert reasons(read(tmp_path, data)) == [Reason.MANIFEST_TRUNCATED]


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_extended_header_is_bounded(tmp_path, kind):
    data = header("PaxHeaders/1", kind, 900 << 20) + bytes(1024)
    found = read(tmp_path, gzip.compress(data), "shard.tar.gz")
    assert reasons(found) == [Reason.MANIFEST_TRUNCATED]
    assert f"more than {MAX_HEADER_BYTES}" in found[0].detail


def test_any_number_of_extended_headers_is_read_without_recursion(tmp_path):
    many = extended(b"n" * 100 + b"\0", b"L") * 3000 + extended(record(b"a", b"b")) * 3000
    found = read(tmp_path, many + extended(b"last.txt\0", b"L") + make_tar(*sample("1")))
    assert [record.row.uid for record in found] == ["last", "1"]


SPARSE_10 = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"1.jpg")


@pytest.mark.parametrize(
    "member",
    [
        header("1.jpg", b"S", 1) + block(b"x"),
        extended(SPARSE_10 + record(b"GNU.sparse.realsize", b"9" * 12))
        + header("GNUSparseFile.0/1.jpg", size=512)
        + block(b"9" * 400 + b"\n"),
        extended(record(b"GNU.sparse.map", b"0,9999999999")) + header("1.jpg"),
    ],
)
def test_member_with_holes_costs_its_row(tmp_path, member):
    text = header("1.txt", size=1) + block(b"t")
    found = read(tmp_path, member + text + make_tar(*sample("2")))
    assert reasons(found) == [Reason.MALFORMED_ROW, None]
    assert "has holes; pack it without `--sparse`" in found[0].detail


@pytest.mark.parametrize("cut", [0, 100, 512])
def test_map_of_holes_that_does_not_end_is_one_reject(tmp_path, cut):
    data = with_header(header("1.jpg", b"S"), 0, {482: b"\1"}) + b"\1" * cut
    assert reasons(read(tmp_path, data)) == [Reason.MANIFEST_TRUNCATED]


def test_caption_that_is_too_long_leaves_its_beginning(tmp_path):
    data = make_tar(*sample("1", text="é" * (5 << 20)), *sample("2", text="x" * (2 << 20)))
    found = read(tmp_path, data)
    assert reasons(found) == [Reason.TOO_LARGE] * 2
    assert [record.row.text for record in found] == ["é" * 1000, "x" * 1000]


def test_picture_that_is_not_used_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.manifests.tars.webdataset.MAX_MEMBER_BYTES", 20)
    row = read(tmp_path, make_tar(*sample("1"), ("1.png", b"x" * 30)))[0]
    assert row.url.endswith("1.jpg")


def test_memory_does_not_grow_with_the_members_of_a_sample(tmp_path):
    data = make_tar(*((f"1.{n}", b"") for n in range(2500)))
    assert reasons(read(tmp_path, data)) == [Reason.MISSING_IMAGE] * 3


@pytest.mark.parametrize("error", [TimeoutError("stalled"), ConnectionError("x"), MemoryError()])
def test_faults_that_are_not_the_tars_stay_what_they_are(tmp_path, monkeypatch, error):
    """The runner tries them again; a reject would be for good."""

    def failing(*_):
        raise error

    monkeypatch.setattr("pipelines.manifests.tars.webdataset._read", failing)
    with pytest.raises(type(error)):
        read(tmp_path, make_tar(*sample("1")))


@pytest.mark.parametrize(
    ("key", "uid"),
    [
        ("caf\udce9", r"caf\xe9"),  # Latin-1
        ("\udcd6\udcd0", r"\xd6\xd0"),  # GBK
        ("\udc83\\", "\\x83\\"),  # Shift-JIS, whose second byte is a backslash
        ("\udcff", r"\xff"),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_name_that_is_not_utf8_is_no_fault_of_the_row(tmp_path, kind, key, uid):
    data = tar_of([f"{key}/0.jpg", f"{key}/0.txt", f"{key}.jpg", f"{key}.txt"], kind)
    first, second = read(tmp_path, data)
    assert (first.uid, second.uid) == ("0", uid)
    assert second.url == f"{tmp_path}/shard.tar#{uid}.jpg"


def test_names_that_differ_in_a_foreign_byte_are_told_apart(tmp_path):
    names = ["\udce9.jpg", "\udce9.txt", "\udce8.jpg", "\udce8.txt"]
    assert [row.uid for row in read(tmp_path, tar_of(names))] == [r"\xe9", r"\xe8"]


def test_damage_is_told_after_the_members_before_it():
    members = TarMembers(io.BytesIO(make_tar(*sample("1"))[:1600]))
    assert next(members).name == "1.jpg"
    with pytest.raises(DamagedTar):
        list(members)
