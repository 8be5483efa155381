"""What `export` refuses, keeps and overwrites, whatever the layout."""

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipelines import export
from scored_runs import exported, make_models, refused, write_scored


@pytest.fixture
def run(tmp_path):
    """Two files, of one model."""
    fingerprint = {"architecture": "ViT-L/14"}
    return write_scored(tmp_path / "run", [[{}, {}], [{}]], fingerprint=fingerprint)


@pytest.mark.parametrize("layout", ["datacomp", "laion"])
def test_output_is_kept_unless_it_may_be_overwritten(run, layout, capsys):
    output = exported(run, layout)
    argv = ["--input", str(run), "--output", str(output), "--format", layout]
    assert export.main(argv) == 2
    assert "is there already; pass `--overwrite`" in capsys.readouterr().err
    stale = output / "metadata" / "stale.parquet"
    stale.write_bytes(b"")
    assert export.main([*argv, "--overwrite"]) == 0
    assert not stale.exists()


def test_subset_alone_counts_as_an_export(run, capsys):
    (run.parent / "out").mkdir()
    (run.parent / "out" / "subset.npy").write_bytes(b"")
    assert "subset.npy is there already" in refused(capsys, run, "--format", "datacomp")


def test_layouts_with_embeddings_refuse_a_run_without(run, capsys):
    for path in (run / "embeddings").glob("*.parquet"):
        table = pq.read_table(path).drop_columns(["image_embedding", "text_embedding"])
        pq.write_table(table, path)
    for layout in ("datacomp", "clip_retrieval", "tables"):
        told = refused(capsys, run, "--format", layout)
        assert "embed again without `scores_only`, or export with `--format laion`" in told
    assert ds.dataset(exported(run, "laion") / "metadata").count_rows() == 3


def test_models_have_to_be_named_where_there_are_several(run, capsys):
    make_models(run, ["small", "large"])
    assert "has models small, large" in refused(capsys, run, "--format", "laion")
    assert "has models small, large" in refused(capsys, run, "--format", "datacomp")
    told = refused(capsys, run, "--format", "laion", "--model_name", "medium")
    assert "the run has models small, large; name one of these" in told
    output = exported(run, "laion", "--model_name", "large")
    assert "similarity" in ds.dataset(output / "metadata").schema.names
    tables = exported(run, "tables")
    assert len(ds.dataset(tables / "vectors").schema.names) == 4 + 4


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--format", "tables", "--model_name", "b32"), "takes all models of a run"),
        (("--format", "laion", "--model_name", "b32"), "the run has one, unnamed; leave it out"),
        (("--format", "laion", "--datacomp_key", "b32"), "does nothing with `--format laion`"),
        (("--format", "csv"), "invalid choice: 'csv'"),
    ],
)
def test_wrong_usage_is_one_sentence(run, capsys, flags, told):
    assert told in refused(capsys, run, *flags)


def test_key_of_datacomp_is_asked_for_where_nothing_tells_it(tmp_path, capsys):
    run = write_scored(tmp_path / "run", [[{}]], fingerprint={"architecture": "RN50"})
    assert "expected `--datacomp_key` b32 or l14" in refused(capsys, run, "--format", "datacomp")


def test_damaged_table_fails_the_command(run, capsys):
    (run / "embeddings" / "unit-1.parquet").write_bytes(b"PAR1 cut")
    argv = ["--input", str(run), "--output", str(run.parent / "out"), "--format", "laion"]
    assert export.main(argv) == 1
    assert "unit-1.parquet is damaged" in capsys.readouterr().err
