"""CSV and TSV as others write them: other delimiters, no quoting, no header; and JSON arrays."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import plan
from pipelines.manifests.text import arrays
from pipelines.manifests.text.delimiters import delimiter
from pipelines.manifests.units import read_chunks, read_unit
from pipelines.records import Reject
from schemas.manifest import Dialect, ManifestError
from schemas.rejects import Reason


def pairs(path, **settings):
    found = [row for unit in plan(path, **settings).units for row in read_unit(unit)]
    return [
        (r.row.source_row, r.reason) if isinstance(r, Reject) else (r.url, r.text) for r in found
    ]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("mark", [";", "\t", "|", " ", "^", "~"])
@pytest.mark.parametrize("rows_per_unit", [1, 10])
def test_fields_stand_between_any_character(tmp_path, mark, rows_per_unit):
    lines = [("url", "caption"), ("a.jpg", '"red, on; |white"'), ("b.jpg", "x")]
    path = write(tmp_path / "m.csv", "".join(f"{a}{mark}{b}\n" for a, b in lines))
    found = pairs(path, csv_delimiter=mark, rows_per_unit=rows_per_unit)
    assert found == [("a.jpg", "red, on; |white"), ("b.jpg", "x")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.csv", "filepath\ttitle\na.jpg\tx\n", "separated by a tab: pass `csv_delimiter` tab"),
        ("m.csv", "url;caption;n\na.jpg;x;1\n", "separated by a semicolon"),
        ("m.tsv", "url,caption\na.jpg,x\n", "separated by a comma"),
        ("m.csv", "url|caption\na.jpg|x\n", "separated by a pipe"),
        ("m.csv", "sep=;\nurl;caption\na.jpg;x\n", "its first line is a note for Excel: remove it"),
        ("m.tsv", "a red circle\ta.jpg\n", "is no header, name the columns with `column_names`"),
    ],
)
def test_header_of_another_form_is_told_as_such(tmp_path, name, text, says):
    with pytest.raises(ManifestError) as error:
        plan(write(tmp_path / name, text))
    assert says in str(error.value)
    if name == "m.csv" and "sep" not in text:
        with pytest.raises(ManifestError, match="separated by"):
            plan(tmp_path / name, image_column="filepath")


def test_other_missing_columns_are_no_matter_of_delimiters(tmp_path):
    with pytest.raises(ManifestError) as error:
        plan(write(tmp_path / "m.csv", "url,label\na.jpg,3\n"))
    assert "no caption column found" in str(error.value)
    assert "csv_delimiter" not in str(error.value) and "column_names" not in str(error.value)


PLAIN = 'url\tcaption\na.jpg\t"Big" red\nb.jpg\t5" pipe\nc.jpg\t"unclosed\nd.jpg\ttail\n'


def test_quotes_are_text_where_nothing_is_quoted(tmp_path):
    path = write(tmp_path / "m.tsv", PLAIN)
    for rows in (1, 10):
        assert pairs(path, csv_quoting="none", rows_per_unit=rows) == [
            ("a.jpg", '"Big" red'), ("b.jpg", '5" pipe'), ("c.jpg", '"unclosed'), ("d.jpg", "tail"),
        ]  # fmt: skip
    rejects = [r for unit in plan(path).units for r in read_unit(unit) if isinstance(r, Reject)]
    assert len(rejects) == 2
    assert all("pass `csv_quoting='none'`" in reject.detail for reject in rejects)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("rows_per_unit", [1, 10])
def test_file_without_a_header_is_read_from_its_first_line(tmp_path, pack, rows_per_unit):
    suffix = {bytes: "", gzip.compress: ".gz", bz2.compress: ".bz2"}[pack]
    path = write(
        tmp_path / f"m.tsv{suffix}", pack("\ufeffa red circle\ta.jpg\nblue\tb.jpg".encode())
    )
    found = pairs(path, column_names=("caption", "url"), rows_per_unit=rows_per_unit)
    assert found == [("a.jpg", "a red circle"), ("b.jpg", "blue")]


def test_names_are_compared_with_the_first_line(tmp_path):
    path = write(tmp_path / "m.csv", "a.jpg,x,1\n")
    with pytest.raises(ManifestError, match="names 2 columns, and the first line of .* has 3"):
        plan(path, column_names=("url", "text"))


@pytest.mark.parametrize(
    ("value", "mark"), [("tab", "\t"), (r"\t", "\t"), ("Pipe", "|"), (";", ";")]
)
def test_delimiter_may_be_named(value, mark):
    assert delimiter(value) == mark


@pytest.mark.parametrize("mark", ["", "::", '"', "\n"])
def test_delimiter_is_one_character_and_no_quote(mark):
    with pytest.raises(ValueError, match="`csv_delimiter` must be one character"):
        Dialect(csv_delimiter=mark)


ROWS = [{"url": f"{n}.jpg", "text": f'cap "]}}, [{n}\\ é', "n": [n, {"m": 1}]} for n in range(9)]


@pytest.mark.parametrize(
    "form", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)
@pytest.mark.parametrize("rows_per_unit", [1, 4, 100])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_array_is_read_element_by_element(tmp_path, monkeypatch, form, rows_per_unit, suffix):
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 7)
    data = ("\ufeff \n" + json.dumps(ROWS, **form) + "\n").encode()
    path = write(tmp_path / f"m.json{suffix}", gzip.compress(data) if suffix else data)
    expected = [(row["url"], row["text"]) for row in ROWS]
    assert pairs(path, rows_per_unit=rows_per_unit) == expected
    assert plan(path, rows_per_unit=rows_per_unit).rows == 9


def test_element_that_is_no_object_costs_its_row(tmp_path):
    good = '{"url": "a.jpg", "text": "x"}'
    path = write(tmp_path / "m.json", f'[{good}, {{"url": oops}}, 5, "a, b]", null, {good}]')
    bad = Reason.MALFORMED_ROW
    expected = [("a.jpg", "x"), (1, bad), (2, bad), (3, bad), (4, bad), ("a.jpg", "x")]
    assert pairs(path, format="json") == expected


@pytest.mark.parametrize(
    "end", ["", ', {"url": "b', ', {"url": "b.jpg", "text": "y"', "] {}", "]]"]
)
def test_array_that_is_cut_or_followed_is_never_taken_for_a_whole_one(tmp_path, end):
    path = write(tmp_path / "m.json", '[{"url": "a.jpg", "text": "x"}' + end)
    assert pairs(path, format="json") == [("a.jpg", "x"), (1, Reason.MANIFEST_TRUNCATED)]


def test_empty_array_and_other_json_are_told(tmp_path):
    assert plan(write(tmp_path / "m.json", " [ ] "), format="json").units == ()
    with pytest.raises(ManifestError, match="expected one JSON array in .*, got {"):
        plan(write(tmp_path / "m.json", '{"data": []}'), format="json")


def test_element_that_is_too_long_costs_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 5)
    long = json.dumps({"url": "b.jpg", "text": "y" * 100})
    path = write(tmp_path / "m.json", f'[{{"url": "a.jpg"}}, {long}, {{"url": "c.jpg"}}]')
    found = arrays.ArrayRecords(path.open("rb"), str(path), 60)
    assert [text[:14] for text in found] == ['{"url": "a.jpg', "\0line too long", '{"url": "c.jpg']


def test_types_of_an_array_are_found_as_those_of_lines(tmp_path):
    rows = [{"url": "a.jpg", "text": "x", "score": 1}, {"url": "b.jpg", "text": "y", "score": 0.5}]
    write(tmp_path / "m.json", json.dumps(rows))
    write(tmp_path / "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    kept = [plan(tmp_path / f"m.{s}", keep_columns=("score",)).kept for s in ("json", "jsonl")]
    assert kept[0] == kept[1]


def test_list_of_one_image_is_that_image(tmp_path):
    rows = [
        {"image": ["a.jpg"], "text": "x"},
        {"image": "b.jpg", "text": "y"},
        {"image": [], "text": "none"},
        {"image": ["c.jpg", "d.jpg"], "text": "two"},
    ]
    expected = [
        ("a.jpg", "x"),
        ("b.jpg", "y"),
        (2, Reason.MISSING_IMAGE),
        (3, Reason.MALFORMED_ROW),
    ]
    path = write(tmp_path / "m.json", json.dumps(rows))
    assert pairs(path) == expected
    assert pairs(path, keep_columns=("image",)) == expected
    found = plan(path, keep_columns=("image",))
    (chunk,) = read_chunks(found.units[0], list(found.kept))
    assert chunk.rows["image"].to_pylist() == ['["a.jpg"]', "b.jpg"]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.list_(pa.string(), 1)])
def test_parquet_may_hold_images_in_lists_of_one(tmp_path, kind):
    table = pa.table({"image": pa.array([["a.jpg"], ["b.jpg"]], kind), "text": ["x", "y"]})
    pq.write_table(table, tmp_path / "m.parquet")
    assert pairs(tmp_path / "m.parquet") == [("a.jpg", "x"), ("b.jpg", "y")]
    struct = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    images = pa.array([[{"bytes": b"1", "path": "a.png"}]], struct)
    pq.write_table(pa.table({"image": images, "text": ["x"]}), tmp_path / "m.parquet")
    (row,) = (row for unit in plan(tmp_path / "m.parquet").units for row in read_unit(unit))
    assert (row.image_bytes, row.url) == (b"1", "a.png")
