"""The main job on emulated object stores: the same tables as on a local disk, whatever fails."""

import json
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image, make_row
from pipelines import embed
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.object_stores.attempts import Patience
from pipelines.object_stores.client import Client
from pipelines.records import RowFault
from pipelines.storage import listing, partial_files, reading, uris
from pipelines.storage import stores as filesystems
from pipelines.storage.retries import RetryPolicy
from schemas.rejects import Reason
from stores import is_media, seeded


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
    for uri in listing.list_files(uris.join(output, name)):
        with reading.open_input(uri) as file:
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
    assert listing.exists(f"{output}/_SUCCESS")


@pytest.fixture
def hasty(monkeypatch):
    """One attempt at an object, if the store answers about others."""
    client = Client(64, Patience(object_s=0, host_s=0.5, first_wait_s=0, busy_wait_s=0))
    monkeypatch.setattr(filesystems, "direct_client", lambda concurrency=None: client)
    yield
    client.close()


POLICY = FetchPolicy()


@pytest.mark.parametrize("seed", range(12))
def test_images_arrive_whole_through_seeded_faults(store, data, impatient, seed):
    root = store.upload(data)
    with store.proxy.failing(seeded(seed, rate=0.3)) as proxy:
        for number in (0, 1, 2, 4, 5, 6, 7):
            row = make_row(url=f"images/{number}.jpg", image_root=root)
            found = fetch_image(row, POLICY)
            assert found == (data / "images" / f"{number}.jpg").read_bytes()
        missing = make_row(url="images/3.jpg", image_root=root)
        with pytest.raises(RowFault) as fault:
            fetch_image(missing, POLICY)
        assert fault.value.reason is Reason.NOT_FOUND
        assert proxy.faults


def fetch_fault(root, name="0.jpg"):
    with pytest.raises(RowFault) as fault:
        fetch_image(make_row(url=f"images/{name}", image_root=root), POLICY)
    return fault.value


def test_denied_access_is_a_reject_with_its_code(store, data, impatient):
    root = store.upload(data)
    with store.proxy.failing(lambda *request: 403 if is_media(*request) else None) as proxy:
        fault = fetch_fault(root)
    assert fault.reason is Reason.FORBIDDEN
    assert "HTTP 403" in fault.detail
    assert len(proxy.requests) == 1


def test_missing_image_is_a_reject_after_one_request(store, data, impatient):
    root = store.upload(data)
    with store.proxy.failing(lambda method, path: None) as proxy:
        fault = fetch_fault(root, "3.jpg")
    assert fault.reason is Reason.NOT_FOUND
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("fault", ["corrupt", "short", "reset", 500, 503])
def test_fault_that_stays_with_one_image_is_a_reject_and_never_wrong_bytes(
    store, data, hasty, fault
):
    root = store.upload(data)
    fetch_image(make_row(url="images/1.jpg", image_root=root), POLICY)
    schedule = lambda method, path: fault if is_media(method, path) and "0.jpg" in path else None  # noqa: E731
    with store.proxy.failing(schedule):
        found = fetch_fault(root)
    assert found.reason is Reason.FETCH_FAILED
    assert "1 attempts failed" in found.detail


def test_store_that_answers_nothing_is_not_the_fault_of_an_image(store, data, hasty):
    root = store.upload(data)
    fetch_image(make_row(url="images/1.jpg", image_root=root), POLICY)
    told = pytest.raises(filesystems.StoreFault, match="127.0.0.1.* has answered nothing for")
    with store.proxy.failing(lambda method, path: 503), told:
        fetch_image(make_row(url="images/0.jpg", image_root=root), POLICY)


def test_stalled_store_is_given_up_and_asked_again(store, data, impatient, monkeypatch):
    root = store.upload(data)
    monkeypatch.setattr(filesystems, "STALL_S", 0.3)
    filesystems.bucket_of.cache_clear()
    fetch_image(make_row(url="images/1.jpg", image_root=root), POLICY)  # makes the connection
    stalls = iter(["stall"])

    def schedule(method, path):
        return next(stalls, None) if is_media(method, path) else None

    with store.proxy.failing(schedule) as proxy:
        row = make_row(url="images/0.jpg", image_root=root)
        assert fetch_image(row, POLICY) == (data / "images" / "0.jpg").read_bytes()
    assert proxy.faults == ["stall"]
    filesystems.bucket_of.cache_clear()


@pytest.mark.parametrize("seed", range(3))
def test_run_through_seeded_faults_writes_the_same_tables(
    store, data, model_dir, expected, impatient, seed
):
    """Faults of listings, of the manifest, of pictures and of what is written."""
    root = store.upload(data)
    output = f"{store.root}/faulty-{seed}"
    with store.proxy.failing(seeded(seed, rate=0.15, burst=2)) as proxy:
        assert run(f"{root}/m.jsonl", output, model_dir) == 0
    assert proxy.faults
    for name in ("embeddings", "rejects"):
        assert table(output, name).equals(expected[name])


def test_run_that_failed_half_way_completes_to_the_same_tables(
    store, data, model_dir, expected, impatient, monkeypatch, capsys
):
    root = store.upload(data)
    output = f"{store.root}/resumed"

    put_if = partial_files.put_if

    def first_unit_alone(uri, *rest):
        if "-00000." not in uri:
            raise PermissionError("403")
        return put_if(uri, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(partial_files, "put_if", first_unit_alone)
        assert run(f"{root}/m.jsonl", output, model_dir) == 1
    assert "Traceback" not in capsys.readouterr().err
    first = listing.list_files(f"{output}/embeddings")
    assert len(first) <= 1 and not listing.exists(f"{output}/_SUCCESS")
    with store.proxy.failing(lambda method, path: None) as proxy:
        assert run(f"{root}/m.jsonl", output, model_dir) == 0
        again = [r for r in proxy.requests if "images/0.jpg" in unquote(str(r))]
        assert bool(again) is not bool(first)  # a unit that was finished is not done again
    for name in ("embeddings", "rejects"):
        assert_close(table(output, name), expected[name])
    assert run(f"{root}/m.jsonl", output, model_dir, "--overwrite") == 0
    assert_close(table(output, "embeddings"), expected["embeddings"])


def assert_close(found, expected):
    """Equal but for the rounding of vectors, which other slices are other batches for."""
    for name in expected.column_names:
        one, two = found[name].to_pylist(), expected[name].to_pylist()
        if name == "similarity" or name.endswith("embedding"):
            assert np.abs(np.array(one) - np.array(two)).max() < 1e-5
        else:
            assert one == two


@pytest.mark.parametrize("status", [503, 429])
def test_store_that_stays_away_fails_the_run_in_one_sentence(
    store, data, model_dir, impatient, monkeypatch, capsys, status
):
    monkeypatch.setattr(filesystems, "RETRIES", RetryPolicy(attempts=2, backoff_s=0))
    root = store.upload(data)
    with store.proxy.failing(lambda method, path: status):
        assert run(f"{root}/m.jsonl", f"{store.root}/away", model_dir) == 1
    message = capsys.readouterr().err
    assert "m.jsonl: 2 attempts failed" in message and message.count("\n") == 1


def test_store_that_gives_no_image_ends_the_run_and_rejects_nothing(
    store, data, model_dir, hasty, capsys
):
    root, output = store.upload(data), f"{store.root}/no-image"
    with store.proxy.failing(lambda *request: 503 if is_media(*request) else None):
        assert run(f"{root}/m.jsonl", output, model_dir) == 1
    message = capsys.readouterr().err
    assert "has answered nothing for" in message and "Traceback" not in message
    assert listing.list_files(f"{output}/rejects") == []
