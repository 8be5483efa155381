"""Units of one large row group are read by one worker, one after the other, and its rows once."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from embedding_runs import run
from making import encode_image, make_image, plan
from pipelines.manifests.parquet import batches, reader
from pipelines.manifests.parquet.costs import largest_page
from pipelines.manifests.units import raws_of, read_unit, together

ROWS, IMAGE = 30, 4000


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Two row groups, of 24 and of 6 rows, of which the first is large."""
    monkeypatch.setattr(reader, "LARGE_GROUP_BYTES", 10 * IMAGE)
    images = [encode_image(make_image(30, 30, seed=n)).ljust(IMAGE, b"\0") for n in range(ROWS)]
    schema = pa.schema({"uid": pa.string(), "image_bytes": pa.binary(), "text": pa.string()})
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "m.parquet"
    with pq.ParquetWriter(
        path,
        schema,
        use_dictionary=False,
        write_statistics=False,
        write_batch_size=2,
        data_page_size=2 * IMAGE,
    ) as writer:
        for rows in (range(24), range(24, 30)):
            columns = [[f"u{n}" for n in rows], [images[n] for n in rows], ["a star"] * len(rows)]
            writer.write_table(pa.table(columns, schema=schema))
    return path


@pytest.fixture
def begun(monkeypatch):
    """Row groups that are begun to be read."""
    seen, read = [], batches.ParquetBatches.read

    def counting(self, group, wanted, *rest):
        seen.append((group, wanted))
        return read(self, group, wanted, *rest)

    monkeypatch.setattr(batches.ParquetBatches, "read", counting)
    return seen


def test_only_units_of_a_large_group_are_together(manifest):
    units = plan(manifest, rows_per_unit=10).units
    assert [unit.together for unit in units] == [0, 0, 0, None]
    assert [len(task) for task in together(units)] == [3, 1]


def test_rows_are_those_of_each_unit_by_itself_and_are_read_once(manifest, begun):
    units = plan(manifest, rows_per_unit=10).units[:3]
    apart = [list(read_unit(unit)) for unit in units]
    assert len(begun) == 3
    begun.clear()
    raws = raws_of(units)
    assert [list(read_unit(unit, raws)) for unit in units] == apart
    assert begun == [(0, range(24))]


def test_unit_that_is_whole_already_is_read_past(manifest, begun):
    units = plan(manifest, rows_per_unit=10).units[:3]
    raws = raws_of([units[0], units[2]])
    found = [[row.uid for row in read_unit(unit, raws)] for unit in (units[0], units[2])]
    assert found == [[f"u{n}" for n in range(10)], [f"u{n}" for n in range(20, 24)]]


def test_run_over_it_loses_nothing_and_begins_the_group_once(manifest, begun, tmp_path, model_dir):
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "5") == 0
    found = ds.dataset(tmp_path / "out" / "embeddings").to_table()["uid"].to_pylist()
    assert sorted(found) == sorted(f"u{n}" for n in range(ROWS))
    assert [group for group, _ in begun].count(0) == 1
    assert len(list((tmp_path / "out" / "embeddings").iterdir())) == 7


def test_largest_page_is_what_a_reader_holds(manifest):
    assert 2 * IMAGE <= largest_page(str(manifest), "image_bytes") < 4 * IMAGE
    assert largest_page(str(manifest), "none") == 0
