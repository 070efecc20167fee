"""Means, failures and intervals: answers known beforehand, and what a bad table would hide."""

import numpy as np
import pytest
from scipy import stats

from editmgt_lib.errors import InputError
from editmgt_lib.evaluation import statistics
from editmgt_lib.evaluation.items import Score
from editmgt_lib.evaluation.statistics import (
    Column,
    bootstrap,
    group_means,
    macro_error,
    paired,
    paired_error,
    paired_t,
    smallest_difference,
)

TEN = np.array([5, 6, 7, 8, 9, 4, 5, 6, 7, 8], float)
OTHER = np.array([4, 6, 6, 8, 7, 4, 6, 5, 7, 7], float)
# Items per task of GEdit-Bench's English half; text_change has 99.
GEDIT = (40, 40, 40, 40, 70, 60, 60, 57, 60, 99, 40)


def column(values, worst=0.0, failures="worst", metric="m"):
    """A column of numbers by item; None is a failure, a word the reason for n/a."""
    status = {type(None): "failed", str: "n/a"}
    scores = [
        Score(item, metric, None if type(v) in status else v, status.get(type(v), "ok"))
        for item, v in values.items()
    ]
    return Column.of(scores, worst, failures)


def test_bootstrap_of_a_mean():
    found = bootstrap(TEN, seed=42)
    assert found.mean == pytest.approx(6.5)
    assert (found.low, found.high) == (pytest.approx(5.6), pytest.approx(7.4))
    assert found.error == pytest.approx(0.474853, abs=1e-6)
    assert np.std(TEN, ddof=1) / np.sqrt(10) == pytest.approx(0.5)


def test_bootstrap_of_paired_differences():
    found = bootstrap(TEN - OTHER, seed=42)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0, abs=1e-12), pytest.approx(1.0))
    assert found.below == pytest.approx(0.0376)


def test_paired_t():
    t, p = paired_t(TEN - OTHER)
    assert (t, p) == (pytest.approx(1.8605, abs=1e-4), pytest.approx(0.0957, abs=1e-4))


@pytest.mark.parametrize("count", [2, 3, 10, 100, 3589])
@pytest.mark.parametrize("shift", [0.0, 0.02, 0.5])
def test_paired_t_is_that_of_scipy(count, shift):
    differences = np.random.default_rng(1).normal(shift, 1, count)
    expected = stats.ttest_1samp(differences, 0)
    assert paired_t(differences) == (
        pytest.approx(expected.statistic),
        pytest.approx(expected.pvalue, abs=1e-10),
    )


def test_paired_t_without_spread():
    assert paired_t(np.zeros(3)) == (0.0, 1.0)
    assert paired_t(np.full(3, -2.0)) == (-np.inf, 0.0)
    with pytest.raises(InputError, match="at least 2 pairs, there are 1"):
        paired_t(np.ones(1))


def test_stratified_bootstrap_draws_within_groups():
    values = np.array([2, 4, 6, 8, 9, 10], float)
    groups = ["A"] * 4 + ["B"] * 2
    found = bootstrap(values, groups=groups, seed=0)
    assert found.mean == pytest.approx(7.25)
    assert values.mean() == pytest.approx(6.5)
    assert (found.low, found.high) == (pytest.approx(6.0), pytest.approx(8.25))


def test_order_of_items_in_other_groups_does_not_matter():
    values, groups = np.array([9, 2, 10, 4, 6, 8], float), list("BABAAA")
    found = bootstrap(values, groups=groups, seed=0)
    assert (found.low, found.high) == (pytest.approx(6.0), pytest.approx(8.25))


def test_drawing_in_chunks_gives_the_same_numbers(monkeypatch):
    whole = bootstrap(TEN, draws=1000)
    monkeypatch.setattr(statistics, "_CHUNK", 70)
    assert bootstrap(TEN, draws=1000) == whole


def test_repeated_pictures_widen_the_interval():
    """Ten copies of each value say nothing new: the interval is that of the ten values."""
    values, clusters = np.repeat(TEN, 10), np.repeat(list("abcdefghij"), 10)
    found = bootstrap(values, clusters=clusters)
    assert (found.low, found.high) == (pytest.approx(5.6), pytest.approx(7.4))
    assert bootstrap(values).error < found.error / 2


def test_clusters_of_unequal_size_keep_their_weight():
    found = bootstrap(np.array([0, 0, 0, 8.0]), clusters=list("aaab"))
    assert found.mean == pytest.approx(2)
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(8))


def test_clusters_across_groups():
    """A picture edited in two tasks is drawn with both of its edits, so its error is in both."""
    pictures = np.random.default_rng(0).normal(0, 1, 40)
    values, clusters = np.tile(pictures, 2), np.tile(np.arange(40).astype(str), 2)
    groups = np.repeat(["add", "remove"], 40)
    found = bootstrap(values, groups=groups, clusters=clusters, draws=4000)
    assert found.mean == pytest.approx(pictures.mean())
    assert found.error == pytest.approx(pictures.std() / np.sqrt(40), rel=0.05)
    apart = bootstrap(values, groups=groups, draws=4000)
    assert apart.error == pytest.approx(found.error / np.sqrt(2), rel=0.05)


