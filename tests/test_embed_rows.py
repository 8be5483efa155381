import hashlib

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from conftest import encode_image, make_image, make_row

from clip_core.bpe_training import learn_merges
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from pipelines.decode import DecodeLimits
from pipelines.embed_rows import Decode, EmbedRows, Tokenize
from pipelines.encode import ClipHandler, ModelSpec, load_models
from schemas.rejects import Reason


def example(row, data, tokenizers, sizes=(32,)):
    decoded = Decode(tuple(map(Preprocess, sizes)), DecodeLimits())(row, data)
    return Tokenize(tuple(tokenizers))(row, decoded)


def test_example_carries_what_the_tables_need(tokenizer):
    data = encode_image(make_image(90, 50))
    row = make_row(text="a red circle", image_bytes=data)
    found = example(row, data, [tokenizer])
    (given,) = found.inputs
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.row.image_bytes is None and found.row.uid == row.uid
    assert (found.original_width, found.original_height) == (90, 50)
    assert given.tokens.shape == (32,) and not given.text_truncated
    (given,) = example(make_row(text="circle " * 99), data, [tokenizer]).inputs
    assert given.text_truncated and given.tokens[-1] == tokenizer.end_id


@pytest.mark.parametrize(
    "text", [None, "", "\0", "half \ud800 a pair", "<|endoftext|>", "x" * 10_000]
)
def test_any_caption_gives_tokens(tokenizer, text):
    (given,) = example(make_row(text=text), encode_image(make_image()), [tokenizer]).inputs
    assert given.tokens.shape == (32,) and given.tokens[0] == tokenizer.start_id


def test_each_model_gets_its_own_pixels_and_tokens_and_equal_ones_are_shared(tokenizer):
    other = Tokenizer(learn_merges(["a red circle"], 520), context_length=8)
    again = Tokenizer(tokenizer.merges, tokenizer.context_length)
    row = make_row(text="a red circle on a white background of blue stars")
    data = encode_image(make_image())
    first, second, third = example(row, data, [tokenizer, other, again], (32, 48, 32)).inputs
    assert [given.pixels.shape[1] for given in (first, second, third)] == [32, 48, 32]
    assert first.pixels is third.pixels and first.tokens is third.tokens
    assert (first.text_truncated, second.text_truncated) == (False, True)
    np.testing.assert_array_equal(second.tokens, other.tokenize_row(row.text)[0])


def test_transform_serves_other_pipelines_with_any_number_of_models(model_dir, vit_dir):
    specs = (ModelSpec(str(model_dir)), ModelSpec(str(vit_dir)))
    models = load_models(specs).models
    handler = ClipHandler(specs, [m.fingerprint["checkpoint_sha256"] for m in models], 4)
    transform = EmbedRows(
        handler,
        tuple(model.preprocessing for model in models),
        tuple(model.tokenizer for model in models),
    )
    pictures = [encode_image(make_image(seed=n)) for n in range(5)] + [b"<html>"]
    rows = [make_row(n, image_bytes=data) for n, data in enumerate(pictures)]
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        found = pipeline | beam.Create(rows) | transform
        counts = found["scored"] | beam.Map(lambda s: (s.embedded.row.uid, len(s.similarities)))
        assert_that(counts, equal_to([(f"row-{n}", 2) for n in range(5)]), "scored")
        reasons = found["rejects"] | beam.Map(lambda reject: reject.reason)
        assert_that(reasons, equal_to([Reason.NOT_AN_IMAGE]), "rejects")
