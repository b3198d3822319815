"""Intervals against repeated worlds; comparisons against scipy and by hand; what is undefined is counted, what does not fit is refused."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isoclr.config import InputError
from isoclr.probe.intervals import (
    COMPARE_COLUMNS, SCORE_COLUMNS, SUMMARY_COLUMNS, compare, corrected_interval, family_interval, holm, summarise,
)
from isoclr.probe.linear import ridge
from isoclr.probe.splits import group_splits


def rows_of(representation, scores, seeds=None, **others):
    "A table of scores made by hand."
    fixed = {"representation": representation, "task": "t", "method": "linear", "split": "homology", "metric": "pearson", "fold": 0}
    fixed |= {"n_train": 80, "n_test": 20, "n_eligible": 100, "n_classes": 0, "penalty": 1.0, **others}
    return pd.DataFrame({"seed": range(len(scores)) if seeds is None else seeds, "score": scores}).assign(**fixed)


def test_interval_by_hand_and_its_limits():
    low, high = corrected_interval([0.4, 0.5, 0.6], n_test=20, n_rest=80)
    half = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 0.25) * 0.01)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert np.isnan(corrected_interval([0.5], 1, 1)).all() and np.isnan(corrected_interval([], 1, 1)).all()
    assert np.isnan(corrected_interval([0.4, 0.5], 20, 0)).all()  # all that is eligible is tested, each time


def test_the_interval_covers_the_truth():
    """In 400 repeated worlds of 90 families, of which 30 may be tested, the interval covers the true error in about 95 %.

    With the training part instead of what is eligible in the correction, it would cover it far too seldom.
    """
    rng, truth, covered, naive = np.random.default_rng(0), 1.0, 0, 0
    groups, eligible = np.repeat([f"g{i}" for i in range(90)], 2), np.repeat(np.arange(90) < 30, 2)
    splits = group_splits(groups, range(10), 0.15, eligible)
    for _ in range(400):
        losses = np.repeat(rng.exponential(truth, size=90), 2)  # the error that a fixed model makes on each family
        scores = [losses[split.test].mean() for split in splits]
        n_test = np.mean([len(split.test) for split in splits])
        low, high = corrected_interval(scores, n_test, splits[0].n_eligible - n_test)
        covered += low <= truth <= high
        low, high = corrected_interval(scores, n_test, len(groups) - n_test)
        naive += low <= truth <= high
    assert 0.90 <= covered / 400 <= 0.99 and naive / 400 < 0.85


def folds(rng, n, k):
    "The test parts of one round of k-fold."
    return np.array_split(rng.permutation(n), k)


def test_the_interval_of_repeated_k_fold_covers_the_truth():
    "Five folds, once and ten times over: near 95 % over ten rounds, wider than needed for one; as independent, far too seldom."
    rng, covered = np.random.default_rng(1), {"ten rounds": 0, "one round": 0, "independent": 0}
    for _ in range(600):
        losses = rng.normal(1, 0.5, size=60)
        scores = [losses[test].mean() for _ in range(10) for test in folds(rng, 60, 5)]
        for name, part, n_rest in (("ten rounds", scores, 48), ("one round", scores[:5], 48), ("independent", scores, np.inf)):
            low, high = corrected_interval(part, 12, n_rest)
            covered[name] += (low <= 1 <= high) / 600
    assert 0.92 <= covered["ten rounds"] <= 0.975 and covered["one round"] >= 0.95 and covered["independent"] < 0.6


@pytest.mark.parametrize("k_fold", [False, True], ids=["hold-out", "5-fold"])
def test_the_interval_covers_the_error_of_a_probe_that_is_trained(k_fold):
    "A ridge is trained anew on every split of every world; the truth is its mean squared error over fresh worlds of as many training rows."
    rng, n, d, w = np.random.default_rng(2), 60, 4, np.array([1.0, 0.5, 0, 0])

    def world(size):
        X = rng.normal(size=(size, d))
        return X, X @ w + rng.normal(size=size)

    def error(train, test):
        return ((ridge(*train, np.arange(len(train[1])), test[0], alphas=[3.0])[0] - test[1]) ** 2).mean()

    n_train = 48 if k_fold else 51
    truth = np.mean([error(world(n_train), world(400)) for _ in range(200)])
    covered = 0
    for _ in range(120):
        X, y = world(n)
        tests = [test for _ in range(2) for test in folds(rng, n, 5)] if k_fold else [rng.permutation(n)[:9] for _ in range(10)]
        scores = []
        for test in tests:
            train = np.setdiff1d(np.arange(n), test)
            scores.append(error((X[train], y[train]), (X[test], y[test])))
        low, high = corrected_interval(scores, len(tests[0]), n - len(tests[0]))
        covered += low <= truth <= high
    assert 0.90 <= covered / 120 <= 0.99


def test_summaries_by_hand():
    scores = pd.concat([rows_of("a", [0.4, 0.5, 0.6]), rows_of("a", [0.1, 0.2, 0.6], metric="r2"), rows_of("b", [0.7])])
    table = summarise(scores)
    assert table.columns.tolist() == SUMMARY_COLUMNS and len(table) == 3
    assert table["mean"].tolist() == pytest.approx([0.5, 0.3, 0.7]) and table.seeds.tolist() == ["0,1,2", "0,1,2", "0"]
    assert (table.low[0], table.high[0]) == corrected_interval([0.4, 0.5, 0.6], 20, 80) and np.isnan(table.low[2]) and np.isnan(table.high[2])
    assert summarise(pd.DataFrame(columns=SCORE_COLUMNS)).columns.tolist() == SUMMARY_COLUMNS


def test_folds_and_seeds_are_one_sample():
    "Two rounds of five folds: ten scores, and n_test / n_rest = 1/4."
    values = np.random.default_rng(0).normal(size=10)
    scores = pd.concat([rows_of("a", values[:5], seeds=[0] * 5), rows_of("a", values[5:], seeds=[1] * 5)]).assign(fold=[*range(5)] * 2)
    row = summarise(scores).iloc[0]
    half = stats.t.ppf(0.975, 9) * np.sqrt((1 / 10 + 1 / 4) * values.var(ddof=1))
    assert (row.low, row.high) == pytest.approx((values.mean() - half, values.mean() + half)) and row.seeds == "0,1" and row.n_splits == 10


def test_undefined_scores_are_counted():
    table = summarise(pd.concat([rows_of("a", [0.4, np.nan, 0.6]), rows_of("b", [np.nan] * 3)])).set_index("representation")
    assert table.loc["a", "mean"] == pytest.approx(0.5) and table.n_splits.tolist() == [2, 0] and table.undefined.tolist() == [1, 3]
    assert (table.loc["a", "low"], table.loc["a", "high"]) == corrected_interval([0.4, 0.6], 20, 80)
    assert table.loc["b", ["mean", "low", "high"]].isna().all()
    difference = compare(pd.concat([rows_of("a", [0.4, np.nan, 0.6, 0.5]), rows_of("b", [0.3, 0.5, np.nan, 0.2])]), "a", "b").iloc[0]
    assert difference.difference == pytest.approx(0.2) and difference.n_splits == 2 and difference.undefined == 2


def test_further_columns_are_kept_apart_and_never_forgotten():
    scores = pd.concat([rows_of("a", [0.1, 0.2], fraction=0.1), rows_of("a", [0.5, 0.6], fraction=1.0)])
    table = summarise(scores, by=("fraction",))
    assert table.fraction.tolist() == [0.1, 1.0] and table["mean"].tolist() == pytest.approx([0.15, 0.55])
    assert table.columns.tolist() == [*SUMMARY_COLUMNS[:5], "fraction", *SUMMARY_COLUMNS[5:]]
    with pytest.raises(InputError, match="'fraction'"):
        summarise(scores)
    with pytest.raises(InputError, match="'fraction'"):
        compare(pd.concat([scores, scores.assign(representation="b")]), "a", "b")
    with pytest.raises(InputError, match="no column 'fracton'.*'fraction'"):
        summarise(scores, by=("fracton",))
    both = compare(pd.concat([scores, scores.assign(representation="b", score=0.0)]), "a", "b", by=("fraction",))
    assert both.fraction.tolist() == [0.1, 1.0] and both.difference.tolist() == pytest.approx([0.15, 0.55])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10**6))
def test_compare_is_the_paired_t_test_with_a_corrected_variance(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(size=n)
    row = compare(pd.concat([rows_of("a", a), rows_of("b", b).sample(frac=1, random_state=seed)]), "a", "b").iloc[0]
    plain = stats.ttest_rel(a, b).statistic
    statistic = plain * np.sqrt((1 / n) / (1 / n + 20 / 80))
    assert row.p == pytest.approx(2 * stats.t.sf(abs(statistic), n - 1)) and row.difference == pytest.approx((a - b).mean())
    assert (row.low, row.high) == pytest.approx(corrected_interval(a - b, 20, 80)) and (row.p < 0.05) == (row.low > 0 or row.high < 0)
    reversed_ = compare(pd.concat([rows_of("a", a), rows_of("b", b)]), "b", "a").iloc[0]
    assert reversed_.difference == pytest.approx(-row.difference) and reversed_.p == pytest.approx(row.p)


def test_compare_calls_few_equals_different():
    "Two representations that are equally good in the long run, in 400 worlds of sixty units: about 5 % are called different, not more."
    rng, tables, plain = np.random.default_rng(3), [], 0
    for world in range(400):
        losses, tests = rng.normal(size=(2, 60)), [rng.permutation(60)[:12] for _ in range(10)]
        a, b = ([one[test].mean() for test in tests] for one in losses)
        plain += stats.ttest_rel(a, b).pvalue < 0.05
        tables.append(pd.DataFrame({"task": str(world), "representation": ["a"] * 10 + ["b"] * 10, "seed": [*range(10)] * 2, "score": a + b}))
    scores = pd.concat(tables).assign(method="linear", split="homology", metric="mse", fold=0, n_train=48, n_test=12, n_eligible=60)
    assert 0.01 < (compare(scores, "a", "b").p < 0.05).mean() < 0.08 and plain / 400 > 0.2


def test_compare_of_what_never_differs():
    a = rows_of("a", [0.25, 0.5, 0.75])
    same, shifted = (compare(pd.concat([a, a.assign(representation="b", score=a.score - by)]), "a", "b").iloc[0] for by in (0, 0.25))
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1) and (shifted.difference, shifted.p) == (0.25, 0)
    single = compare(pd.concat([a[:1], a[:1].assign(representation="b", score=0)]), "a", "b")
    assert single.columns.tolist() == COMPARE_COLUMNS and single[["low", "high", "p"]].isna().all(axis=None) and single.n_splits.item() == 1


@pytest.mark.parametrize("other, message", [
    (rows_of("b", [0.1, 0.2]), "different splits of 't'"),
    (rows_of("b", [0.1, 0.2, 0.3], seeds=[0, 1, 7]), "different splits of 't'"),
    (rows_of("b", [0.1, 0.2, 0.3]).assign(n_test=[20, 20, 21]), "different splits of 't'"),
    (rows_of("b", [0.1, 0.2, 0.3], n_train=40), "different splits of 't'"),
    (rows_of("b", [0.1, 0.2, 0.3], split="random"), "'a' alone has scores for .*homology"),
    (pd.concat([rows_of("b", [0.1, 0.2, 0.3]), rows_of("b", [0.1, 0.2, 0.3], task="u")]), "'b' alone has scores for .*'u'"),
    (rows_of("bb", [0.1, 0.2, 0.3]), "No scores of representation 'b'.*'bb'"),
])
def test_compare_refuses_what_is_not_paired(other, message):
    with pytest.raises(InputError, match=message):
        compare(pd.concat([rows_of("a", [0.4, 0.5, 0.6]), other]), "a", "b")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_holm_equals_its_steps(p):
    "From the smallest up: p times the number of tests left, never below an earlier one."
    expected, reached, left = np.full(len(p), np.nan), 0.0, sum(not np.isnan(one) for one in p)
    for place in sorted((i for i in range(len(p)) if not np.isnan(p[i])), key=lambda i: p[i]):
        reached = max(reached, min(1.0, p[place] * left))
        expected[place], left = reached, left - 1
    np.testing.assert_allclose(holm(p), expected)


def test_family_interval_is_as_wide_as_the_families_make_it():
    "Twenty families that succeed or fail as a whole: the interval is that of 20 coins, not of 400 transcripts."
    families = np.repeat(np.arange(20), 20)
    hits = np.repeat(np.arange(20) % 2 == 0, 20)
    mean, low, high = family_interval(hits, families, 2000, 0)
    assert mean == 0.5 and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20), abs=0.08)
