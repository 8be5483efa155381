import gzip
import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.curation import row_lists
from pipelines.curation.list_lines import BadLineError, keys_of_line
from pipelines.curation.row_lists import (
    DROP,
    KEEP,
    RowListError,
    list_rule,
    load_list,
    useless_lists,
)

DIGEST = "ab" * 32


def named(tmp_path, lines, uid="u", sha256=None, url=None):
    """Tells whether a list names a row."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    columns = {"uid": [uid, "other"], "sha256": [sha256, None], "url": [url, None]}
    schema = pa.schema(dict.fromkeys(columns, pa.string()))
    first, other = load_list(str(path)).matches(pa.RecordBatch.from_pydict(columns, schema=schema))
    assert not other
    return first


@pytest.mark.parametrize(
    ("line", "row", "expected"),
    [
        ("u7", {"uid": "u7"}, True),
        ("  u7\r", {"uid": "u7"}, True),
        ("U7", {"uid": "u7"}, False),
        ("u", {"uid": "u7"}, False),
        ("uid:u7", {"uid": "u7"}, True),
        ("uid: u7", {"uid": "u7"}, True),
        (DIGEST, {"sha256": DIGEST}, True),
        (DIGEST.upper(), {"sha256": DIGEST}, True),
        (DIGEST, {"uid": DIGEST}, True),
        (f"sha256:{DIGEST}", {"sha256": DIGEST}, True),
        (f"sha256:{DIGEST}", {"uid": DIGEST}, False),
        (DIGEST[:-2], {"sha256": DIGEST}, False),
        ("https://h.org/a.jpg", {"url": "https://h.org/a.jpg"}, True),
        ("HTTPS://H.ORG/a.jpg", {"url": "https://h.org/a.jpg"}, True),
        ("https://h.org/A.jpg", {"url": "https://h.org/a.jpg"}, False),
        ("https://h.org/a.jpg", {"url": "https://h.org/a.jpg?x"}, False),
        ("https://bücher.de/a", {"url": "https://xn--bcher-kva.de/a"}, True),
        ("https://h.org:81/a#b", {"url": "https://H.org:81/a#b"}, True),
        ("url:a/b.jpg", {"url": "a/b.jpg"}, True),
        ("a/b.jpg", {"url": "a/b.jpg"}, False),
        ("gs://b/K.jpg", {"url": "gs://b/K.jpg"}, True),
        ("example.com", {"url": "https://example.com/x"}, True),
        ("example.com", {"url": "http://img.example.com:8080/x"}, True),
        ("example.com", {"url": "https://user@a.b.EXAMPLE.com?q"}, True),
        ("example.com", {"url": "https://example.com."}, True),
        ("example.com", {"url": "https://notexample.com/x"}, False),
        ("example.com", {"url": "https://example.com.evil.org/x"}, False),
        ("example.com", {"url": "https://evil.org/example.com"}, False),
        ("example.com", {"url": "https://evil.org?example.com"}, False),
        ("example.com", {"url": "https://example.com@evil.org/"}, False),
        ("img.example.com", {"url": "https://example.com/x"}, False),
        ("Example.COM.", {"url": "https://example.com/x"}, True),
        ("*.example.com", {"url": "https://img.example.com/x"}, True),
        ("*.example.com", {"url": "https://example.com/x"}, True),
        ("host:.example.com", {"url": "https://img.example.com/x"}, True),
        ("example.com", {"uid": "example.com"}, True),
        ("host:example.com", {"uid": "example.com"}, False),
        ("uid:example.com", {"url": "https://example.com/x"}, False),
        ("bücher.de", {"url": "https://www.xn--bcher-kva.de/x"}, True),
        ("XN--BCHER-KVA.de", {"url": "https://BÜCHER.de/x"}, True),
        ("com", {"url": "https://example.com/x"}, False),
        ("host:com", {"url": "https://example.com/x"}, True),
        ("host:localhost", {"url": "http://localhost:80/x"}, True),
        ("1.2.3.4", {"url": "http://1.2.3.4/x"}, True),
        ("3.4", {"url": "http://1.2.3.4/x"}, False),
        ("host:[::1]", {"url": "http://[::1]:80/x"}, True),
        ("b.org", {"url": "gs://b.org/x"}, False),
        ("# u7", {"uid": "# u7"}, False),
        ("", {"uid": ""}, False),
        ("é" * 70 + ".de", {"uid": "é" * 70 + ".de"}, True),  # no host, as it is too long for one
        ("x", {"url": "https://" + "ä" * 80 + ".de/"}, False),
    ],
)
def test_a_line_names_rows_of_its_kind(tmp_path, line, row, expected):
    assert named(tmp_path, ["nothing else", line], **row) is np.bool_(expected)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sha256:abc", "expected 64 hex digits behind `sha256:`, got 'abc'"),
        ("host:", "expected a host behind `host:`, got ''"),
        ("host:a b", "expected a host behind `host:`"),
        ("host:https://h.org/", "expected a host behind `host:`"),
        ("uid:", "expected a uid behind `uid:`"),
        ("URL:", "expected a url behind `url:`"),
    ],
)
def test_a_prefix_wants_its_kind_behind_it(line, told):
    with pytest.raises(BadLineError, match=told):
        keys_of_line(line)


def test_an_empty_list_names_nothing(tmp_path):
    assert not named(tmp_path, ["", "# nothing", "   "])


def test_lists_are_read_compressed_and_from_stores(tmp_path):
    data = gzip.compress("\ufeffu7\nu8".encode())
    fsspec.filesystem("memory").pipe_file("/lists/drop.txt.gz", data)
    found = load_list("memory://lists/drop.txt.gz")
    batch = pa.RecordBatch.from_pydict({"uid": ["u7", "u8", "u9"]})
    assert found.matches(batch).tolist() == [True, True, False]
    (tmp_path / "cut.gz").write_bytes(data[:-9])
    with pytest.raises(RowListError, match="cut.gz: the compressed data is damaged or cut"):
        load_list(str(tmp_path / "cut.gz"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"ok\n\xff\xfe\n", "expected a list in UTF-8 .* which is something else"),
        ("u7\n".encode("utf-16"), "expected a list in UTF-8"),
        (b"x" * 70_000, "a line of more than 65536 bytes"),
        (b"ok\n\nsha256:12\n", "line 3 of .*: expected 64 hex digits"),
    ],
)
def test_what_is_no_list_is_one_sentence(tmp_path, data, told):
    (tmp_path / "l").write_bytes(data)
    with pytest.raises(RowListError, match=told) as error:
        list_rule(str(tmp_path / "l"), DROP)
    assert "\n" not in str(error.value)
    with pytest.raises(RowListError, match="expected a list as `keep_list`, got .*absent"):
        list_rule(str(tmp_path / "absent"), KEEP)


def test_a_rule_travels_as_an_address_and_loads_its_list_once(tmp_path, monkeypatch):
    path = tmp_path / "l"
    path.write_text("".join(f"u{n}\n" for n in range(1000)))
    loads = []
    monkeypatch.setattr(row_lists, "load_list", lambda uri: loads.append(uri) or load_list(uri))
    rules = [list_rule(str(path), kind) for kind in (KEEP, DROP)]
    sent = pickle.dumps(rules)
    assert len(sent) < 1000
    batch = pa.RecordBatch.from_pydict({"uid": ["u7", "x"]})
    assert [rule.keeps(batch).tolist() for rule in pickle.loads(sent)] == [
        [True, False],
        [False, True],
    ]
    assert len(loads) == 1
    assert [rule.columns for rule in rules] == [("uid",)] * 2
    path.write_text("x\n")
    assert list_rule(str(path), KEEP).keeps(batch).tolist() == [False, True]


def test_lists_that_named_no_row_are_told():
    steps = [("embedded", 5), ("in keep list a", 3), ("not in drop list b", 3), ("x", 0)]
    (line,) = useless_lists(steps)
    assert "no line of b named a row" in line
    assert useless_lists([("embedded", 5), ("in keep list a", 0), ("not in drop list b", 0)])
    assert not useless_lists([("embedded", 0), ("in keep list a", 0)])
