"""An attempt that dies between the two files of a unit, in a store, and is made again by a runner."""

import io
import json

import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image
from other_stores import asked_store
from pipelines import embed
from pipelines.engine import failures
from pipelines.output.layout import REJECTS
from pipelines.output.unit_writer import UnitWriter
from pipelines.runs import execution

ROWS = 4


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
    with asked_store(request.param) as store:
        yield store


class DiedError(Exception):
    pass


def dies_between_its_files(writer, check):
    file = writer._files[REJECTS]
    if file.rows:
        file.publish(writer._may_stay, check, True)
    raise DiedError


def write_data(folder):
    """A manifest of four rows, and their images."""
    names = [f"{n}.jpg" for n in range(ROWS)]
    lines = [json.dumps({"url": name, "text": "a circle"}) + "\n" for name in names]
    (folder / "m.jsonl").write_text("".join(lines))
    for number, name in enumerate(names):
        (folder / name).write_bytes(encode_image(make_image(seed=number), "JPEG"))


def remove_images(store, numbers):
    """Takes some images from the store; returns what they were."""
    objects = store.server.objects
    paths = [path for path in objects.under("/") for n in numbers if path.endswith(f"data/{n}.jpg")]
    return {path: objects.pop(path) for path in paths}


def rows(store, output, table):
    found = store.server.objects.under(f"/{store.root.partition('://')[2]}/{output}/{table}/")
    tables = [pq.read_table(io.BytesIO(body)) for body in found.values()]
    return [row for table in tables for row in table["source_row"].to_pylist()]


@pytest.mark.parametrize("before, after", [([2], []), ([2], [3])])
def test_rejects_are_those_of_the_attempt_that_went_through(
    store, tmp_path, model_dir, monkeypatch, before, after
):
    run_pipeline, tries = execution._run_pipeline, []

    def tried_again(job, *rest):
        if not tries:
            tries.append(job)
            with monkeypatch.context() as patch, pytest.raises(Exception, match="DiedError"):
                patch.setattr(UnitWriter, "publish", dies_between_its_files)
                run_pipeline(job, *rest)
            failures._failed.pop(job.layout.run)
            assert rows(store, output, "rejects") == before
            for path, body in removed.items():
                store.server.objects.put(path, body)
            remove_images(store, after)
        return run_pipeline(job, *rest)

    monkeypatch.setattr(execution, "_run_pipeline", tried_again)
    output = f"out-{len(before)}-{'-'.join(map(str, after))}"
    write_data(tmp_path)
    root = store.upload(tmp_path, "data")
    removed = remove_images(store, before)
    argv = ["--manifest", f"{root}/m.jsonl", "--output", f"{store.root}/{output}"]
    assert embed.main([*argv, "--model", str(model_dir)]) == 0
    assert sorted(rows(store, output, "rejects")) == after
    assert rows(store, output, "embeddings") == [n for n in range(ROWS) if n not in after]
