import base64
import csv
import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image, plan
from pipelines.images import base64_text
from pipelines.images.fetch import MAX_IMAGE_BYTES
from pipelines.manifests.parquet import batches
from pipelines.manifests.text import records
from pipelines.manifests.units import read_unit
from pipelines.records import Reject, Row
from schemas.manifest import ManifestError
from schemas.rejects import Reason
from small_runs import run

IMAGES = [encode_image(make_image(60 + n, 60, seed=n), "JPEG", quality=95) for n in range(4)]
TEXTS = [
    base64.b64encode(IMAGES[0]).decode(),
    base64.urlsafe_b64encode(IMAGES[1]).decode().rstrip("="),
    base64.encodebytes(IMAGES[2]).decode(),
    f"data:image/jpeg;base64,{base64.b64encode(IMAGES[3]).decode()}",
]


def rows_of(path, **settings):
    return [record for unit in plan(path, **settings).units for record in read_unit(unit)]


def write(folder, kind, texts, column="image"):
    path = folder / f"m.{kind}"
    rows = [{column: text, "text": f"caption {n}"} for n, text in enumerate(texts)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    buffer = io.StringIO()
    if "jsonl" in kind:
        buffer.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(buffer, rows[0], delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    data = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    return path


@pytest.mark.parametrize("flags", [{}, {"image_encoding": "base64"}], ids=["told", "flag"])
@pytest.mark.parametrize("rows_per_unit", [1, 100])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "parquet"])
def test_images_of_every_form_are_read(tmp_path, kind, rows_per_unit, flags):
    found = rows_of(write(tmp_path, kind, TEXTS), rows_per_unit=rows_per_unit, **flags)
    assert [row.image_bytes for row in found] == IMAGES
    assert [row.text for row in found] == [f"caption {n}" for n in range(4)]
    assert [row.url for row in found] == [text[:100] for text in TEXTS]


def test_rows_whose_texts_begin_alike_have_ids_of_their_own(tmp_path):
    alike = [base64.b64encode(IMAGES[0] + bytes([n])).decode() for n in range(3)]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"url": t, "text": "same"}) + "\n" for t in alike))
    found = rows_of(path)
    assert len({row.url for row in found}) == 1
    assert len({row.uid for row in found}) == 3


def test_paths_beside_images_stay_paths(tmp_path):
    others = ["images/0001", "abcd", "https://host/a.jpg", "/9j/4AAQSkZJRg", TEXTS[0]]
    found = rows_of(write(tmp_path, "jsonl", others))
    assert [row.url for row in found[:4]] == others[:4]
    assert [row.image_bytes is None for row in found] == [True] * 4 + [False]


SMALL = encode_image(make_image(4, 4), "PNG")


def test_a_short_text_needs_the_flag(tmp_path):
    text = base64.b64encode(SMALL).decode()
    path = write(tmp_path, "jsonl", [text])
    assert rows_of(path)[0].image_bytes is None
    assert rows_of(path, image_encoding="base64")[0].image_bytes == SMALL


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXTS[0][:600] + "!" + TEXTS[0][600:], Reason.MALFORMED_ROW),
        (TEXTS[0][:1401], Reason.MALFORMED_ROW),
        ("data:image/png,%89PNG", Reason.MALFORMED_ROW),
        (TEXTS[0][:600] + "\ud800" + TEXTS[0][600:], Reason.MALFORMED_ROW),
        ("", Reason.MISSING_IMAGE),
    ],
    ids=["character", "cut", "not base64", "surrogate", "empty"],
)
@pytest.mark.parametrize("flags", [{}, {"image_encoding": "base64"}], ids=["told", "flag"])
def test_a_damaged_text_is_a_reject_that_shows_its_beginning(tmp_path, text, reason, flags):
    path = write(tmp_path, "jsonl", [TEXTS[1], text, TEXTS[2]])
    before, bad, after = rows_of(path, **flags)
    assert isinstance(before, Row) and isinstance(after, Row)
    assert isinstance(bad, Reject)
    assert (bad.stage, bad.reason) == ("read", reason)
    assert (bad.row.url or "") == text[:100]
    assert bad.row.image_bytes is None
    assert len(bad.detail) < 200


def test_with_the_flag_a_path_is_a_reject(tmp_path):
    found = rows_of(write(tmp_path, "jsonl", ["a.jpg", TEXTS[0]]), image_encoding="base64")
    assert found[0].reason == Reason.MALFORMED_ROW
    assert "expected an image as base64 text" in found[0].detail


def test_a_kept_column_has_the_beginning_too(tmp_path):
    found = rows_of(write(tmp_path, "jsonl", TEXTS), keep_columns=("image",))
    assert [row.kept["image"] for row in found] == [text[:100] for text in TEXTS]


def test_bytes_that_hold_base64_need_the_flag(tmp_path):
    texts = [text.encode() for text in TEXTS]
    path = write(tmp_path, "parquet", texts)
    assert [row.image_bytes for row in rows_of(path)] == texts
    found = rows_of(path, image_encoding="base64")
    assert [row.image_bytes for row in found] == IMAGES
    assert [row.url for row in found] == [None] * 4


