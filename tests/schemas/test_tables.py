import pyarrow as pa
import pytest

from schemas.embeddings import embeddings_schema, model_column
from schemas.manifest import ColumnOverrides, ManifestError, resolve_columns
from schemas.rejects import Reason, rejects_schema


def fields(**types):
    return [pa.field(name, kind) for name, kind in types.items()]


TEXT_AND_URL = {"url": pa.string(), "text": pa.string()}


def test_embeddings_columns_and_types_are_those_of_the_contract():
    schema = embeddings_schema(4)
    vector = pa.list_(pa.float32(), 4)
    assert [(field.name, field.type) for field in schema] == [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("source_row", pa.int64()),
        ("caption_index", pa.int64()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("sha256", pa.string()),
        ("similarity", pa.float32()),
        ("text_truncated", pa.bool_()),
        ("image_embedding", vector),
        ("text_embedding", vector),
    ]
    assert not schema.field("uid").nullable


def test_scores_only_leaves_vectors_out_and_kept_columns_come_last():
    schema = embeddings_schema(4, scores_only=True, kept=fields(license=pa.int64()))
    assert schema.names[-2:] == ["text_truncated", "license"]


def test_half_precision_is_one_argument_away():
    assert embeddings_schema(4, "float16").field("image_embedding").type.value_type == pa.float16()
    with pytest.raises(ValueError, match="one of float32, float16, got 'int8'"):
        embeddings_schema(4, "int8")


def test_rejects_columns():
    schema = rejects_schema(fields(license=pa.string()))
    assert schema.names == [
        "uid", "source", "source_row", "caption_index", "url", "text", "stage", "reason", "detail",
        "license",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "refused"),
    [("similarity", "similarity"), ("URL", "URL"), ("Tag tag", "Tag, tag"), ("Text x", "Text")],
)
def test_kept_columns_have_names_of_their_own_whatever_the_case(names, refused):
    kept = fields(**dict.fromkeys(names.split(), pa.float32()))
    with pytest.raises(ValueError, match=f"names {refused}, which the output has already"):
        embeddings_schema(4, kept=kept)


def test_reasons_are_snake_case():
    assert all(reason.value == reason.name.lower() for reason in Reason)


def test_first_recognised_name_wins_whatever_its_case():
    found = resolve_columns(
        fields(path=pa.string(), URL=pa.string(), caption=pa.string(), TEXT=pa.string()),
        ColumnOverrides(),
    )
    assert (found.image_uri, found.text, found.uid) == ("URL", "TEXT", None)


def test_image_column_is_bytes_or_uri_by_its_type():
    kinds = {"text": pa.string()}
    as_text = resolve_columns(fields(image=pa.string(), **kinds), ColumnOverrides())
    as_bytes = resolve_columns(fields(image=pa.binary(), **kinds), ColumnOverrides())
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    as_struct = resolve_columns(fields(image=struct, **kinds), ColumnOverrides())
    assert (as_text.image_uri, as_text.image_bytes) == ("image", None)
    assert (as_bytes.image_uri, as_bytes.image_bytes) == (None, "image")
    assert as_struct.image_bytes == "image"


def test_bytes_give_the_pixels_and_a_uri_beside_them_is_kept():
    found = resolve_columns(
        fields(jpg=pa.binary(), key=pa.string(), **TEXT_AND_URL), ColumnOverrides()
    )
    assert (found.image_bytes, found.image_uri, found.uid) == ("jpg", "url", "key")


def test_flags_override_names():
    overrides = ColumnOverrides(image="pic", text="Title", uid="n", kept=("license",))
    columns = fields(
        pic=pa.string(), title=pa.string(), n=pa.int64(), license=pa.int64(), **TEXT_AND_URL
    )
    found = resolve_columns(columns, overrides)
    assert (found.image_uri, found.text, found.uid, found.kept) == (
        "pic",
        "title",
        "n",
        ("license",),
    )


@pytest.mark.parametrize(
    ("columns", "overrides", "message"),
    [
        ({"text": pa.int64(), "url": pa.string()}, ColumnOverrides(), "'text' is int64, which is no caption"),
        ({"text": pa.string()}, ColumnOverrides(), "no image column found.*columns text; name it with `image_column`"),
        ({"url": pa.string()}, ColumnOverrides(), "no caption column found.*columns url; name it with `text_column`"),
        (TEXT_AND_URL, ColumnOverrides(text="title"), "`text_column` names 'title', the manifest has columns text, url"),
        (TEXT_AND_URL, ColumnOverrides(kept=("x",)), "`keep_columns` names 'x'"),
        ({"URL": pa.string(), **TEXT_AND_URL}, ColumnOverrides(), "expected one column 'url', got 'URL' and 'url'"),
        ({}, ColumnOverrides(), "the manifest has no columns"),
    ],
)  # fmt: skip
def test_absent_or_ambiguous_column_is_refused(columns, overrides, message):
    with pytest.raises(ManifestError, match=message):
        resolve_columns(fields(**columns), overrides)


def test_columns_of_a_model_have_its_name_in_front():
    assert model_column("similarity", "b32") == "b32_similarity"
    assert model_column("similarity") == "similarity"
