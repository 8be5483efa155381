import base64
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from making import encode_image, make_image, plan
from pipelines.images.trust import Trust
from pipelines.output.unit_record import UNIT_KEY, unit_to_json
from pipelines.pages.thumbnails import SIDE, thumbnails
from pipelines.shards.originals import source_units

MINE = Trust(run=True)


@dataclass(frozen=True)
class Scored:
    source: str
    source_row: int
    url: str | None = None
    sha256: str | None = None


@pytest.fixture
def pictures():
    return [encode_image(make_image(90 + n, 60, seed=n), "PNG") for n in range(4)]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def opened(thumbnail):
    head, _, data = thumbnail.data_uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def mean_colour(image):
    return image.convert("RGB").resize((1, 1)).getpixel((0, 0))


def test_named_pictures_become_square_jpegs_in_order(tmp_path, pictures):
    for number, data in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(data)
    source = str(tmp_path / "manifest.jsonl")
    rows = [Scored(source, n, f"{n}.png", digest(pictures[n])) for n in (2, 0)]
    found = thumbnails(rows, {}, {}, MINE)
    assert [opened(t).size for t in found] == [(SIDE, SIDE)] * 2


def test_inline_pictures_are_read_again_from_parquet(tmp_path, pictures):
    source = str(tmp_path / "manifest.parquet")
    columns = {"image_bytes": pictures, "text": ["a"] * 4}
    pq.write_table(pa.table(columns), source, row_group_size=2)
    rows = [Scored(source, n, None, digest(pictures[n])) for n in (3, 0, 3)]
    found = thumbnails(rows, {}, {}, MINE)
    assert all(opened(thumbnail) for thumbnail in found)
    assert found[0] == found[2] != found[1]


def write_base64(folder, images):
    """A manifest of base64 text and paths; returns its URI and the scored rows."""
    texts = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in images]
    (folder / "2.png").write_bytes(images[2])
    texts[2] = "2.png"
    lines = [json.dumps({"image": text, "text": "a"}) + "\n" for text in texts]
    (folder / "m.jsonl").write_text("".join(lines))
    source = str(folder / "m.jsonl")
    return source, [
        Scored(source, n, texts[n][:100], digest(data)) for n, data in enumerate(images)
    ]


@pytest.mark.parametrize("rows_per_unit", [1, 3, 100])
def test_base64_text_is_read_again_from_a_text_manifest(tmp_path, pictures, rows_per_unit):
    source, rows = write_base64(tmp_path, pictures)
    for unit in plan(source, rows_per_unit=rows_per_unit).units:
        wanted = [rows[3], rows[1], rows[2], rows[1]]
        found = thumbnails(wanted, {}, {source: unit}, MINE)
        assert [opened(thumbnail).size for thumbnail in found] == [(SIDE, SIDE)] * 4
        assert found[1] == found[3] != found[0]
    assert all(thumbnail.data_uri for thumbnail in thumbnails(rows, {}, {}, MINE))


def test_base64_text_needs_the_manifest_and_paths_do_not(tmp_path, pictures):
    source, rows = write_base64(tmp_path, pictures)
    (unit,) = plan(source).units
    images_only = Trust(images=(str(tmp_path),))
    found = thumbnails(rows, {}, {source: unit}, images_only)
    assert [thumbnail.data_uri is not None for thumbnail in found] == [False, False, True, False]
    assert "`allow_manifests_from=" in found[0].reason
    (tmp_path / "m.jsonl").write_text("")
    assert thumbnails(rows, {}, {source: unit}, MINE)[0].reason == "manifest truncated"


def test_short_base64_text_is_read_again_where_the_run_says_base64(tmp_path):
    data = encode_image(make_image(4, 4), "PNG")
    text = base64.b64encode(data).decode()
    (tmp_path / "m.csv").write_text(f"image,text\n{text},a\n")
    row = Scored(str(tmp_path / "m.csv"), 0, text[:100], digest(data))
    assert opened(thumbnails([row], {"image_encoding": "base64"}, {}, MINE)[0])


