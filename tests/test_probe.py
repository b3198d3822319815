"""Probes against scikit-learn and slow loops; intervals against repeated worlds; leaks that must be seen."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from scipy import stats

from isoclr.config import ConfigError, InputError
from isoclr.models.neighbors import retrieval_at_k
from isoclr.probe import linear
from isoclr.probe import probe as probes
from isoclr.probe.linear import left_out_errors, logistic, principal_axes, ridge
from isoclr.probe.probe import class_scores, corrected_interval, probe, probe_all, regression_scores, retrieval, side_by_side, summarise
from isoclr.probe.splits import group_splits
from isoclr.probe.tasks import Task, TaskConfig


def task_of(labels, level="transcript", genes=None, classes=(), name="made"):
    "A task made by hand: every transcript (or gene) has a label."
    labels = np.asarray(labels)
    config = TaskConfig(name, "nowhere", "y", match=f"{level}_id", kind="multiclass" if classes else "regression")
    units = np.arange(len(labels)) if genes is None else np.asarray(genes)
    names = np.array([f"u{i}" for i in range(len(labels))], dtype=object)
    return Task(config, names, labels, classes, np.arange(len(units)), units, pd.DataFrame(), np.array([]))


def standardised(X):
    scale = X.std(0)
    return (X - X.mean(0)) / np.where(scale > 0, scale, 1)


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.integers(1, 9), st.integers(0, 10**6))
def test_left_out_errors_equal_refitting(sizes, d, seed):
    "Groups smaller and larger than the rank: both ways of solving."
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    X, y, alphas = rng.normal(size=(n, d)), rng.normal(size=n), [0.1, 3.0, 1000.0]
    axes = principal_axes(X)
    found = left_out_errors(axes(X), axes.power, y, groups, alphas)
    Z = standardised(X)
    for a, alpha in enumerate(alphas):
        for group in set(groups):
            out = groups == group
            refitted = Ridge(alpha, solver="svd").fit(Z[~out], y[~out]).predict(Z[out])
            assert found[a, out] == pytest.approx(y[out] - refitted, abs=1e-7)


def test_the_penalty_follows_the_signal():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(120, 60)), np.repeat(np.arange(40), 3)
    clear, noise = X @ rng.normal(size=60), rng.normal(size=120)
    assert ridge(X, clear, groups, X)[1] <= 1 < 100 <= ridge(X, noise, groups, X)[1]


@pytest.mark.parametrize("n, d, K, seed", [(90, 5, 3, 0), (60, 100, 4, 1), (200, 30, 2, 2)])
def test_logistic_equals_scikit_learn(n, d, K, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, size=(n, d)) @ rng.normal(size=(d, d))
    codes = np.argmax(standardised(X)[:, :K] + rng.gumbel(size=(n, K)), axis=1)
    codes[:K] = np.arange(K)
    for penalty in (10.0, 300.0):
        found, chosen = logistic(X, codes, np.arange(n) % 10, X, K, penalties=[penalty])
        reference = LogisticRegression(C=(2 if K == 2 else 1) / penalty, tol=1e-10, max_iter=5000).fit(standardised(X), codes)
        reference = reference.predict_proba(standardised(X))
        assert chosen == penalty and np.abs(found - reference).max() < 0.01


def test_logistic_penalty_is_the_best_of_the_folds():
    rng = np.random.default_rng(3)
    n = 90
    X, groups = rng.normal(size=(n, 12)), np.repeat(np.arange(30), 3)
    codes = np.argmax(X[:, :3] + rng.gumbel(size=(n, 3)), axis=1)
    _, chosen = logistic(X, codes, groups, X, 3, seed=5)
    Z, in_fold, losses = standardised(X), linear._folds(codes, groups, 5), []
    assert (in_fold.sum(1) == 1).all() and all(in_fold[groups == group].all(0).sum() == 1 for group in groups)
    for penalty in linear.LOGISTIC_PENALTIES:
        loss = 0
        for out in in_fold.T:
            p = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(Z[~out], codes[~out]).predict_proba(Z[out])
            loss -= np.log(p[np.arange(out.sum()), codes[out]]).sum()
        losses.append(loss)
    assert chosen == linear.LOGISTIC_PENALTIES[int(np.argmin(losses))]


def test_a_class_absent_from_training_is_never_predicted():
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(30, 4)), np.repeat([0, 2], 15)
    probabilities, _ = logistic(X, codes, np.arange(30) % 6, X[:3], 3)
    assert (probabilities[:, 1] == 0).all() and np.allclose(probabilities.sum(1), 1)


def test_constant_features_predict_the_mean_and_order_nothing():
    y, groups = np.arange(12.0), np.arange(12) % 4
    predicted, _ = ridge(np.ones((12, 3)), y, groups, np.ones((5, 3)))
    assert predicted == pytest.approx(np.full(5, 5.5))
    assert regression_scores(y[:5], predicted)["pearson"] == regression_scores(y[:5], predicted)["spearman"] == 0
    probabilities, _ = logistic(np.ones((12, 3)), np.arange(12) % 2, groups, np.ones((5, 3)), 2)
    assert np.allclose(probabilities, 0.5, atol=0.01)


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 40), st.integers(2, 5), st.integers(0, 10**6))
def test_scores_equal_the_libraries(n, K, seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 5, n).astype(float), rng.integers(0, 5, n).astype(float)
    if np.ptp(y) and np.ptp(p):
        scores = regression_scores(y, p)
        assert scores["pearson"] == pytest.approx(stats.pearsonr(y, p).statistic)
        assert scores["spearman"] == pytest.approx(stats.spearmanr(y, p).statistic)
        assert scores["r2"] == pytest.approx(r2_score(y, p))
    codes, probabilities = rng.integers(0, K, n), rng.dirichlet(np.ones(K), n).round(1)
    scores, n_classes = class_scores(codes, probabilities, np.arange(K - 1))
    known = [code for code in range(K - 1) if 0 < (codes == code).sum() < n]
    assert n_classes == len(known) and scores["accuracy"] == accuracy_score(codes, probabilities.argmax(1))
    if known:
        assert scores["auroc"] == pytest.approx(np.mean([roc_auc_score(codes == code, probabilities[:, code]) for code in known]))


def test_interval_by_hand_and_its_limits():
    low, high = corrected_interval([0.4, 0.5, 0.6], n_test=20, n_rest=80)
    half = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 0.25) * 0.01)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert np.isnan(corrected_interval([0.5], 1, 1)).all()


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


def test_a_planted_leak_is_caught():
    "Labels that only a family shares: a split by transcript is fooled, a split by family is not; a real signal passes both."
    rng, family = np.random.default_rng(1), np.repeat(np.arange(60), 5)
    fingerprint = rng.normal(size=(60, 40))[family] + 0.1 * rng.normal(size=(300, 40))
    leak, real = task_of(rng.normal(size=60)[family]), task_of(fingerprint[:, 0] + 0.3 * rng.normal(size=300))
    classes = task_of(rng.integers(0, 4, 60)[family], classes=tuple("abcd"))
    def scored(task, groups, metric):
        table = summarise(probe_all({"x": fingerprint}, [task], groups, progress=False))
        return table[table.metric == metric].iloc[0]
    by_row = np.arange(300)
    assert scored(leak, by_row, "pearson").low > 0.4 and scored(leak, family, "pearson")["mean"] < 0.2
    assert scored(classes, by_row, "auroc").low > 0.8 and scored(classes, family, "auroc")["mean"] < 0.6
    assert scored(real, family, "pearson").low > 0.5


def test_the_table_is_tidy_and_splits_are_shared():
    rng, genes = np.random.default_rng(2), np.repeat(np.arange(80), 2)
    X = {"one": rng.normal(size=(160, 5)).astype(np.float32), "two": rng.normal(size=(160, 3))}
    tasks = [task_of(rng.normal(size=160)), task_of(rng.normal(size=80), "gene", genes, name="of genes")]
    held_out = genes < 40
    scores = probe_all(X, tasks, genes.astype(str), held_out, seeds=(3, 5), test_fraction=0.2, progress=False)
    assert len(scores) == 2 * 2 * 3 * 2 and set(scores.seed) == {3, 5}
    assert (scores.n_eligible == scores.n_train.map({128: 80, 64: 40})).all()
    table = summarise(scores)
    assert table.columns.tolist() == ["representation", "task", "metric", "mean", "low", "high", "n_train", "n_test", "seeds"]
    assert table.representation.tolist() == ["one"] * 6 + ["two"] * 6 and table.metric.tolist() == ["pearson", "spearman", "r2"] * 4
    assert (table.low <= table["mean"]).all() and (table["mean"] <= table.high).all() and set(table.seeds) == {"3,5"}
    again = probe_all(X, tasks, genes.astype(str), held_out, seeds=(3, 5), test_fraction=0.2, progress=False)
    pd.testing.assert_frame_equal(scores, again)
    tested = probes.tested_groups(tasks, genes.astype(str), held_out, seeds=(3, 5), test_fraction=0.2)
    assert tested.columns.tolist() == ["task", "seed", "group"] and set(tested.group.astype(int)) <= set(range(40))
    assert tested.groupby(["task", "seed"]).size().tolist() == [16] * 4  # a fifth of the 80 genes
    for task in tasks:
        units = task.of_units(genes.astype(str))
        for split in group_splits(units, (3, 5), 0.2, task.of_units(held_out)):
            listed = tested[(tested.task == task.config.name) & (tested.seed == split.seed)].group
            assert set(listed) == set(units[split.test])
    found = retrieval(X, genes, genes)
    wide = side_by_side(pd.concat([table, found]))
    assert wide.columns.tolist() == ["one", "two"]
    assert wide.index.tolist() == [("made", "pearson"), ("of genes", "pearson"), ("isoform@1", "share"), ("homolog@1", "share")]
    first = table.iloc[0]
    assert wide.loc[("made", "pearson"), "one"] == f"{first['mean']:.2f} [{first.low:.2f}, {first.high:.2f}]"
    assert len(side_by_side(found)) == 2 and summarise(probe_all(X, [], genes, progress=False)).columns.tolist() == found.columns.tolist()
    with pytest.raises(ConfigError, match="names of their own"):
        probe_all(X, [tasks[0], tasks[0]], genes, progress=False)


def test_several_draws_score_their_mean():
    rng, genes = np.random.default_rng(7), np.repeat(np.arange(80), 2)
    one, two = rng.normal(size=(160, 5)), rng.normal(size=(160, 3))
    task = task_of(one[:, 0] + two[:, 0])
    scores = probe_all({"one": one, "two": two, "both": [one, two]}, [task], genes, progress=False).set_index(["representation", "metric", "seed"]).score
    assert np.allclose(scores["both"], (scores["one"] + scores["two"]) / 2) and not np.allclose(scores["one"], scores["two"])
    found = retrieval({"one": one, "two": two, "both": [one, two]}, genes, genes).set_index(["representation", "task"])["mean"]
    assert found["both", "isoform@1"] == pytest.approx((found["one", "isoform@1"] + found["two", "isoform@1"]) / 2)


def test_gene_labels_use_the_mean_of_the_gene():
    rng, genes = np.random.default_rng(4), np.repeat(np.arange(60), 3)
    X = rng.normal(size=(180, 2))
    task = task_of(X.reshape(60, 3, 2).mean(1)[:, 0], "gene", genes)
    table = summarise(probe_all({"x": X}, [task], genes, progress=False))
    assert table.loc[table.metric == "pearson", "mean"].item() > 0.999


def test_retrieval_equals_the_definition_of_neighbors():
    rng = np.random.default_rng(5)
    families = np.repeat(np.arange(30), rng.integers(1, 7, 30))
    genes = np.array([f"{family}.{rng.integers(0, 3)}" for family in families])
    X = rng.normal(size=(30, 8))[families] + 0.6 * rng.normal(size=(len(families), 8))
    table = retrieval({"x": X}, genes, families).set_index("task")
    reference = retrieval_at_k(torch.as_tensor(X), genes, families)
    for question in ("isoform", "homolog"):
        row = table.loc[f"{question}@1"]
        assert row["mean"] == pytest.approx(reference[f"{question}@1"]) and row.n_test == reference[f"{question}_queries"]
        assert row.low <= row["mean"] <= row.high and row.high - row.low > 0.02


def test_retrieval_asks_only_the_eligible():
    rng, families = np.random.default_rng(6), np.repeat(np.arange(40), 4)
    genes = families * 2 + np.tile([0, 0, 1, 1], 40)
    X = np.where((families < 10)[:, None], rng.normal(size=(40, 16))[families], rng.normal(size=(160, 16)))
    table = retrieval({"x": X}, genes, families, eligible_test=families < 10).set_index("task")
    assert table.loc["homolog@1", "mean"] == 1 and table.loc["homolog@1", "n_test"] == 40
    alone = retrieval({"x": X}, np.arange(160), np.arange(160))
    assert (alone.n_test == 0).all() and alone["mean"].isna().all()


def test_retrieval_interval_is_as_wide_as_the_families_make_it():
    "Twenty families that succeed or fail as a whole: the interval is that of 20 coins, not of 400 transcripts."
    families = np.repeat(np.arange(20), 20)
    hits = np.repeat(np.arange(20) % 2 == 0, 20)
    mean, low, high = probes._cluster_bootstrap(hits, families, 2000, 0)
    assert mean == 0.5 and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20), abs=0.08)


@pytest.mark.parametrize("X, message", [(np.full((60, 2), np.nan), "finite"), (np.zeros(60), "must be")])
def test_unusable_representations(X, message):
    with pytest.raises(InputError, match=message):
        probe_all({"x": X}, [task_of(np.arange(60.0))], np.arange(60), progress=False)


def test_a_representation_of_other_rows_is_refused():
    with pytest.raises(InputError, match="50 rows.*60"):
        probe_all({"x": np.zeros((50, 2))}, [task_of(np.arange(60.0))], np.arange(60), progress=False)


def test_too_few_groups_and_constant_test_labels():
    with pytest.raises(InputError, match="Too few groups"):
        probe_all({"x": np.zeros((4, 2))}, [task_of(np.arange(4.0))], [0, 0, 1, 1], progress=False)
    rare = task_of(np.arange(30) // 2, classes=tuple(map(str, range(15))))
    with pytest.raises(InputError, match="fewer than three .* with seed 0"):
        probe_all({"x": np.zeros((30, 2))}, [rare], np.arange(30), progress=False)
    labels = np.r_[np.zeros(50), np.arange(50.0)]
    splits = group_splits(np.arange(100).astype(str), [0], 0.15, np.arange(100) < 50)
    with pytest.raises(InputError, match="tested with seed 0 are equal"):
        probe(np.zeros((100, 2)), task_of(labels), np.arange(100).astype(str), splits)


def test_half_life_of_the_real_regions(shared_data, tmp_path):
    "From FASTA to table on real genes: lengths and exon density alone predict half-life with r of about 0.5; label counts are exact."
    from isoclr.data.features import engineered_features
    from isoclr.data.homology import read_homology
    from isoclr.data.build import SpeciesSource, build_store
    from isoclr.probe.tasks import load_task

    sources = [
        SpeciesSource(species, f"{shared_data}/genome/{genome}.fa.gz", f"{shared_data}/annotation/{genome}.{annotation}.genePred.tsv.gz")
        for species, genome, annotation in (("human", "hg38.regions", "refseq"), ("mouse", "mm10.regions", "gencodeVM18"))
    ]
    homology = read_homology(shared_data / "homology/homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    store = build_store(tmp_path / "store", sources, homology, progress=False)
    labels = {species: str(shared_data / f"halflife/saluki_all_HLs_{species}_PC1.txt.gz") for species in ("human", "mouse")}
    configs = [TaskConfig(f"half_life_{s}", path, f"{s}_PC1", "external_gene_name", "gene_name", s) for s, path in labels.items()]
    tasks = [load_task(config, store.transcripts) for config in configs]
    # LYST is labelled in both species, and all its transcripts are longer than the default 12,288 nt: 279 and 216 become 278 and 215
    assert [len(task) for task in tasks] == [278, 215] and [len(task.unlabelled) for task in tasks] == [121, 99]
    table = summarise(probe_all({"features": engineered_features(store).to_numpy()}, tasks, store.transcripts["group"], progress=False))
    r = table[table.metric == "pearson"].set_index("task")
    assert (r["low"] > 0.2).all() and r["mean"].tolist() == pytest.approx([0.5, 0.55], abs=0.1)
    assert r.loc["half_life_human", "n_test"] == pytest.approx(0.15 * 278, abs=3)
