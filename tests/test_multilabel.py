"""Many labels at once against one scikit-learn model a label; scarce, constant and single labels."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from isoclr.config import InputError
from isoclr.probe import multilabel
from isoclr.probe.linear import LOGISTIC_PENALTIES, group_folds
from isoclr.probe.multilabel import FEWEST_IN_FOLD, chosen_penalties, multilabel_logistic


def made(n=300, d=12, K=6, seed=0, rarest=-4.0):
    "Features, labels from rare to frequent that depend on them more and less, and families of one to three."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    Y = X @ rng.normal(size=(d, K)) * np.linspace(0.5, 0.1, K) + rng.logistic(size=(n, K)) + np.linspace(rarest, 1, K) > 0
    return X, Y.astype(np.uint8), np.sort(rng.integers(0, n // 2, n))


def slow_losses(X, Y, fold):
    "(K, A): a scikit-learn model for each label, penalty and fold."
    Z, losses = (X - X.mean(0)) / X.std(0), np.zeros((Y.shape[1], len(LOGISTIC_PENALTIES)))
    for k, y in enumerate(Y.T):
        for a, penalty in enumerate(LOGISTIC_PENALTIES):
            for out in (fold == 0, fold == 1, fold == 2):
                p = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(Z[~out], y[~out]).predict_proba(Z[out])
                losses[k, a] -= np.log(p[np.arange(out.sum()), y[out]]).sum()
    return losses


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_scikit_learn_label_by_label(seed):
    X, Y, groups = made(seed=seed)
    found, chosen = multilabel_logistic(X, Y, groups, X[:50], seed=seed)
    fold = group_folds(groups, Y, seed=seed)
    assert chosen.tolist() == [LOGISTIC_PENALTIES[best] for best in chosen_penalties(slow_losses(X, Y, fold), Y, fold)]
    assert len(set(chosen)) > 1  # each its own
    Z = (X - X.mean(0)) / X.std(0)
    for k, penalty in enumerate(chosen):
        reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(Z, Y[:, k]).predict_proba(Z[:50])[:, 1]
        assert np.abs(found[:, k] - reference).max() < 3e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 60), st.integers(1, 80), st.integers(1, 8), st.integers(0, 10**6))
def test_any_shape_gives_probabilities_that_add_up(n, d, K, seed):
    "More columns than rows, constant labels, labels of one unit: finite, and as many expected as there are (the intercept is free)."
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(5, 3, size=(n, d)), (rng.random((n, K)) < rng.random(K) ** 2).astype(np.uint8)
    found, chosen = multilabel_logistic(X, Y, np.arange(n) // 3, X, seed=seed)
    assert found.shape == (n, K) and chosen.shape == (K,) and ((found >= 0) & (found <= 1)).all()
    assert found.sum(0) == pytest.approx(Y.sum(0), abs=0.05 * n**0.5)
    constant = np.ptp(Y, axis=0) == 0
    assert (np.isinf(chosen) == constant).all() and (found[:, constant] == Y[:, constant]).all()


def test_labels_do_not_depend_on_which_block_they_are_in(monkeypatch):
    X, Y, groups = made(K=10)
    whole = multilabel_logistic(X, Y, groups, X)
    monkeypatch.setattr(multilabel, "_block", lambda *sizes: 3)
    parts = multilabel_logistic(X, Y, groups, X)
    assert (whole[1] == parts[1]).all() and np.abs(whole[0] - parts[0]).max() < 2e-3


def test_scarce_labels_share_a_penalty():
    X, Y, groups = made(n=240, K=5, rarest=1.0)
    Y[:, 3:] = 0
    Y[[0, 30, 60, 90], 3] = Y[[1, 100, 200], 4] = 1
    _, chosen = multilabel_logistic(X, Y, groups, X)
    fold = group_folds(groups, Y)
    losses = slow_losses(X, Y[:, 3:], fold) if all(np.ptp(Y[fold != f, k]) for f in range(3) for k in (3, 4)) else None
    assert chosen[3] == chosen[4] == LOGISTIC_PENALTIES[int(losses.sum(0).argmin())]


@pytest.mark.parametrize("in_each_fold, own", [(FEWEST_IN_FOLD, True), (FEWEST_IN_FOLD - 1, False)])
def test_where_scarce_begins(in_each_fold, own):
    fold = np.arange(60) // 20
    scarce, tested = np.arange(60) % 20 < 1, np.arange(60) % 20 < in_each_fold
    losses = np.array([[0.0, 9.0], [2.0, 1.0]])  # of the scarce label, of the tested one
    for labels in (np.stack([scarce, tested], 1), ~np.stack([scarce, tested], 1)):
        assert chosen_penalties(losses, labels, fold).tolist() == [0, 1 if own else 0]


def test_a_label_of_one_family_is_possible():
    "In the fold that holds it nobody else has it: the loss there is finite, and the probe works."
    X, Y, groups = made(K=2)
    Y[:, 0] = groups == groups[150]
    found, chosen = multilabel_logistic(X, Y, groups, X)
    assert np.isfinite(found).all() and np.isfinite(chosen).all()


def test_one_label_is_a_binary_task():
    X, Y, groups = made(K=3, rarest=-1.0)
    alone, penalty = multilabel_logistic(X, Y[:, [1]], groups, X, penalties=[30.0])
    beside, _ = multilabel_logistic(X, Y, groups, X, penalties=[30.0])
    assert penalty.tolist() == [30.0] and np.abs(alone[:, 0] - beside[:, 1]).max() < 2e-3


def test_rare_labels_are_calibrated():
    "Units called likelier carry the label more often, as often as said."
    X, Y, groups = made(n=8000, d=8, K=3, rarest=-5.0, seed=2)
    found, _ = multilabel_logistic(X[:4000], Y[:4000], groups[:4000], X[4000:])
    for p, y in zip(found.T, Y[4000:].T):
        for part in np.array_split(np.argsort(p), 4):
            assert abs(p[part].mean() - y[part].mean()) < 0.05


def test_constant_features_and_labels():
    Y = np.zeros((30, 3), dtype=int)
    Y[:10, 0] = Y[:, 2] = 1
    found, chosen = multilabel_logistic(np.ones((30, 4)), Y, np.arange(30) // 2, np.ones((2, 4)))
    assert found == pytest.approx(np.tile([1 / 3, 0, 1], (2, 1)), abs=1e-3) and np.isinf(chosen).tolist() == [False, True, True]
    found, chosen = multilabel_logistic(np.ones((30, 4)), Y[:, 1:], np.arange(30) // 2, np.ones((2, 4)))
    assert found.tolist() == [[0, 1], [0, 1]] and np.isinf(chosen).all()


@pytest.mark.parametrize("Y", [np.ones(12), np.full((12, 2), 0.5), np.ones((11, 2)), np.array([[np.nan]] * 12)])
def test_other_labels_are_refused(Y):
    with pytest.raises(InputError, match=r"Labels must be 0 or 1 of shape \(12, K\)"):
        multilabel_logistic(np.ones((12, 2)), Y, np.arange(12), np.ones((1, 2)))


def test_too_few_groups_are_refused():
    with pytest.raises(InputError, match="2 homology groups"):
        multilabel_logistic(np.eye(12), np.arange(12)[:, None] % 2, np.arange(12) // 6, np.eye(12))


def test_yes_and_no_are_as_good_as_1_and_0():
    X, Y, groups = made(K=3)
    found, expected = multilabel_logistic(X, Y > 0, groups, X), multilabel_logistic(X, Y, groups, X)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
