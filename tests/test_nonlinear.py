"""Neighbours against a slow loop; boosted trees whose number is judged by families they never saw."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.probe import nonlinear
from isoclr.probe.linear import group_folds
from isoclr.probe.nonlinear import boosted_trees, knn


def labels_of(kind, n, rng):
    return {
        "regression": rng.normal(size=n), "binary": rng.integers(0, 2, n), "multiclass": np.r_[rng.integers(0, 3, n - 1), 2],
        "multilabel": rng.integers(0, 2, (n, 4)).astype(np.uint8),
    }[kind]


def columns(labels, kind):
    return np.eye(3)[labels] if kind == "multiclass" else np.asarray(labels, dtype=float).reshape(len(labels), -1)


def slow_knn(Z, targets, z, allowed, k):
    "Of one unit: mean label of the k of greatest cosine that are allowed."
    cosine = Z @ z / np.maximum(np.linalg.norm(Z, axis=1) * np.linalg.norm(z), 1e-12)
    order = np.argsort(-np.where(allowed, cosine, -np.inf), kind="stable")[: min(k, allowed.sum())]
    weights = np.maximum(cosine[order], 0)
    return weights @ targets[order] / weights.sum() if weights.sum() > 0 else targets.mean(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(2, 8), st.sampled_from(nonlinear.KINDS), st.integers(0, 10**6))
def test_knn_equals_a_slow_loop(n, d, kind, seed):
    rng = np.random.default_rng(seed)
    X, X_test, groups, labels = rng.normal(4, 2, size=(n, d)), rng.normal(4, 2, size=(5, d)), rng.integers(0, 4, n), labels_of(kind, n, rng)
    groups[:2] = 0, 1
    predicted, k = knn(X, labels, groups, X_test, kind, ks=(1, 3, 10, 100))
    Z, Z_test, targets = (X - X.mean(0)) / X.std(0), (X_test - X.mean(0)) / X.std(0), columns(labels, kind)
    expected = np.array([slow_knn(Z, targets, z, np.ones(n, dtype=bool), k) for z in Z_test])
    assert np.reshape(predicted, expected.shape) == pytest.approx(expected, abs=1e-4)
    errors = {size: sum(((slow_knn(Z, targets, Z[i], groups != groups[i], size) - targets[i]) ** 2).sum() for i in range(n)) for size in (1, 3, 10, n)}
    assert errors[k] <= min(errors.values()) + 1e-3
    assert predicted.shape == {"regression": (5,), "binary": (5,), "multiclass": (5, 3), "multilabel": (5, 4)}[kind]


def test_knn_is_the_same_in_small_portions(monkeypatch):
    rng = np.random.default_rng(0)
    X, labels, groups = rng.normal(size=(60, 5)), rng.integers(0, 2, (60, 3)), np.arange(60) // 3
    whole = knn(X, labels, groups, X[:20], "multilabel")
    monkeypatch.setattr(nonlinear, "_rows_at_once", lambda k, target: 7)
    parts = knn(X, labels, groups, X[:20], "multilabel")
    assert whole[1] == parts[1] and np.allclose(whole[0], parts[0], atol=1e-6)


def test_families_would_choose_too_few_neighbours():
    "Within a family the nearest is a twin with the same label; across families labels are noisy, and many neighbours are better."
    rng = np.random.default_rng(0)
    family = np.arange(600) // 4
    centers = rng.normal(size=(150, 2))
    X = centers[family] + 0.01 * rng.normal(size=(600, 2))
    labels = (centers[:, 0] + rng.normal(size=150) > 0).astype(int)[family]
    assert knn(X, labels, np.arange(600), X[:2], "binary")[1] <= 3  # every unit a group of its own: the leak
    assert knn(X, labels, family, X[:2], "binary")[1] > 3


def test_knn_without_directions():
    predicted, _ = knn(np.ones((6, 2)), np.arange(6.0), np.arange(6), np.ones((2, 2)), "regression")
    assert predicted == pytest.approx([2.5, 2.5])
    with pytest.raises(InputError, match="All 6 units to train on are of one group"):
        knn(np.eye(6), np.arange(6.0), np.zeros(6), np.eye(6), "regression")
    for probe in (knn, boosted_trees):
        with pytest.raises(InputError, match="not 'binay'"):
            probe(np.eye(6), np.arange(6), np.arange(6), np.eye(6), "binay")


@pytest.mark.parametrize("kind", nonlinear.KINDS)
def test_trees_find_what_is_not_linear(kind):
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(700, 3)), np.arange(700) // 2
    y = X[:, 0] * X[:, 1]
    labels = {"regression": y, "binary": (y > 0).astype(int), "multiclass": np.digitize(y, [-0.5, 0.5]), "multilabel": np.stack([y > 0, y > 1, y > 9], 1).astype(int)}[kind]
    predicted, n_trees = boosted_trees(X[:500], labels[:500], groups[:500], X[500:], kind)
    expected = columns(labels, kind)[500:]
    predicted = predicted.reshape(expected.shape)
    assert np.corrcoef(predicted[:, 0], expected[:, 0])[0, 1] > 0.7 and np.corrcoef(predicted[:, 1 % expected.shape[1]], expected[:, 1 % expected.shape[1]])[0, 1] > 0.5
    if kind == "multiclass":
        assert np.allclose(predicted.sum(1), 1)
    if kind == "multilabel":
        assert n_trees.shape == (3,) and n_trees[2] == 0 and (predicted[:, 2] == 0).all()  # nobody carries the third label


def test_the_number_of_trees_is_the_best_for_left_out_groups():
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(300, 3)), np.arange(300) // 3
    y = X[:, 0] ** 2 + rng.normal(size=300)
    _, n_trees = boosted_trees(X, y, groups, X[:1], "regression", seed=4)
    out = group_folds(groups, np.zeros((300, 0)), 5, 4) == 0
    assert not set(groups[out]) & set(groups[~out])
    model = HistGradientBoostingRegressor(max_iter=100, early_stopping=False, random_state=0).fit(X[~out], y[~out])
    errors = [((p - y[out]) ** 2).sum() for p in model.staged_predict(X[out])]
    assert 0 < n_trees < 50 and n_trees == int(np.argmin(errors)) + 1


def test_families_would_choose_too_many_trees():
    "Labels that are a family's and nothing else: rows that are left out alone want trees, whole families want none."
    rng = np.random.default_rng(0)
    family = np.arange(400) // 8
    X, y = rng.normal(size=(50, 3))[family], rng.normal(size=50)[family]
    assert boosted_trees(X, y, np.arange(400), X[:2], "regression")[1] > 20
    predicted, n_trees = boosted_trees(X, y, family, X[:2], "regression")
    assert n_trees < 10


def test_trees_are_rationed(monkeypatch):
    monkeypatch.setattr(nonlinear, "MOST_TREES", 24)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    _, n_trees = boosted_trees(X, (X > 0).astype(int), np.arange(200), X[:1], "multilabel")
    assert n_trees.tolist() == [12, 12]


def test_a_class_of_one_family_and_one_that_is_absent():
    "The first may be missing where the number of trees is chosen, the second has no column of its own to fill."
    rng = np.random.default_rng(0)
    codes = rng.choice([0, 3], 120)
    codes[:3] = 1
    for seed in range(3):
        predicted, _ = boosted_trees(rng.normal(size=(120, 2)), codes, np.arange(120) // 3, np.zeros((4, 2)), "multiclass", seed)
        assert predicted.shape == (4, 4) and (predicted[:, 2] == 0).all() and np.allclose(predicted.sum(1), 1)


@pytest.mark.parametrize("probe", [knn, boosted_trees])
def test_every_class_has_a_column(probe):
    "Also those above the highest one of the training part; labels as yes and no are as good as 1 and 0."
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(80, 3)), np.arange(80) // 2
    codes = (X[:, 0] > 0).astype(int)
    few, size = probe(X, codes, groups, X[:9], "multiclass")
    all_, same_size = probe(X, codes, groups, X[:9], "multiclass", n_classes=4)
    assert few.shape == (9, 2) and all_.shape == (9, 4) and size == same_size and np.array_equal(all_[:, :2], few) and (all_[:, 2:] == 0).all()
    for kind, labels in (("binary", X[:, 0] > 0), ("multilabel", X > 0)):
        found, expected = probe(X, labels, groups, X[:9], kind), probe(X, labels.astype(int), groups, X[:9], kind)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("ks", [(), (0,), (3, -1)])
def test_impossible_numbers_of_neighbours(ks):
    with pytest.raises(InputError, match="must be at least 1"):
        knn(np.eye(6), np.arange(6.0), np.arange(6), np.eye(6), "regression", ks=ks)
