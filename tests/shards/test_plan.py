import pytest

from pipelines.shards.plan import plan_shards


@pytest.mark.parametrize("rows_per_shard", [1, 3, 10, 1000])
@pytest.mark.parametrize("files", [[], [0], [1], [10], [0, 7, 0, 13, 1, 0], [3, 3, 3]])
def test_every_row_is_in_one_shard_in_order(files, rows_per_shard):
    named = [(f"f{n}", rows) for n, rows in enumerate(files)]
    shards = plan_shards(named, rows_per_shard)
    found = [
        (piece.uri, row)
        for shard in shards
        for piece in shard.pieces
        for row in range(piece.start, piece.stop)
    ]
    assert found == [(uri, row) for uri, rows in named for row in range(rows)]
    assert all(shard.rows == rows_per_shard for shard in shards[:-1])
    keys = [shard.key(row) for shard in shards for row in range(shard.rows)]
    assert sorted(set(keys)) == keys and len({len(key) for key in keys}) < 2


def test_keys_are_as_img2dataset_has_them():
    [first, *_, last] = plan_shards([("f", 25_000)], 10_000)
    assert (first.key(12), last.key(4999)) == ("000000012", "000024999")
