import pytest

from pipelines.manifests.run_tables import run_directory


@pytest.mark.parametrize(
    ("table", "directory"),
    [
        ("/data/run/embeddings/u.parquet", "/data/run"),
        ("/data/run/rejects/u.parquet", "/data/run"),
        ("gs://b/out/kept/u.parquet", "gs://b/out"),
        ("/home/me/downloads/u.parquet", "/home/me/downloads"),
        ("gs://b/u.parquet", "gs://b"),
    ],
)
def test_table_that_lies_in_no_run_names_files_beside_it_alone(table, directory):
    assert run_directory(table) == directory
