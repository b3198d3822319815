"""Ridge and logistic regression against scikit-learn, and against loops that refit without each group."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from isoclr.config import InputError
from isoclr.probe.linear import (
    LOGISTIC_PENALTIES, RIDGE_ALPHAS, group_folds, left_out_errors, left_out_log_losses, logistic, logistic_fits, principal_axes, ridge, with_ones,
)


def standardised(X):
    scale = X.std(0)
    return (X - X.mean(0)) / np.where(scale > 0, scale, 1)


def refitted_errors(X, y, groups, alpha):
    "The slow way: a fit without each group."
    Z, errors = standardised(X), np.empty(len(y))
    for group in np.unique(groups):
        out = groups == group
        errors[out] = y[out] - Ridge(alpha, solver="svd").fit(Z[~out], y[~out]).predict(Z[out])
    return errors


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 50), st.integers(1, 70), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 31.6, 1e4]))
def test_ridge_equals_scikit_learn(n, d, seed, alpha):
    rng = np.random.default_rng(seed)
    X, X_test = rng.normal(3, 2, size=(n, d)), rng.normal(3, 2, size=(7, d))
    X[:, 0] = 5  # constant in training
    y = rng.normal(10, 3, size=n)
    predicted, chosen = ridge(X, y, np.arange(n) % 4, X_test, alphas=[alpha])
    scale = np.where(X.std(0) > 0, X.std(0), np.inf)
    reference = Ridge(alpha, solver="svd").fit((X - X.mean(0)) / scale, y).predict((X_test - X.mean(0)) / scale)
    assert chosen == alpha and np.abs(predicted - reference).max() < 1e-6


def test_ridge_equals_scikit_learn_where_columns_are_far_from_zero_and_alike():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) + 1e-3 * rng.normal(size=(300, 20)) + 1e4
    X[:, 3] *= 1e-6
    y = rng.normal(size=300) + X[:, 0] - 1e4
    predicted, alpha = ridge(X[:200], y[:200], np.arange(200) // 2, X[200:])
    mean, scale = X[:200].mean(0), X[:200].std(0)
    reference = Ridge(alpha, solver="svd").fit((X[:200] - mean) / scale, y[:200]).predict((X[200:] - mean) / scale)
    assert np.abs(predicted - reference).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 40), st.integers(0, 10**6))
def test_left_out_errors_equal_refitting(sizes, d, seed):
    "Groups smaller and larger than half the rank, several of one size, more columns than rows: every way of solving."
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X, y, alphas = rng.normal(size=(len(groups), d)), rng.normal(3, 1, size=len(groups)), [0.1, 3.0, 1000.0]
    axes = principal_axes(X)
    found = left_out_errors(axes(X), axes.power, y, groups, alphas)
    for errors, alpha in zip(found, alphas):
        assert errors == pytest.approx(refitted_errors(X, y, groups, alpha), abs=1e-7)


def test_left_out_errors_of_many_families():
    "Thousands of groups of one to three, a few large ones: enough to be solved in several portions."
    rng = np.random.default_rng(1)
    sizes = np.r_[rng.choice([1, 2, 3], 900, p=[0.6, 0.3, 0.1]), 40, 40, 150]
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(str)
    X = rng.normal(size=(len(groups), 60)) @ rng.normal(size=(60, 60))
    y = X[:, 0] + rng.normal(size=len(groups))
    axes = principal_axes(X)
    found = left_out_errors(axes(X), axes.power, y, groups, [1.0, 100.0])
    for group in [*rng.choice(np.unique(groups), 40), "900", "901", "902"]:
        out, Z = groups == group, standardised(X)
        for errors, alpha in zip(found, (1.0, 100.0)):
            assert errors[out] == pytest.approx(y[out] - Ridge(alpha).fit(Z[~out], y[~out]).predict(Z[out]), abs=1e-8)


def test_the_penalty_is_the_best_of_a_grid_of_refits():
    rng = np.random.default_rng(4)
    X, folds = rng.normal(size=(150, 30)), rng.permutation(np.arange(150) % 5)
    y = X @ rng.normal(size=30) + 8 * rng.normal(size=150)
    errors = [(refitted_errors(X, y, folds, alpha) ** 2).mean() for alpha in RIDGE_ALPHAS]
    best = RIDGE_ALPHAS[int(np.argmin(errors))]
    assert RIDGE_ALPHAS[0] < best < RIDGE_ALPHAS[-1] and ridge(X, y, folds, X)[1] == best


def test_the_penalty_follows_the_signal():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(120, 60)), np.repeat(np.arange(40), 3)
    clear, noise = X @ rng.normal(size=60), rng.normal(size=120)
    assert ridge(X, clear, groups, X)[1] <= 1 < 100 <= ridge(X, noise, groups, X)[1]


def test_one_group_leaves_nothing_to_choose_with():
    with pytest.raises(InputError, match="All 10 units to train on are of one group"):
        ridge(np.eye(10), np.arange(10.0), np.zeros(10), np.eye(10))
    with pytest.raises(InputError, match="2 homology groups to train on cannot be dealt to 3 folds"):
        logistic(np.eye(10), np.arange(10) % 2, np.arange(10) // 5, np.eye(10), 2)


@pytest.mark.parametrize("n, d, K, seed", [(90, 5, 3, 0), (60, 100, 4, 1), (200, 30, 2, 2), (400, 20, 8, 3)])
def test_logistic_equals_scikit_learn(n, d, K, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, size=(n, d)) @ rng.normal(size=(d, d))
    codes = np.argmax(standardised(X)[:, :K] + rng.gumbel(size=(n, K)), axis=1)
    codes[:K] = np.arange(K)
    for penalty in (1.0, 10.0, 300.0):
        found, chosen = logistic(X, codes, np.arange(n) % 10, X, K, penalties=[penalty])
        reference = LogisticRegression(C=(2 if K == 2 else 1) / penalty, tol=1e-10, max_iter=5000).fit(standardised(X), codes)
        assert chosen == penalty and np.abs(found - reference.predict_proba(standardised(X))).max() < 0.005


@pytest.mark.parametrize("K", [1, 3])
def test_fits_reach_the_least_loss(K):
    "The mean penalised loss is within 5e-6 of scikit-learn's at its tightest, for weak and strong penalties, rare and frequent labels."
    rng = np.random.default_rng(0)
    n, P, penalties = 500, 6, [0.3, 1.0, 3.0, 10.0, 100.0, 1000.0]
    X = rng.normal(size=(n, 40)) @ np.diag(2.0 ** -np.arange(40))
    axes = principal_axes(X)
    Z, power = with_ones(axes, X), torch.as_tensor(np.r_[n, axes.power], dtype=torch.float32)
    scores = standardised(X) @ rng.normal(size=(40, P * K)) + 3 * rng.gumbel(size=(n, P * K)) + (0 if K > 1 else np.linspace(-18, 5, P))
    labels = scores[..., None] > 0 if K == 1 else np.eye(K)[scores.reshape(n, P, K).argmax(2)]
    assert 0 < labels.sum(0).min() and (K > 1 or labels.sum(0).min() < 15)
    W = logistic_fits(Z, power, torch.as_tensor(labels, dtype=torch.float32), torch.tensor(penalties)).double().numpy()

    def mean_loss(logits, label, weights, penalty):
        log_norm = np.logaddexp(0, logits[:, 0]) if K == 1 else np.logaddexp.reduce(logits, axis=1)
        return (log_norm.sum() - (logits * label).sum() + penalty * (weights**2).sum() / 2) / n

    for p, penalty in enumerate(penalties):
        label, coordinates = labels[:, p], axes(X)
        model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(coordinates, label[:, 0] if K == 1 else label.argmax(1))
        least = mean_loss(coordinates @ model.coef_.T + model.intercept_, label, model.coef_, penalty)
        found = mean_loss(W[0, p] + coordinates @ W[1:, p], label, W[1:, p], penalty)
        assert found < least + 5e-6


def test_a_problem_is_solved_the_same_alone_and_beside_others():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 10))
    axes = principal_axes(X)
    Z, power = with_ones(axes, X), torch.as_tensor(np.r_[80, axes.power], dtype=torch.float32)
    target = torch.as_tensor((X[:, :5, None] + rng.normal(size=(80, 5, 1)) > np.arange(5)[:, None] / 2), dtype=torch.float32)
    penalties = torch.tensor([1.0, 1000.0, 10.0, 100.0, 3.0])
    together = logistic_fits(Z, power, target, penalties)
    for p in range(5):
        torch.testing.assert_close(together[:, [p]], logistic_fits(Z, power, target[:, [p]], penalties[[p]]), atol=1e-3, rtol=1e-3)


def test_logistic_penalty_is_the_best_of_the_folds():
    rng = np.random.default_rng(3)
    n = 90
    X, groups = rng.normal(size=(n, 12)), np.repeat(np.arange(30), 3)
    codes = np.argmax(X[:, :3] + rng.gumbel(size=(n, 3)), axis=1)
    _, chosen = logistic(X, codes, groups, X, 3, seed=5)
    Z, fold, losses = standardised(X), group_folds(groups, np.eye(3)[codes], seed=5), []
    for penalty in LOGISTIC_PENALTIES:
        loss = 0
        for out in (fold == 0, fold == 1, fold == 2):
            p = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(Z[~out], codes[~out]).predict_proba(Z[out])
            loss -= np.log(p[np.arange(out.sum()), codes[out]]).sum()
        losses.append(loss)
    assert chosen == LOGISTIC_PENALTIES[int(np.argmin(losses))]
    axes = principal_axes(X)
    power = torch.as_tensor(np.r_[n, axes.power], dtype=torch.float32)
    target = torch.as_tensor(np.eye(3)[codes], dtype=torch.float32)[:, None]
    found = left_out_log_losses(with_ones(axes, X), power, target, torch.as_tensor(fold), LOGISTIC_PENALTIES)
    assert found[0].numpy() == pytest.approx(np.array(losses), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=5, max_size=60), st.integers(0, 6), st.integers(2, 5), st.integers(0, 10**6))
def test_folds_are_whole_groups_and_none_is_empty(sizes, K, n_folds, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(str)
    labels = rng.random((len(groups), K)) < rng.random(K) ** 3
    fold = group_folds(groups, labels, n_folds, seed)
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    assert set(fold) == set(range(n_folds))
    assert (fold == group_folds(groups, labels, n_folds, seed)).all()


def test_folds_spread_rare_labels():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 900, 2000)
    labels = rng.random((2000, 40)) < np.geomspace(0.004, 0.3, 40)
    fold = group_folds(groups, labels)
    counts = np.stack([labels[fold == f].sum(0) for f in range(3)])
    assert (np.ptp(np.bincount(fold)) < 0.05 * 2000) and counts.min() >= 1
    assert np.ptp(counts[:, 0]) <= 1 and (np.ptp(counts, 0) <= 0.35 * counts.sum(0) + 2).all()
    assert (group_folds(groups, labels, seed=1) != fold).any()


def test_a_class_absent_from_training_is_never_predicted():
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(30, 4)), np.repeat([0, 2], 15)
    probabilities, _ = logistic(X, codes, np.arange(30) % 6, X[:3], 3)
    assert (probabilities[:, 1] == 0).all() and np.allclose(probabilities.sum(1), 1)
    probabilities, penalty = logistic(X, np.full(30, 1), np.arange(30) % 6, X[:3], 3)
    assert (probabilities == [0, 1, 0]).all() and penalty == np.inf


def test_constant_features_predict_the_mean():
    y, groups = np.arange(12.0), np.arange(12) % 4
    predicted, _ = ridge(np.ones((12, 3)), y, groups, np.ones((5, 3)))
    assert predicted == pytest.approx(np.full(5, 5.5))
    probabilities, _ = logistic(np.ones((12, 3)), np.arange(12) % 2, groups, np.ones((5, 3)), 2)
    assert np.allclose(probabilities, 0.5, atol=0.01)


def test_classes_may_be_yes_and_no():
    X = np.random.default_rng(0).normal(size=(60, 4))
    codes, groups = X[:, 0] > 0, np.arange(60) // 2
    found, expected = logistic(X, codes, groups, X, 2), logistic(X, codes.astype(int), groups, X, 2)
    assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]
