"""Places that go by several names, stores beyond the usual ones, and prefixes that match nothing."""

from dataclasses import replace
from importlib import import_module

import fsspec
import pytest

from making import make_row
from other_stores import OtherStore
from pipelines.images.fetch import FetchPolicy, allowed_uri, fetch_image
from pipelines.images.sources import check_prefix
from pipelines.records import RowFault
from pipelines.storage import uris
from schemas.rejects import Reason

POLICY = FetchPolicy()


@pytest.fixture
def az(monkeypatch):
    monkeypatch.setattr(OtherStore, "store", {})
    monkeypatch.setitem(import_module("fsspec.registry")._registry, "az", OtherStore)


def test_file_uris_are_paths_whoever_wrote_them(tmp_path):
    path = tmp_path / "a bé 100%.jpg"
    path.write_bytes(b"image")
    named = [f"file:{path}", f"file://{path}", path.as_uri(), f"file://localhost{path}"]
    named += [f"FILE:{path}", f"local://{path}", path.as_uri().replace("file://", "file:")]
    for url in named:
        assert fetch_image(make_row(url=url, image_root=str(tmp_path)), POLICY) == b"image"


def test_file_that_is_spelt_with_a_per_cent_sign_goes_before_the_decoded_one(tmp_path):
    (tmp_path / "a%20b.jpg").write_bytes(b"literal")
    (tmp_path / "a b.jpg").write_bytes(b"decoded")
    row = make_row(url=f"file://{tmp_path}/a%20b.jpg", image_root=str(tmp_path))
    assert fetch_image(row, POLICY) == b"literal"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "file:/etc/hostname",
        "file://{root}/%2e%2e/secret.png",
        "file:{root}/..%2fsecret.png",
        "file://{root}/a%00.png",
        "file://{root}/a%3A%3Ab.png",
        "file://elsewhere/etc/hostname",
        "file:a.png",
    ],
)
def test_file_uris_open_nothing_that_a_path_would_not(tmp_path, url):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"outside")
    with pytest.raises(RowFault) as fault:
        fetch_image(make_row(url=url.format(root=root), image_root=str(root)), POLICY)
    assert fault.value.reason in (Reason.NOT_ALLOWED, Reason.NOT_FOUND)
    assert (fault.value.reason is Reason.NOT_FOUND) == ("elsewhere" in url)


@pytest.mark.parametrize(
    ("root", "url", "expected"),
    [
        ("gs://b/img", "gcs://b/img/k.jpg", "gs://b/img/k.jpg"),
        ("gcs://b/img", "gs://b/img/k.jpg", "gs://b/img/k.jpg"),
        ("s3://b/img", "s3a://b/img/k.jpg", "s3://b/img/k.jpg"),
        ("s3://b/img", "S3N://b/img/k.jpg", "s3://b/img/k.jpg"),
        ("s3a://b/img", "k.jpg", "s3://b/img/k.jpg"),
        ("hdfs:///data", "hdfs:///data/a/../k.jpg", "hdfs:///data/k.jpg"),
        ("hdfs://name:8020/data", "k.jpg", "hdfs://name:8020/data/k.jpg"),
        ("abfs://c@account/x", "abfs://c@account/x/k.jpg", "abfs://c@account/x/k.jpg"),
    ],
)
def test_a_store_is_one_place_whatever_its_scheme(root, url, expected):
    assert allowed_uri(make_row(url=url, image_root=root), POLICY) == expected


@pytest.mark.parametrize("url", ["gs://b2/img/k.jpg", "s3://b/img/k.jpg", "hdfs://b/img/k.jpg"])
def test_another_store_stays_another_place(url):
    with pytest.raises(RowFault) as fault:
        allowed_uri(make_row(url=url, image_root="gs://b/img"), POLICY)
    assert fault.value.reason is Reason.NOT_ALLOWED


def test_any_store_is_opened_that_the_operator_allows(az):
    with fsspec.open("az://c/img/x.jpg", "wb") as file:
        file.write(b"image")
    row = make_row(url="az://c/img/x.jpg", image_root="/data")
    with pytest.raises(RowFault, match="allow its prefix"):
        fetch_image(row, POLICY)
    allowed = replace(POLICY, allow_images_from=("az://c/img/",))
    check_prefix("az://c/img/")
    assert fetch_image(row, allowed) == b"image"
    for url in ("az://c/other/x.jpg", "az://c/img/../other/x.jpg", "zip://x::az://c/img/x.zip"):
        with pytest.raises(RowFault) as fault:
            fetch_image(row._replace(url=url), allowed)
        assert fault.value.reason is Reason.NOT_ALLOWED


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("azz://c/", "azz://, of which no filesystem is installed; check its spelling"),
        ("oci://c/", "oci://, of which no filesystem is installed; Install ocifs"),
        ("zip://x::s3://b/x.zip", "takes one filesystem, got the chain"),
        ("gs:/b/img", "takes a path or a URI with `://`, got 'gs:/b/img'"),
        ("s3:b/img", "takes a path or a URI with `://`"),
        ("gs://b/img/*", "takes a prefix and no pattern"),
        ("/no/such/*.jpg", "takes a prefix and no pattern"),
        (__file__, "takes a directory or a URI prefix, got the file"),
    ],
)
def test_prefix_that_nothing_can_lie_under_is_refused(prefix, says):
    with pytest.raises(ValueError, match="allow_images_from") as error:
        check_prefix(prefix)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "prefix",
    ["/no/such/yet", "relative", "gs://b", "s3n://b/x", "file:/x", "C:/x", "s3://", "memory://"],
)
def test_other_prefixes_are_taken(prefix):
    check_prefix(prefix)


def test_names_are_normalized_once_for_all():
    same = ("file:/x/a b", "file:///x/a%20b/", "file://localhost/x/a b", "/x/y/../a b")
    assert {uris.normalize(uri) for uri in same} == {"/x/a b"}
    assert uris.normalize("gcs:///b/x/") == uris.normalize("gs://b/x") == "gs://b/x"
    assert uris.normalize("img:12.jpg").endswith("/img:12.jpg")
