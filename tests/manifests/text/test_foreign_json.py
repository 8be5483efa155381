"""Rows of JSON are read to a depth that is stated, whatever the interpreter could do."""

import json

import pytest

from making import plan
from pipelines.manifests.units import read_unit
from pipelines.records import Reject
from pipelines.storage.foreign_json import MAX_DEPTH, TooDeepError, read_json
from schemas.rejects import Reason
from tars import make_tar

NESTED = {
    "arrays": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"a": ' * depth + "1" + "}" * depth,
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("form", [str, str.encode])
def test_depth_up_to_the_bound_is_read_and_no_more(kind, form):
    assert read_json(form(NESTED[kind](MAX_DEPTH))) == json.loads(NESTED[kind](MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(TooDeepError, match="the json is nested more than 100 deep"):
            read_json(form(NESTED[kind](depth)))


def test_brackets_that_are_not_nested_are_read():
    for text in ("[" + "[], " * 500 + "{}]", json.dumps("[{" * 500)):
        assert read_json(text) == json.loads(text)


def row_with(path, depth):
    nested = '{"url": "a.jpg", "text": "x", "extra": ' + NESTED["arrays"](depth - 1) + "}"
    if path.suffix == ".tar":
        path.write_bytes(make_tar(("a.jpg", b"x"), ("a.txt", b"x"), ("a.json", nested.encode())))
    else:
        path.write_text('{"url": "a.jpg", "text": "x", "extra": null}\n' + nested + "\n")
    units = plan(path, keep_columns=("extra",)).units
    return [row for unit in units for row in read_unit(unit)][-1]


@pytest.mark.parametrize("name", ["m.jsonl", "m.tar"])
def test_row_that_is_nested_too_deep_is_rejected_and_says_so(tmp_path, name):
    fine, deep = (row_with(tmp_path / name, MAX_DEPTH + more) for more in (0, 1))
    assert fine.kept["extra"] == NESTED["arrays"](MAX_DEPTH - 1)
    assert isinstance(deep, Reject) and deep.reason is Reason.MALFORMED_ROW
    assert "nested more than 100 deep" in deep.detail
