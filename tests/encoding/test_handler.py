import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_core.inference.encoding import CPU_IMAGES, encode_pairs
from clip_core.preprocess import Preprocess
from making import make_image, make_row
from pipelines.encoding import handler as encode
from pipelines.encoding import models
from pipelines.encoding.encoded_batch import RowsOfBatch
from pipelines.encoding.handler import (
    ClipHandler,
    EncoderFailedError,
    ModelChangedError,
    batch_limit,
)
from pipelines.encoding.models import ModelSpec, load_models
from pipelines.encoding.score import similarity
from pipelines.engine.chunks import make_chunk
from pipelines.records import Vectors
from pipelines.runs import options
from pipelines.runs.job import load_run_models
from schemas.rejects import Reason


@pytest.fixture
def handler(model_dir):
    spec = ModelSpec(str(model_dir))
    (model,) = load_models((spec,)).models
    return ClipHandler([spec], [model.fingerprint["checkpoint_sha256"]], batch_size=8)


def chunks(count, tokenizer, rows=5, shared=False):
    """Chunks as Prepare hands them on; with `shared`, two captions have one image."""
    made = []
    for first in range(0, count, rows):
        numbers = range(first, min(first + rows, count))
        chunk = make_chunk([make_row(n, text="a red circle " * (n % 5 + 1)) for n in numbers])
        chunk.index = np.arange(len(numbers)) // (2 if shared else 1)
        images = numbers[: chunk.index.max() + 1]
        pixels = [Preprocess(64).to_pixels(make_image(seed=n)) for n in images]
        chunk.pixels = (np.stack(pixels),)
        tokens, truncated = tokenizer.tokenize_rows(chunk.rows["text"].to_pylist())
        chunk.images, chunk.tokens, chunk.truncated = (), (tokens,), (truncated,)
        made.append(chunk)
    return made


def encoded(handler, batch):
    """Encodes; returns image and text vectors of all rows that have not failed."""
    found = handler.run_inference(batch, handler.load_model())
    assert all(not chunk.pixels and not chunk.tokens for chunk in found)
    parts = [chunk.vectors[0] for chunk in found]
    return np.concatenate([p.image for p in parts]), np.concatenate([p.text for p in parts])


def uids(batch):
    return [uid for chunk in batch for uid in chunk.rows["uid"].to_pylist()]


def rejects(batch):
    return [row for chunk in batch for row in chunk.rejects.to_pylist()]


def close(one, other):
    return all(np.abs(a - b).max() < 1e-5 for a, b in zip(one, other, strict=True))


def test_chunks_get_the_vectors_of_their_rows_in_order(handler, tokenizer):
    batch = chunks(7, tokenizer)
    images, texts = encoded(handler, batch)
    assert [len(chunk.vectors[0].image) for chunk in batch] == [5, 2]
    assert uids(batch) == [f"row-{n}" for n in range(7)]
    alone = [encoded(handler, chunks(n + 1, tokenizer, rows=n + 1)) for n in (0, 6)]
    assert close((images[0], texts[0]), [found[0] for found in alone[0]])
    assert close((images[6], texts[6]), [found[6] for found in alone[1]])


def test_captions_of_one_picture_have_its_vector(handler, tokenizer, monkeypatch):
    seen = []

    def counting(clip, blocks, tokens):
        seen.append(sum(map(len, blocks)))
        return encode_pairs(clip, blocks, tokens)

    monkeypatch.setattr(encode, "encode_pairs", counting)
    images, texts = encoded(handler, chunks(4, tokenizer, shared=True))
    assert seen == [2]
    assert (images[0] == images[1]).all() and (images[1] != images[2]).any()
    assert (texts[0] != texts[1]).any()


def test_embeddings_do_not_depend_on_the_batch(handler, tokenizer):
    together = encoded(handler, chunks(19, tokenizer, rows=19))  # cut into batches of eight
    assert close(encoded(handler, chunks(19, tokenizer, rows=4)), together)


