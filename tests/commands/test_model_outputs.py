"""`pretrain` and `convert` write where they are told, replace no model unasked, and tell no lies."""

import shutil

import pytest
import torch

import clip_core
from making import flags_over
from pipelines import cli, pretrain
from pipelines.sample import write_sample
from pipelines.samples.rows import SampleConfig
from pipelines.training import run as training

FLAGS = ["--epochs", "1", "--batch_size", "16", "--holdout_fraction", "0.2", "--warmup_steps", "1"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(SampleConfig(60, image_size=32), folder, "parquet")
    return folder


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "m"
    assert train(sample, output) == 0
    return output


def train(sample, output, *flags):
    values = [flag for flag in flags if flag != "--overwrite"]
    switches = ["--overwrite"] if "--overwrite" in flags else []
    argv = ["--manifest", str(sample), "--output", str(output), *flags_over(FLAGS, values)]
    return pretrain.main([*argv, *switches])


def convert(model, output, *flags):
    return cli.main(["convert", "--model", str(model), "--output", str(output), *flags])


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("init", [False, True])
def test_model_of_others_is_not_trained_over_unasked(sample, model_dir, tmp_path, capsys, init):
    output = shutil.copytree(model_dir, tmp_path / "m")
    before = content(output)
    flags = ("--init_from", str(output)) if init else ()
    assert train(sample, output, *flags) == 2
    error = capsys.readouterr().err
    assert "holds a model already; pass `--overwrite`" in error and error.count("\n") == 1
    assert content(output) == before
    assert train(sample, output, *flags, "--overwrite") == 0
    assert clip_core.load(str(output)) and content(output) != before


def test_same_run_goes_on_and_another_starts_anew_when_asked(sample, trained, tmp_path, capsys):
    output = shutil.copytree(trained, tmp_path / "m")
    assert train(sample, output) == 0
    assert train(sample, output, "--seed", "5") == 2
    assert "belongs to a run with another seed" in capsys.readouterr().err
    assert train(sample, output, "--seed", "5", "--overwrite") == 0


@pytest.mark.parametrize("name", ["notes.txt", "training/notes.txt", "training/data/a/b.npy"])
def test_foreign_file_beside_a_model_is_named(sample, trained, tmp_path, capsys, name):
    output = shutil.copytree(trained, tmp_path / "m")
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("mine")
    before = content(output)
    assert train(sample, output, "--overwrite") == 2
    assert str(output / name) in capsys.readouterr().err and content(output) == before


@pytest.mark.parametrize("gone", [["open_clip_config.json", "open_clip_model.safetensors"]])
def test_model_in_a_form_that_is_not_ours_stays(sample, vit_dir, tmp_path, capsys, gone):
    """As Hugging Face keeps it."""
    output = shutil.copytree(vit_dir, tmp_path / "m")
    for name in gone:
        (output / name).unlink()
    before = content(output)
    assert train(sample, output, "--overwrite") == 2
    assert convert(vit_dir, output, "--overwrite") == 2
    assert capsys.readouterr().err.count("of no model of this program") == 2
    assert content(output) == before


def test_conversion_replaces_a_model_only_when_asked(model_dir, vit_dir, tmp_path, capsys):
    output = shutil.copytree(vit_dir, tmp_path / "m")
    before = content(output)
    assert convert(model_dir, output) == 2 and content(output) == before
    assert "or pass `--overwrite`" in capsys.readouterr().err
    assert convert(model_dir, output, "--overwrite") == 0
    assert not (output / "model.safetensors").exists()  # of the ViT that was there
    assert {path.name for path in output.iterdir()} == {path.name for path in model_dir.iterdir()}
    assert convert(output, output, "--overwrite") == 0
    (output / "notes.txt").write_text("mine")
    before = content(output)
    assert convert(vit_dir, output, "--overwrite") == 2 and content(output) == before
    error = capsys.readouterr().err
    assert "notes.txt" in error and "--overwrite" not in error


def test_model_stays_until_the_next_one_is_whole(sample, trained, tmp_path, monkeypatch):
    output = shutil.copytree(trained, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_model_directory", full)
        assert train(sample, output, "--overwrite", "--seed", "3") == 1
    for name, data in before.items():
        assert (output / name).read_bytes() == data
    assert train(sample, output, "--overwrite", "--seed", "3") == 0


@pytest.mark.parametrize("flags", [("--learning_rate", "1e30"), ("--learning_rate", "1e38")])
@pytest.mark.parametrize("epochs", ["1", "4"])
def test_training_that_comes_to_no_number_fails(sample, tmp_path, capsys, flags, epochs):
    more = (*flags, "--epochs", epochs, "--batch_size", "40", "--warmup_steps", "0")
    for _ in range(2):  # its checkpoint is no better
        assert train(sample, tmp_path / "m", *more) == 1
        said = capsys.readouterr()
        assert "recall" not in said.out and "model:" not in said.out
        assert "no model was saved; lower `--learning_rate`" in said.err.splitlines()[-1]
        assert "Traceback" not in said.err
    assert not (tmp_path / "m" / "open_clip_config.json").exists()
    assert train(sample, tmp_path / "m", "--overwrite") == 0


def test_model_of_weights_that_are_not_finite_fails(sample, tmp_path, capsys, monkeypatch):
    real = training.new_model

    def broken(*arguments):
        clip = real(*arguments)
        with torch.no_grad():
            next(iter(clip.visual.parameters())).fill_(float("nan"))
        return clip

    monkeypatch.setattr(training, "new_model", broken)
    assert train(sample, tmp_path / "m") == 1
    assert "the loss is nan at step 1" in capsys.readouterr().err


PLACES = ["gs://bucket/m", "s3://bucket/m", "memory://m", "https://host/m", "gs:/bucket/m"]


@pytest.mark.parametrize("place", [*PLACES, "simplecache::gs://bucket/m", ""])
@pytest.mark.parametrize("command", ["pretrain", "convert", "sample", "demo"])
def test_output_that_is_no_directory_of_this_machine_is_refused(
    tmp_path, monkeypatch, capsys, command, place
):
    monkeypatch.chdir(tmp_path)
    more = {"pretrain": ["--manifest", "m"], "convert": ["--model", "tiny"]}
    argv = [command, "--output", place, "--rows", "10"][: 3 if command in more else 5]
    assert cli.main(argv + more.get(command, [])) == 2
    error = capsys.readouterr().err
    assert "argument --output: expected a directory" in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["", "file://", "local://"])
def test_output_on_this_machine_may_be_a_uri(model_dir, tmp_path, prefix):
    assert convert(model_dir, f"{prefix}{tmp_path}/m") == 0
    assert clip_core.load(str(tmp_path / "m"))
