"""One type for the values of several files."""

from itertools import permutations

import pyarrow as pa
import pytest

from schemas.common_types import common_json_column, common_type, json_column

UTC = pa.timestamp("s", "UTC")


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], pa.null()),
        ([pa.null(), pa.date32()], pa.date32()),
        ([pa.int8(), pa.int32(), pa.int16()], pa.int32()),
        ([pa.uint8(), pa.int8()], pa.int16()),
        ([pa.uint32(), pa.int8(), pa.null()], pa.int64()),
        ([pa.int64(), pa.uint64()], None),
        ([pa.int64(), pa.uint64(), pa.float32()], pa.float64()),
        ([pa.int8(), pa.float16()], pa.float64()),
        ([pa.float16(), pa.float32()], pa.float32()),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.string(), pa.large_string()], pa.string()),
        ([pa.large_binary(), pa.binary()], pa.binary()),
        ([pa.string(), pa.binary()], None),
        ([pa.int64(), pa.string()], None),
        ([pa.bool_(), pa.int8()], None),
        ([pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ms")], pa.timestamp("ns")),
        ([UTC, pa.timestamp("us", "UTC")], pa.timestamp("us", "UTC")),
        ([UTC, pa.timestamp("s")], None),
        ([pa.time32("s"), pa.time32("ms")], pa.time32("ms")),
        ([pa.time32("s"), pa.time64("us")], pa.time64("us")),
        ([pa.duration("s"), pa.duration("ms")], pa.duration("ms")),
        ([pa.duration("s"), pa.timestamp("s")], None),
        ([pa.list_(pa.null()), pa.list_(pa.int8()), pa.list_(pa.int16())], pa.list_(pa.int16())),
        ([pa.list_(pa.int8(), 2), pa.large_list(pa.float32())], pa.list_(pa.float64())),
        ([pa.list_(pa.int8()), pa.int8()], None),
        ([pa.list_(pa.int8()), pa.list_(pa.string())], None),
    ],
)
def test_order_does_not_matter(kinds, expected):
    for order in permutations(kinds):
        assert common_type(order) == expected


def test_structs_go_by_their_fields():
    one = pa.struct([("a", pa.int8()), ("b", pa.list_(pa.null()))])
    other = pa.struct([("b", pa.list_(pa.string())), ("c", pa.bool_())])
    expected = pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string())), ("c", pa.bool_())])
    assert common_type([one, other]) == expected
    assert common_type([one, pa.struct([("a", pa.string())])]) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([{pa.int64()}, {pa.float64()}], pa.float64()),
        ([{pa.int64()}, {pa.string()}], pa.string()),
        ([{pa.bool_(), pa.null()}, {pa.int64(), pa.float64()}], pa.string()),
    ],
)
@pytest.mark.parametrize("is_inexact", [False, True])
def test_json_files_have_the_type_of_one_file_with_all_rows(files, expected, is_inexact):
    expected = pa.string() if is_inexact else expected
    columns = [json_column("n", files[0], is_inexact), json_column("n", files[1], False)]
    whole = json_column("n", set().union(*files), is_inexact)
    assert common_json_column(columns).type == whole.type == expected
    assert common_json_column(columns[::-1]).type == expected


def test_large_whole_numbers_of_json_stay_whole_numbers_among_themselves():
    assert json_column("n", {pa.int64()}, True).type == pa.int64()
