import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.curation.top_fraction import histogram, threshold_of_fraction
from pipelines.output.scored_tables import open_tables
from pipelines.pages.histograms import BINS, cut_of_fraction, quantile, rows_kept, similarity_bins
from pipelines.pages.statistics import gather
from schemas.pairs import has_column
from scored_runs import write_scored


def gathered(root, units, examples=3, **settings):
    return gather(open_tables(str(write_scored(root, units, **settings))), examples)


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).normal(0.3, 0.1, 900).astype(np.float32)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory, scores):
    rows = [{"similarity": float(score)} for score in scores]
    return gathered(tmp_path_factory.mktemp("scored"), [rows[:500], rows[500:]])


def test_counts_and_mean_are_those_of_the_rows(statistics, scores):
    assert statistics.rows == 900
    assert statistics.mean == pytest.approx(scores.mean(), abs=1e-6)
    assert np.flatnonzero(statistics.similarity)[0] == similarity_bins(scores.min())


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.999, 1.0])
def test_cut_of_a_fraction_is_the_order_statistic_to_a_bin(statistics, scores, fraction):
    cut = cut_of_fraction(statistics.similarity, fraction)
    wanted = min(int(fraction * 900) + 1, 900)
    exact = np.sort(scores)[::-1][wanted - 1]
    assert cut <= exact < cut + 1.01e-4
    assert wanted <= rows_kept(statistics.similarity, cut) == (scores >= cut - 1e-9).sum()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_fraction_keeps_the_rows_that_filter_keeps(fraction):
    scores = np.arange(57, dtype=np.float32) / 64
    threshold = threshold_of_fraction(lambda high: [histogram([scores], high)], fraction)
    counts = np.bincount(similarity_bins(scores), minlength=BINS)
    kept = rows_kept(counts, cut_of_fraction(counts, fraction))
    assert kept == np.count_nonzero(scores >= threshold)


def test_best_and_worst_are_exact_over_files(statistics, scores):
    ordered = np.sort(scores)
    assert [r.similarity for r in statistics.examples.worst] == ordered[:3].tolist()
    assert [r.similarity for r in statistics.examples.best] == ordered[::-1][:3].tolist()


def test_examples_at_the_cut_are_near_it_and_descend(statistics):
    found = [row.similarity for row in statistics.examples.at(0.3)]
    assert len(found) == 3 and found == sorted(found, reverse=True)
    assert all(abs(score - 0.3) < 0.002 for score in found)


def test_examples_stay_bounded_when_all_rows_tie(tmp_path):
    statistics = gathered(tmp_path, [[{"similarity": 0.25}] * 200], examples=4)
    assert [
        len(part)
        for part in (
            statistics.examples.best,
            statistics.examples.worst,
            statistics.examples.at(0.25),
        )
    ] == [4] * 3
    assert sum(map(len, statistics.examples._by_bin.values())) == 4
    assert rows_kept(statistics.similarity, cut_of_fraction(statistics.similarity, 0.1)) == 200


def test_scores_at_the_ends_and_beyond_them_by_rounding_are_counted(tmp_path):
    rows = [{"similarity": s} for s in (-1.0, 1.0, 1.0000001, -1.0000001)]
    statistics = gathered(tmp_path, [rows])
    assert statistics.rows == 4
    assert statistics.similarity[0] == 2 and statistics.similarity[-1] == 2


def test_nulls_are_not_counted_as_zero(tmp_path):
    rows = [{"similarity": None}, {"original_width": None}, {"text": None, "original_width": 9}]
    statistics = gathered(tmp_path, [rows])
    assert statistics.rows == 2
    assert statistics.short_sides.sum() == 1 and statistics.short_sides[9] == 1


def test_lengths_and_sizes_are_counted_with_giants_at_the_end(tmp_path):
    rows = [
        {"text": "größe", "original_width": 30, "original_height": 20},
        {"text": "x" * 5000, "original_width": 10**6, "original_height": 10**6},
        {"text_truncated": True},
    ]
    statistics = gathered(tmp_path, [rows])
    assert statistics.text_chars[5] == 1 and statistics.text_chars[-1] == 1
    assert statistics.short_sides[20] == 1 and statistics.short_sides[-1] == 1
    assert statistics.truncated == 1


def test_rejects_are_counted_by_stage_and_reason(tmp_path):
    rejects = [{"reason": "not_an_image"}] * 2 + [{"stage": "fetch", "reason": "not_found"}]
    statistics = gathered(tmp_path, [[]], rejects=rejects)
    assert statistics.rejects == {("decode", "not_an_image"): 2, ("fetch", "not_found"): 1}


def test_empty_tables_give_zeros(tmp_path):
    statistics = gathered(tmp_path, [[]])
    assert statistics.rows == 0 and statistics.mean == 0.0
    assert (
        statistics.examples.best == statistics.examples.worst == statistics.examples.at(0.3) == []
    )
    assert cut_of_fraction(statistics.similarity, 0.3) == -1.0
    assert quantile(statistics.text_chars, 0.5) == 0


def test_no_examples_are_kept_when_none_are_asked_for(tmp_path):
    statistics = gathered(tmp_path, [[{}]], examples=0)
    assert (
        statistics.rows == 1
        and statistics.examples.best == []
        and statistics.examples.at(0.5) == []
    )


def test_later_captions_are_counted_in_both_tables(tmp_path):
    rows = [{"source_row": 0, "caption_index": index} for index in range(3)]
    rejects = [{"source_row": 1, "caption_index": 1, "reason": "empty_text"}]
    statistics = gathered(tmp_path, [rows], rejects=rejects)
    assert (statistics.records, statistics.later_captions) == (4, 3)


@pytest.mark.parametrize("pairs", ["images", "texts"])
def test_rows_of_one_half_are_counted_and_some_are_drawn(tmp_path, pairs):
    whole = open_tables(str(write_scored(tmp_path / "whole", [[{}] * 300, [{}] * 300, []])))
    columns = [name for name in whole.schema.names if has_column(pairs, name)]
    for uri in whole.embeddings:
        table = pq.read_table(uri).select(columns)
        half = tmp_path / "half" / "embeddings" / uri.rpartition("/")[2]
        half.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, half)
    tables = open_tables(str(tmp_path / "half"))
    statistics = gather(tables, 20)
    assert tables.pairs == pairs and statistics.rows == 600 and not statistics.similarity.any()
    assert statistics.text_chars.sum() == 600 * (pairs == "texts")
    assert statistics.short_sides.sum() == 600 * (pairs == "images")
    drawn = [row.source_row for row in statistics.examples.drawn]
    assert len(set(drawn)) == 20 and {number // 100 for number in drawn} == set(range(6))
    assert drawn == [row.source_row for row in gather(tables, 20).examples.drawn]
