from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_image, make_row, random_clip

from clip_core import encoding
from clip_core.encoding import CPU_IMAGES, buckets, encode_pairs, encode_pixels, encode_tokens
from clip_core.preprocess import Preprocess
from clip_core.ragged import CPU_TOKENS, MULTIPLE
from pipelines import encode, options
from pipelines.encode import (
    ClipHandler,
    EncoderFailedError,
    ModelChangedError,
    ModelSpec,
    batch_limit,
    load_models,
)
from pipelines.job_parts import load_run_models
from pipelines.records import Embedded, Example, ModelInput, Reject, Vectors
from pipelines.score import score
from schemas.rejects import Reason


@pytest.fixture
def handler(model_dir):
    spec = ModelSpec(str(model_dir))
    (model,) = load_models((spec,)).models
    return ClipHandler([spec], [model.fingerprint["checkpoint_sha256"]], batch_size=8)


def examples(count, tokenizer):
    for number in range(count):
        row = make_row(number, text="a red circle " * (number % 5 + 1))
        pixels = Preprocess(64).to_pixels(make_image(seed=number))
        tokens, truncated = tokenizer.tokenize_row(row.text)
        yield Example(row, (ModelInput(pixels, tokens, truncated),), 80, 70, "00")


@pytest.mark.parametrize("padding", [1.0, 1.3])
@pytest.mark.parametrize("count", [1, 53, 130])
@torch.inference_mode()
def test_texts_side_by_side_equal_texts_encoded_one_by_one(tokenizer, monkeypatch, count, padding):
    monkeypatch.setattr(encoding, "CPU_PADDING", padding)
    clip = random_clip("tiny-vit", tokenizer)
    texts = ["circle " * (n % 12) + "star" * (n // 12) for n in range(count)]
    tokens = tokenizer.tokenize(texts, truncate=True)
    alone = [clip.encode_text(torch.from_numpy(row[None]), normalize=True) for row in tokens]
    assert np.abs(encode_tokens(clip, tokens) - torch.cat(alone).numpy()).max() < 1e-5


def test_products_of_texts_have_few_shapes(tokenizer):
    clip, rng = random_clip("tiny-vit", tokenizer), np.random.default_rng(0)
    shapes = set()
    inner = clip.transformer.blocks[0].mlp.c_fc
    inner.register_forward_hook(lambda module, given, made: shapes.add(given[0].shape[0]))
    for _ in range(30):
        letters = rng.choice(list("abcdefgh"), (rng.integers(60, 90), 40))
        texts = [" ".join(row[: rng.integers(1, 40)]) for row in letters]
        encode_tokens(clip, tokenizer.tokenize(texts, truncate=True))
    assert CPU_TOKENS in shapes and shapes <= set(range(0, CPU_TOKENS + 1, MULTIPLE))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("padding, most", [(1.0, 60), (1.1, 20)])
def test_buckets_hold_every_caption_once_with_little_padding(seed, padding, most):
    rng = np.random.default_rng(seed)
    # Of web captions half are short and one in thirty fills the context.
    lengths = np.clip(rng.lognormal(2.7, 0.5, 200).astype(int), 3, 77)
    found = list(buckets(lengths, padding))
    assert sorted(np.concatenate(found)) == list(range(200))
    padded = sum(len(bucket) * lengths[bucket].max() for bucket in found)
    assert padded <= padding * lengths.sum()
    assert len(found) < most


def test_captions_of_one_length_are_one_bucket():
    assert [bucket.tolist() for bucket in buckets(np.full(3, 9), 1.0)] == [[0, 1, 2]]
    assert list(buckets(np.zeros(0, int), 1.0)) == []


def test_images_encoded_in_pieces_equal_images_encoded_alone(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * CPU_IMAGES + 3, 3, 64, 64), dtype=np.uint8)
    alone = np.concatenate([encode_pixels(clip, image[None]) for image in pixels])
    assert np.abs(encode_pixels(clip, pixels) - alone).max() < 1e-5


def test_equal_captions_are_encoded_once(tokenizer, monkeypatch):
    clip = random_clip("tiny-rn", tokenizer)
    seen = []
    clip.ln_final.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    found = encode_tokens(clip, tokenizer.tokenize(["a star", "a circle", "a star", "a star"]))
    assert seen == [2]
    assert (found[0] == found[2]).all() and (found[0] != found[1]).any()


def test_no_rows_encode_to_no_rows(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    assert encode_tokens(clip, np.zeros((0, 32), np.int64)).shape == (0, 128)


def test_pairs_are_encoded_as_their_parts(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    tokens = tokenizer.tokenize(["a star", "a red circle", "a star"])
    images, texts = encode_pairs(clip, list(pixels), tokens)
    assert (images == encode_pixels(clip, pixels)).all()
    assert (texts == encode_tokens(clip, tokens)).all()


def test_encoded_pixels_are_normalised_float32(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    found = encode_pixels(clip, np.zeros((2, 3, 64, 64), np.uint8))
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_handler_returns_a_record_for_each_example_in_order(handler, tokenizer):
    batch = list(examples(5, tokenizer))
    found = handler.run_inference(batch, handler.load_model())
    assert [record.row.uid for record in found] == [example.row.uid for example in batch]
    assert all(isinstance(record, Embedded) for record in found)


def test_embeddings_do_not_depend_on_the_batch(handler, tokenizer):
    batch = list(examples(9, tokenizer))
    model = handler.load_model()
    together = handler.run_inference(batch, model)
    alone = [handler.run_inference([example], model)[0] for example in batch]
    for one, other in zip(together, alone, strict=True):
        assert (
            np.abs(one.vectors[0].image_embedding - other.vectors[0].image_embedding).max() < 1e-5
        )
        assert np.abs(one.vectors[0].text_embedding - other.vectors[0].text_embedding).max() < 1e-5


def test_row_whose_vector_is_not_finite_is_rejected_alone(handler, tokenizer, monkeypatch):
    def poisoned(clip, pixels, tokens):
        images, texts = encode_pairs(clip, pixels, tokens)
        images[1] = np.nan
        return images, texts

    monkeypatch.setattr(encode, "encode_pairs", poisoned)
    found = handler.run_inference(list(examples(3, tokenizer)), handler.load_model())
    assert [type(record) for record in found] == [Embedded, Reject, Embedded]
    assert (found[1].stage, found[1].reason) == ("encode", Reason.NON_FINITE)


@pytest.fixture
def fails(monkeypatch):
    """Makes the encoder raise `error` for batches that a test picks by their pixels."""
    batch_limit.cache_clear()

    def install(error, when):
        def work(clip, pixels, tokens):
            if when(pixels):
                raise error
            return encode_pairs(clip, pixels, tokens)

        monkeypatch.setattr(encode, "encode_pairs", work)

    yield install
    batch_limit.cache_clear()


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    MemoryError("Unable to allocate 1.00 GiB for an array"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:20])
def test_batch_that_does_not_fit_gives_the_same_vectors(handler, tokenizer, fails, error):
    batch, model = list(examples(8, tokenizer)), handler.load_model()
    expected = handler.run_inference(batch, model)
    fails(error, when=lambda pixels: len(pixels) > 3)
    found = handler.run_inference(batch, model)
    for one, other in zip(found, expected, strict=True):
        assert (
            np.abs(one.vectors[0].image_embedding - other.vectors[0].image_embedding).max() < 1e-5
        )
        assert np.abs(one.vectors[0].text_embedding - other.vectors[0].text_embedding).max() < 1e-5
    assert batch_limit(handler._specs).rows == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NO_MEMORY[0], Reason.OUT_OF_MEMORY), (ValueError("at 0x7f00aa"), Reason.ENCODE_FAILED)],
)
def test_row_that_breaks_its_batch_is_rejected_alone(handler, tokenizer, fails, error, reason):
    batch, model = list(examples(8, tokenizer)), handler.load_model()
    expected = handler.run_inference(batch, model)
    poison = batch[5].inputs[0].pixels
    fails(error, when=lambda pixels: any((one == poison).all() for one in pixels))
    found = handler.run_inference(batch, model)
    assert (found[5].stage, found[5].reason) == ("encode", reason)
    assert found[5].row.uid == "row-5" and "0x" not in found[5].detail
    for number in (0, 1, 2, 3, 4, 6, 7):
        difference = (
            found[number].vectors[0].image_embedding - expected[number].vectors[0].image_embedding
        )
        assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("error", [NO_MEMORY[0], RuntimeError("CUDA error: device lost")])
