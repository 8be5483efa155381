import numpy as np
import pytest
import torch

import clip_core
from clip_core.inference import verification
from clip_core.inference.verification import TOLERANCE, Deviation, example_inputs, measure
from pipelines import verify


def test_inputs_cover_long_captions_and_every_shape_of_picture(model_dir):
    model = clip_core.load(str(model_dir))
    pixels, tokens = example_inputs(model)
    assert pixels.shape == (8, 3, 64, 64) and pixels.dtype == np.uint8
    assert tokens.shape == (8, 32)
    assert tokens[-1, -1] == tokens.max()  # cut at the context length
    again = example_inputs(model)
    assert np.array_equal(again[0], pixels) and np.array_equal(again[1], tokens)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("directory", ["model_dir", "vit_dir"])
def test_every_precision_passes_on_every_family(request, directory, precision):
    path = str(request.getfixturevalue(directory))
    deviation = measure(clip_core.load(path), clip_core.load(path, precision=precision))
    assert deviation.within(TOLERANCE[precision])
    assert precision == "fp32" or deviation.image > 1e-9


def test_other_weights_are_far_beyond_rounding(model_dir, tmp_path):
    reference, model = clip_core.load(str(model_dir)), clip_core.load(str(model_dir))
    model.clip.text_projection.data += 0.05 * torch.randn_like(model.clip.text_projection)
    deviation = measure(reference, model)
    assert deviation.image < 1e-6 < deviation.text
    assert not deviation.within(TOLERANCE["bf16"])


def test_what_is_not_a_number_does_not_pass():
    nan = float("nan")
    for values in [(nan, 0, 0), (0, nan, 0), (0, 0, nan)]:
        assert not Deviation(*values).within(TOLERANCE["bf16"])


def test_command_prints_the_verdict(model_dir, capsys, monkeypatch):
    assert verify.main(["--model", str(model_dir), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "tested             fp32 on cpu, against fp32 on cpu" in shown
    assert shown.endswith("verdict            passed\n")
    monkeypatch.setattr(verify, "measure", lambda *models: Deviation(0.1, 0, 0))
    assert verify.main(["--model", str(model_dir), "--device", "cpu"]) == 1
    assert capsys.readouterr().out.endswith("FAILED\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "no-such"], "there is no model 'no-such'"),
        (["--model", "tiny", "--device", "tpu"], "device tpu cannot be used"),
        (["--model", "tiny", "--vocab", "/"], "expected `--vocab` to name a file"),
    ],
)
def test_bad_usage_is_one_sentence(flags, message, capsys):
    assert verify.main(flags) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("clip-beam verify: ") and message in shown and shown.count("\n") == 1


def test_captions_differ():
    assert len(set(verification.CAPTIONS)) == len(verification.CAPTIONS)
