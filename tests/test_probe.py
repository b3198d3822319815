"""Probes are their models and their metrics; tables that are tidy; leaks and wrong rows that must be seen."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import coo_matrix, csr_array

from isoclr.config import ConfigError, InputError
from isoclr.models.neighbors import retrieval_at_k
from isoclr.probe import probe as probes
from isoclr.probe.intervals import SCORE_COLUMNS, SUMMARY_COLUMNS, compare, summarise
from isoclr.probe.linear import logistic, ridge
from isoclr.probe.metrics import task_scores
from isoclr.probe.probe import METHODS, probe, probe_all, retrieval, side_by_side
from isoclr.probe.splits import SplitConfig, group_splits, task_splits
from isoclr.probe.tasks import Task, TaskConfig

METRICS = {
    "regression": ["pearson", "spearman", "r2", "rmse"],
    "binary": ["auroc", "auprc", "accuracy"],
    "multiclass": ["auroc", "auprc", "accuracy"],
    "multilabel": ["auroc_macro", "auroc_micro", "auprc_macro", "auprc_micro"],
}


def obs_of(groups, genes=None):
    "A table of transcripts with these homology groups; each its own gene, or these genes."
    n = len(groups)
    ids = pd.DataFrame({"transcript_id": [f"t{i}" for i in range(n)], "gene_id": [f"x:g{gene}" for gene in (range(n) if genes is None else genes)]})
    return ids.assign(species="x", gene_name="", chrom=[f"chr{i % 7}" for i in range(n)], group=np.asarray(groups).astype(str))


def task_of(labels, level="transcript", genes=None, classes=(), name="made", kind=None):
    "A task made by hand: every transcript (or gene) of `obs_of` has a label."
    labels = np.asarray(labels)
    config = TaskConfig(name, "nowhere", "y", match=f"{level}_id", kind=kind or ("multiclass" if classes else "regression"))
    units = np.arange(len(labels)) if genes is None else np.asarray(genes)
    names = np.array([f"x:g{i}" if level == "gene" else f"x|t{i}" for i in range(len(labels))], dtype=object)
    return Task(config, names, labels, tuple(classes), np.arange(len(units)), units, pd.DataFrame(), np.array([]))


def task_of_kind(kind, signal, name="made"):
    "Labels of any kind that follow a signal."
    order = signal.argsort().argsort() / len(signal)
    if kind == "regression":
        return task_of(signal, name=name)
    if kind == "multilabel":
        return task_of(np.column_stack([order > 0.5, order < 0.3, order > 0.8]).astype(np.uint8), classes="abc", kind=kind, name=name)
    return task_of((order * (2 if kind == "binary" else 3)).astype(np.int64), classes="ab" if kind == "binary" else "abc", kind=kind, name=name)


@pytest.mark.parametrize("kind", METRICS)
def test_a_linear_probe_is_its_model_and_its_metrics(kind):
    "Of every kind: the scores are those of the model of this kind, fitted by hand on the same split."
    rng, groups = np.random.default_rng(3), np.repeat(np.arange(40), 3)
    X = rng.normal(size=(120, 6))
    task, obs = task_of_kind(kind, X[:, 0] + 0.5 * rng.normal(size=120)), obs_of(groups)
    splits = task_splits(task, obs, SplitConfig(seeds=(4, 5)))
    table = probe(X, task, groups, splits, "x")
    assert table.columns.tolist() == SCORE_COLUMNS and table.metric.tolist() == METRICS[kind] * 2
    assert set(table.method) == {"linear"} and set(table.split) == {"homology"} and (table.fold == 0).all() and (table.n_train + table.n_test == 120).all()
    for split in splits:
        train = X[split.train], task.labels[split.train], groups[split.train].astype(str), X[split.test]
        if kind == "regression":
            predicted, penalty = ridge(*train)
        elif kind == "multiclass":
            predicted, penalty = logistic(*train, n_classes=3, seed=split.seed)
        else:
            from isoclr.probe.multilabel import multilabel_logistic

            predicted, penalty = multilabel_logistic(train[0], train[1].reshape(len(train[0]), -1), *train[2:], seed=split.seed)
            predicted = predicted[:, 0] if kind == "binary" else predicted
        scores, n_classes = task_scores(kind, task.labels[split.test], predicted, train[1])
        rows = table[table.seed == split.seed].set_index("metric")
        assert rows.score.to_dict() == pytest.approx(scores) and (rows.n_classes == n_classes).all() and (rows.penalty == np.median(penalty)).all()
        assert rows.score[METRICS[kind][0]] > 0.7


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_a_signal_of_every_kind(method, kind):
    rng, groups = np.random.default_rng(4), np.repeat(np.arange(60), 3)
    X = rng.normal(size=(180, 3))
    task, obs = task_of_kind(kind, X[:, 0] + 0.2 * rng.normal(size=180)), obs_of(groups)
    table = probe_all({"x": X, "noise": rng.normal(size=(180, 3))}, [task], obs, SplitConfig(seeds=(0, 1)), method=method, progress=False)
    assert set(table.method) == {method} and table.metric.tolist() == METRICS[kind] * 4
    mean = summarise(table).set_index(["representation", "metric"])["mean"]
    assert mean["x", METRICS[kind][0]] > 0.75 and mean["x", METRICS[kind][0]] > mean["noise", METRICS[kind][0]] + 0.15


def test_a_planted_leak_is_caught():
    "Labels that only a family shares: a split by transcript is fooled, a split by family is not; a real signal passes both."
    rng, family = np.random.default_rng(1), np.repeat(np.arange(60), 5)
    fingerprint = rng.normal(size=(60, 40))[family] + 0.1 * rng.normal(size=(300, 40))
    leak, real = task_of(rng.normal(size=60)[family]), task_of(fingerprint[:, 0] + 0.3 * rng.normal(size=300))
    classes = task_of(rng.integers(0, 4, 60)[family], classes=tuple("abcd"))
    def scored(task, kind, metric):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = summarise(probe_all({"x": fingerprint}, [task], obs_of(family), SplitConfig(kind=kind), progress=False))
        assert set(table.split) == {kind}
        return table[table.metric == metric].iloc[0]
    assert scored(leak, "random", "pearson").low > 0.4 and scored(leak, "homology", "pearson")["mean"] < 0.2
    assert scored(classes, "random", "auroc").low > 0.8 and scored(classes, "homology", "auroc")["mean"] < 0.6
    assert scored(real, "homology", "pearson").low > 0.5


def test_the_table_is_tidy_and_splits_are_shared():
    rng, genes = np.random.default_rng(2), np.repeat(np.arange(80), 2)
    X = {"one": rng.normal(size=(160, 5)).astype(np.float32), "two": rng.normal(size=(160, 3))}
    tasks = [task_of(rng.normal(size=160)), task_of(rng.normal(size=80), "gene", genes, name="of genes")]
    held_out, obs, config = genes < 40, obs_of(genes, genes), SplitConfig(seeds=(3, 5), test_fraction=0.2)
    scores = probe_all(X, tasks, obs, config, held_out, progress=False)
    assert len(scores) == 2 * 2 * 4 * 2 and set(scores.seed) == {3, 5}
    assert (scores.n_eligible == scores.n_train.map({128: 80, 64: 40})).all()
    table = summarise(scores)
    assert table.columns.tolist() == SUMMARY_COLUMNS
    assert table.representation.tolist() == ["one"] * 8 + ["two"] * 8 and table.metric.tolist() == METRICS["regression"] * 4
    assert (table.low <= table["mean"]).all() and (table["mean"] <= table.high).all() and set(table.seeds) == {"3,5"}
    pd.testing.assert_frame_equal(scores, probe_all(X, tasks, obs, config, held_out, progress=False))
    tested = probes.tested_groups(tasks, obs, config, held_out)
    assert tested.columns.tolist() == ["task", "seed", "fold", "group"] and set(tested.group.astype(int)) <= set(range(40))
    assert tested.groupby(["task", "seed"]).size().tolist() == [16] * 4  # a fifth of the 80 genes
    for task in tasks:
        units = task.of_units(genes.astype(str))
        for split in task_splits(task, obs, config, held_out):
            listed = tested[(tested.task == task.config.name) & (tested.seed == split.seed)].group
            assert set(listed) == set(units[split.test])
    assert compare(scores, "one", "two").n_splits.tolist() == [2] * 8
    with pytest.raises(ConfigError, match="names of their own"):
        probe_all(X, [tasks[0], tasks[0]], obs, progress=False)


def test_folds_have_rows_of_their_own():
    rng = np.random.default_rng(2)
    task, obs = task_of(rng.normal(size=60)), obs_of(np.arange(60))
    scores = probe_all({"x": rng.normal(size=(60, 3))}, [task], obs, SplitConfig(seeds=(0, 1), n_folds=5), progress=False)
    of_pearson = scores[scores.metric == "pearson"]
    assert of_pearson.groupby("seed").size().tolist() == [5, 5] and sorted(set(of_pearson.fold)) == sorted(of_pearson.fold[:5])
    assert (of_pearson.groupby("seed").n_test.sum() == 60).all() and (of_pearson.n_eligible == 60).all()
    row = summarise(of_pearson).iloc[0]
    assert row.n_splits == 10 and row.seeds == "0,1" and row.low < row["mean"] < row.high
    tested = probes.tested_groups([task], obs, SplitConfig(seeds=(0, 1), n_folds=5))
    assert tested.groupby("seed").group.nunique().tolist() == [60, 60] and len(tested) == 120


def test_summaries_side_by_side():
    rng, genes = np.random.default_rng(2), np.repeat(np.arange(80), 2)
    X = {"one": rng.normal(size=(160, 5)).astype(np.float32), "two": rng.normal(size=(160, 3))}
    tasks, obs = [task_of(rng.normal(size=160)), task_of(rng.normal(size=80), "gene", genes, name="of genes")], obs_of(genes, genes)
    table, found = summarise(probe_all(X, tasks, obs, SplitConfig(seeds=(3, 5)), progress=False)), retrieval(X, genes, genes)
    wide = side_by_side(pd.concat([table, found]))
    assert wide.columns.tolist() == ["one", "two"]
    assert wide.index.tolist() == [("made", "pearson"), ("of genes", "pearson"), ("isoform@1", "share"), ("homolog@1", "share")]
    first = table.iloc[0]
    assert wide.loc[("made", "pearson"), "one"] == f"{first['mean']:.2f} [{first.low:.2f}, {first.high:.2f}]"
    assert len(side_by_side(found)) == 2 and found.columns.tolist() == SUMMARY_COLUMNS
    assert summarise(probe_all(X, [], obs, progress=False)).columns.tolist() == SUMMARY_COLUMNS
    both = side_by_side(pd.concat([table, table.assign(split="random", undefined=1), table.assign(split="gene", mean=np.nan)]))
    assert both.index.names == ["task", "metric", "split"] and len(both) == 6
    assert both.loc[("made", "pearson", "random"), "one"].endswith("] (1 undefined)") and (both.xs("gene", level="split") == "–").all(axis=None)
    single = side_by_side(table.assign(low=np.nan, high=np.nan))
    assert single.loc[("made", "pearson"), "one"] == f"{first['mean']:.2f}"
    with pytest.raises(InputError, match="cannot be told apart"):
        side_by_side(pd.concat([table, table]))


def test_several_draws_score_their_mean():
    rng, genes = np.random.default_rng(7), np.repeat(np.arange(80), 2)
    one, two = rng.normal(size=(160, 5)), rng.normal(size=(160, 3))
    task = task_of(one[:, 0] + two[:, 0])
    table = probe_all({"one": one, "two": two, "both": [one, two]}, [task], obs_of(genes), progress=False)
    scores = table.set_index(["representation", "metric", "seed"]).score
    assert np.allclose(scores["both"], (scores["one"] + scores["two"]) / 2) and not np.allclose(scores["one"], scores["two"])
    found = retrieval({"one": one, "two": two, "both": [one, two]}, genes, genes).set_index(["representation", "task"])["mean"]
    assert found["both", "isoform@1"] == pytest.approx((found["one", "isoform@1"] + found["two", "isoform@1"]) / 2)


def test_gene_labels_use_the_mean_of_the_gene():
    rng, genes = np.random.default_rng(4), np.repeat(np.arange(60), 3)
    X = rng.normal(size=(180, 2))
    task = task_of(X.reshape(60, 3, 2).mean(1)[:, 0], "gene", genes)
    table = summarise(probe_all({"x": X}, [task], obs_of(genes, genes), progress=False))
    assert table.loc[table.metric == "pearson", "mean"].item() > 0.999


@pytest.mark.parametrize("level", ["transcript", "gene"])
def test_sparse_equals_dense(level):
    rng, genes = np.random.default_rng(8), np.repeat(np.arange(50), 3)
    X = rng.poisson(0.3, size=(150, 30)).astype(np.float32)
    task = task_of(rng.normal(size=50) if level == "gene" else rng.normal(size=150), level, genes if level == "gene" else None)
    forms = {"dense": X, "csr": csr_array(X), "coo": coo_matrix(X), "integers": csr_array(X.astype(np.int32)), "draws": [csr_array(X), X]}
    scores = probe_all(forms, [task], obs_of(genes, genes), SplitConfig(seeds=(0, 1)), progress=False).set_index(["representation", "metric", "seed"]).score
    assert all(np.allclose(scores[form], scores["dense"], atol=1e-5) for form in forms)
    found = retrieval(forms, genes, genes).set_index(["representation", "task"])["mean"]
    assert all(found[form, "isoform@1"] == pytest.approx(found["dense", "isoform@1"]) for form in forms)


def test_sparse_features_beyond_memory_are_refused(monkeypatch):
    "Only the units of the task count: a long table with few labels is fine."
    rng, obs = np.random.default_rng(0), obs_of(np.arange(2000))
    X = csr_array((np.ones(2000), (np.arange(2000), rng.integers(0, 50, 2000))), shape=(2000, 50))
    few, many = task_of(rng.normal(size=100)), task_of(rng.normal(size=2000))
    monkeypatch.setattr(probes, "_MOST_BYTES", 4 * 100 * 50)
    assert len(probe_all({"k-mer": X}, [few], obs, SplitConfig(seeds=(0,)), progress=False)) == 4
    with pytest.raises(InputError, match=r"Task made: .*\(2000, 50\).*k-mer PCA"):
        probe_all({"k-mer": X}, [many], obs, SplitConfig(seeds=(0,)), progress=False)
    with pytest.raises(InputError, match="Representation 'k-mer': .*k-mer PCA"):
        retrieval({"k-mer": X}, np.arange(2000), np.arange(2000))


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


@pytest.mark.parametrize("X, message", [
    (np.full((60, 2), np.nan), "finite"), (np.zeros(60), "must be"), (csr_array(np.full((60, 2), np.inf)), "finite"), (np.full((60, 2), "a"), "finite"), ([], "must be"),
])
def test_unusable_representations(X, message):
    with pytest.raises(InputError, match=message):
        probe_all({"x": X}, [task_of(np.arange(60.0))], obs_of(np.arange(60)), progress=False)


def test_a_representation_of_other_rows_is_refused():
    with pytest.raises(InputError, match="50 rows.*60"):
        probe_all({"x": np.zeros((50, 2))}, [task_of(np.arange(60.0))], obs_of(np.arange(60)), progress=False)


def test_an_encoder_in_another_order_is_refused():
    from anndata import AnnData

    rng, obs = np.random.default_rng(0), obs_of(np.arange(60)).set_index("transcript_id", drop=False).rename_axis(None)
    X, task, config = rng.normal(size=(60, 3)), task_of(rng.normal(size=60)), SplitConfig(seeds=(0,))
    right = AnnData(X, obs)
    turned = right[::-1].copy()
    scores = probe_all({"array": X, "adata": right}, [task], obs, config, progress=False).set_index("representation").score
    assert np.allclose(scores["array"], scores["adata"])
    with pytest.raises(InputError, match="Representation 'turned': row 0 has transcript_id 't59', and 't0'.*60 such rows"):
        probe_all({"right": right, "turned": [right, turned]}, [task], obs, config, progress=False)
    with pytest.raises(InputError, match="Task made was matched to other transcripts"):
        probe_all({"array": X}, [task], obs[::-1], config, progress=False)
    with pytest.raises(InputError, match="Task made was matched to other transcripts"):
        probe_all({"array": X}, [task], obs[:50], config, progress=False)
    with pytest.raises(InputError, match="no column 'group'"):
        probe_all({"array": X}, [task], obs.drop(columns="group"), config, progress=False)


def test_training_parts_that_teach_nothing():
    groups = np.arange(60).astype(str)
    train, X = np.arange(10, 60), np.random.default_rng(0).normal(size=(60, 2))
    split = group_splits(groups, [0])[0]._replace(train=train, test=np.arange(10))
    with_first = np.r_[np.ones(10, dtype=np.int64), np.zeros(50, dtype=np.int64)]
    for task, message in (
        (task_of(with_first, classes="ab", kind="binary"), "all 50 labels to train on are equal .one class"),
        (task_of(with_first, classes="ab"), "all 50 labels to train on are equal .one class"),
        (task_of(np.column_stack([with_first, with_first]), classes="ab", kind="multilabel"), "all 50 labels to train on are equal"),
        (task_of(with_first.astype(float)), "Task made: with seed 0, fold 0, all 50 labels"),
        (task_of(np.arange(60) // 2, classes=tuple(map(str, range(30)))), "fewer than three members"),
        (task_of(np.r_[np.nan, np.arange(59.0)]), "1 labels are not finite"),
    ):
        with pytest.raises(InputError, match=message):
            probe(X, task, groups, [split])
    with pytest.raises(InputError, match="fewer than three homology groups"):
        probe(X, task_of(np.arange(60.0)), np.where(np.arange(60) < 30, "a", "b"), [split])
    with pytest.raises(ConfigError, match="method = 'lineer'.*'linear'"):
        probe(X, task_of(np.arange(60.0)), groups, [split], method="lineer")
    with pytest.raises(InputError, match="Too few groups"):
        probe_all({"x": np.zeros((4, 2))}, [task_of(np.arange(4.0))], obs_of([0, 0, 1, 1]), progress=False)


def test_a_test_part_that_cannot_be_scored_is_undefined_and_counted():
    groups, X = np.arange(60).astype(str), np.random.default_rng(0).normal(size=(60, 2))
    split = group_splits(groups, [0])[0]
    splits = [split._replace(train=np.arange(10, 60), test=np.arange(10)), split._replace(seed=1, train=np.arange(40), test=np.arange(40, 60))]
    varied = (np.random.default_rng(1).random(60) < 0.5) & (np.arange(60) >= 10)
    for task, undefined in (
        (task_of(X[:, 0] * varied), {"pearson": 1, "spearman": 1, "r2": 1, "rmse": 0}),
        (task_of(varied.astype(np.int64), classes="ab", kind="binary"), {"auroc": 1, "auprc": 1, "accuracy": 0}),
        (task_of(varied.astype(np.int64), classes="ab"), {"auroc": 1, "auprc": 1, "accuracy": 0}),
        (task_of(varied[:, None].astype(np.uint8), classes="a", kind="multilabel"), dict.fromkeys(METRICS["multilabel"], 1)),
    ):
        scores = probe(X, task, groups, splits)
        assert scores[scores.seed == 0].set_index("metric").score.isna().to_dict() == {metric: bool(count) for metric, count in undefined.items()}
        table = summarise(scores).set_index("metric")
        assert table.undefined.to_dict() == undefined and table["mean"].notna().all()


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
    table = summarise(probe_all({"features": engineered_features(store).to_numpy()}, tasks, store.transcripts, progress=False))
    r = table[table.metric == "pearson"].set_index("task")
    assert (r["low"] > 0.2).all() and r["mean"].tolist() == pytest.approx([0.5, 0.55], abs=0.1)
    assert r.loc["half_life_human", "n_test"] == pytest.approx(0.15 * 278, abs=3)