def test_machine_that_encodes_nothing_fails_and_rejects_no_row(handler, tokenizer, fails, error):
    fails(error, when=lambda pixels: True)
    with pytest.raises(EncoderFailedError, match="cannot encode even a blank picture"):
        handler.run_inference(list(examples(8, tokenizer)), handler.load_model())


def test_worker_that_finds_another_checkpoint_fails(model_dir):
    handler = ClipHandler([ModelSpec(str(model_dir))], ["0" * 64], batch_size=8)
    with pytest.raises(ModelChangedError, match="expected the checkpoint with SHA-256 0000"):
        handler.load_model()


def test_launcher_needs_no_gpu_of_its_own(model_dir):
    flags = ["--manifest", "m", "--output", "o", "--model", str(model_dir)]
    config, _ = options.parse([*flags, "--device", "cuda", "--precision", "bf16", "--compile"])
    models = load_run_models(config, here=False)
    assert [(spec.device, spec.compiled) for spec in models.specs] == [("cuda", True)]
    assert models.loaded[0].fingerprint["precision"] == "bf16"
    assert models.loaded[0].clip.logit_scale.device.type == "cpu"


def test_compiling_for_a_processor_is_refused(model_dir):
    flags = ["--manifest", "m", "--output", "o", "--model", str(model_dir), "--device", "cpu"]
    config, _ = options.parse([*flags, "--compile"])
    with pytest.raises(ValueError, match="`--compile` is for a GPU, and this run is on a CPU"):
        load_run_models(config, here=True)


