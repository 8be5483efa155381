"""Names of tars' members: which belong to no sample, and what a reject says of the rest."""

import pytest

from making import plan
from pipelines.manifests.tars.advice import advice_on_tar
from pipelines.records import Reject
from schemas.rejects import Reason
from tars import make_tar, read, sample


def pairs(found):
    return [(row.uid, row.text, row.image_bytes) for row in found]


def advice(tmp_path, data, **settings):
    (tmp_path / "shard.tar").write_bytes(data)
    return advice_on_tar(plan(tmp_path / "shard.tar", **settings).units[0])


@pytest.mark.parametrize(
    "hidden",
    [
        [("._0.jpg", b"\0\5\x16\7"), ("._0.txt", b"\0\5\x16\7")],
        [("__MACOSX/._0.jpg", b"\0\5\x16\7")],
        [(".DS_Store", b"Bud1"), ("README", b"read me")],
        [("images/.DS_Store", b"Bud1"), ("images/LICENSE", b"MIT"), ("images/.gitkeep", b"")],
    ],
)
def test_hidden_members_and_names_without_extension_part_no_sample(tmp_path, hidden):
    image, text = sample("0", b"1", "one")
    data = make_tar(*hidden, image, *hidden, text, *hidden, *sample("1", b"2", "two"), *hidden)
    found = read(tmp_path, data)
    assert pairs(found) == [("0", "one", b"1"), ("1", "two", b"2")]
    assert [row.source_row for row in found] == [0, 1]
    assert advice(tmp_path, data) == []


def test_each_member_has_its_companion_of_macos(tmp_path):
    members = [m for key in ("a", "b", "c") for m in sample(key, key.encode(), key)]
    data = make_tar(*(m for name, body in members for m in ((f"._{name}", b"x"), (name, body))))
    assert pairs(read(tmp_path, data)) == [("a", "a", b"a"), ("b", "b", b"b"), ("c", "c", b"c")]


def test_names_that_begin_in_the_current_folder_are_not_hidden(tmp_path):
    found = read(tmp_path, make_tar(("./a.jpg", b"1"), ("./a.txt", b"one")))
    assert pairs(found) == [("a", "one", b"1")]


def test_tar_without_any_sample_is_not_taken_for_an_empty_one(tmp_path):
    found = read(tmp_path, make_tar(("0001", b"1"), ("0002", b"2")))
    assert [record.reason for record in found] == [Reason.MALFORMED_ROW]
    assert "none of 2 members is named KEY.EXTENSION; the first is '0001'" in found[0].detail


DOTTED = [
    *sample("v1.0_a", b"1", "one"),
    *sample("v1.0_b", b"2", "two"),
    *sample("v1.1", b"3", "x"),
]


def test_keys_with_dots_fold_pairs_into_one_row_which_says_so(tmp_path):
    (row,) = read(tmp_path, make_tar(*DOTTED))
    assert row.reason is Reason.MISSING_IMAGE
    assert "'v1.0_a.jpg' and 5 more members are one sample" in row.detail
    assert "`key_until='last_dot'`" in row.detail
    (problem,) = advice(tmp_path, make_tar(*DOTTED))
    assert problem.startswith("keys with dots, such as 'v1.0_a.jpg'")


def test_keys_may_end_at_the_last_dot(tmp_path):
    found = read(tmp_path, make_tar(*DOTTED, *sample("d.x/plain")), key_until="last_dot")
    assert pairs(found)[:3] == [
        ("v1.0_a", "one", b"1"),
        ("v1.0_b", "two", b"2"),
        ("v1.1", "x", b"3"),
    ]
    assert found[3].uid == "plain"
    assert advice(tmp_path, make_tar(*DOTTED), key_until="last_dot") == []


def test_pair_that_another_one_hides_is_told_and_a_mask_is_not(tmp_path):
    hides = make_tar(*sample("a"), *sample("a.v2"))
    assert len(read(tmp_path, hides)) == 1
    assert "'a.v2.jpg'" in advice(tmp_path, hides)[0]
    assert advice(tmp_path, make_tar(*sample("a"), ("a.seg.png", b"mask"))) == []


def test_members_that_are_not_adjacent_are_told_as_such(tmp_path):
    data = make_tar(("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"one"), ("b.txt", b"two"))
    found = read(tmp_path, data)
    assert all(isinstance(record, Reject) for record in found)
    assert [record.reason.value for record in found] == ["empty_text"] * 2 + ["missing_image"] * 2
    assert "got a.jpg, then 'b.jpg'; members of a sample must be adjacent" in found[0].detail
    assert "'a.jpg' stands elsewhere in the tar" in found[2].detail
    (problem,) = advice(tmp_path, data)
    assert "'a', whose 'a.txt' does not stand beside its image" in problem


def test_last_sample_and_one_with_a_blank_caption_say_no_more_than_is_so(tmp_path):
    last, blank = read(tmp_path, make_tar(("b.jpg", b"1"), ("b.txt", b" "), ("a.jpg", b"2")))
    assert last.detail == "the caption is blank"
    assert blank.detail.endswith("expected a .txt or .json beside the image, got a.jpg")


@pytest.mark.parametrize("blank", [b"", b" ", b"\n", "\u3000".encode()])
def test_blank_txt_leaves_the_caption_to_the_json_beside_it(tmp_path, blank):
    members = [("1.jpg", b"x"), ("1.txt", blank), ("1.json", b'{"caption": "from json"}')]
    assert read(tmp_path, make_tar(*members))[0].text == "from json"
    members[2] = ("1.json", b'{"text": " ", "caption": "second"}')
    assert read(tmp_path, make_tar(*members))[0].text == "second"
    members[2] = ("1.json", b'{"width": 3}')
    assert read(tmp_path, make_tar(*members))[0].reason is Reason.EMPTY_TEXT
