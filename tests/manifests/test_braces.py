import pytest

from making import plan
from pipelines.manifests import braces
from pipelines.manifests.braces import names_of
from pipelines.storage import listing, uris
from schemas.manifest import ManifestError
from tars import make_tar, sample


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{00000..00002}.tar", "00000.tar 00001.tar 00002.tar"),
        ("{8..11}", "8 9 10 11"),
        ("{008..11}", "008 009 010 011"),
        ("{3..1}", "3 2 1"),
        ("{0..10..5}", "0 5 10"),
        ("{-1..1}", "-1 0 1"),
        ("{c..e}", "c d e"),
        ("{a,b}{1..2}", "a1 a2 b1 b2"),
        ("x{a,b{1..2},}y", "xay xb1y xb2y xy"),
        ("{train,val}/*.tar", "train/*.tar val/*.tar"),
        ("{a}", "{a}"),
        ("{}", "{}"),
        ("a{b", "a{b"),
        ("{a{1,2}}", "{a1} {a2}"),
        ("{1..x}", "{1..x}"),
        ("plain", "plain"),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(pattern, expected):
    assert names_of(pattern) == expected.split(" ")


def test_too_many_names_are_refused(monkeypatch):
    monkeypatch.setattr(braces, "MAX_NAMES", 1000)
    with pytest.raises(ManifestError, match="stands for more than 1000 names"):
        names_of("{0..99}{0..999999999}")


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        (tmp_path / f"{number:05}.tar").write_bytes(make_tar(*sample(str(number))))
    return tmp_path


def test_shards_of_a_range_are_the_manifest(shards, monkeypatch):
    asked = []
    exists = listing.kind_of
    monkeypatch.setattr(listing, "kind_of", lambda uri: asked.append(uri) or exists(uri))
    found = plan(f"{shards}/{{00000..00002}}.tar")
    assert [uris.base_name(unit.uri) for unit in found.units] == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    assert len(asked) == 1  # whether a file is called so
    assert len(plan(f"{shards}/{{00000,0000{{1..2}}}}.t*").units) == 3


def test_shard_that_is_missing_is_never_left_out(shards):
    with pytest.raises(
        ManifestError, match=r"no file is at '.*/00003.tar', which .*\{00000..00004\}"
    ):
        plan(f"{shards}/{{00000..00004}}.tar")


def test_file_that_is_called_so_goes_first(shards):
    (shards / "{1,2}.tar").write_bytes(make_tar(*sample("x")))
    assert braces.expand_all(f"{shards}/{{1,2}}.tar")[0] == [f"{shards}/{{1,2}}.tar"]
