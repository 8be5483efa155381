"""The main job on emulated object stores: the same tables as on a local disk, whatever fails."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode_image, make_image
from stores import emulators

from pipelines import embed, storage


@pytest.fixture(scope="module")
def stores():
    with emulators() as found:
        yield found


@pytest.fixture(params=["gs", "s3"])
def store(request, stores):
    return stores[request.param]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows: six pictures, one that is not there, and one that is none."""
    folder = tmp_path_factory.mktemp("local") / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(8):
        picture = encode_image(make_image(seed=number), "JPEG") if number != 5 else b"<html>"
        if number != 3:
            (folder / "images" / f"{number}.jpg").write_bytes(picture)
        text = f"a red circle number {number}"
        lines.append({"uid": f"row-{number}", "url": f"images/{number}.jpg", "text": text})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(manifest, output, model_dir, *flags):
    arguments = ["--manifest", manifest, "--output", output, "--model", str(model_dir)]
    return embed.main([*arguments, "--rows_per_unit", "3", *flags])


def table(output, name):
    """All columns but `source`, which holds the place of the manifest."""
    tables = []
    for uri in storage.list_files(storage.join(output, name)):
        with storage.open_input(uri) as file:
            tables.append(pq.read_table(pa.BufferReader(file.read())))
    whole = pa.concat_tables(tables).drop_columns(["source"]).sort_by("source_row")
    return whole.replace_schema_metadata(None)


@pytest.fixture(scope="module")
def expected(data, model_dir, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("expected"))
    assert run(str(data / "m.jsonl"), output, model_dir) == 0
    return {name: table(output, name) for name in ("embeddings", "rejects")}


def test_tables_are_those_of_a_local_disk(store, data, model_dir, expected):
    root = store.upload(data)
    output = f"{store.root}/out"
    assert run(f"{root}/*.jsonl", output, model_dir) == 0
    for name in ("embeddings", "rejects"):
        assert table(output, name).equals(expected[name])
    assert storage.exists(f"{output}/_SUCCESS")
