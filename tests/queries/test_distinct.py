import numpy as np
import pytest

from pipelines.output.scored_tables import open_tables
from pipelines.queries import distinct
from pipelines.queries.distinct import distinct_rows
from scored_runs import write_scored

QUERY = np.eye(8, dtype=np.float32)[0]


def unit(values):
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def clustered(images, copies, seed=0, noise=0.02):
    """Rows of some images, each with copies: equal in sha256 by twos, and near in their vectors."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(images, 8)) + 2 * QUERY)
    rows = []
    for image, centre in enumerate(centres):
        for copy in range(copies):
            vector = unit(centre + noise * rng.normal(size=8))
            rows.append({"image_embedding": vector, "sha256": f"{image * 1000 + copy // 2:064x}"})
    rng.shuffle(rows)
    return [row | {"uid": f"row-{n:05}"} for n, row in enumerate(rows)]


def opened(root, rows, files=3):
    step = -(-len(rows) // files) or 1
    units = [rows[first : first + step] for first in range(0, len(rows), step)]
    return open_tables(str(write_scored(root, [[], *units], dim=8)))


def greedy(rows, top_k, kind):
    """The definition: best first, each that is no copy of what is shown."""
    scores = np.stack([row["image_embedding"] for row in rows]) @ QUERY
    shown = []
    for place in sorted(range(len(rows)), key=lambda n: (-scores[n], rows[n]["uid"])):
        row = rows[place]
        if kind == "exact":
            is_copy = any(row["sha256"] and row["sha256"] == other["sha256"] for other in shown)
        else:
            is_copy = any(row["image_embedding"] @ o["image_embedding"] >= 0.95 for o in shown)
        if not is_copy and len(shown) < top_k:
            shown.append(row)
    return [row["uid"] for row in shown]


@pytest.mark.parametrize("kind", ["exact", "near"])
@pytest.mark.parametrize("top_k", [1, 5, 30, 100])
@pytest.mark.parametrize("least", [1, 16, 256], ids=lambda n: f"least {n}")
def test_found_rows_are_those_of_the_definition(tmp_path, monkeypatch, kind, top_k, least):
    monkeypatch.setattr(distinct, "LEAST_TAKEN", least)
    rows = clustered(images=30, copies=12)
    tables = opened(tmp_path, rows)
    expected = greedy(rows, top_k, kind)
    assert [row.uid for row in distinct_rows(tables, QUERY, top_k, kind)] == expected


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_many_copies_of_the_nearest_image_hide_no_other(tmp_path, monkeypatch, kind):
    """A thousand copies tie in front of ten other images, and more than a pass takes."""
    monkeypatch.setattr(distinct, "LEAST_TAKEN", 1)
    copies = [{"image_embedding": QUERY, "sha256": "a" * 64} for _ in range(1000)]
    others = [
        {"image_embedding": unit(QUERY + np.eye(8)[n % 7 + 1] * (1 + n)), "sha256": f"{n:064x}"}
        for n in range(7)
    ]
    rows = [row | {"uid": f"row-{n:05}"} for n, row in enumerate(copies + others)]
    passes = []
    over_files = distinct.over_files
    monkeypatch.setattr(
        distinct, "over_files", lambda *given: passes.append(1) or over_files(*given)
    )
    found = distinct_rows(opened(tmp_path, rows), QUERY, 5, kind)
    assert [row.uid for row in found] == greedy(rows, 5, kind)
    assert len(found) == 5 and len(passes) == 2


def test_no_more_rows_are_held_than_is_said(tmp_path, monkeypatch):
    rows = clustered(images=50, copies=10)
    held = []
    nsmallest = distinct.heapq.nsmallest

    class Watched:
        @staticmethod
        def nsmallest(count, found, key):
            kept = nsmallest(count, found, key)
            held.append(len(kept))
            return kept

    monkeypatch.setattr(distinct, "heapq", Watched)
    monkeypatch.setattr(distinct, "LEAST_TAKEN", 8)
    distinct_rows(opened(tmp_path, rows), QUERY, 6, "near")
    assert max(held) == 12


def test_rows_without_a_digest_have_no_exact_copies(tmp_path):
    rows = [{"image_embedding": QUERY, "sha256": None, "uid": f"row-{n}"} for n in range(5)]
    tables = opened(tmp_path, rows)
    found = distinct_rows(tables, QUERY, 3, "exact")
    assert [row.uid for row in found] == ["row-0", "row-1", "row-2"]
    assert len(distinct_rows(tables, QUERY, 9, "exact")) == 5
    assert len(distinct_rows(tables, QUERY, 9, "near")) == 1


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_an_empty_table_has_none(tmp_path, kind):
    assert distinct_rows(opened(tmp_path, []), QUERY, 3, kind) == []


def test_progress_counts_each_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(distinct, "LEAST_TAKEN", 1)
    rows, seen = clustered(images=10, copies=12), []
    distinct_rows(opened(tmp_path, rows), QUERY, 10, "near", progress=seen.append)
    assert sum(seen) == len(rows)
