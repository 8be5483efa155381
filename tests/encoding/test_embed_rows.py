import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges
from making import encode_image, make_image, make_row
from pipelines.encoding.embed_rows import EmbedRows, ToChunks, ToRows
from pipelines.encoding.model_inputs import ModelInputs
from pipelines.output.layout import OutputLayout
from pipelines.output.write_units import WriteUnits
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema


@pytest.fixture
def transform(model_dir, vit_dir):
    return EmbedRows({"a": str(model_dir), "b": str(vit_dir)}, batch_size=4)


def pipeline():
    return beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([]))


def test_rows_of_ones_own_are_embedded_by_several_models(transform):
    pictures = [encode_image(make_image(seed=n)) for n in range(9)] + [b"<html>"]
    rows = [make_row(n, image_bytes=d, kept={"n": n}) for n, d in enumerate(pictures)]
    with pipeline() as p:
        chunks = p | beam.Create(rows) | ToChunks([pa.field("n", pa.int64())], rows=4)
        found = chunks | transform | ToRows(["a", "b"])
        about = found | beam.Map(
            lambda r: (r["uid"], r["n"], r.get("reason"), -1 <= r.get("b_similarity", 0) <= 1)
        )
        expected = [(f"row-{n}", n, "not_an_image" if n == 9 else None, True) for n in range(10)]
        assert_that(about, equal_to(expected))


def test_rows_of_ones_own_are_no_unit_that_could_be_written(transform, tmp_path):
    layout = OutputLayout(
        str(tmp_path), embeddings_schema({"a": 128, "b": 128}), rejects_schema(), {}, ("a", "b")
    )
    rows = [make_row(image_bytes=encode_image(make_image()))]
    with pytest.raises(Exception, match="expected chunks of units"), pipeline() as p:
        _ = p | beam.Create(rows) | ToChunks() | transform | WriteUnits(layout)


def test_equal_inputs_are_made_once(tokenizer):
    other = Tokenizer(learn_merges(["a red circle"], 520), context_length=8)
    again = Tokenizer(tokenizer.merges, tokenizer.context_length)
    small, large = Preprocess(32), Preprocess(48)
    inputs = ModelInputs.of([small, large, small], [tokenizer, other, again])
    assert inputs.preprocesses == (small, large)
    assert [t.identity for t in inputs.tokenizers] == [tokenizer.identity, other.identity]
    assert inputs.of_model == ((0, 0), (1, 1), (0, 0))
    assert inputs.pixel_bytes == 3 * (32 * 32 + 48 * 48)


@pytest.mark.parametrize("text", ["", "\0", "half \ud800 a pair", "<|endoftext|>", "x" * 10_000])
def test_any_caption_gives_tokens(tokenizer, text):
    tokens, truncated = tokenizer.tokenize_rows([text, "a star"])
    assert tokens.shape == (2, 32) and (tokens[:, 0] == tokenizer.start_id).all()
    assert truncated.tolist() == [len(text) == 10_000, False]
    np.testing.assert_array_equal(tokens[1], tokenizer.tokenize_row("a star")[0])