def test_tar_members_are_found_in_one_pass(tmp_path, pictures):
    source = str(tmp_path / "shard.tar")
    with tarfile.open(source, "w") as tar:
        for number, data in enumerate(pictures):
            for name, content in ((f"{number}.png", data), (f"{number}.txt", b"a")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    rows = [Scored(source, n, f"{source}#{n}.png", digest(pictures[n])) for n in (3, 1)]
    done = []
    assert all(opened(thumbnail) for thumbnail in thumbnails(rows, {}, {}, MINE, done.append))
    assert sum(done) == 2
    assert thumbnails([Scored(source, 9)], {}, {}, MINE)[0].reason == "not found"


def test_picture_that_changed_since_is_not_shown(tmp_path, pictures):
    (tmp_path / "0.png").write_bytes(pictures[1])
    row = Scored(str(tmp_path / "m.jsonl"), 0, "0.png", digest(pictures[0]))
    (found,) = thumbnails([row], {}, {}, MINE)
    assert found.data_uri is None and found.reason == "hash mismatch"


def test_pictures_outside_the_allowed_prefixes_are_refused_unless_the_run_allowed_them(
    tmp_path, pictures
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.png").write_bytes(pictures[0])
    row = Scored(str(tmp_path / "in" / "m.csv"), 0, str(elsewhere / "0.png"))
    (refused,) = thumbnails([row], {}, {}, MINE)
    assert refused.reason == f"not allowed; pass `allow_images_from='{elsewhere}'`"
    assert opened(thumbnails([row], {"allow_images_from": [str(elsewhere)]}, {}, MINE)[0])
    relative = Scored(row.source, 0, "0.png")
    assert opened(thumbnails([relative], {"image_root": str(elsewhere)}, {}, MINE)[0])


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("m.jsonl", None, "not found"),
        ("m.parquet", None, "not found"),
        ("m.parquet", b"PAR1 cut", "manifest unreadable"),
        ("m.tar", None, "not found"),
    ],
)
def test_manifest_that_is_gone_or_damaged_costs_only_its_pictures(
    tmp_path, pictures, name, content, reason
):
    if content:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(pictures[0])
    rows = [
        Scored(str(tmp_path / name), 0, "x.png"),
        Scored(str(tmp_path / "b.csv"), 0, "good.png"),
    ]
    bad, good = thumbnails(rows, {}, {}, MINE)
    assert bad.reason == reason and bad.data_uri is None
    assert opened(good)


def test_store_with_errors_of_its_own_costs_only_its_pictures(tmp_path, monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def refuse(uri):
        raise NoCredentialsError("unable to locate credentials")

    monkeypatch.setattr("pipelines.manifests.parquet.reader.read_footer", refuse)
    (found,) = thumbnails([Scored(str(tmp_path / "m.parquet"), 0)], {}, {}, MINE)
    assert found.reason == "manifest unreadable"


def test_what_is_no_picture_says_so(tmp_path):
    (tmp_path / "0.png").write_text(json.dumps({"not": "an image"}))
    (found,) = thumbnails([Scored(str(tmp_path / "m.jsonl"), 0, "0.png")], {}, {}, MINE)
    assert found.reason == "not an image"


def test_no_rows_give_no_thumbnails():
    assert thumbnails([], {}, {}, MINE) == []


def test_manifest_is_read_as_the_tables_say_it_was(tmp_path, pictures):
    """Whatever run.json says: it may be of a later run, begun elsewhere."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(pictures[0])
    columns = {"shot": pictures, "words": ["a"] * 4}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in (("k.seg.png", pictures[1]), ("k.txt", b"a")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "m.tar").write_bytes(data.getvalue())
    (tmp_path / "m.jsonl").write_text('{"at": "0.png", "words": "a"}\n')
    requests = {
        "m.jsonl": {"image_column": "at", "image_root": str(tmp_path / "images")},
        "m.parquet": {"image_column": "shot"},
        "m.tar": {"image_column": "seg.png"},
    }
    files, rows = [], []
    for name, settings in requests.items():
        text = {} if name == "m.tar" else {"text_column": "words"}
        (unit,) = plan(tmp_path / name, **settings, **text).units
        table = pa.table({"uid": ["u"]}).replace_schema_metadata({UNIT_KEY: unit_to_json(unit)})
        files.append(str(tmp_path / f"{unit.unit_id}.parquet"))
        pq.write_table(table, files[-1])
        rows.append(Scored(unit.uri, 0, "0.png" if name == "m.jsonl" else None))
    units = source_units(files, rows)
    assert {unit.uri for unit in units.values()} == {row.source for row in rows}
    assert all(opened(thumbnail) for thumbnail in thumbnails(rows, {}, units, MINE))
    assert not any(thumbnail.data_uri for thumbnail in thumbnails(rows, {}, {}, MINE))
