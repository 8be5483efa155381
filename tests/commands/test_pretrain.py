"""The pretrain command and its decoded data."""

import json

import numpy as np
import pytest
import torch

import clip_core
from making import flags_over, make_row
from pipelines import pretrain
from pipelines.records import RowFault
from pipelines.sample import write_sample
from pipelines.samples.rows import SampleConfig
from pipelines.training import decoded_data
from pipelines.training import run as training
from pipelines.training.decoded_data import DataError, decode_manifest, open_decoded, split_of
from schemas.rejects import Reason

FLAGS = ["--epochs", "1", "--batch_size", "16", "--holdout_fraction", "0.2", "--warmup_steps", "2"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(SampleConfig(60, broken_rate=0.1, image_size=32), folder, "parquet")
    return folder


def test_command_writes_a_model_that_loads(sample, tmp_path, capsys):
    output = tmp_path / "model"
    assert pretrain.main(["--manifest", str(sample), "--output", str(output), *FLAGS]) == 0
    printed = capsys.readouterr().out
    assert "image_to_text_recall@1" in printed
    assert printed.startswith("rows: ") and " to train on, " in printed
    assert printed.splitlines()[-1] == f"model: {output}"
    model = clip_core.load(str(output))
    assert model.config.text.vocab_size == model.tokenizer.vocab_size
    assert model.encode_text(model.tokenize(["a red circle"])).isfinite().all()
    done = json.loads((output / "training" / "data" / "done.json").read_text())
    rejected = sum(done["rejects"].values())
    assert rejected > 0 and f" held out, {rejected} rejected (" in printed.splitlines()[0]


@pytest.mark.parametrize("directory", ["model_dir", "vit_dir"])
def test_training_goes_on_from_a_checkpoint_at_a_higher_resolution(
    request, sample, tmp_path, directory
):
    start = request.getfixturevalue(directory)
    flags = ["--init_from", str(start), "--image_size", "96", "--learning_rate", "0"]
    flags += ["--micro_batch_size", "5", "--activation_checkpointing", "--save_precision", "fp32"]
    arguments = ["--manifest", str(sample), "--output", str(tmp_path / "m"), *FLAGS, *flags]
    assert pretrain.main(arguments) == 0
    before, after = clip_core.load(str(start)), clip_core.load(str(tmp_path / "m"))
    assert (before.config.vision.image_size, after.config.vision.image_size) == (64, 96)
    tokens = before.tokenize(["a red circle"])
    assert after.tokenizer.identity == before.tokenizer.identity
    assert torch.allclose(after.encode_text(tokens), before.encode_text(tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variant", "tiny-rn", "--init_from", "tiny"], "got both"),
        (["--init_from", "nowhere"], "there is no model 'nowhere'"),
        (["--image_size", "65"], "`--image_size` must be a multiple of 32, got 65"),
        (["--batch_size", "500"], "at least one batch of 500 rows"),
        (["--epochs", "0"], "`--epochs` must be at least 1"),
        (["--learning_rate", "-1"], "`--learning_rate` must be 0 or more, got -1.0"),
        (["--max_grad_norm", "nan"], "`--max_grad_norm` must be 0 or more, got nan"),
        (["--threads", "0"], "`--threads` must be a positive int, got 0"),
        (["--holdout_fraction", "1"], "`--holdout_fraction` must be from 0 to below 1, got 1.0"),
        (["--device", "warp"], "device warp cannot be used"),
        (["--output", __file__], "expected `--output` to be a directory, got the file"),
        (["--init_from", "tiny", "--vocab", "/"], "expected `--vocab` to name a file"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(sample, tmp_path, capsys, flags, message):
    arguments = ["--manifest", str(sample), "--output", str(tmp_path / "m"), *FLAGS]
    assert pretrain.main(flags_over(arguments, flags)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_what_the_output_holds_is_used_only_for_the_same_run(tmp_path, capsys):
    sample, output = tmp_path / "sample", tmp_path / "model"
    write_sample(SampleConfig(40, image_size=32), sample, "parquet")
    arguments = ["--manifest", str(sample), "--output", str(output), *FLAGS]
    assert pretrain.main(arguments) == 0
    assert pretrain.main([*arguments, "--variant", "tiny-vit"]) == 2
    assert "a run with another start ('random tiny-rn')" in capsys.readouterr().err
    (file,) = sample.glob("*.parquet")
    file.write_bytes(file.read_bytes()[::-1])  # of the same size
    assert pretrain.main(arguments) == 2
    assert "holds data decoded with another manifest; remove it" in capsys.readouterr().err


def test_disk_that_fails_is_one_sentence(sample, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "save_model_directory", full)
    arguments = ["--manifest", str(sample), "--output", str(tmp_path / "m"), *FLAGS]
    assert pretrain.main(arguments) == 1
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]


def test_missing_manifest_is_one_sentence(tmp_path, capsys):
    arguments = ["--manifest", str(tmp_path / "none.csv"), "--output", str(tmp_path / "m")]
    assert pretrain.main(arguments) == 2
    assert "no manifest files matched" in capsys.readouterr().err


def rows_of(count):
    return [make_row(number) for number in range(count)]


def decode(row):
    if row.source_row % 5 == 0:
        raise RowFault("decode", Reason.NOT_AN_IMAGE)
    return np.full((3, 4, 4), row.source_row, np.uint8)


def decoded(folder, rows, **changes):
    settings = {"size": 4, "holdout_fraction": 0.3, "made_from": {"manifest": "m"}, "threads": 3}
    decode_manifest(rows, decode, folder, **(settings | changes))
    return open_decoded(folder)


def test_decoded_rows_keep_picture_and_caption_together(tmp_path):
    data = decoded(tmp_path, rows_of(100))
    assert data.rejects == {"not_an_image": 20}
    assert len(data.train.captions) + len(data.held_out.captions) == 80
    for split in (data.train, data.held_out):
        numbers = [int(caption.split()[-1]) for caption in split.captions]
        assert split.pixels[:, 0, 0, 0].tolist() == numbers == sorted(numbers)


def test_decoded_data_is_used_again_and_another_source_refused(tmp_path):
    decoded(tmp_path, rows_of(10))
    assert len(decoded(tmp_path, []).train.captions) > 0
    with pytest.raises(DataError, match="decoded with another manifest; remove it"):
        decoded(tmp_path, [], made_from={"manifest": "other"})


def test_no_rows_decode_to_empty_splits(tmp_path):
    data = decoded(tmp_path, [])
    assert data.train.pixels.shape == (0, 3, 4, 4)


def test_split_depends_on_the_id_alone():
    ids = [f"row-{number}" for number in range(2000)]
    held_out = [uid for uid in ids if split_of(uid, 0.1) == "held_out"]
    assert 150 < len(held_out) < 250
    assert {split_of(uid, 0.0) for uid in ids} == {"train"}
    assert decoded_data.SPLITS == ("train", "held_out")
