"""Folders of images with captions beside them."""

import json
import os

import pytest

from making import encode_image, make_image, plan
from pipelines.manifests.run_tables import allowed_unit
from pipelines.manifests.units import ManifestChangedError, read_unit
from pipelines.output.unit_record import unit_from_json, unit_to_json
from pipelines.records import Reject
from pipelines.storage import writing
from schemas.manifest import ManifestError
from schemas.rejects import Reason

IMAGE = encode_image(make_image(40, 40))


def fill(folder, names, caption="a star {}"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(IMAGE)
        (folder / f"{name}.txt").write_text(caption.format(name))
    return folder


def rows(found):
    return [record for unit in found.units for record in read_unit(unit)]


def test_each_image_is_a_row_with_the_caption_beside_it(tmp_path):
    folder = fill(tmp_path / "img", ["0", "1"])
    fill(folder / "sub", ["v1.5"])
    (folder / "2.JPG").write_bytes(b"x")
    (folder / "2.json").write_text(json.dumps({"caption": "from json", "id": 7, "license": "cc"}))
    (folder / "3.webp").write_bytes(b"x")
    (folder / "notes.txt").write_text("not a caption")
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "._0.png").write_bytes(b"x")
    found = plan(folder, keep_columns=("license",))
    assert found.left_out == (f"{folder}/notes.txt",)
    records = rows(found)
    told = [(r.row if isinstance(r, Reject) else r) for r in records]
    assert [(r.url, r.uid, r.text) for r in told if r.text] == [
        ("0.png", "0", "a star 0"),
        ("1.png", "1", "a star 1"),
        ("2.JPG", "7", "from json"),
        ("sub/v1.5.png", "sub/v1.5", "a star v1.5"),
    ]
    assert told[2].kept == {"license": "cc"}
    assert [(r.reason, r.row.url) for r in records if isinstance(r, Reject)] == [
        (Reason.EMPTY_TEXT, "3.webp")
    ]
    assert "expected a .json or .txt beside the image" in records[3].detail
    assert all(r.image_root == str(folder) for r in told)
    keys = {(r.source, r.source_row) for r in told}
    assert len(keys) == len(told)


def test_stores_are_read_as_folders_are(tmp_path):
    names = [f"{n:03}" for n in range(300)]
    for name in names:
        writing.write_atomically(f"memory://folder/{name}.png", IMAGE)
        writing.write_atomically(f"memory://folder/{name}.txt", name.encode())
    found = plan("memory://folder", rows_per_unit=64)
    assert [row.text for row in rows(found)] == names
    assert found.units[0].uri == "memory://folder"


def test_a_file_that_is_added_changes_its_unit_alone(tmp_path):
    names = [f"img_{n:04}" for n in range(0, 2000, 10)]
    folder = fill(tmp_path / "img", names)
    before = {unit.unit_id: unit for unit in plan(folder, rows_per_unit=50).units}
    assert len(before) > 10
    units = [list(read_unit(unit)) for unit in before.values()]
    assert max(map(len, units)) <= 50
    assert [row.text for unit in units for row in unit] == [f"a star {n}" for n in names]
    fill(folder, ["img_1005"])
    after = {unit.unit_id: unit for unit in plan(folder, rows_per_unit=50).units}
    changed = [key for key in after if after[key] != before.get(key)]
    assert len(changed) <= 2 and set(before) <= set(after)
    # A caption that is edited is a change, too.
    os.utime(folder / "img_0000.txt", ns=(1, 1))
    third = {unit.unit_id: unit for unit in plan(folder, rows_per_unit=50).units}
    assert [key for key in third if third[key] != after[key]] == [next(iter(after))]
    with pytest.raises(ManifestChangedError):
        list(read_unit(next(iter(after.values()))))


def test_no_unit_has_more_rows_than_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.manifests.image_folder._begins_range", lambda name, rows: False)
    folder = fill(tmp_path / "img", [f"{n:02}" for n in range(25)])
    sizes = [len(list(read_unit(unit))) for unit in plan(folder, rows_per_unit=10).units]
    assert sizes == [10, 10, 5]


def test_folder_with_any_manifest_in_it_is_a_manifest_unless_it_is_forced(tmp_path):
    folder = fill(tmp_path / "img", ["0", "1"])
    (folder / "m.jsonl").write_text('{"url": "0.png", "text": "of the manifest"}\n')
    assert [row.text for row in rows(plan(folder))] == ["of the manifest"]
    assert [row.text for row in rows(plan(folder, format="images"))] == ["a star 0", "a star 1"]


def test_several_folders_may_be_named(tmp_path):
    fill(tmp_path / "train", ["0"])
    fill(tmp_path / "val", ["0"])
    found = rows(plan(f"{tmp_path}/{{train,val}}"))
    assert [(row.source, row.uid) for row in found] == [
        (f"{tmp_path}/train", "0"), (f"{tmp_path}/val", "0")
    ]  # fmt: skip


def test_what_names_no_folder_is_refused_with_the_remedy(tmp_path):
    folder = fill(tmp_path / "img", ["0", "1"])
    for pattern in (f"{folder}/*.png", f"{folder}/0.png", f"{folder}/*"):
        with pytest.raises(
            ManifestError, match=f"matches images and no manifest.*name it: {folder}"
        ):
            plan(pattern)
    with pytest.raises(ManifestError, match="leave out `image_column` and `image_root`"):
        plan(folder, image_root=str(tmp_path))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.bin").write_bytes(b"x")
    with pytest.raises(ManifestError, match="expected a folder with images in it"):
        plan(tmp_path / "none", format="images")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("0.txt", b"\xff\xfe", Reason.MALFORMED_ROW),
        ("0.json", b"[1", Reason.MALFORMED_ROW),
        ("0.json", b"[]", Reason.MALFORMED_ROW),
        ("0.txt", b"x" * (5 << 20), Reason.TOO_LARGE),
        ("0.txt", b" ", Reason.EMPTY_TEXT),
    ],
)
def test_damaged_text_costs_its_row(tmp_path, name, data, reason):
    folder = fill(tmp_path / "img", ["1"])
    (folder / "0.png").write_bytes(IMAGE)
    (folder / name).write_bytes(data)
    first, second = rows(plan(folder))
    assert (first.reason, second.text) == (reason, "a star 1")


def test_unit_survives_its_record_and_a_stranger_opens_nothing(tmp_path):
    folder = fill(tmp_path / "data" / "img" / "deep", ["0"])
    (unit,) = plan(folder.parent).units
    assert unit_from_json(unit_to_json(unit)) == unit
    table = str(tmp_path / "out" / "rejects" / "t.parquet")
    with pytest.raises(ManifestError, match=f"`allow_manifests_from=.'{folder}',.`"):
        allowed_unit(table, unit, (), False)
    assert allowed_unit(table, unit, (str(folder.parent),), False) == unit
