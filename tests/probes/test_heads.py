"""Heads in their published layouts, against torch's own modules."""

import json

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from embedding_runs import write_manifest
from making import flags_over
from pipelines import cli
from pipelines.probes.head import HeadError
from pipelines.probes.head_files import read_head
from scored_runs import write_scored


def linear(dim, outputs=1):
    return nn.Linear(dim, outputs)


def improved_aesthetic():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
                nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
            )  # fmt: skip

        def forward(self, x):
            return self.layers(x)

    return Module()


def unsafe_h14():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            layers, widths = [], (1024, 1024, 2048, 1024, 256, 128)
            for before, after in zip(widths, widths[1:], strict=False):
                layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.2)]
            self.layers = nn.Sequential(*layers, nn.Linear(128, 16), nn.Linear(16, 1))

        def forward(self, x):
            return self.layers(x)

    return Module()


PUBLISHED = {
    "aesthetic, linear, L/14": (lambda: linear(768), 768),
    "aesthetic, linear, B/32": (lambda: linear(512), 512),
    "aesthetic, improved": (improved_aesthetic, 768),
    "unsafe, H/14": (unsafe_h14, 1024),
}


def unit(rows, dim, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_are_those_of_the_published_module(tmp_path, name, form):
    make, dim = PUBLISHED[name]
    torch.manual_seed(len(name))
    module = make().eval()
    path = tmp_path / f"head.{form}"
    if form == "torch":
        torch.save(module.state_dict(), path)
    else:
        save_file({n: t.numpy() for n, t in module.state_dict().items()}, path)
    images = unit(300, dim)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    found = read_head("h", str(path)).outputs(images)
    assert found.shape == expected.shape == (300, 1)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("end", ["none", "relu", "sigmoid"])
@pytest.mark.parametrize("between", ["none", "relu", "sigmoid"])
def test_activations_are_those_that_are_named(tmp_path, between, end):
    kinds = {"none": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 5), kinds[between](), nn.Linear(5, 2), kinds[end]())
    torch.save(module.state_dict(), tmp_path / "head.pth")
    images = 10 * unit(50, 6)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    head = read_head("h", str(tmp_path / "head.pth"), f"{between},{end}")
    assert np.abs(head.outputs(images) - expected).max() < 1e-5
    assert str(head.fields[0].type) == "fixed_size_list<item: float>[2]"


def test_what_stands_between_layers_is_never_guessed(tmp_path):
    torch.save(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1)).state_dict(), tmp_path / "h.pth")
    with pytest.raises(HeadError, match="pass `head_activation`, such as `relu,sigmoid`"):
        read_head("h", str(tmp_path / "h.pth"))
    with pytest.raises(HeadError, match="each of none, relu, sigmoid, got 'gelu,none'"):
        read_head("h", str(tmp_path / "h.pth"), "gelu,none")


def write_head(path, between, end, labels=(), **tensors):
    told = {"between": between, "end": end, "labels": list(labels)}
    save_file(tensors, path, {"clip_beam.head": json.dumps(told)})
    return path


def test_metadata_says_it_and_nothing_else_may(tmp_path):
    weight, bias = np.float32([[1, 0], [0, -1]]), np.float32([0, 0.5])
    path = write_head(tmp_path / "h.safetensors", [], "relu", weight=weight, bias=bias)
    head = read_head("h", str(path))
    assert head.outputs(np.float32([[-1, 0.25]])).tolist() == [[0, 0.25]]
    with pytest.raises(HeadError, match="leave out `head_activation`"):
        read_head("h", str(path), "none,none")
    write_head(path, ["relu"], "relu", weight=weight, bias=bias)
    with pytest.raises(HeadError, match="makes no sense"):
        read_head("h", str(path))


class Canary:
    def __reduce__(self):
        return (exec, ("raise AssertionError('pickle was run')",))


