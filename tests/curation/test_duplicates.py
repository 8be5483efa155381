import hashlib

import numpy as np
import pytest

from pipelines.curation.duplicates.exact import exact_duplicates
from pipelines.curation.duplicates.near import choose_hashing, near_duplicates
from pipelines.curation.kept_mask import Selection
from pipelines.output.scored_tables import open_tables
from scored_runs import write_scored


def digest(name):
    return hashlib.sha256(str(name).encode()).hexdigest()


def selection(root, units, **settings):
    return Selection(open_tables(str(write_scored(root, units, **settings))))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def in_a_cone(rows, dim, seed=5):
    """Vectors as CLIP's: pairs of strangers have a cosine of one half."""
    generator = np.random.default_rng(seed)
    return unit(unit(generator.standard_normal((rows, dim))) + unit(np.ones((1, dim))))


def neighbour(vectors, cosine, seed=6):
    """Returns a vector at a cosine from each, in a random direction."""
    other = np.random.default_rng(seed).standard_normal(vectors.shape)
    other = unit(other - (other * vectors).sum(axis=1, keepdims=True) * vectors)
    return unit(cosine * vectors + np.sqrt(1 - cosine**2) * other)


def test_best_of_equal_pictures_is_kept_over_all_files(tmp_path):
    rows = [("a", 0.1), ("b", 0.9), ("a", 0.5), ("c", 0.2), ("a", 0.5), ("b", 0.1), ("b", 0.9)]
    units = [{"sha256": digest(name), "similarity": score} for name, score in rows]
    found = exact_duplicates(selection(tmp_path, [units[:3], [], units[3:]]), "similarity")
    assert sorted(found.tolist()) == [0, 4, 5, 6]  # of ties, the first stays


def test_rows_without_digest_or_score_are_no_reason_to_fail(tmp_path):
    units = [{"sha256": None}, {"sha256": None}]
    units += [{"sha256": digest(1), "similarity": score} for score in (None, 0.1, float("nan"))]
    assert sorted(exact_duplicates(selection(tmp_path, [units]), "similarity")) == [2, 4]


def test_rows_dropped_before_take_no_part(tmp_path):
    units = [{"sha256": digest(1), "similarity": score} for score in (0.9, 0.5, 0.1)]
    chosen = selection(tmp_path, [units])
    chosen.drop(np.array([0]), "first")
    assert exact_duplicates(chosen, "similarity").tolist() == [2]
    assert chosen.steps == [("embedded", 3), ("first", 2)]


def test_nothing_to_compare_gives_nothing(tmp_path):
    empty = selection(tmp_path / "none", [[]])
    one = selection(tmp_path / "one", [[{}]])
    for chosen in (empty, one):
        assert len(exact_duplicates(chosen, "similarity")) == 0
        assert len(near_duplicates(chosen, "image_embedding", "similarity", 0.95)) == 0


@pytest.mark.parametrize("dim, threshold", [(64, 0.95), (32, 0.95), (64, 0.9)])
def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path, dim, threshold):
    strangers = in_a_cone(4000, dim)
    # At the threshold itself, where the hash tables see least of them.
    copies = neighbour(strangers[:1000], threshold + 0.001)
    decoys = neighbour(strangers[1000:2000], threshold - 0.005)
    vectors = np.concatenate([strangers, copies, decoys])
    scores = np.random.default_rng(1).random(len(vectors)).astype(np.float32)
    rows = [
        {"image_embedding": vector, "similarity": score}
        for vector, score in zip(vectors, scores, strict=True)
    ]
    chosen = selection(tmp_path, [rows[:2500], rows[2500:]], dim=dim)
    found = set(near_duplicates(chosen, "image_embedding", "similarity", threshold).tolist())
    near = vectors @ vectors.T >= threshold
    better = (scores[None] > scores[:, None]) & near
    expected = set(np.flatnonzero(better.any(axis=1)).tolist())
    assert len(expected) >= 1000
    assert found <= expected
    assert len(found) >= 0.98 * len(expected)


def test_many_copies_of_one_picture_leave_one(tmp_path):
    """More than a block of them, so that blocks are compared with the blocks before them."""
    rows = 3000
    vectors = neighbour(np.repeat(in_a_cone(1, 16), rows, axis=0), 0.9995)
    scores = np.linspace(0, 1, rows, dtype=np.float32)
    units = [
        {"image_embedding": vector, "similarity": score}
        for vector, score in zip(vectors, scores, strict=True)
    ]
    chosen = selection(tmp_path, [units], dim=16)
    found = near_duplicates(chosen, "image_embedding", "similarity", 0.95)
    assert sorted(found.tolist()) == list(range(rows - 1))


def test_chain_is_judged_pair_by_pair(tmp_path):
    """b is within the threshold of a, and c of b but not of a: both have a better row."""
    angles = np.deg2rad([0, 15, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    units = [
        {"image_embedding": vector, "similarity": score}
        for vector, score in zip(vectors, (0.9, 0.8, 0.7, 0.1), strict=True)
    ]
    chosen = selection(tmp_path, [units], dim=2)
    assert near_duplicates(chosen, "image_embedding", "similarity", 0.95).tolist() == [1, 2]


def test_tables_grow_with_the_rows_and_fall_with_the_threshold():
    sample = in_a_cone(1000, 64)
    few, many = (choose_hashing(sample, rows, 0.95) for rows in (1000, 10_000_000))
    assert few.bits < many.bits and few.tables < many.tables < 60
    assert (
        choose_hashing(sample, 100_000, 0.99).tables < choose_hashing(sample, 100_000, 0.9).tables
    )
    codes = many.codes(sample)
    assert codes.shape == (many.tables, 1000) and codes.max() < 1 << many.bits
    assert len(np.unique(codes[0])) > 300  # strangers are cut apart in spite of their cone


def test_vectors_that_are_all_one_can_be_hashed():
    hashing = choose_hashing(np.repeat(in_a_cone(1, 8), 10, axis=0), 10, 0.95)
    assert hashing.tables >= 1
