import sys

import numpy as np
import pyarrow as pa
import pytest

from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.curation.recipes.presets import PRESETS
from pipelines.curation.rules import similarity_rule
from pipelines.curation.sql_rules import MAX_DEPTH, PredicateError, sql_rule

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
        "text": "an image of a dog",
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
        ("bogus > 1", "names 'bogus', which is no column; there are uid, text"),
        ("similarity > 0 and bogus", "names 'bogus', which is no column; there are uid, text"),
        ("1 = 1", "names no column; there are uid, text"),
        ("'similarity' = 'text'", "names no column; there are uid, text"),
        ("similarity >", "syntax error"),
        ("similarity", "it gives float, not bool"),
        ("similarity > 0, true", "it gives struct<"),
        ("text = (SELECT content FROM read_text('/etc/hostname'))", "it has a subquery"),
    ],
)
def test_what_is_no_predicate_is_refused_before_the_work(predicate, told):
    with pytest.raises(PredicateError, match="`where`") as refused:
        sql_rule(predicate, SCHEMA)
    assert told in str(refused.value) and "\n" not in str(refused.value)


NESTED = {
    "operators": lambda depth: "+".join(["similarity"] * depth) + " > 1",
    "functions": lambda depth: "abs(" * depth + "similarity" + ")" * depth + " > 0",
    "parentheses": lambda depth: "(" * depth + "similarity" + ")" * depth + " > 0",
    "negations": lambda depth: "not " * depth + "similarity > 0",
    "cases": lambda depth: "case when " * depth + "similarity > 0" + " then true end" * depth,
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 5000])
def test_predicate_that_is_nested_too_deep_is_refused(kind, depth):
    with pytest.raises(PredicateError) as refused:
        sql_rule(NESTED[kind](depth), SCHEMA)
    reason = f"it is nested more than {MAX_DEPTH} deep; write it with fewer levels"
    assert str(refused.value).endswith(": " + reason)


@pytest.mark.parametrize("kind", NESTED)
def test_predicate_may_be_nested_deep(kind):
    assert kept(sql_rule(NESTED[kind](MAX_DEPTH - 10), SCHEMA), {"similarity": 0.5}) == [True]


@pytest.mark.parametrize(
    "predicate",
    [
        "similarity > 0) or (1=1",
        "similarity > 0) AS keep FROM rows; SELECT (1",
        "similarity > 0; SELECT true",
        "similarity > 0 FROM rows",
        "DISTINCT similarity > 0",
    ],
)
def test_predicate_is_one_expression(predicate):
    with pytest.raises(PredicateError, match="syntax error"):
        sql_rule(predicate, SCHEMA)


@pytest.mark.parametrize(
    "predicate, told",
    [
        ("count(similarity) > 0", "it does not give one value for each row"),
        ("similarity > avg(similarity)", "GROUP BY"),
        ("row_number() OVER (ORDER BY similarity DESC) <= 5", "it has a window function"),
        ("avg(similarity) OVER () < similarity", "it has a window function"),
        ("similarity > (SELECT avg(similarity) FROM rows)", "it has a subquery"),
        ("text IN (SELECT text FROM rows)", "it has a subquery"),
        ("EXISTS (FROM rows WHERE similarity > 0)", "it has a subquery"),
        ("COLUMNS('width|height') > 200", "it has a star"),
        ("similarity > 0 AND #1 IS NULL", "it has a column by its number"),
    ],
)
def test_what_looks_beyond_one_row_is_refused(predicate, told):
    """It would depend on how the rows lie in files and batches."""
    with pytest.raises(PredicateError, match="expected `where` to be an SQL predicate") as refused:
        sql_rule(predicate, SCHEMA)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "predicate, told",
    [
        ("similarity > random()", r"random\(\) does not give the same each time"),
        ("similarity > 0 or now() > '2030-01-01'", r"now\(\) does not give the same"),
        ("original_width > year(current_date)", "'current_date', which is no column"),
        ("text = CURRENT_TIMESTAMP::text", "'CURRENT_TIMESTAMP', which is no column"),
    ],
)
def test_what_changes_from_run_to_run_is_refused(predicate, told):
    with pytest.raises(PredicateError, match=told):
        sql_rule(predicate, SCHEMA)


@pytest.mark.parametrize(
    "predicate, expected",
    [
        ("len([x for x in [similarity] if x > 0.3]) = 1", [True, False]),
        ("text.lower().contains('dog')", [True, True]),
        ("rows.similarity > 0.3", [True, False]),
        (
            "date_trunc('year', '2020-05-05'::date) = '2020-01-01' and similarity > 0.3",
            [True, False],
        ),
        (" or ".join(["similarity > 0.3"] * 900), [True, False]),
    ],
)
def test_sql_of_one_row_is_allowed(predicate, expected):
    assert kept(sql_rule(predicate, SCHEMA), {}, {"similarity": 0.2}) == expected


def test_columns_may_have_any_name():
    schema = pa.schema([('q"x', pa.int8()), ("select", pa.int8()), ("current_date", pa.int8())])
    batch = pa.RecordBatch.from_pylist([{'q"x': 3, "select": 4, "current_date": 5}], schema)
    for predicate in ('"q""x" = 3', '"select" = 4', '"current_date" = 5'):
        rule = sql_rule(predicate, schema)
        assert len(rule.columns) == 1
        assert rule.keeps(batch.select(rule.columns)).tolist() == [True]


def test_name_of_two_columns_is_refused():
    schema = pa.schema([("similarity", pa.float32()), ("SIMILARITY", pa.int8())])
    with pytest.raises(PredicateError, match="'similarity' and 'SIMILARITY' are one name"):
        sql_rule("Similarity > 0", schema)


def test_float16_is_read_also_in_embeddings():
    exact = pa.list_(pa.field("element", pa.float32(), nullable=False), 2)
    schema = pa.schema(
        [("score", pa.float16()), ("vector", pa.list_(pa.float16(), 2)), ("exact", exact)]
    )
    rows = [{"score": 0.5, "vector": [1, 0], "exact": [1, 0]}, {"score": 0.25, "vector": None}]
    batch = pa.RecordBatch.from_pylist(rows, schema)
    assert sql_rule("score > 0.3", schema).keeps(batch.select(["score"])).tolist() == [True, False]
    rule = sql_rule("list_cosine_similarity(exact, exact) > 0.5", schema)
    assert rule.keeps(batch.select(rule.columns)[:1]).tolist() == [True]
    rule = sql_rule("vector[1] = exact[1] and score > 0", schema)
    assert rule.keeps(batch.select(rule.columns)).tolist() == [True, False]


def test_type_that_duckdb_does_not_read_is_named():
    schema = pa.schema([("similarity", pa.float32()), ("price", pa.decimal256(50, 2))])
    with pytest.raises(PredicateError, match=r"cannot read column 'price', a decimal256\(50"):
        sql_rule("similarity > 0 and price > 1", schema)
    assert sql_rule("similarity > 0", schema).columns == ("similarity",)


def test_fault_in_the_data_is_a_sentence_too():
    rule = sql_rule("cast(text AS int) > 3", SCHEMA)
    with pytest.raises(PredicateError, match="Could not convert string 'an image of a dog'"):
        kept(rule, {})


def test_missing_duckdb_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "clip-beam\[filter\]"'):
        sql_rule("similarity > 0", SCHEMA)
