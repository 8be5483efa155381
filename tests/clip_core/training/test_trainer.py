import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import forked
import training_run
from clip_core.training.evaluation import held_out_recall
from clip_core.training.recipe import (
    PretrainConfig,
    PretrainError,
    learning_rate_at,
    parameter_groups,
)
from clip_core.training.trainer import Pairs, Trainer
from making import ROOT, random_clip

CONFIG = PretrainConfig(
    epochs=2, batch_size=8, learning_rate=1e-3, warmup_steps=2, checkpoint_every=3
)


@pytest.fixture
def pairs(tokenizer):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 3, 64, 64), dtype=np.uint8)
    return Pairs(pixels, tokenizer.tokenize([f"a red circle number {n}" for n in range(32)]))


def trained(tokenizer, pairs, path, config=CONFIG, variant="tiny-rn", stop_after=None):
    trainer = Trainer(random_clip(variant, tokenizer, shallow=True), pairs, config, path)
    reports = []

    class Stop(Exception):
        pass

    def report(step):
        reports.append(step)
        if step.step == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        trainer.run(report)
    return trainer, reports


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_loss_falls_on_data_that_is_seen_again(tokenizer, pairs, tmp_path, variant):
    config = replace(CONFIG, epochs=24)
    _, reports = trained(tokenizer, pairs, tmp_path / "c.pt", config, variant)
    assert len(reports) == 96
    assert np.mean([r.loss for r in reports[-4:]]) < 0.7 * np.mean([r.loss for r in reports[:4]])


def test_resumed_run_equals_an_unbroken_one(tokenizer, pairs, tmp_path):
    config = replace(CONFIG, horizontal_flip=True)
    whole, all_reports = trained(tokenizer, pairs, tmp_path / "a.pt", config)
    trained(tokenizer, pairs, tmp_path / "b.pt", config, stop_after=5)
    resumed, late = trained(tokenizer, pairs, tmp_path / "b.pt", config)
    assert [report.step for report in late] == [4, 5, 6, 7, 8]
    assert late[-1].loss == pytest.approx(all_reports[-1].loss, abs=1e-6)
    for name, tensor in whole.clip.state_dict().items():
        assert torch.allclose(tensor.float(), resumed.clip.state_dict()[name].float(), atol=1e-6)


def test_finished_run_trains_no_further(tokenizer, pairs, tmp_path):
    trained(tokenizer, pairs, tmp_path / "c.pt")
    assert trained(tokenizer, pairs, tmp_path / "c.pt")[1] == []


def test_checkpoint_of_another_run_is_refused(tokenizer, pairs, tmp_path):
    trained(tokenizer, pairs, tmp_path / "c.pt")
    with pytest.raises(
        PretrainError, match="another learning_rate \\(0.001\\); use the same options"
    ):
        trained(tokenizer, pairs, tmp_path / "c.pt", replace(CONFIG, learning_rate=1.0))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "foreign", "cut"])
def test_damaged_checkpoint_is_refused_in_one_sentence(tokenizer, pairs, tmp_path, content):
    path = tmp_path / "c.pt"
    trained(tokenizer, pairs, path, stop_after=4)
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(PretrainError, match="c.pt is damaged; remove it, or restore it"):
        trained(tokenizer, pairs, path)


def test_run_may_resume_with_less_memory_but_not_from_other_weights(tokenizer, pairs, tmp_path):
    trained(tokenizer, pairs, tmp_path / "c.pt", stop_after=5)
    frugal = replace(CONFIG, micro_batch_size=3, activation_checkpointing=True)
    assert trained(tokenizer, pairs, tmp_path / "c.pt", frugal)[1][-1].step == 8
    with pytest.raises(PretrainError, match="another start \\('random'\\)"):
        trained(tokenizer, pairs, tmp_path / "c.pt", replace(CONFIG, start="ab12"))


def test_bf16_trains_too(tokenizer, pairs, tmp_path):
    _, reports = trained(tokenizer, pairs, tmp_path / "c.pt", replace(CONFIG, precision="bf16"))
    assert all(np.isfinite(report.loss) for report in reports)


def test_gains_biases_and_temperature_do_not_decay(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    decayed, others = parameter_groups(clip, 0.2)
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    assert decayed["weight_decay"] == 0.2 and others["weight_decay"] == 0
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert {"logit_scale", "ln_final.weight", "transformer.resblocks.0.attn.in_proj_bias"} <= plain
    assert "transformer.resblocks.0.attn.in_proj_weight" not in plain


def test_rate_warms_up_and_falls_to_zero():
    config = PretrainConfig(learning_rate=1.0, warmup_steps=10)
    assert learning_rate_at(0, 100, config) == pytest.approx(0.1)
    assert learning_rate_at(9, 100, config) == learning_rate_at(10, 100, config) == 1.0
    assert learning_rate_at(55, 100, config) == pytest.approx(0.5)
    assert learning_rate_at(99, 100, config) < 1e-3


def test_batches_are_a_permutation_of_the_data_each_epoch(tokenizer, pairs, tmp_path):
    trainer = Trainer(random_clip("tiny-rn", tokenizer), pairs, CONFIG, tmp_path / "c.pt")
    for epoch in (0, 1):
        steps = range(4 * epoch, 4 * epoch + 4)
        rows = torch.cat([trainer._batch(step)[1] for step in steps])
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, pairs.tokens.tolist()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"precision": "fp16"}, "`precision` must be fp32 or bf16, got 'fp16'"),
        ({"micro_batch_size": 0}, "`micro_batch_size` must be at least 1, got 0"),
    ],
)
def test_impossible_config_is_refused(changes, message):
    with pytest.raises(PretrainError, match=message):
        replace(CONFIG, **changes)


def test_too_little_data_is_refused(tokenizer, pairs, tmp_path):
    with pytest.raises(PretrainError, match="at least one batch of 64 rows, got 32 rows"):
        trained(tokenizer, pairs, tmp_path / "c.pt", replace(CONFIG, batch_size=64))


def test_held_out_recall_names_both_directions(tokenizer, pairs):
    scores = held_out_recall(random_clip("tiny-rn", tokenizer), pairs)
    assert set(scores) == {
        f"{a}_recall@{k}" for a in ("image_to_text", "text_to_image") for k in (1, 5)
    }
    assert all(0 <= value <= 1 for value in scores.values())


def losses_of_two_processes(folder, variants):
    """Starts both as torchrun does, with their places in the environment."""
    with socket.socket() as held:
        held.bind(("localhost", 0))
        port = str(held.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "training_run", str(folder), *variants]
    path = os.pathsep.join((str(ROOT), *sys.path))
    both = [
        forked.Forked(
            command,
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    first, other = (process.communicate(timeout=100)[0] for process in both)
    lines = [line.split() for line in (first + other).splitlines() if line.startswith("losses")]
    return {variant: [float(value) for value in values] for _, variant, *values in lines}


def test_two_processes_and_one_give_equal_losses(tmp_path):
    variants = ("tiny-rn", "tiny-vit")
    both = losses_of_two_processes(tmp_path, variants)
    for variant in variants:
        alone = training_run.losses(variant, tmp_path / f"alone-{variant}.pt")
        assert len(alone) == 4
        assert both[variant] == pytest.approx(alone, abs=1e-4)