def keras_zip(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip_autokeras/saved_model.pb", b"")


REFUSED = {
    "canary": (lambda path: torch.save({"weight": Canary()}, path), "which is not data"),
    "keras by name.h5": (lambda path: path.write_bytes(b""), "is a Keras model, which is not read"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is a Keras model"),
    "saved model": (keras_zip, "is a Keras model"),
    "text": (lambda path: path.write_text("hello"), "expected safetensors or a state dict of torch"),
    "legacy": (lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
               "a bare pickle of torch before 1.6"),
    "convolution": (lambda path: torch.save(nn.Conv2d(1, 1, 1).state_dict(), path), "has shape"),
    "other tensors": (lambda path: torch.save(nn.BatchNorm1d(3).state_dict(), path),
                      "got num_batches_tracked, running_mean"),
    "wrong chain": (lambda path: torch.save({"0.weight": torch.ones(3, 4), "1.weight": torch.ones(2, 5)}, path),
                    r"expected \[outputs, 3\]"),
    "no numbers": (lambda path: torch.save({"a.weight": torch.ones(3, 4), "b.weight": torch.ones(2, 3)}, path),
                   "expected numbers in the names of the layers"),
    "no number": (lambda path: torch.save({"weight": torch.full((1, 4), torch.nan)}, path), "holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_head_is_refused_in_one_sentence(tmp_path, name):
    make, told = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=told) as refused:
        read_head("h", str(tmp_path / name), "none,none")
    assert "\n" not in str(refused.value)


def torch_file(path, dim, seed=0):
    torch.manual_seed(seed)
    module = nn.Linear(dim, 1)
    torch.save(module.state_dict(), path)
    return module


@pytest.fixture
def scored(tmp_path):
    """Nine rows in three files, one empty, and two rejects."""
    rows = [
        {"uid": f"{n:032x}", "image_embedding": vector} for n, vector in enumerate(unit(9, 512))
    ]
    fingerprint = {"architecture": "ViT-B/32", "checkpoint_sha256": "c0ffee"}
    write_scored(tmp_path / "run", [rows[:4], [], rows[4:]], dim=512, fingerprint=fingerprint,
                 rejects=[{"reason": "not_found"}] * 2)  # fmt: skip
    return tmp_path


def heads(root, *flags, source="run"):
    argv = ["heads", "--input", str(root / source), "--output", str(root / "out")]
    return cli.main([*argv, *map(str, flags)])


def test_columns_are_added_to_a_run_that_other_commands_take(scored, capsys):
    module = torch_file(scored / "a.pth", 512)
    labels = write_head(scored / "b.safetensors", [], "softmax", ["low", "high"],
                        weight=np.zeros((2, 512), np.float32), bias=np.float32([0, 1]))  # fmt: skip
    assert heads(scored, "--head", f"aesthetic={scored}/a.pth", "--head", f"level={labels}") == 0
    assert "columns    aesthetic, level, level_probability" in capsys.readouterr().out
    table = ds.dataset(scored / "out" / "embeddings").to_table()
    before = ds.dataset(scored / "run" / "embeddings").to_table()
    assert table.select(before.schema.names).equals(before)
    with torch.no_grad():
        expected = module(torch.from_numpy(unit(9, 512)))[:, 0].numpy()
    assert np.abs(table["aesthetic"].to_numpy() - expected).max() < 1e-6
    assert set(table["level"].to_pylist()) == {"high"}
    assert np.allclose(table["level_probability"].to_numpy(), 1 / (1 + np.exp(-1)))
    record = json.loads((scored / "out" / "run.json").read_text())
    assert (record["counts"]["embedded"], record["counts"]["rejected"]) == (9, 2)
    assert set(record["heads"]) == {"aesthetic", "level"}

    least = float(np.sort(expected)[3:5].mean())
    argv = ["filter", "--input", str(scored / "out"), "--output", str(scored / "kept")]
    assert cli.main([*argv, "--where", f"aesthetic >= {least} and level = 'high'"]) == 0
    argv = ["export", "--input", str(scored / "kept"), "--output", str(scored / "laion")]
    assert cli.main([*argv, "--format", "laion"]) == 0
    laion = ds.dataset(scored / "laion" / "metadata").to_table()
    assert np.abs(np.sort(laion["AESTHETIC_SCORE"].to_numpy()) - np.sort(expected)[4:]).max() < 1e-6


def test_workers_write_the_same_and_output_is_kept_unless_it_may_be_overwritten(scored, capsys):
    torch_file(scored / "a.pth", 512)
    (scored / "run" / "rejects" / "unit-0.parquet").unlink()
    flags = ("--head", f"a={scored}/a.pth", "--allow_incomplete")
    assert heads(scored, *flags) == 0
    here = ds.dataset(scored / "out" / "embeddings").to_table()
    assert heads(scored, *flags) == 2 and "is there already" in capsys.readouterr().err
    assert heads(scored, *flags, "--overwrite", "--runner", "FnApiRunner") == 0
    assert ds.dataset(scored / "out" / "embeddings").to_table().equals(here)


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--head", "a"), "expected `--head` NAME=URI"),
        (("--head", "a=ROOT/none.pth"), "which is none"),
        (("--head", "text=ROOT/a.pth"), "there is a column 'text' already"),
        (("--head", "a=ROOT/a.pth", "--head", "A=ROOT/a.pth"), "there is a column 'A' already"),
        (("--head", "a=ROOT/wide.pth"), "takes embeddings of 768 numbers, and those of the model"),
        (("--head", "b32:a=ROOT/a.pth"), "the run has one without a name; leave it out"),
        (("--head", "a=ROOT/a.pth", "--head_activation", "b=none,none"), "which is no `--head`"),
    ],
)
def test_wrong_usage_is_one_sentence(scored, capsys, flags, told):
    torch_file(scored / "a.pth", 512)
    torch_file(scored / "wide.pth", 768)
    assert heads(scored, *(flag.replace("ROOT", str(scored)) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_head_of_another_model_is_refused(tmp_path, capsys):
    write_scored(tmp_path / "run", [[{"image_embedding": unit(1, 768)[0]}]], dim=768,
                 fingerprint={"architecture": "RN50x16"})  # fmt: skip
    torch_file(tmp_path / "a.pth", 768)
    assert heads(tmp_path, "--head", f"a={tmp_path}/a.pth") == 2
    told = "was made for embeddings with architecture ViT-L/14, the run has 'RN50x16'"
    assert told in capsys.readouterr().err
    assert heads(tmp_path, "--head", f"a={tmp_path}/a.pth", "--head_activation", "a=none,none") == 0


def embed(root, model, *flags):
    manifest = root / "data" / "m.jsonl"
    if not manifest.exists():
        write_manifest(root / "data", rows=12)
    argv = ["embed", "--manifest", str(manifest), *flags_over(["--model", str(model)], flags)]
    return cli.main(argv)


def test_embed_writes_the_columns_in_the_same_pass(tmp_path, model_dir, capsys):
    assert embed(tmp_path, model_dir, "--output", str(tmp_path / "run")) == 0
    dim = ds.dataset(tmp_path / "run" / "embeddings").schema.field("image_embedding").type.list_size
    torch_file(tmp_path / "a.pth", dim)
    flags = ("--head", f"a={tmp_path}/a.pth", "--head_activation", "a=none,sigmoid")
    assert heads(tmp_path, *flags) == 0
    once = ("--output", str(tmp_path / "once"), *flags)
    assert embed(tmp_path, model_dir, *once) == 0
    assert embed(tmp_path, model_dir, *once) == 0  # nothing is left to do
    two = [ds.dataset(tmp_path / name / "embeddings").to_table() for name in ("out", "once")]
    assert two[0].schema.names == two[1].schema.names
    one, other = (table.sort_by("source_row")["a"].to_numpy() for table in two)
    assert np.abs(one - other).max() < 1e-6
    assert "a" not in ds.dataset(tmp_path / "once" / "rejects").schema.names
    torch_file(tmp_path / "a.pth", dim, seed=1)
    capsys.readouterr()
    assert embed(tmp_path, model_dir, *once) == 2
    assert "the output was begun with heads" in capsys.readouterr().err


def test_one_of_several_models_is_named(tmp_path, model_dir, capsys):
    models = ("--model", f"x={model_dir}", "--model", f"y={model_dir}")
    flags = ["--output", str(tmp_path / "run"), *models]
    torch_file(tmp_path / "a.pth", 64)
    head = ("--head_activation", "a=none,none", "--head", f"a={tmp_path}/a.pth")
    assert (
        cli.main(["embed", "--manifest", str(write_manifest(tmp_path / "data", 6)), *flags, *head])
        == 2
    )
    assert "one of the run's models, x, y" in capsys.readouterr().err
