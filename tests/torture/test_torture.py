"""The quick mode of the fault harness; `make torture` runs the long one."""

import hashlib

import numpy as np
import pytest
import torch

import forked
import torture
import torture_doors
import torture_images
import torture_kills
from making import make_row
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.manifests import run_tables
from pipelines.records import Reject, RowFault
from pipelines.storage import listing
from schemas.rejects import Reason
from torture_images import bad_images
from torture_manifests import FORMS, bad_manifests, read_manifest, unaccounted

SEED = 20


@pytest.mark.filterwarnings("ignore")
def test_bad_images_give_pixels_or_a_named_fault():
    tally = torture.images_part(700, SEED)
    assert tally.ok, str(tally)  # pytest would cut it short
    assert tally.inputs == tally.outcomes.total() == 700
    assert {"decoded", "decode_failed", "truncated_image", "not_an_image"} <= set(tally.outcomes)


@pytest.mark.filterwarnings("ignore")
def test_bombs_are_refused_in_time():
    tally = torture.bombs_part()
    assert tally.ok, str(tally)
    refused = tally.outcomes["too_many_pixels"] + tally.outcomes["extreme_aspect"]
    assert refused >= 12


def test_bad_manifests_lose_no_row_silently(tmp_path):
    tally = torture.manifests_part(140, SEED, tmp_path)
    assert tally.ok, str(tally)
    assert tally.outcomes["whole"] >= len(FORMS) and tally.outcomes["with rejects"] > 20


def test_flipped_bit_is_found_where_the_manifest_has_hashes():
    """Without a hash nearly all such pictures decode, to other pixels."""
    rng = np.random.default_rng(SEED)
    whole = torture_images.whole_images(rng)["JPEG-RGB-"]
    expected = hashlib.sha256(whole).hexdigest()
    for _ in range(360):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        row = make_row(image_bytes=bytes(data), expected_sha256=expected)
        with pytest.raises(RowFault) as fault:
            fetch_image(row, FetchPolicy())
        assert fault.value.reason is Reason.HASH_MISMATCH


def test_same_seed_gives_the_same_input():
    assert list(bad_images(60, 3)) == list(bad_images(60, 3))
    assert list(bad_manifests(30, 3)) == list(bad_manifests(30, 3))
    assert list(bad_images(60, 3)) != list(bad_images(60, 4))


def test_every_damage_changes_its_input():
    rng = np.random.default_rng(0)
    whole = torture_images.png(9, 9)
    for damage in torture_images.DAMAGES:
        assert any(damage(whole, rng) != whole for _ in range(5)), damage


def test_harness_sees_a_decoder_that_raises_and_one_that_is_slow(monkeypatch):
    monkeypatch.setattr(torture, "decode_image", lambda *_: 1 / 0)
    tally = torture.decode_all("part", {"one": b"", "other": b"x"}.items(), 32, bound_s=-1)
    assert not tally.ok and len(tally.crashes) == len(tally.slow) == tally.inputs


def test_harness_sees_a_lost_row(tmp_path):
    name, data, ids = next(bad_manifests(1, 0))
    (tmp_path / name).write_bytes(data)
    uids, rejects = read_manifest(tmp_path / name)
    assert unaccounted(ids, uids, rejects) == 0
    assert unaccounted(ids, uids[1:], rejects) == 1
    told = Reject(None, "read", Reason.MALFORMED_ROW)
    assert unaccounted(ids, uids[1:], [told]) == 0


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are tiny
    yield
    torch.set_num_threads(before)


def test_faults_of_the_store_and_kills_lose_no_row(model_dir, one_thread):
    tally = torture.faults_part(8, SEED, str(model_dir))
    assert tally.ok, str(tally)
    assert tally.outcomes["kill"] and tally.outcomes["attempts"] > 8


def test_killed_process_is_completed(model_dir, tmp_path, one_thread, monkeypatch):
    monkeypatch.setattr(torture_kills, "subprocess", forked.as_subprocess())
    tally = torture.kills_part(1, 3, tmp_path, str(model_dir))
    assert tally.ok and tally.outcomes["killed"] == 1, tally


def test_harness_sees_a_row_that_the_job_loses(model_dir, one_thread, monkeypatch):
    """Puts back a fault this harness found: files taken for absent when a retry is merged."""
    strict = listing.exists
    monkeypatch.setattr(listing, "exists", lambda uri: "/embeddings/" not in uri and strict(uri))
    assert not torture.faults_part(1, SEED, str(model_dir)).ok


def test_changed_manifests_lose_and_double_no_row(model_dir, tmp_path, one_thread):
    tally = torture.doors_part(
        "changed", torture_doors.changed_run, range(3), tmp_path, str(model_dir)
    )
    assert tally.ok and tally.inputs == 3, tally


def test_tables_of_strangers_bring_no_row_out(model_dir, tmp_path, one_thread):
    tally = torture.doors_part(
        "hostile", torture_doors.hostile_run, range(4), tmp_path, str(model_dir)
    )
    assert tally.ok and len(tally.outcomes) > 1, tally


def test_harness_sees_a_door_that_is_open(model_dir, tmp_path, one_thread, monkeypatch):
    monkeypatch.setattr(run_tables, "allowed_unit", lambda table, unit, *about: unit)
    assert not torture.doors_part(
        "hostile", torture_doors.hostile_run, range(2), tmp_path, str(model_dir)
    ).ok
