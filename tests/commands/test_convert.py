import json
import os
import shutil

import pytest
import torch

import clip_core
from pipelines import convert, verify


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


SQUARE = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("resizing", "as_hugging_face_says"),
    [
        ({"resize_mode": "squash", "interpolation": "bilinear"}, {"size": SQUARE, "resample": 2}),
        ({"resize_mode": "longest", "fill_color": 127}, None),
    ],
)
def test_resizing_survives_conversion_and_passes_verification(
    vit_dir, tmp_path, resizing, as_hugging_face_says
):
    source = shutil.copytree(vit_dir, tmp_path / "source")
    config = source / "open_clip_config.json"
    document = json.loads(config.read_text())
    document["preprocess_cfg"] = resizing
    config.write_text(json.dumps(document))
    assert run(source, tmp_path / "out") == 0
    first, second = (clip_core.load(path) for path in (source, tmp_path / "out"))
    assert first.config.resizing.mode == resizing["resize_mode"]
    assert first.fingerprint["preprocessing"] == second.fingerprint["preprocessing"]
    assert verify.main(["--model", str(tmp_path / "out"), "--device", "cpu"]) == 0
    # Where Hugging Face cannot do the same, it gets no model that it would feed other pixels.
    written = tmp_path / "out" / "preprocessor_config.json"
    assert written.exists() == (tmp_path / "out" / "model.safetensors").exists()
    assert written.exists() == (as_hugging_face_says is not None)
    if as_hugging_face_says:
        found = json.loads(written.read_text())
        assert {name: found[name] for name in as_hugging_face_says} == as_hugging_face_says


def test_half_precision_is_half_the_size(vit_dir, tmp_path):
    run(vit_dir, tmp_path / "full")
    run(vit_dir, tmp_path / "half", "--save_precision", "fp16")
    full, half = (tmp_path / n / "model.safetensors" for n in ("full", "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size


def test_bad_usage_is_one_sentence(model_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    bare = shutil.copy(model_dir / "open_clip_model.safetensors", tmp_path / "bare.safetensors")
    cases = [
        (("no-such", tmp_path / "a"), "there is no model 'no-such'"),
        ((model_dir, model_dir), "which holds files; name another or remove it"),
        ((model_dir, tmp_path / "file"), "to be a new directory"),
        ((bare, tmp_path / "b"), "pass `quick_gelu` as `--activation`"),
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
