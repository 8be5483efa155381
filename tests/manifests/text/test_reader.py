import bz2
import csv
import gzip
import io
import json
import random
from dataclasses import replace

import pyarrow as pa
import pytest
import zstandard

from making import plan
from pipelines.manifests import rows as raw_rows
from pipelines.manifests.text import records as text_records
from pipelines.manifests.units import read_unit
from pipelines.records import Reject, Row
from pipelines.storage import reading
from schemas.manifest import ManifestError
from schemas.rejects import Reason


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def records(path, **settings):
    return [record for unit in plan(path, **settings).units for record in read_unit(unit)]


def texts(found):
    return [record.text if isinstance(record, Row) else record.reason for record in found]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"url": f"{n}.jpg", "text": f"caption {n}"} for n in range(25)]


@pytest.mark.parametrize("rows_per_unit", [1, 7, 25, 100])
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv"])
def test_slices_hold_every_row_once_in_order(tmp_path, suffix, rows_per_unit):
    buffer = io.StringIO()
    if "jsonl" in suffix:
        buffer.write(jsonl(*ROWS))
    else:
        delimiter = "\t" if suffix == "tsv" else ","
        writer = csv.DictWriter(buffer, ["url", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    data = buffer.getvalue().encode()
    path = write(tmp_path / f"m.{suffix}", gzip.compress(data) if "gz" in suffix else data)
    found = records(path, rows_per_unit=rows_per_unit)
    assert [row.source_row for row in found] == list(range(25))
    assert texts(found) == [row["text"] for row in ROWS]
    assert plan(path, rows_per_unit=rows_per_unit).rows == 25


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_file_is_closed_again(tmp_path, monkeypatch, suffix, compress):
    opened, open_input = [], reading.open_input
    monkeypatch.setattr(
        reading, "open_input", lambda uri: opened.append(open_input(uri)) or opened[-1]
    )
    path = write(tmp_path / f"m.jsonl{suffix}", compress(jsonl(*ROWS).encode()))
    assert len(records(path)) == len(ROWS)
    assert len(opened) == 2 and all(file.closed for file in opened)


def test_csv_field_may_hold_line_breaks_quotes_and_delimiters(tmp_path):
    data = 'url,text\na.jpg,"two\nlines, ""quoted"""\nb.jpg,plain\n'
    path = write(tmp_path / "m.csv", data)
    assert texts(records(path, rows_per_unit=1)) == ['two\nlines, "quoted"', "plain"]


def test_ragged_csv_rows_are_rejected_alone(tmp_path):
    path = write(tmp_path / "m.csv", "url,text\na.jpg\nb.jpg,ok\nc.jpg,x,y\n")
    found = records(path)
    assert texts(found) == [Reason.MALFORMED_ROW, "ok", Reason.MALFORMED_ROW]
    assert found[0].detail == "expected 2 fields, got 1"


def test_byte_order_mark_is_not_part_of_a_name(tmp_path):
    path = write(tmp_path / "m.csv", b"\xef\xbb\xbfurl,text\na.jpg,ok\n")
    assert texts(records(path)) == ["ok"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_utf16_is_refused_with_the_remedy(tmp_path, encoding, name):
    text = "url,text\na.jpg,ok\n" if name == "m.csv" else jsonl(ROWS[0])
    path = write(tmp_path / name, text.encode(encoding))
    with pytest.raises(ManifestError, match="got UTF-16 in .*m.(csv|jsonl); convert it.*`iconv"):
        plan(path)


def test_latin1_costs_the_rows_it_makes_a_difference_to_and_names_the_remedy(tmp_path):
    path = write(tmp_path / "m.csv", "url,text\na.jpg,café\nb.jpg,ok\n".encode("latin-1"))
    found = records(path)
    assert texts(found) == [Reason.MALFORMED_ROW, "ok"]
    assert "`iconv -f latin1 -t utf-8`" in found[0].detail
    path = write(tmp_path / "n.csv", "url,text,année\na.jpg,x,y\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="n.csv: .*`iconv -f latin1"):
        plan(path)


@pytest.mark.parametrize(
    "line",
    ["not json", "[1]", "null", '"text"', "3", '{"url": "a.jpg", "text": 3}', '{"url": 3, "text": "x"}',
     "{" * 3000, '{"a":' * 50_000],
)  # fmt: skip
def test_line_that_is_no_row_is_rejected_alone(tmp_path, line):
    path = write(tmp_path / "m.jsonl", jsonl(ROWS[0]) + line + "\n" + jsonl(ROWS[1]))
    assert texts(records(path)) == ["caption 0", Reason.MALFORMED_ROW, "caption 1"]


def test_bytes_that_are_not_utf8_cost_their_row(tmp_path):
    data = jsonl(ROWS[0]).encode() + b'{"url": "a.jpg", "text": "\xff"}\n' + jsonl(ROWS[1]).encode()
    found = records(write(tmp_path / "m.jsonl", data))
    assert texts(found) == ["caption 0", Reason.MALFORMED_ROW, "caption 1"]
    found = records(write(tmp_path / "m.csv", b"url,text\na.jpg,\xff\nb.jpg,ok\n"))
    assert texts(found) == [Reason.MALFORMED_ROW, "ok"]


@pytest.mark.parametrize("name", ["uid", "url", "text", "license"])
def test_half_a_surrogate_pair_costs_its_row(tmp_path, name):
    row = {"uid": "1", "url": "a.jpg", "text": "x", "license": "cc"}
    path = write(tmp_path / "m.jsonl", jsonl(row | {name: "half \ud83d"}, row))
    found = records(path, keep_columns=("license",))
    assert texts(found) == [Reason.MALFORMED_ROW, "x"]
    spelt = found[0].row.kept["license"] if name == "license" else getattr(found[0].row, name)
    assert spelt == "half ?"


def test_pair_of_surrogates_is_a_character(tmp_path):
    path = write(tmp_path / "m.jsonl", jsonl({"url": "a.jpg", "text": "\U0001f600"}))
    assert texts(records(path)) == ["\U0001f600"]


def test_field_that_the_end_of_the_file_cuts_is_no_row(tmp_path):
    path = write(tmp_path / "m.csv", 'url,text\na.jpg,ok\nb.jpg,"no end')
    assert texts(records(path)) == ["ok", Reason.MALFORMED_ROW]


def test_header_that_is_no_text_is_refused(tmp_path):
    for header in (b"url,te\xffxt\n", b'url,"text'):
        with pytest.raises(ManifestError, match="header line"):
            plan(write(tmp_path / "m.csv", header))


def test_kept_integers_beyond_64_bits_keep_their_digits(tmp_path):
    path = write(tmp_path / "m.jsonl", jsonl(ROWS[0] | {"n": 2**70}, ROWS[1] | {"n": 1}))
    found = plan(path, keep_columns=("n",))
    assert found.kept.field("n").type == pa.string()


def test_blank_lines_are_no_rows(tmp_path):
    path = write(tmp_path / "m.jsonl", "\n" + jsonl(ROWS[0]) + "  \n\n" + jsonl(ROWS[1]).strip())
    found = records(path)
    assert [row.source_row for row in found] == [0, 1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, Reason.MISSING_IMAGE),
        ({"url": None, "text": "x"}, Reason.MISSING_IMAGE),
        ({"url": "", "text": "x"}, Reason.MISSING_IMAGE),
        ({"url": "a.jpg"}, Reason.EMPTY_TEXT),
        ({"url": "a.jpg", "text": None}, Reason.EMPTY_TEXT),
        ({"url": "a.jpg", "text": " \n"}, Reason.EMPTY_TEXT),
    ],
)
def test_row_without_image_or_caption_is_rejected(tmp_path, row, reason):
    found = records(write(tmp_path / "m.jsonl", jsonl(ROWS[0], row)))
    assert isinstance(found[1], Reject)
    assert (found[1].stage, found[1].reason) == ("read", reason)
    assert found[1].row.url == (row.get("url") or row.get("url"))


def test_overlong_line_is_rejected_without_its_neighbours(tmp_path, monkeypatch):
    for module in (raw_rows, text_records):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 100)
    long = {"url": "a.jpg", "text": "x" * 1000}
    path = write(tmp_path / "m.jsonl", jsonl(ROWS[0], long, ROWS[1]))
    assert texts(records(path, rows_per_unit=1)) == ["caption 0", Reason.MALFORMED_ROW, "caption 1"]
    path = write(tmp_path / "m.csv", f"url,text\na.jpg,ok\nb.jpg,{'x' * 1000}\nc.jpg,fine\n")
    assert texts(records(path, rows_per_unit=1)) == ["ok", Reason.MALFORMED_ROW, "fine"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_cut_compressed_manifest_is_reported(tmp_path, share):
    rng = random.Random(0)
    rows = [{"url": f"{n}.jpg", "text": f"caption {rng.random()}"} for n in range(2000)]
    whole = gzip.compress(jsonl(*rows).encode())
    path = write(tmp_path / "m.jsonl.gz", whole[: int(len(whole) * share)])
    found = records(path, rows_per_unit=300)
    assert plan(path, rows_per_unit=300).rows == len(found)
    assert found[-1].reason == Reason.MANIFEST_TRUNCATED
    assert all(isinstance(record, Row) for record in found[:-1])
    assert texts(found[:-1]) == [row["text"] for row in rows[: len(found) - 1]]


def test_manifest_that_shrank_since_it_was_planned_loses_no_row_silently(tmp_path):
    path = write(tmp_path / "m.jsonl", jsonl(*ROWS))
    unit = replace(plan(path).units[0], manifest_version="")  # in a store that tells none
    write(path, jsonl(*ROWS[:20]))
    found = list(read_unit(unit))
    assert len(found) == 25
    assert texts(found)[20:] == [Reason.MANIFEST_TRUNCATED] * 5


def test_empty_files_have_no_rows(tmp_path):
    assert plan(write(tmp_path / "m.jsonl", "")).rows == 0
    assert plan(write(tmp_path / "m.csv", "url,text\n")).rows == 0
    with pytest.raises(ManifestError, match="expected a header line"):
        plan(write(tmp_path / "n.csv", ""))


def test_kept_json_columns_get_the_type_all_rows_share(tmp_path):
    extra = [{"a": 1, "b": 1, "c": True, "d": [1], "e": 1}, {"a": 2, "b": 1.5, "c": None, "e": "x"}]
    rows = [row | more for row, more in zip(ROWS, extra, strict=False)]
    found = plan(write(tmp_path / "m.jsonl", jsonl(*rows)), keep_columns=("a", "b", "c", "d", "e"))
    types = [pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.string()]
    assert [field.type for field in found.kept] == types
    kept = [dict(row.kept) for row in read_unit(found.units[0])]
    assert kept[0] == {"a": 1, "b": 1, "c": True, "d": "[1]", "e": 1}


def test_random_bytes_never_raise_and_never_lose_a_record(tmp_path):
    rng = random.Random(1)
    alphabet = [b'"', b",", b"\n", b"\r", b"{", b"}", b"url", b"\xff", b"\0", b" ", b"text", b":"]
    for round_number in range(150):
        body = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(200)))
        path = write(tmp_path / f"{round_number}.csv", b"url,text\nx.jpg,ok\n" + body)
        found = plan(path, rows_per_unit=3)
        assert sum(1 for unit in found.units for _ in read_unit(unit)) == found.rows
        path = write(tmp_path / f"{round_number}.jsonl", jsonl(ROWS[0]).encode() + body)
        found = plan(path, rows_per_unit=3)
        assert sum(1 for unit in found.units for _ in read_unit(unit)) == found.rows


@pytest.mark.parametrize("rows_per_unit", [1, 7, 1000])
@pytest.mark.parametrize("name", ["m.tsv", "m.tsv.gz"])
@pytest.mark.parametrize(
    ("broken", "lost"),
    [
        ({5: '5.jpg\t"quote'}, [5]),
        ({5: '5.jpg\t"quote', 190: '190.jpg\tquote"'}, [5]),
        ({5: '5.jpg\t"quote', 6: '6.jpg\t"quote', 199: '199.jpg\t"'}, [5, 6, 199]),
        ({5: '5.jpg\t"quote" and more'}, [5]),
        ({0: '0.jpg\t"'}, [0]),
    ],
    ids=["never closed", "closed far away", "several", "closed too early", "first"],
)
def test_stray_quote_costs_its_row_alone(tmp_path, name, rows_per_unit, broken, lost):
    lines = ["url\ttext", *(broken.get(n, f"{n}.jpg\tcaption {n}") for n in range(200))]
    data = ("\n".join(lines) + "\n").encode()
    path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    found = records(path, rows_per_unit=rows_per_unit)
    assert [n for n, record in enumerate(found) if isinstance(record, Reject)] == lost
    assert [record.text for record in found if isinstance(record, Row)] == [
        lines[n + 1].partition("\t")[2] for n in range(200) if n not in lost
    ]
    assert {found[n].reason for n in lost} == {Reason.MALFORMED_ROW}


def test_quoted_field_may_have_as_many_lines_as_allowed(tmp_path):
    caption = "\n".join(["line"] * text_records.MAX_RECORD_LINES)
    path = write(tmp_path / "m.csv", f'url,text\na.jpg,"{caption}"\nb.jpg,ok\n')
    assert texts(records(path)) == [caption, "ok"]
    path = write(tmp_path / "n.csv", f'url,text\na.jpg,"{caption}\n"\nb.jpg,ok\n')
    found = records(path)
    assert found[0].detail.startswith("a quote that opens here is not closed within 64 lines")
    assert texts(found)[-1] == "ok"


def test_empty_csv_among_others_is_one_reject_and_alone_is_refused(tmp_path):
    write(tmp_path / "a.csv", "url,text\na.jpg,ok\n")
    write(tmp_path / "b.csv", "")
    good, bad = records(tmp_path)
    assert (good.text, bad.reason) == ("ok", Reason.MANIFEST_TRUNCATED)
    assert bad.detail == "expected a header line, got an empty file"
    with pytest.raises(ManifestError, match="b.csv: expected a header line, got an empty file"):
        plan(tmp_path / "b.csv")


def test_compressed_file_that_was_cut_since_it_was_planned_gives_rejects(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    lines = [json.dumps({"url": f"{n}.jpg", "text": str(hash(n * 7919))}) for n in range(9000)]
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole)
    unit = replace(plan(path).units[0], manifest_version="")  # in a store that tells none
    path.write_bytes(whole[: len(whole) // 2])
    found = list(read_unit(unit))
    rejects = [record for record in found if isinstance(record, Reject)]
    assert len(found) == 9000 and 0 < len(rejects) < 9000
    assert {record.reason for record in rejects} == {Reason.MANIFEST_TRUNCATED}
