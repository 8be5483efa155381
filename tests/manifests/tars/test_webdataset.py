import io
import random
import tarfile

import pytest

from making import plan
from pipelines.manifests.tars import webdataset
from pipelines.records import Reject, Row
from pipelines.storage import reading
from pipelines.storage.retries import AttemptsFailed
from pipelines.storage.stores import StoreFault
from schemas.rejects import Reason
from tars import make_tar, read, sample


def whole(count=8):
    return make_tar(*(m for n in range(count) for m in sample(f"{n:04d}", bytes([n]) * 700)))


def test_sample_is_read_from_its_members(tmp_path):
    row = read(tmp_path, make_tar(*sample("0001", b"abc", "hello", sha256="ff")))[0]
    assert (row.uid, row.text, row.image_bytes) == ("0001", "hello", b"abc")
    assert row.url == f"{tmp_path}/shard.tar#0001.jpg"
    assert row.expected_sha256 == "ff"


def test_one_tar_is_one_unit_of_unknown_length(tmp_path):
    (tmp_path / "shard.tar").write_bytes(whole())
    found = plan(tmp_path / "shard.tar", rows_per_unit=2)
    assert len(found.units) == 1 and found.rows is None


def test_key_ends_at_the_first_dot_of_the_base_name(tmp_path):
    data = make_tar(
        ("a.b/x.y.JPG", b"1"), ("a.b/x.txt", b"t"), ("a.b/z.PNG", b"2"), ("a.b/z.txt", b"u")
    )
    found = read(tmp_path, data)
    assert [r.row.uid if isinstance(r, Reject) else r.uid for r in found] == ["x", "z"]
    assert found[1].image_bytes == b"2"


def test_uid_and_kept_columns_come_from_json(tmp_path):
    data = make_tar(*sample("0001", uid="abc", license=5, tags=["x"]))
    row = read(tmp_path, data, keep_columns=("license", "tags", "none"))[0]
    assert row.uid == "abc"
    assert row.kept == {"license": "5", "tags": '["x"]', "none": None}


def test_caption_comes_from_json_where_there_is_no_txt(tmp_path):
    data = make_tar(("1.png", b"x"), ("1.json", b'{"caption": "from json"}'))
    assert read(tmp_path, data)[0].text == "from json"


def test_repeated_key_that_is_not_adjacent_is_a_row_of_its_own(tmp_path):
    data = make_tar(*sample("1"), *sample("2"), *sample("1"))
    assert [row.uid for row in read(tmp_path, data)] == ["1", "2", "1"]


def test_extension_that_comes_again_begins_another_sample(tmp_path):
    found = read(tmp_path, make_tar(*sample("a", b"1", "one"), *sample("a", b"2", "two")))
    assert [(row.image_bytes, row.text, row.uid) for row in found] == [
        (b"1", "one", "a"),
        (b"2", "two", "a"),
    ]


def test_flags_name_members_or_fields_of_json(tmp_path):
    about = {"recap": "better", "my_id": 7, "uid": "u"}
    members = [*sample("a", **about), ("a.seg.png", b"mask"), ("a.vlm", b"longer")]
    data = make_tar(*members, *sample("b"))
    flags = {"text_column": "recap", "id_column": "my_id", "image_column": "seg.png"}
    first, second = read(tmp_path, data, **flags)
    assert (first.text, first.uid, first.image_bytes) == ("better", "7", b"mask")
    assert first.url.endswith("#a.seg.png")
    assert (second.reason, second.row.text) == (Reason.MISSING_IMAGE, None)
    first, second = read(tmp_path, data, text_column="VLM", keep_columns=("recap", "text"))
    assert (first.text, first.uid, first.image_bytes) == ("longer", "u", b"image")
    assert first.kept == {"recap": "better", "text": None}
    assert second.reason == Reason.EMPTY_TEXT


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.txt", b"t")], Reason.MISSING_IMAGE),
        ([("1.jpg", b"x")], Reason.EMPTY_TEXT),
        ([("1.jpg", b"x"), ("1.txt", b"\xff")], Reason.MALFORMED_ROW),
        ([("1.jpg", b"x"), ("1.json", b"{")], Reason.MALFORMED_ROW),
        ([("1.jpg", b"x"), ("1.json", b"[]")], Reason.MALFORMED_ROW),
        ([("1.jpg", b"x"), ("1.json", b'{"text": 5}')], Reason.MALFORMED_ROW),
    ],
)
def test_incomplete_sample_is_rejected_alone(tmp_path, members, reason):
    found = read(tmp_path, make_tar(*sample("0"), *members, *sample("2")))
    assert [getattr(record, "reason", None) for record in found] == [None, reason, None]


