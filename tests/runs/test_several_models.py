"""One pass over the images for several models, and what comes after it."""

import json

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from embedding_runs import run, write_manifest
from pipelines import classify, cli, embed, report, search
from pipelines.output.layout import FINGERPRINT_KEY
from schemas.embeddings import MODEL_COLUMNS, embeddings_schema, model_names


def embed_with(manifest, output, *models, flags=()):
    named = [flag for model in models for flag in ("--model", str(model))]
    return embed.main(["--manifest", str(manifest), "--output", str(output), *named, *flags])


def table(output):
    return ds.dataset(output / "embeddings").to_table().sort_by("source_row")


def matrix(column):
    return np.array(column.to_pylist())


@pytest.fixture(scope="module")
def both(tmp_path_factory, model_dir, vit_dir):
    """One run of two models of different kinds, and a run of each."""
    root = tmp_path_factory.mktemp("several")
    manifest = write_manifest(root / "data")
    models = (f"rn={model_dir}", f"vit={vit_dir}")
    assert embed_with(manifest, root / "both", *models) == 0
    assert run(manifest, root / "rn", model_dir) == 0
    assert run(manifest, root / "vit", vit_dir) == 0
    return root


def test_columns_of_each_model_are_those_of_a_run_of_its_own(both):
    together = table(both / "both")
    for name in ("rn", "vit"):
        alone = table(both / name)
        assert together["uid"].equals(alone["uid"]) and together["sha256"].equals(alone["sha256"])
        for column in MODEL_COLUMNS:
            found, expected = matrix(together[f"{name}_{column}"]), matrix(alone[column])
            assert np.abs(found.astype(float) - expected).max() < 1e-5
    assert not np.allclose(matrix(together["rn_similarity"]), matrix(together["vit_similarity"]))


def test_schema_names_models_in_order_and_metadata_tells_each_apart(both):
    schema = pq.read_schema(next((both / "both" / "embeddings").iterdir()))
    assert model_names(schema) == ["rn", "vit"]
    assert schema.remove_metadata() == embeddings_schema({"rn": 128, "vit": 128})
    fingerprint = json.loads(schema.metadata[FINGERPRINT_KEY])
    alone = json.loads((both / "vit" / "run.json").read_text())["fingerprint"]
    for key in ("checkpoint_sha256", "architecture", "precision"):
        assert fingerprint[f"vit.{key}"] == alone[key] and key not in fingerprint
    assert fingerprint["decode"] == "exact"


def test_rejects_are_those_of_a_run_of_one(both):
    rejects = [
        sorted(ds.dataset(both / name / "rejects").to_table()["uid"].to_pylist())
        for name in ("both", "rn")
    ]
    assert rejects[0] == rejects[1] and len(rejects[0]) == 4


def test_other_models_or_names_into_the_same_output_are_refused(both, model_dir, vit_dir, capsys):
    manifest = both / "data" / "m.jsonl"
    swapped = (f"rn={vit_dir}", f"vit={model_dir}")
    assert embed_with(manifest, both / "both", *swapped) == 2
    assert "rn.architecture" in capsys.readouterr().err
    assert run(manifest, both / "both", model_dir) == 2
    assert embed_with(manifest, both / "both", f"rn={model_dir}", f"vit={vit_dir}") == 0


def test_single_model_may_have_a_name_too(both, model_dir, tmp_path):
    assert run(both / "data" / "m.jsonl", tmp_path / "out", f"a={model_dir}", "--scores_only") == 0
    assert "a_similarity" in table(tmp_path / "out").schema.names


def test_kept_columns_cannot_be_taken_for_a_model(both, model_dir, capsys):
    flags = ("--keep_columns", "similarity")
    manifest = both / "both" / "embeddings"
    plain = both / "plain"
    plain.mkdir()
    pq.write_table(table(both / "rn").replace_schema_metadata(None), plain / "m.parquet")
    assert run(plain, both / "again", model_dir, *flags) == 2
    assert "names similarity, which the output has already" in capsys.readouterr().err
    assert (
        run(manifest, both / "third", model_dir, "--trust_run") == 0
    )  # a table of a run: its rows are read anew
    assert table(both / "third")["uid"].equals(table(both / "rn")["uid"])


@pytest.mark.parametrize(
    "models, flags, told",
    [
        (("a=tiny", "tiny"), (), "expected `--model NAME=URI` for each of several, got 'tiny'"),
        (("a=tiny", "1b=tiny"), (), "expected `--model NAME=URI` for each of several"),
        (("a=tiny", "A=tiny"), (), "two models are called 'A'"),
        (("a=tiny", "b=tiny"), ("--activation", "gelu"), "`--activation` does not say which"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(tmp_path, capsys, models, flags, told):
    assert embed_with(tmp_path / "m.csv", tmp_path / "out", *models, flags=flags) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_commands_read_the_model_that_is_named(both, capsys):
    source = ["--input", str(both / "both")]
    alone = ["--input", str(both / "vit")]
    page = both / "page.html"
    flags = ["--output", str(page), "--thumbnails", "0", "--model_name", "vit"]
    assert report.main([*source, *flags]) == 0
    assert "vit · " in page.read_text()
    capsys.readouterr()
    asked = ["--text", "a red circle", "--top_k", "4", "--trust_run"]
    assert search.main([*source, *asked, "--model_name", "vit"]) == 0
    found = capsys.readouterr().out
    assert search.main([*alone, *asked]) == 0
    assert capsys.readouterr().out == found
    labels = ["--trust_run", "--labels", "red,blue", "--output"]
    assert classify.main([*source, *labels, str(both / "a"), "--model_name", "vit"]) == 0
    assert classify.main([*alone, *labels, str(both / "b")]) == 0
    one, other = (ds.dataset(both / name / "labels").to_table() for name in ("a", "b"))
    assert one["labels"].equals(other["labels"])


@pytest.mark.parametrize(
    "command", [("report", "--output", "x"), ("search", "--text", "x"), ("filter", "--dry_run")]
)
def test_commands_ask_for_the_model_where_there_are_several(both, capsys, command):
    flags = ["--top_fraction", "1"] if command[0] == "filter" else []
    assert cli.main([command[0], "--input", str(both / "both"), *command[1:], *flags]) == 2
    error = capsys.readouterr().err
    assert "expected `--model_name`, as the run has models rn, vit" in error
