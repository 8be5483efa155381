import os
import shutil

import pytest
import torch

import clip_core
from pipelines import convert


def run(model, output, *flags):
    return convert.main(["--model", str(model), "--output", str(output), *flags])


def embeddings(path):
    model = clip_core.load(str(path))
    tokens = model.tokenize(["a red circle", "a large blue star"])
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return torch.cat([model.encode_text(tokens), model.encode_image(pixels)])


@pytest.mark.parametrize("directory", ["model_dir", "vit_dir"])
def test_model_survives_conversion(request, tmp_path, capsys, directory):
    source = request.getfixturevalue(directory)
    assert run(source, tmp_path / "out") == 0
    assert torch.equal(embeddings(tmp_path / "out"), embeddings(source))
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"open_clip_model.safetensors", "open_clip_config.json", "merges.txt"} <= files
    assert ("model.safetensors" in files) == (directory == "vit_dir")
    assert "open_clip_model.safetensors" in capsys.readouterr().out


def test_hugging_face_directory_becomes_an_open_clip_one(vit_dir, tmp_path):
    source = shutil.copytree(vit_dir, tmp_path / "hf")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (source / name).unlink()
    assert run(source, tmp_path / "out") == 0
    assert torch.allclose(embeddings(tmp_path / "out"), embeddings(vit_dir), atol=1e-6)
    assert (tmp_path / "out" / "open_clip_config.json").exists()


def test_bare_state_dict_is_converted_with_what_the_flags_tell(vit_dir, tmp_path):
    weights = vit_dir / "open_clip_model.safetensors"
    activation = clip_core.load(str(vit_dir)).config.activation
    flags = ("--activation", activation, "--vocab", str(vit_dir / "merges.txt"))
    assert run(weights, tmp_path / "out", *flags) == 0
    assert torch.equal(embeddings(tmp_path / "out"), embeddings(vit_dir))


def test_half_precision_is_half_the_size(vit_dir, tmp_path):
    run(vit_dir, tmp_path / "full")
    run(vit_dir, tmp_path / "half", "--save_precision", "fp16")
    full, half = (tmp_path / n / "model.safetensors" for n in ("full", "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size


def test_bad_usage_is_one_sentence(model_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    cases = [
        (("no-such", tmp_path / "a"), "there is no model 'no-such'"),
        ((model_dir, model_dir), "which holds files; name another or remove it"),
        ((model_dir, tmp_path / "file"), "to be a new directory"),
        (
            (model_dir / "open_clip_model.safetensors", tmp_path / "b"),
            "pass `quick_gelu` as `--activation`",
        ),
    ]
    for (model, output), message in cases:
        assert run(model, output) == 2
        shown = capsys.readouterr().err
        assert message in shown and shown.count("\n") == 1
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize("refuses", [False, True])
def test_files_of_a_model_have_the_mode_of_the_umask(tmp_path, model_dir, monkeypatch, refuses):
    def refuse(*arguments, **settings):
        raise PermissionError(1, "Operation not permitted")

    if refuses:
        monkeypatch.setattr("os.chmod", refuse)
    before = os.umask(0o027)
    try:
        assert convert.main(["--model", str(model_dir), "--output", str(tmp_path / "m")]) == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()}
    if refuses:  # readable by its owner alone, as safetensors makes it
        assert modes.pop("open_clip_model.safetensors") == 0o600
    assert set(modes.values()) == {0o640}
