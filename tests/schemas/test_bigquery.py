import pyarrow as pa
import pytest

from schemas.bigquery import bigquery_schema
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema
from schemas.warehouses import unreadable


def field(name, kind, mode="NULLABLE", **more):
    return {"name": name, "type": kind, "mode": mode, **more}


def of(kind):
    return bigquery_schema(pa.schema([("x", kind)]))[0]


def test_embeddings_table_has_a_field_for_each_column_in_order():
    assert bigquery_schema(embeddings_schema(4)) == [
        field("uid", "STRING", "REQUIRED"),
        field("source", "STRING"),
        field("source_row", "INTEGER"),
        field("caption_index", "INTEGER"),
        field("url", "STRING"),
        field("text", "STRING"),
        field("original_width", "INTEGER"),
        field("original_height", "INTEGER"),
        field("sha256", "STRING"),
        field("similarity", "FLOAT"),
        field("text_truncated", "BOOLEAN"),
        field("image_embedding", "FLOAT", "REPEATED"),
        field("text_embedding", "FLOAT", "REPEATED"),
    ]


def test_rejects_table_says_what_is_required():
    fields = {entry["name"]: entry["mode"] for entry in bigquery_schema(rejects_schema())}
    assert [name for name, mode in fields.items() if mode == "REQUIRED"] == [
        "uid",
        "stage",
        "reason",
    ]


@pytest.mark.parametrize(
    "kind, name",
    [
        (pa.int8(), "INTEGER"),
        (pa.large_string(), "STRING"),
        (pa.dictionary(pa.int32(), pa.string()), "STRING"),
        (pa.binary(), "BYTES"),
        (pa.date32(), "DATE"),
        (pa.time64("us"), "TIME"),
        (pa.timestamp("us", "UTC"), "TIMESTAMP"),
        (pa.timestamp("us"), "DATETIME"),
        (pa.decimal128(38, 9), "NUMERIC"),
        (pa.decimal128(38, 10), "BIGNUMERIC"),
    ],
)
def test_kept_columns_of_every_type_that_bigquery_has(kind, name):
    assert of(kind) == field("x", name)
    assert of(pa.list_(kind)) == field("x", name, "REPEATED")


def test_structs_become_records():
    kind = pa.struct([pa.field("a", pa.int64(), nullable=False), ("b", pa.list_(pa.string()))])
    parts = [field("a", "INTEGER", "REQUIRED"), field("b", "STRING", "REPEATED")]
    assert of(kind) == field("x", "RECORD", fields=parts)
    assert of(pa.list_(kind)) == field("x", "RECORD", "REPEATED", fields=parts)


@pytest.mark.parametrize(
    "kind, told",
    [
        (pa.float16(), "embed with float32 as `embedding_dtype`"),
        (pa.list_(pa.float16(), 4), "embed with float32 as `embedding_dtype`"),
        (pa.list_(pa.list_(pa.float64())), "leave the column out of `keep_columns`"),
        (pa.duration("s"), "no type for duration"),
        (pa.decimal256(76, 0), "no type for decimal256"),
    ],
)
def test_types_that_bigquery_lacks_are_refused(kind, told):
    with pytest.raises(ValueError, match="column 'x'") as refused:
        of(kind)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "my col",
        "a.b",
        "_TABLE_x",
        "_table_x",
        "_PARTITIONTIME",
        "__ROOT__",
        "prix €",
        "1st",
        "",
        "x" * 301,
        "a-b",
    ],
)
def test_names_that_bigquery_does_not_take_are_refused(name):
    for kind in (pa.int64(), pa.list_(pa.string())):
        with pytest.raises(ValueError, match="BigQuery takes no columns called") as refused:
            bigquery_schema(pa.schema([("fine", pa.int64()), (name, kind)]))
        assert repr(name) in str(refused.value) and "'fine'" not in str(refused.value)
    nested = pa.schema([("outer", pa.list_(pa.struct([("fine", pa.int64()), (name, pa.int64())])))])
    with pytest.raises(ValueError) as refused:
        bigquery_schema(nested)
    assert repr(f"outer.{name}") in str(refused.value)


@pytest.mark.parametrize("name", ["a", "_a", "A1_", "x" * 300, "TABLE_", "partition"])
def test_other_names_are_taken(name):
    assert bigquery_schema(pa.schema([(name, pa.int64())]))[0]["name"] == name


@pytest.mark.parametrize(
    ("kind", "engines"),
    [
        (pa.timestamp("ns"), {"Spark 3.5"}),
        (pa.struct([("at", pa.timestamp("ns", "UTC"))]), {"Spark 3.5"}),
        (pa.time64("us"), {"Spark 3.5"}),
        (pa.float16(), {"BigQuery", "Spark 3.5"}),
        (pa.duration("s"), {"BigQuery"}),
        (pa.list_(pa.list_(pa.int8())), {"BigQuery"}),
        (pa.timestamp("us", "Nowhere/Land"), set()),
        (pa.list_(pa.string()), set()),
    ],
)
def test_engines_that_cannot_read_a_column_are_named(kind, engines):
    told = unreadable([pa.field("x", kind)])
    assert {line.partition(" cannot read column 'x': ")[0] for line in told} == engines
