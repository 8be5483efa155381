"""The output of img2dataset: tars, with a Parquet file and statistics beside each."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image, plan
from pipelines.manifests.units import read_unit
from pipelines.records import Reject
from schemas.rejects import Reason
from tars import make_tar

PICTURE = encode_image(make_image(), "JPEG")


def shard(folder, statuses, name="00000", *, successes=None, **more):
    """Writes a shard as img2dataset does: rows that failed are in the Parquet file alone."""
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "url": f"https://example.com/{n}.jpg?sig=secret",
            "caption": f"caption {n}",
            "key": f"{name}{n:04d}",
            "status": status,
            "error_message": None if status == "success" else "HTTP Error 404 at /x?sig=secret",
            "width": 256,
            "height": 256,
            "original_width": 640,
            "original_height": 480,
            "sha256": hashlib.sha256(b"before resizing").hexdigest(),
            **{column: values[n] for column, values in more.items()},
        }
        for n, status in enumerate(statuses)
    ]
    members = []
    for row in rows:
        if row["status"] == "success":
            members += [
                (f"{row['key']}.jpg", PICTURE),
                (f"{row['key']}.txt", row["caption"].encode()),
            ]
            members.append((f"{row['key']}.json", json.dumps(row).encode()))
    (folder / f"{name}.tar").write_bytes(make_tar(*members))
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    count = statuses.count("success") if successes is None else successes
    stats = {"count": len(rows), "successes": count}
    (folder / f"{name}_stats.json").write_text(json.dumps(stats))
    return folder


def read(path, **settings):
    return [record for unit in plan(path, **settings).units for record in read_unit(unit)]


STATUSES = ["success", "failed_to_download", "success", "failed_to_resize"]


def test_every_row_comes_once_from_the_tar_or_as_a_reject_with_its_status(tmp_path):
    records = read(shard(tmp_path / "out", STATUSES))
    rows = [record for record in records if not isinstance(record, Reject)]
    rejects = [record for record in records if isinstance(record, Reject)]
    assert [row.uid for row in rows] == ["000000000", "000000002"]
    assert [reject.row.uid for reject in rejects] == ["000000001", "000000003"]
    assert [reject.row.source_row for reject in rejects] == [1, 3]
    assert {reject.reason for reject in rejects} == {Reason.NOT_DOWNLOADED}
    assert rejects[0].detail.startswith("img2dataset: failed_to_download: HTTP Error 404")
    assert rejects[0].row.text == "caption 1"
    assert "secret" not in rejects[0].detail


def test_hash_of_the_picture_before_it_was_resized_is_not_compared(tmp_path):
    rows = read(shard(tmp_path / "out", ["success"]))
    assert [row.expected_sha256 for row in rows] == [None]


@pytest.mark.parametrize(("successes", "found"), [(3, 2), (1, 2)])
def test_tar_with_another_count_than_its_statistics_is_reported(tmp_path, successes, found):
    folder = shard(tmp_path / "out", STATUSES, successes=successes)
    records = read(folder / "00000.tar")
    assert len(records) == found + 1
    assert records[-1].reason is Reason.MANIFEST_TRUNCATED
    assert f"holds 2 samples, 00000_stats.json counts {successes}" in records[-1].detail


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"successes": "many"}', "null", "\xff"])
def test_other_file_of_that_name_says_nothing(tmp_path, text):
    folder = shard(tmp_path / "out", STATUSES)
    (folder / "00000_stats.json").write_text(text, encoding="latin-1")
    assert len(read(folder / "00000.tar")) == 2


def test_tars_named_alone_are_read_alone(tmp_path):
    folder = shard(tmp_path / "out", STATUSES)
    assert len(read(folder / "*.tar")) == 2


def test_shard_without_failures_and_shard_of_failures_only(tmp_path):
    folder = shard(tmp_path / "out", ["success"] * 3)
    shard(folder, ["failed_to_download"] * 3, "00001")
    assert len(read(folder)) == 6


def test_kept_columns_are_text_in_both(tmp_path):
    folder = shard(tmp_path / "out", STATUSES, license=[1, 2, 3, 4])
    found = plan(folder, keep_columns=("license",))
    assert found.kept.field("license").type == pa.string()


def test_parquet_output_with_inline_pictures(tmp_path):
    """The other output format: one Parquet file, the bytes in a column named after the format."""
    columns = {
        "jpg": [PICTURE, None],
        "url": ["https://a/1", "https://a/2"],
        "caption": ["x", "y"],
        "status": ["success", "failed_to_download"],
        "error_message": [None, "timed out"],
        "sha256": ["00", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    row, reject = read(tmp_path / "00000.parquet")
    assert (row.image_bytes, row.expected_sha256) == (PICTURE, None)
    assert reject.detail == "img2dataset: failed_to_download: timed out"


def test_status_of_something_else_means_nothing(tmp_path):
    columns = {"url": ["a.jpg"], "text": ["x"], "status": ["published"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert not isinstance(read(tmp_path / "m.parquet")[0], Reject)


def test_laion_and_datacomp_column_names(tmp_path):
    laion = {"SAMPLE_ID": [7], "URL": ["a.jpg"], "TEXT": ["x"], "HEIGHT": [1], "similarity": [0.3]}
    datacomp = {
        "uid": ["0" * 32],
        "url": ["b.jpg"],
        "text": ["y"],
        "original_width": [9],
        "clip_b32_similarity_score": pa.array([0.25], pa.float32()),
        "face_bboxes": [[[0.0, 0.1]]],
        "sha256": ["ab"],
    }
    for name, columns in (("laion", laion), ("datacomp", datacomp)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    row = read(tmp_path / "laion.parquet", keep_columns=("HEIGHT",))[0]
    assert (row.uid, row.url, row.text, row.kept) == ("7", "a.jpg", "x", {"HEIGHT": 1})
    row = read(tmp_path / "datacomp.parquet", keep_columns=("face_bboxes",))[0]
    assert (row.uid, row.url, row.text, row.expected_sha256) == ("0" * 32, "b.jpg", "y", "ab")


def test_hugging_face_image_folder(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/a.jpg,x\n")
    assert read(tmp_path / "metadata.csv")[0].url == "train/a.jpg"
