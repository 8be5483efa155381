"""What a GPU is given. Graphs are stood in for here, as only a GPU has them; one test asks for it."""

import copy
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from clip_core.inference import gpu, ready
from clip_core.inference.encoding import encode_pairs
from clip_core.inference.gpu import GraphedEncoder, capture, compile_blocks
from clip_core.loading import cast_precision
from clip_core.model import l2_normalize
from making import random_clip

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")


class Encoder(torch.nn.Module):
    """Counts its calls; rows do not depend on each other."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        return pixels.flatten(1).cumsum(dim=1)


class Stand:
    """As a CUDA graph does, reads and writes the same memory at each call, one call at a time."""

    def __init__(self, wrong=0.0, error=None):
        self.wrong, self.error = wrong, error
        self.captured, self.replays = [], 0

    def __call__(self, encode, example):
        if self.error:
            raise self.error
        self.captured.append(len(example))
        given, busy = example.clone(), threading.Lock()
        made = encode(given) + self.wrong

        def replay(x):
            assert busy.acquire(blocking=False), "two threads at once"
            self.replays += 1
            given.copy_(x)
            made.copy_(given.flatten(1).cumsum(dim=1) + self.wrong)
            busy.release()
            return made.clone()

        return replay


def batch(rows, seed=0):
    return torch.rand(rows, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_size_that_comes_again_is_replayed_and_others_are_not():
    stand, encoder = Stand(), Encoder()
    graphed = GraphedEncoder(encoder, stand)
    for seed, rows in enumerate((8, 8, 8, 3, 8)):
        assert torch.equal(graphed(batch(rows, seed)), Encoder()(batch(rows, seed)))
    assert stand.captured == [8]
    assert stand.replays == 3  # of which one is the trial
    assert encoder.calls == 4  # two of eight rows, one while capturing, one of three rows


def test_results_outlive_the_next_replay():
    graphed = GraphedEncoder(Encoder(), Stand())
    found = [graphed(batch(4, seed)) for seed in range(6)]
    for seed, one in enumerate(found):
        assert torch.equal(one, Encoder()(batch(4, seed)))


def test_only_so_many_sizes_get_a_graph():
    stand = Stand()
    graphed = GraphedEncoder(Encoder(), stand)
    for rows in (*range(1, 8), *range(1, 8)):
        assert len(graphed(batch(rows))) == rows
    assert stand.captured == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("stand", "said"),
    [
        (Stand(wrong=1.0), "NotEqualError: expected a difference of 1e-05 at most, got"),
        (
            Stand(wrong=float("nan")),
            "NotEqualError: expected a difference of 1e-05 at most, got na",
        ),
        (Stand(error=RuntimeError("CUDA error\nmore")), "RuntimeError: CUDA error"),
    ],
    ids=["other numbers", "not numbers", "cannot be captured"],
)
def test_graph_that_does_not_do_is_left_out_and_said_once(stand, said, caplog):
    graphed = GraphedEncoder(Encoder(), stand)
    with caplog.at_level(logging.WARNING):
        for seed in range(5):
            assert torch.equal(graphed(batch(8, seed)), Encoder()(batch(8, seed)))
    (message,) = caplog.messages
    assert message.startswith("batches of 8 go without a CUDA graph: " + said)
    assert "\n" not in message


def test_batch_that_fails_is_tried_again_as_if_never_seen():
    class Failing(Encoder):
        def forward(self, pixels):
            if not self.calls:
                self.calls += 1
                raise torch.OutOfMemoryError("full")
            return super().forward(pixels)

    graphed = GraphedEncoder(Failing(), Stand())
    with pytest.raises(torch.OutOfMemoryError):
        graphed(batch(8))
    assert torch.equal(graphed(batch(8)), Encoder()(batch(8)))


def test_threads_share_an_encoder():
    graphed = GraphedEncoder(Encoder(), Stand())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: graphed(batch(16, seed)), range(60)))
    for seed, one in enumerate(found):
        assert torch.equal(one, Encoder()(batch(16, seed)))


def compile_quickly(function, dynamic):
    """Traces as ever, but generates no code, which would take half a minute."""
    return TORCH_COMPILE(function, dynamic=dynamic, backend="aot_eager")


TORCH_COMPILE = torch.compile


@pytest.fixture
def quick_compiler(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", compile_quickly)
    yield
    torch.compiler.reset()


def inputs(tokenizer):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    captions = ["a star", "a red circle " * 3, "", "a star", "a large cross"]
    return [pixels], tokenizer.tokenize(captions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_blocks_compute_the_same(tokenizer, quick_compiler, dtype):
    clip = cast_precision(random_clip("tiny-vit", tokenizer), dtype)
    expected = encode_pairs(clip, *inputs(tokenizer))
    for tower in (clip.transformer, clip.visual.transformer):
        compile_blocks(tower)
        assert all("finish" in vars(block) for block in tower.blocks)
    for found, one in zip(encode_pairs(clip, *inputs(tokenizer)), expected, strict=True):
        assert np.abs(found - one).max() < (1e-6 if dtype == torch.float32 else 1e-2)


def test_blocks_of_a_tower_share_one_compilation(tokenizer, quick_compiler):
    tower = random_clip("tiny-vit", tokenizer).visual.transformer
    compile_blocks(tower)
    torch._dynamo.utils.counters.clear()
    with torch.inference_mode():
        for block in tower.blocks:
            for rows in (5, 9):
                shape = (rows, 7, block.ln_1.normalized_shape[0])
                block.finish(torch.randn(shape), torch.randn(shape))
    assert len(tower.blocks) > 1 and not torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("fault", ["no compiler", "other numbers"])
def test_what_cannot_be_compiled_is_said_in_one_sentence(tokenizer, monkeypatch, fault):
    def broken(function, dynamic):
        if fault == "other numbers":
            return lambda block, x, mixed: function(block, x, mixed) + 1
        return lambda *_: [][0]

    monkeypatch.setattr(torch, "compile", broken)
    tower = random_clip("tiny-vit", tokenizer).transformer
    with pytest.raises(ValueError, match="blocks cannot be compiled here .*without compiling"):
        compile_blocks(tower)
    assert not any("finish" in vars(block) for block in tower.blocks)


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_whole_model_encodes_the_same(tokenizer, monkeypatch, quick_compiler, variant):
    monkeypatch.setattr(gpu, "capture", lambda encode, example: encode)
    clip = random_clip(variant, tokenizer)
    expected = encode_pairs(clip, *inputs(tokenizer))
    gpu.ready_for_gpu(clip, compiled=True)
    assert isinstance(clip.visual, GraphedEncoder)
    for _ in range(3):
        for found, one in zip(encode_pairs(clip, *inputs(tokenizer)), expected, strict=True):
            assert np.abs(found - one).max() < 1e-6


def test_processor_gets_no_graphs(tokenizer):
    clip = ready.ready_to_encode(random_clip("tiny-vit", tokenizer), compiled=True)
    assert not isinstance(clip.visual, GraphedEncoder)


@needs_gpu
@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_real_graph_gives_the_plain_numbers(tokenizer, variant):
    plain = random_clip(variant, tokenizer).cuda()
    graphed = GraphedEncoder(copy.deepcopy(plain.visual), capture)
    with torch.inference_mode():
        for seed in range(5):
            pixels = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
            found, one = graphed(pixels.cuda()), plain.visual(pixels.cuda())
            assert (l2_normalize(found) - l2_normalize(one)).abs().max() < 1e-5
    assert list(graphed._graphs) == [32] and graphed._graphs[32] is not graphed.encode
