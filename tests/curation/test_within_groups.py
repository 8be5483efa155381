"""A share of each group, compared with sorting each group by itself."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipelines.curation import within_groups
from scored_runs import filtered, write_scored

KEPT = [pa.field("language", pa.string()), pa.field("shelf", pa.int16())]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Groups of 1 to 300 rows in three files, with ties, nulls and scores that are no numbers."""
    root = tmp_path_factory.mktemp("groups")
    random = np.random.default_rng(3)
    languages = random.choice(["en", "de", "is", None], 900, p=[0.6, 0.3, 0.05, 0.05])
    rows = [
        {
            "similarity": float(np.float32(random.normal(0.2, 0.1)).round(2 + n % 5)),
            "language": languages[n],
            "shelf": int(random.integers(3)) if n % 50 else None,
        }
        for n in range(900)
    ]
    for n in (5, 17, 400):
        rows[n]["similarity"] = float("nan")
    write_scored(root / "run", [rows[:100], rows[100:101], rows[101:]], kept=KEPT)
    return root, rows


def by_sorting(rows, columns, fraction):
    """What is kept, by sorting each group."""
    groups = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row[name] for name in columns), []).append(number)
    kept = []
    for numbers in groups.values():
        scores = np.array([rows[n]["similarity"] for n in numbers], np.float32)
        best = np.sort(scores[np.isfinite(scores)])[::-1]
        least = best[min(int(len(best) * fraction), len(best) - 1)]
        kept += [n for n, score in zip(numbers, scores, strict=True) if score >= least]
    return sorted(kept)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("columns", ["language", "shelf", "language,shelf", "shelf, language"])
def test_share_of_each_group_is_that_of_sorting_it(run, tmp_path, fraction, columns):
    root, rows = run
    flags = ("--top_fraction", str(fraction), "--within", columns, "--output", str(tmp_path))
    assert filtered(root, *flags) == 0
    found = ds.dataset(tmp_path / "embeddings", ignore_prefixes=["."]).to_table()["source_row"]
    names = [name.strip() for name in columns.split(",")]
    assert sorted(found.to_pylist()) == by_sorting(rows, names, fraction)


def test_workers_do_the_same(run, tmp_path):
    root, rows = run
    flags = ("--top_fraction", "0.3", "--within", "language", "--output", str(tmp_path))
    assert filtered(root, *flags, "--runner", "FnApiRunner") == 0
    found = ds.dataset(tmp_path / "embeddings", ignore_prefixes=["."]).to_table()["source_row"]
    assert sorted(found.to_pylist()) == by_sorting(rows, ["language"], 0.3)


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--min_similarity", "0", "--within", "language"), "expected `--top_fraction` with"),
        (("--top_fraction", "0.5", "--within", "lnguage"), "has no column 'lnguage'"),
        (("--top_fraction", "0.5", "--within", "similarity"), "got 'similarity' of type float"),
    ],
)
def test_groups_that_mean_nothing_are_refused(run, capsys, flags, told):
    assert filtered(run[0], "--dry_run", *flags) == 2
    assert told in capsys.readouterr().err


def test_more_groups_than_fit_are_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(within_groups, "MAX_GROUPS", 100)
    assert filtered(run[0], "--dry_run", "--top_fraction", "0.5", "--within", "uid") == 1
    assert "at most 100 groups of `--within`" in capsys.readouterr().err