def test_chunks_without_rows_pass(handler, tokenizer):
    batch = [make_chunk([]), *chunks(2, tokenizer), make_chunk([])]
    assert len(encoded(handler, batch)[0]) == 2
    assert encoded(handler, [make_chunk([])])[0].shape == (0, 128)


def test_row_whose_vector_is_not_finite_is_rejected_alone(handler, tokenizer, monkeypatch):
    def poisoned(clip, pixels, tokens):
        images, texts = encode_pairs(clip, pixels, tokens)
        images[6] = np.nan
        return images, texts

    monkeypatch.setattr(encode, "encode_pairs", poisoned)
    batch = chunks(8, tokenizer)
    assert len(encoded(handler, batch)[0]) == 7
    assert [(row["uid"], row["stage"], row["reason"]) for row in rejects(batch)] == [
        ("row-6", "encode", "non_finite")
    ]


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
    expected = encoded(handler, chunks(8, tokenizer))
    fails(error, when=lambda blocks: sum(map(len, blocks)) > 3)
    assert close(encoded(handler, chunks(8, tokenizer)), expected)
    assert batch_limit(handler._specs).rows == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NO_MEMORY[0], Reason.OUT_OF_MEMORY), (ValueError("at 0x7f00aa"), Reason.ENCODE_FAILED)],
)
def test_row_that_breaks_its_batch_is_rejected_alone(handler, tokenizer, fails, error, reason):
    batch = chunks(8, tokenizer)
    images, texts = encoded(handler, chunks(8, tokenizer))
    poison = batch[1].pixels[0][0].copy()
    fails(error, when=lambda blocks: any((one == poison).all() for b in blocks for one in b))
    found = encoded(handler, batch)
    (row,) = rejects(batch)
    assert (row["uid"], row["stage"], row["reason"]) == ("row-5", "encode", reason.value)
    assert "0x" not in row["detail"]
    assert uids(batch) == [f"row-{n}" for n in range(8) if n != 5]
    assert close(found, (np.delete(images, 5, 0), np.delete(texts, 5, 0)))


@pytest.mark.parametrize("error", [NO_MEMORY[0], RuntimeError("CUDA error: device lost")])
def test_machine_that_encodes_nothing_fails_and_rejects_no_row(handler, tokenizer, fails, error):
    fails(error, when=lambda pixels: True)
    batch = chunks(8, tokenizer)
    with pytest.raises(EncoderFailedError, match="cannot encode even a blank image"):
        handler.run_inference(batch, handler.load_model())
    assert not rejects(batch)


def test_worker_that_finds_another_checkpoint_fails(model_dir):
    handler = ClipHandler([ModelSpec(str(model_dir))], ["0" * 64], batch_size=8)
    with pytest.raises(ModelChangedError, match="expected the checkpoint with SHA-256 0000"):
        handler.load_model()


def test_launcher_needs_no_gpu_of_its_own(model_dir):
    flags = ["--manifest", "m", "--output", "o", "--model", str(model_dir)]
    config, _ = options.parse(
        [*flags, "--device", "cuda", "--precision", "bf16", "--compile"] + ["--engine", "processes"]
    )
    models = load_run_models(config)
    assert [(spec.device, spec.compiled) for spec in models.specs] == [("cuda", True)]
    assert models.loaded[0].fingerprint["precision"] == "bf16"
    assert models.loaded[0].clip.logit_scale.device.type == "cpu"


def test_compiling_for_a_processor_is_refused(model_dir):
    flags = ["--manifest", "m", "--output", "o", "--model", str(model_dir), "--device", "cpu"]
    config, _ = options.parse([*flags, "--compile"])
    with pytest.raises(ValueError, match="`compile` is for a GPU, and this run is on a CPU"):
        load_run_models(config)


def test_model_is_loaded_once_per_process(model_dir):
    specs = (ModelSpec(str(model_dir)),)
    assert load_models(specs) is load_models(specs)


