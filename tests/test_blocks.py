import pyarrow as pa
import pytest

from pipelines.blocks import pack, unpacked

SCHEMA = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float16(), 3))])


def batch(rows):
    return pa.RecordBatch.from_pylist(
        [{"text": f"ü {n}" if n % 2 else None, "vector": [n, 0, -n]} for n in range(rows)], SCHEMA
    )


@pytest.mark.parametrize("rows", [0, 1, 700])
@pytest.mark.parametrize("on_disk", [False, True])
def test_blocks_give_their_batches_in_order(tmp_path, rows, on_disk):
    given = [batch(rows), batch(2)]
    blocks = [pack(one, str(tmp_path) if on_disk else None) for one in given]
    assert list(unpacked(blocks, SCHEMA)) == given


def test_block_on_the_disk_is_only_a_name_to_the_runner(tmp_path):
    assert len(pack(batch(5000), None)) > 5000
    block = pack(batch(5000), str(tmp_path))
    assert isinstance(block, str) and len(list(tmp_path.iterdir())) == 1
