import sys

import numpy as np
import pyarrow as pa
import pytest

from pipelines.extras import MissingExtraError
from pipelines.row_rules import PRESETS, PredicateError, similarity_rule, sql_rule

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("text", pa.string()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("similarity", pa.float32()),
        ("my column", pa.bool_()),
    ]
)


def rows(*changes):
    fine = {
        "uid": "u",
        "text": "a picture of a dog",
        "original_width": 300,
        "original_height": 400,
        "similarity": 0.31,
        "my column": True,
    }
    return pa.RecordBatch.from_pylist([fine | change for change in changes], SCHEMA)


def kept(rule, *changes):
    batch = rows(*changes)
    return rule.keeps(batch.select(rule.columns)).tolist()


def kept_by_preset(name, change):
    batch = rows(change)
    return all(rule.keeps(batch)[0] for rule in PRESETS[name].rules)


@pytest.mark.parametrize(
    "change, keeps",
    [
        ({}, True),
        ({"text": "two words"}, False),
        ({"text": "  three short words\t"}, True),
        ({"text": " a\u00a0b c "}, True),  # 3 words, 5 characters and the blanks around
        ({"text": "a b c"}, False),
        ({"text": ""}, False),
        ({"text": None}, False),
        ({"original_width": 200, "original_height": 200}, True),
        ({"original_width": 199}, False),
        ({"original_width": 200, "original_height": 600}, True),
        ({"original_width": 601, "original_height": 200}, False),
        ({"original_width": None}, False),
    ],
)
def test_datacomp_basic_heeds_each_bound(change, keeps):
    assert kept_by_preset("datacomp-basic", change) is keeps


@pytest.mark.parametrize("text, keeps", [("fives", True), ("four", False), ("é" * 5, True)])
def test_laion_wants_five_characters(text, keeps):
    assert kept_by_preset("laion400m", {"text": text}) is keeps
    assert PRESETS["laion400m"].min_similarity == 0.3


def test_similarity_is_compared_in_float32_and_inclusive():
    just = float(np.float32(0.3))
    below = float(np.nextafter(np.float32(0.3), np.float32(0)))
    changes = [{"similarity": value} for value in (just, below, None, float("nan"), 1.0)]
    assert kept(similarity_rule(0.3), *changes) == [True, False, False, False, True]
    assert similarity_rule(0.3).name == "similarity >= 0.3"
    assert similarity_rule(just, note=" (top 0.3)").name == "similarity >= 0.3 (top 0.3)"


@pytest.mark.parametrize(
    "predicate, columns, expected",
    [
        ("similarity > 0.3", ("similarity",), [True, False, False]),
        ("TEXT like '%dog%' and Similarity > 0.2", ("text", "similarity"), [True, True, False]),
        ('"my column"', ("my column",), [True, False, True]),
        ("similarity > 0.3 -- a comment", ("similarity",), [True, False, False]),
        ("original_width / original_height < 1", ("original_width", "original_height"), [True] * 3),
    ],
)
def test_predicate_is_evaluated_on_the_columns_it_names(predicate, columns, expected):
    rule = sql_rule(predicate, SCHEMA)
    assert rule.columns == columns and rule.name == f"where {predicate}"
    changes = {}, {"similarity": 0.25, "my column": False}, {"similarity": None, "text": None}
    assert kept(rule, *changes) == expected
    assert kept(rule) == []


@pytest.mark.parametrize(
    "predicate, told",
    [
        ("bogus > 1", "names no column"),
        ("similarity >", "Parser Error"),
        ("similarity", "it gives 2 of float"),
        ("count(similarity) > 0", "it gives 1 of bool for 2 rows"),
        ("similarity > 0) AS keep FROM rows; SELECT (1", "several statements"),
        ("text = (SELECT content FROM read_text('/etc/hostname'))", "Permission Error"),
        ("similarity IN (SELECT missing FROM nowhere)", "Catalog Error"),
    ],
)
def test_what_is_no_predicate_is_refused_before_the_work(predicate, told):
    with pytest.raises(PredicateError, match="--where") as refused:
        sql_rule(predicate, SCHEMA)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_fault_in_the_data_is_a_sentence_too():
    rule = sql_rule("cast(text AS int) > 3", SCHEMA)
    with pytest.raises(PredicateError, match="Could not convert string 'a picture of a dog'"):
        kept(rule, {})


def test_missing_duckdb_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "clip-beam\[filter\]"'):
        sql_rule("similarity > 0", SCHEMA)