def test_a_draw_without_a_group_takes_the_others():
    values, clusters, groups = np.array([1.0, 1, 3, 3]), list("abac"), list("xxyy")
    found = bootstrap(values, clusters=clusters, groups=groups, draws=500)
    assert found.mean == pytest.approx(2)
    assert np.isfinite([found.low, found.high, found.error]).all()


def test_bootstrap_refuses_nothing_and_wrong_lengths():
    with pytest.raises(InputError, match="no values"):
        bootstrap(np.array([]))
    with pytest.raises(InputError, match="2 values and 1 groups"):
        bootstrap(np.ones(2), groups=["a"])


@pytest.mark.parametrize(("correlation", "expected"), [(0, 0.4024), (0.5, 0.2845), (0.7, 0.2204)])
def test_smallest_detectable_difference(correlation, expected):
    error = paired_error(2.5, 606, correlation)
    assert smallest_difference(error) == pytest.approx(expected, abs=1e-4)


def test_error_of_a_macro_mean():
    assert macro_error(2.5, GEDIT) == pytest.approx(0.105854, abs=1e-6)
    assert macro_error(2.5, [606]) == pytest.approx(0.101556, abs=1e-6)


def test_macro_and_micro_means_part():
    """One task of 99 items at 10 and ten others at 0."""
    tasks = np.repeat([f"task {i}" for i in range(11)], GEDIT)
    values = np.where(tasks == "task 9", 10.0, 0)
    means = group_means(values, tasks)
    assert np.mean(list(means.values())) == pytest.approx(10 / 11)
    assert bootstrap(values, groups=tasks, draws=10).mean == pytest.approx(10 / 11)
    assert values.mean() == pytest.approx(1.63366337)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.643, 0.822), 0.7325),
        ((0.785, 0.688, 0.921, 0.855, 0.840, 0.602, 0.782, 0.800, 0.819), 0.7880),
        ((0.744, 0.811, 0.385), 0.6467),
    ],
)
def test_anybench_group_is_the_mean_of_its_types(scores, expected):
    """Types of 50 items each, whose mean is the published one."""
    values = np.concatenate([np.full(50, score) for score in scores])
    means = group_means(values, np.repeat([str(i) for i in range(len(scores))], 50))
    assert np.mean(list(means.values())) == pytest.approx(expected, abs=5e-5)


def test_a_failure_counts_unless_dropped():
    """CLIP-I .9, .8 and a black picture that would have had .1."""
    values = {"a": 0.9, "b": 0.8, "black": None}
    counted, dropped = column(values, worst=0.1), column(values, worst=0.1, failures="drop")
    assert counted.values.mean() == pytest.approx(0.60)
    assert dropped.values.mean() == pytest.approx(0.85)
    assert (counted.failed, dropped.failed) == (1, 1)


def test_dropping_failures_hides_them():
    values = {str(i): 6.0 for i in range(90)} | {str(i): None for i in range(90, 100)}
    assert column(values, failures="drop").values.mean() == pytest.approx(6.0)
    assert column(values).values.mean() == pytest.approx(5.4)


def test_undefined_values_are_left_out_and_counted():
    found = column({"a": 1.0, "b": "the mask is full", "c": 3.0})
    assert (found.items, found.not_applicable, found.failed) == (("a", "c"), 1, 0)


def test_infinite_values_do_not_poison_the_mean():
    found = column({"a": 30.0, "b": float("inf"), "c": 20.0})
    assert found.infinite == 1
    assert found.finite.items == ("a", "c")
    assert bootstrap(found.finite.values).mean == pytest.approx(25)


def test_later_scores_replace_earlier_ones():
    lines = [Score("a", "m", None, "failed"), Score("b", "m", 1.0), Score("a", "m", 3.0)]
    found = Column.of(lines, 0.0)
    assert found.values.tolist() == [3.0, 1.0]
    assert found.failed == 0


def test_two_metrics_never_share_a_column():
    lines = [Score("a", "clip-i/vit-b-32/source", 0.9), Score("b", "clip-i/vit-l-14/source", 0.8)]
    with pytest.raises(InputError, match="vit-b-32/source and clip-i/vit-l-14/source"):
        Column.of(lines, 0.0)


def test_unknown_way_with_failures():
    with pytest.raises(InputError, match="failures is 'skip'"):
        Column.of([], 0.0, "skip")


def test_pairs_are_matched_by_item():
    first = column({"b": 2.0, "a": 1.0, "c": float("inf"), "d": None})
    second = column({"a": 0.5, "b": 1.0, "c": 3.0, "e": 9.0, "d": 4.0})
    found = paired(first, second)
    assert dict(zip(found.items, found.values.tolist(), strict=True)) == {
        "a": 0.5,
        "b": 1.0,
        "d": -4.0,
    }


def test_infinite_scores_survive_json():
    import json

    line = json.dumps(Score("a", "psnr", float("inf")).to_dict(), allow_nan=False)
    assert Score(**json.loads(line)).value == float("inf")
    assert json.loads(json.dumps(Score("a", "psnr", 30.0).to_dict()))["value"] == 30.0
