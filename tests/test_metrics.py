"""Metrics against scikit-learn, scipy and slow loops; what cannot be scored is NaN, left out and counted."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, r2_score, roc_auc_score, root_mean_squared_error

from isoclr.config import InputError
from isoclr.probe.metrics import (
    auprc, auroc, binary_scores, class_scores, multilabel_scores, pearson, r2, regression_scores, rmse, spearman, task_scores,
)

SEEDS = st.integers(0, 10**6)


def pairs_won(labels, scores):
    "AUROC by its definition: all pairs of a positive and a negative."
    return np.mean([(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]])


def precision_at_each_threshold(labels, scores):
    "Average precision by its definition: steps of recall, each at the precision of its threshold."
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        reached = labels[called].sum() / labels.sum()
        area, recall = area + (reached - recall) * labels[called].mean(), reached
    return area


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 60), st.integers(1, 6), st.sampled_from([1, 3, 10, 10**6]), SEEDS)
def test_areas_equal_scikit_learn_and_their_definitions(n, K, levels, seed):
    "Many ties and none; labels that are constant are NaN, and the others are not touched by them."
    rng = np.random.default_rng(seed)
    labels, scores = (rng.random((n, K)) < rng.random(K)).astype(np.uint8), rng.integers(0, levels, (n, K)) / levels
    found = auroc(labels, scores), auprc(labels, scores)
    for k in range(K):
        if 0 < labels[:, k].sum() < n:
            assert abs(found[0][k] - roc_auc_score(labels[:, k], scores[:, k])) < 1e-12
            assert abs(found[1][k] - average_precision_score(labels[:, k], scores[:, k])) < 1e-12
            assert found[0][k] == pytest.approx(pairs_won(labels[:, k], scores[:, k]), abs=1e-12)
            assert found[1][k] == pytest.approx(precision_at_each_threshold(labels[:, k], scores[:, k]), abs=1e-12)
        else:
            assert np.isnan(found[0][k]) and np.isnan(found[1][k])
        np.testing.assert_allclose([auroc(labels[:, k], scores[:, k]), auprc(labels[:, k], scores[:, k])], [found[0][k], found[1][k]], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 40), SEEDS)
def test_areas_depend_on_the_order_alone(n, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.permutation(np.arange(n) % 2), rng.integers(0, 9, n).astype(float)
    rows = rng.permutation(n)
    for area in (auroc, auprc):
        assert area(labels, scores) == pytest.approx(area(labels[rows], np.exp(scores[rows] - 3)), abs=1e-12)
    assert auroc(labels, scores) + auroc(labels, -scores) == pytest.approx(1)
    assert auroc(labels, np.zeros(n)) == 0.5 and auprc(labels, np.zeros(n)) == pytest.approx(labels.mean())


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 40), st.integers(2, 5), SEEDS)
def test_scores_equal_the_libraries(n, K, seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 5, n).astype(float), rng.integers(0, 5, n).astype(float)
    if np.ptp(y) and np.ptp(p):
        scores = regression_scores(y, p)
        assert list(scores) == ["pearson", "spearman", "r2", "rmse"]
        assert scores["pearson"] == pytest.approx(stats.pearsonr(y, p).statistic)
        assert scores["spearman"] == pytest.approx(stats.spearmanr(y, p).statistic)
        assert scores["r2"] == pytest.approx(r2_score(y, p)) and scores["rmse"] == pytest.approx(root_mean_squared_error(y, p))
    codes, probabilities = rng.integers(0, K, n), rng.dirichlet(np.ones(K), n).round(1)
    scores, n_classes = class_scores(codes, probabilities, np.arange(K - 1))
    known = [code for code in range(K - 1) if 0 < (codes == code).sum() < n]
    assert n_classes == len(known) and scores["accuracy"] == accuracy_score(codes, probabilities.argmax(1))
    if known:
        assert scores["auroc"] == pytest.approx(np.mean([roc_auc_score(codes == code, probabilities[:, code]) for code in known]))
        assert scores["auprc"] == pytest.approx(np.mean([average_precision_score(codes == code, probabilities[:, code]) for code in known]))
    else:
        assert np.isnan(scores["auroc"]) and np.isnan(scores["auprc"])


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 50), st.integers(1, 8), SEEDS)
def test_many_labels_are_macro_and_micro_of_those_that_vary(n, K, seed):
    rng = np.random.default_rng(seed)
    labels, p = rng.integers(0, 2, (n, K)), rng.random((n, K)).round(1)
    labels[:, rng.random(K) < 0.3] = rng.integers(0, 2)
    kept = [k for k in range(K) if 0 < labels[:, k].sum() < n]
    scores, scored = multilabel_scores(labels, p)
    assert scored == len(kept) and list(scores) == ["auroc_macro", "auroc_micro", "auprc_macro", "auprc_micro"]
    if not kept:
        assert np.isnan(list(scores.values())).all()
        return
    for name, reference in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        assert scores[f"{name}_macro"] == pytest.approx(np.mean([reference(labels[:, k], p[:, k]) for k in kept]), abs=1e-12)
        assert scores[f"{name}_micro"] == pytest.approx(reference(labels[:, kept].ravel(), p[:, kept].ravel()), abs=1e-12)


def test_labels_that_could_not_be_learnt_are_left_out():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 3))
    p = labels + 0.0
    p[:, 2] = 0.5  # never seen in training: a constant guess, which would score 0.5
    train = np.column_stack([np.arange(20) % 2, np.arange(20) % 3 == 0, np.zeros(20)])
    scores, scored = task_scores("multilabel", labels, p, train)
    assert scored == 2 and scores["auroc_macro"] == scores["auroc_micro"] == scores["auprc_macro"] == 1
    assert multilabel_scores(labels, p)[0]["auroc_macro"] == pytest.approx(5 / 6)


def test_binary_scores():
    codes, p = np.array([0, 1, 1, 0, 1]), np.array([0.2, 0.9, 0.4, 0.4, 0.6])
    scores, scored = binary_scores(codes, p)
    assert scores == pytest.approx({"auroc": roc_auc_score(codes, p), "auprc": average_precision_score(codes, p), "accuracy": 0.8}) and scored == 1
    scores, scored = task_scores("binary", np.ones(5), p, codes)
    assert np.isnan(scores["auroc"]) and np.isnan(scores["auprc"]) and scores["accuracy"] == 0.4 and scored == 0


@pytest.mark.parametrize("metric, chance", [(pearson, 0), (spearman, 0), (r2, 0)])
def test_what_does_not_vary(metric, chance):
    "A constant prediction is chance, rounding errors in it are no signal; constant labels are no question."
    y = np.array([1.0, 2.0, 4.0, 5.0])
    assert metric(y, np.full(4, 3.0)) == chance
    assert metric(y, 3 + 1e-15 * y) == pytest.approx(chance, abs=1e-9)
    assert np.isnan(metric(np.full(4, 0.1), y)) and np.isnan(metric(np.full(4, 0.1), np.full(4, 0.2)))
    assert np.isnan(metric(y[:1], y[:1])) and rmse(y[:1], y[1:2]) == 1


def test_what_cannot_be_compared_is_refused():
    y, codes = np.arange(4.0), np.array([0, 1, 1, 0])
    for wrong, message in (
        (lambda: pearson(y, y[:3]), r"\(4,\).*\(3,\)"),
        (lambda: regression_scores(y, np.array([0, 1, np.nan, np.inf])), "2 of 4 predictions are not finite"),
        (lambda: regression_scores(np.array([0, 1, np.nan, 2]), y), "1 of 4 labels are not finite"),
        (lambda: regression_scores(y[:0], y[:0]), "cannot be compared"),
        (lambda: auroc(codes + 1, y), "0 or 1"),
        (lambda: auprc(codes, np.full(4, np.nan)), "4 of 4 predictions"),
        (lambda: class_scores(codes, np.ones((3, 2)), [0, 1]), "4 classes"),
        (lambda: multilabel_scores(codes[:, None], np.ones((4, 2))), r"\(4, 1\).*\(4, 2\)"),
        (lambda: task_scores("ranking", y, y, y), "not 'ranking'"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