def test_model_is_loaded_once_per_process(model_dir):
    specs = (ModelSpec(str(model_dir)),)
    assert load_models(specs) is load_models(specs)


def test_batches_are_of_fixed_size_and_counted_without_pickling(handler, tokenizer):
    assert handler.batch_elements_kwargs() == {"min_batch_size": 8, "max_batch_size": 8}
    assert handler.get_num_bytes(list(examples(2, tokenizer))) == 2 * (3 * 64 * 64 + 32 * 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU")
def test_auto_means_the_cpu_and_fp32_without_a_gpu():
    assert encode.resolve_device("auto") == "cpu"
    assert encode.resolve_precision("auto", "cpu") == "fp32"
    assert encode.resolve_precision("bf16", "cpu") == "bf16"


def test_score_is_the_cosine_and_never_above_one():
    vector = np.array([0.6, 0.8000001], np.float32)
    same = Vectors(vector, vector, False)
    other = Vectors(vector, np.array([1.0, 0.0], np.float32), False)
    scored = score(Embedded(make_row(), (same, other), 1, 1, "00"))
    assert scored.similarities == (1.0, pytest.approx(0.6))


def test_literal_special_tokens_of_captions_are_counted(handler, tokenizer, monkeypatch):
    rows = list(examples(3, tokenizer))
    (model,) = handler.load_model().models
    assert encode.special_tokens(rows, model) == 0
    tokens, _ = tokenizer.tokenize_row("a <|endoftext|> <|startoftext|> circle")
    (given,) = rows[1].inputs
    rows[1] = replace(rows[1], inputs=(replace(given, tokens=tokens),))
    assert encode.special_tokens(rows, model) == 2
    counted = []
    monkeypatch.setattr(handler, "_special_tokens", SimpleNamespace(inc=counted.append))
    handler.run_inference(rows, handler.load_model())
    assert counted == [2]