def test_batches_come_formed_and_are_counted_without_pickling(handler, tokenizer):
    assert handler.should_skip_batching()
    (chunk,) = chunks(2, tokenizer)
    assert handler.get_num_bytes([chunk]) == chunk.nbytes > 2 * (3 * 64 * 64 + 32 * 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU")
def test_auto_means_the_cpu_and_fp32_without_a_gpu():
    assert models.resolve_device("auto") == "cpu"
    assert models.resolve_precision("auto", "cpu") == "fp32"
    assert models.resolve_precision("bf16", "cpu") == "bf16"


def test_score_is_the_cosine_and_never_above_one():
    vector = np.array([[0.6, 0.8000001]] * 2, np.float32)
    texts = np.array([[0.6, 0.8000001], [1.0, 0.0]], np.float32)
    found = similarity(Vectors(vector, texts, np.zeros(2, bool)))
    assert found.dtype == np.float32 and found.tolist() == [1.0, pytest.approx(0.6)]


def test_literal_special_tokens_of_captions_are_counted(handler, tokenizer, monkeypatch):
    (batch,) = chunks(3, tokenizer)
    (model,) = handler.load_model().models
    assert encode.special_tokens(RowsOfBatch.of([batch]), model) == 0
    batch.tokens[0][1], _ = tokenizer.tokenize_row("a <|endoftext|> <|startoftext|> circle")
    counted = []
    monkeypatch.setattr(handler, "_special_tokens", SimpleNamespace(inc=counted.append))
    handler.run_inference([batch], handler.load_model())
    assert counted == [2]


@pytest.fixture
def meeting(monkeypatch):
    """Makes parts wait for each other; returns how many rows those had that met."""
    encode_rows, met = encode.encode_rows, []

    def install(seconds):
        both = threading.Barrier(2)

        def work(rows, *arguments):
            with suppress(threading.BrokenBarrierError):
                both.wait(seconds)
                met.append(len(rows))
            return encode_rows(rows, *arguments)

        monkeypatch.setattr(encode, "encode_rows", work)
        return met

    return install


def model_on(handler, monkeypatch, cores, torch_threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    model = handler.load_model()
    return replace(model, threads=replace(model.threads, cores=cores))


@pytest.mark.parametrize(("cores", "torch_threads", "together"), [(4, 2, True), (3, 2, False)])
def test_batches_are_encoded_side_by_side_where_torch_leaves_cores(
    handler, tokenizer, monkeypatch, meeting, cores, torch_threads, together
):
    met = meeting(5 if together else 0.2)
    model = model_on(handler, monkeypatch, cores, torch_threads)
    with ThreadPoolExecutor(2) as pool:
        batches = [chunks(5, tokenizer) for _ in range(2)]
        list(pool.map(lambda batch: handler.run_inference(batch, model), batches))
    assert met == ([5, 5] if together else [])
    assert all(chunk.vectors for batch in batches for chunk in batch)


def test_one_batch_is_parted_among_the_cores_that_torch_leaves(
    model_dir, tokenizer, monkeypatch, meeting
):
    spec = ModelSpec(str(model_dir))
    (model,) = load_models((spec,)).models
    handler = ClipHandler([spec], [model.fingerprint["checkpoint_sha256"]], batch_size=64)
    count = 2 * CPU_IMAGES + 6
    expected = encoded(handler, chunks(count, tokenizer))
    met, batch = meeting(5), chunks(count, tokenizer)
    handler.run_inference(batch, model_on(handler, monkeypatch, 2, 1))
    assert met == [count // 2] * 2
    found = [chunk.vectors[0] for chunk in batch]
    assert close([np.concatenate([f.image for f in found])], expected[:1])
    assert close([np.concatenate([f.text for f in found])], expected[1:])


def test_small_batch_is_not_parted(handler, tokenizer, monkeypatch, meeting):
    met = meeting(0.2)
    handler.run_inference(chunks(8, tokenizer), model_on(handler, monkeypatch, 4, 1))
    assert met == []