@pytest.mark.parametrize(
    "members",
    [
        sample("1", uid="half \ud83d"),
        sample("1", license="half \ud83d"),
        [("1.jpg", b"x"), ("1.json", rb'{"caption": "half \ud83d"}')],
    ],
)
def test_text_that_no_file_can_hold_costs_its_row(tmp_path, members):
    data = make_tar(*members, *sample("2"))
    first, second = read(tmp_path, data, keep_columns=("license",))
    assert (first.reason, second.uid) == (Reason.MALFORMED_ROW, "2")
    str(first).encode()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("1.jpg")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    found = read(tmp_path, buffer.getvalue())
    assert found[0].reason is Reason.MALFORMED_ROW
    assert "not a regular file" in found[0].detail


def test_directories_are_no_samples(tmp_path):
    """`tar cf shard.tar images/` writes one first, and one for each folder inside."""
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name, data in [*sample("1"), *sample("more/2")]:
        (tmp_path / "images" / name).write_bytes(data)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "images", "images")
    found = read(tmp_path, (tmp_path / "shard.tar").read_bytes())
    assert sorted(row.uid for row in found) == ["1", "2"]
    assert [row.source_row for row in found] == [0, 1]


@pytest.mark.parametrize("field", ["jpg", "txt", "json"])
def test_too_large_member_is_refused_unread(tmp_path, monkeypatch, field):
    monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 4)
    found = read(tmp_path, make_tar((f"1.{field}", b"12345")))
    assert found[0].reason is Reason.TOO_LARGE


def test_large_member_that_is_not_used_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 9)
    assert read(tmp_path, make_tar(*sample("1"), ("1.mp4", b"0123456789")))[0].uid == "1"


def test_every_cut_is_reported(tmp_path):
    data = whole()
    ends = range(0, len(data), tarfile.BLOCKSIZE)
    rng = random.Random(0)
    cuts = [*ends[1:-20], *(rng.randrange(1, len(data) - 9 * 1024) for _ in range(50))]
    for cut in cuts:
        found = read(tmp_path, data[:cut])
        assert isinstance(found[-1], Reject), cut
        assert found[-1].reason is Reason.MANIFEST_TRUNCATED, cut


def test_every_damaged_header_is_reported(tmp_path):
    data = whole()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        offsets = [member.offset for member in tar]
    for offset in offsets:
        damaged = bytearray(data)
        damaged[offset + 3] ^= 1
        found = read(tmp_path, bytes(damaged))
        assert found[-1].reason is Reason.MANIFEST_TRUNCATED
        rows = [record for record in found if isinstance(record, Row)]
        assert [row.uid for row in rows] == [f"{n:04d}" for n in range(len(rows))]


def test_data_behind_the_end_is_reported(tmp_path):
    found = read(tmp_path, whole() + whole())
    assert found[-1].detail.startswith("data follows the end blocks")


def test_padding_of_zeros_is_no_damage(tmp_path):
    assert len(read(tmp_path, whole() + bytes(20_000))) == 8


@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>" * 200])
def test_what_is_no_tar_is_one_reject(tmp_path, content):
    found = read(tmp_path, content)
    assert [record.reason for record in found] == [Reason.MANIFEST_TRUNCATED]


def fault_of_store(cause):
    fault = StoreFault("the store failed")
    fault.__cause__ = cause
    return fault


@pytest.fixture
def statistics_fail(monkeypatch):
    """Lets the store fail for the file of statistics beside a tar."""
    opened = reading.open_input

    def fail_with(error):
        def open_input(uri):
            if uri.endswith("_stats.json"):
                raise error
            return opened(uri)

        monkeypatch.setattr(reading, "open_input", open_input)

    return fail_with


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("there is none"),
        PermissionError("403, also where listing is not allowed and there is none"),
        IsADirectoryError("a folder of that name"),
        OSError("Forbidden: https://storage.example/shard_stats.json"),
        fault_of_store(RuntimeError("HTTP 403")),
    ],
)
def test_statistics_that_must_not_be_read_are_done_without(tmp_path, statistics_fail, error):
    statistics_fail(error)
    assert len(read(tmp_path, whole())) == 8


@pytest.mark.parametrize(
    "error",
    [TimeoutError("stalled"), ConnectionError("reset"), fault_of_store(AttemptsFailed("503"))],
)
def test_statistics_that_fail_for_now_fail_the_unit(tmp_path, statistics_fail, error):
    """The runner tries it again."""
    statistics_fail(error)
    with pytest.raises(type(error)):
        read(tmp_path, whole())


def test_statistics_nested_too_deep_say_nothing(tmp_path):
    (tmp_path / "shard_stats.json").write_text("[" * 100_000)
    assert len(read(tmp_path, whole())) == 8


def test_name_too_long_for_statistics_is_no_fault(tmp_path):
    assert len(read(tmp_path, whole(), "x" * 250 + ".tar")) == 8


def test_nothing_is_written_by_name(tmp_path):
    read(tmp_path, make_tar(("../../escape.jpg", b"x"), ("../../escape.txt", b"t")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard.tar"]