def test_with_the_flag_text_in_a_column_of_bytes_comes_before_a_url(tmp_path):
    rows = [{"url": "https://host/a.jpg", "jpg": TEXTS[0], "text": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    assert rows_of(tmp_path / "m.parquet")[0].image_bytes is None
    found = rows_of(tmp_path / "m.parquet", image_encoding="base64")
    assert found[0].image_bytes == IMAGES[0]


def large(size):
    """A JPEG, and bytes behind it."""
    return IMAGES[0] + bytes(size - len(IMAGES[0]))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_large_images_pass_and_larger_ones_do_not(tmp_path, kind, monkeypatch):
    """The texts are longer than a line or a text may be otherwise."""
    for module in (base64_text, records, batches):
        monkeypatch.setattr(module, "MAX_BASE64_CHARS", 20 << 20)
    data = [large(13 << 20), IMAGES[1]]
    larger = [large(size << 20) for size in (17, 30)]
    texts = [base64.b64encode(image).decode() for image in (*data, *larger)]
    path = tmp_path / f"m.{kind}"
    if kind == "csv":  # the csv module takes seconds over so much
        path.write_text("image,text\n" + "".join(f"{text},a caption\n" for text in texts))
    else:
        table = pa.table({"image": texts, "text": ["a caption"] * len(texts)})
        pq.write_table(table, path, use_dictionary=False, compression="none")
    found = rows_of(path, image_encoding="base64")
    assert [row.image_bytes == image for row, image in zip(found, data, strict=False)] == [True] * 2
    assert {row.reason for row in found[2:]} <= {Reason.TOO_LARGE, Reason.MALFORMED_ROW}
    assert len(found) == 4 and all(len(row.row.url or "") <= 100 for row in found[2:])


def test_image_as_large_as_may_be_passes(tmp_path):
    table = pa.table({"image": [base64.b64encode(large(MAX_IMAGE_BYTES)).decode()], "text": ["a"]})
    pq.write_table(table, tmp_path / "m.parquet", use_dictionary=False, compression="none")
    (row,) = rows_of(tmp_path / "m.parquet", image_encoding="base64")
    assert row.image_bytes == large(MAX_IMAGE_BYTES)


def test_text_may_be_as_long_as_the_largest_image_makes_it():
    lines = -(-MAX_IMAGE_BYTES // 57)  # of 76 characters and a break, as MIME has them
    assert 78 * lines <= base64_text.MAX_BASE64_CHARS


def test_without_the_flag_a_long_line_is_a_reject(tmp_path):
    texts = [base64.b64encode(large(13 << 20)).decode(), TEXTS[0]]
    long, whole = rows_of(write(tmp_path, "jsonl", texts))
    assert long.reason == Reason.MALFORMED_ROW
    assert whole.image_bytes == IMAGES[0]


def test_a_quoted_field_of_many_lines_is_read_and_a_stray_quote_costs_its_row(tmp_path):
    lines = base64.encodebytes(large(20_000)).decode()
    assert lines.count("\n") > 100
    path = tmp_path / "m.csv"
    body = f'"{lines}",a circle\n"stray,{TEXTS[0]}\n{lines}"{lines}",a star\n'
    path.write_text(f"image,text\n{body}")
    found = rows_of(path)
    assert (found[0].image_bytes, found[0].text) == (large(20_000), "a circle")
    assert all(isinstance(record, Reject) for record in found[1:-1])


def test_a_field_of_a_tars_json_may_hold_an_image(tmp_path):
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for number, text in enumerate(TEXTS):
            data = json.dumps({"picture": text, "caption": "a"}).encode()
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = rows_of(tmp_path / "m.tar", image_column="picture")
    assert [row.image_bytes for row in found] == IMAGES
    assert [row.url for row in found] == [text[:100] for text in TEXTS]


def test_a_member_of_a_tar_may_be_base64(tmp_path):
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for name, data in (("0.b64", TEXTS[2].encode()), ("0.txt", b"a circle")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (row,) = rows_of(tmp_path / "m.tar", image_column="b64", image_encoding="base64")
    assert row.image_bytes == IMAGES[2]
    assert row.url.endswith("m.tar#0.b64")


def test_a_table_of_a_run_knows_the_encoding_itself(tmp_path):
    manifest = write(tmp_path / "", "jsonl", [base64.b64encode(SMALL).decode()] * 2)
    assert run(manifest, tmp_path / "out", "tiny", "--image_encoding", "base64") == 0
    table = str(tmp_path / "out/embeddings")
    found = rows_of(table, trust_run=True)
    assert [row.image_bytes for row in found] == [SMALL] * 2
    with pytest.raises(ManifestError, match="leave out.*`image_encoding`"):
        plan(table, trust_run=True, image_encoding="base64")


def test_a_run_goes_on_with_the_same_encoding_only(tmp_path, capsys):
    manifest = write(tmp_path, "jsonl", TEXTS)
    assert run(manifest, tmp_path / "out", "tiny") == 0
    assert run(manifest, tmp_path / "out", "tiny") == 0
    assert run(manifest, tmp_path / "out", "tiny", "--image_encoding", "base64") == 2
    assert "begun with image_encoding 'auto'" in capsys.readouterr().err
