"""Learning curves: samples are whole families, scores are those of the slow way, and what is too small is listed."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr import runs
from isoclr.config import ConfigError, InputError
from isoclr.models.encoder import build_encoder
from isoclr.probe.finetune import config_for, finetune
from isoclr.probe.fitting import Fitting
from isoclr.probe.intervals import SCORE_COLUMNS, compare, summarise
from isoclr.probe.low_data import FRACTIONS, LEFT_OUT_COLUMNS, draw_learning_curves, finetune_curve, learning_curve, subsets
from isoclr.probe.predictor import FinetuneConfig
from isoclr.probe.probe import probe, probe_all
from isoclr.probe.splits import Split, SplitConfig, task_splits
from isoclr.probe.tasks import Task
from test_finetune import TINY, make_store, planted

torch.set_num_threads(1)
SPLITS = SplitConfig(seeds=(0, 1, 2), test_fraction=0.2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("low_data") / "store", n_genes=120)


@pytest.fixture(scope="module")
def tasks(store):
    return {kind: planted(store, kind) for kind in ("regression", "binary", "multiclass", "multilabel")}


@pytest.fixture(scope="module")
def representations(store):
    "One that knows the share of G under much noise, and one that knows nothing."
    rng = np.random.default_rng(0)
    share = np.array([(store.tokens(row) & 7 == 2).mean() for row in range(len(store))])
    noise = rng.standard_normal((len(store), 40))
    informed = noise.copy()
    informed[:, :8] += 4 * share[:, None]
    return {"informed": informed, "noise": noise}


# %% Samples

@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=8, max_size=60), fraction=st.sampled_from(FRACTIONS + (0.35, 0.9)), seed=st.integers(0, 99), stratify=st.booleans())
def test_samples_are_whole_groups_of_about_the_wanted_size(sizes, fraction, seed, stratify):
    groups = np.repeat([f"family{i}" for i in range(len(sizes))], sizes)
    rng = np.random.default_rng(seed)
    in_test = np.isin(groups, [f"family{i}" for i in rng.permutation(len(sizes))[: len(sizes) // 4]])
    split = Split(seed, np.flatnonzero(~in_test), np.flatnonzero(in_test), len(groups), 2, "homology")
    strata = rng.integers(0, 3, len(groups)) if stratify else None
    found = subsets(split, groups, (fraction,), 3, strata)
    assert [(s.fraction, s.draw) for s in found] == [(fraction, draw) for draw in range(1 if fraction == 1 else 3)]
    for sample in found:
        train, wanted = sample.split.train, fraction * len(split.train)
        if sample.reason:  # nothing near: the smallest group is far too large
            smallest = min(np.unique(groups[split.train], return_counts=True)[1])
            assert not len(train) and min(wanted, len(split.train) - wanted) < smallest
            continue
        assert np.isin(train, split.train).all() and len(set(train)) == len(train)
        assert not set(groups[train]) & set(groups[np.setdiff1d(split.train, train)])
        assert abs(len(train) - wanted) <= max(wanted / 2, max(sizes))
        assert np.array_equal(sample.split.test, split.test) and sample.split[3:] == split[3:] and sample.split.seed == seed
    again = subsets(split, groups, (fraction,), 3, strata)
    assert all(np.array_equal(a.split.train, b.split.train) for a, b in zip(found, again))


def test_samples_are_independent():
    "Over many draws every group is taken as often as its share, also given that it was in another sample."
    groups = np.arange(40).repeat(2).astype(str)
    split = Split(0, np.arange(80), np.arange(0), 80)
    small, large = (np.array([np.isin(np.arange(80), s.split.train) for s in subsets(split, groups, (share,), 600)]) for share in (0.2, 0.5))
    assert np.abs(small.mean(0) - 0.2).max() < 0.07 and np.abs(large.mean(0) - 0.5).max() < 0.09
    assert abs(large[small].mean() - 0.5) < 0.03  # nested samples would give 1
    other = subsets(split._replace(seed=1), groups, (0.2,), 1)[0].split.train
    assert not np.array_equal(np.flatnonzero(small[0]), other)


def test_stratified_samples_keep_the_shares():
    rng = np.random.default_rng(0)
    groups, strata = np.arange(400).astype(str), (rng.random(400) < 0.1).astype(int)
    split = Split(0, np.arange(400), np.arange(0), 400)
    for sample in subsets(split, groups, (0.1, 0.5), 5, strata):
        assert strata[sample.split.train].mean() == pytest.approx(strata.mean(), abs=0.02)


@pytest.mark.parametrize("fractions, n_draws, says", [((0.0,), 1, "fractions"), ((1.1,), 1, "fractions"), ((0.5, 0.5), 1, "once"), ((), 1, "fractions"), ((0.5,), 0, "n_draws = 0")])
def test_fractions_that_do_not_do(fractions, n_draws, says):
    with pytest.raises(ConfigError, match=says):
        subsets(Split(0, np.arange(9), np.arange(0), 9), np.arange(9).astype(str), fractions, n_draws)


# %% Probes

def test_all_labels_give_the_scores_of_probe_all(store, tasks, representations):
    every = list(tasks.values())
    curve = learning_curve(representations, every, store.transcripts, SPLITS, (1.0,), progress=False)
    expected = probe_all(representations, every, store.transcripts, SPLITS, progress=False)
    keys = ["representation", "task", "metric", "seed"]
    ours, theirs = (table.sort_values(keys)[SCORE_COLUMNS].reset_index(drop=True) for table in (curve.scores, expected))
    pd.testing.assert_frame_equal(ours, theirs)
    assert (curve.scores["n_draws"] == 1).all() and curve.left_out.empty


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_scores_are_means_over_draws(store, tasks, representations, method):
    "The slow way: a probe each sample."
    task, groups = tasks["regression"], store.transcripts["group"].to_numpy()
    curve = learning_curve(representations, [task], store.transcripts, SPLITS, (0.2, 0.5), 3, method=method, progress=False)
    assert list(curve.scores) == [*SCORE_COLUMNS, "fraction", "n_draws"] and len(curve.scores) == 2 * 2 * 3 * 4
    for split in task_splits(task, store.transcripts, SPLITS):
        for fraction in (0.2, 0.5):
            own = [s.split for s in subsets(split, task.of_units(groups), (fraction,), 3)]
            for name, X in representations.items():
                slow = [probe(X, task, groups, [one], name, method).set_index("metric")["score"] for one in own]
                mine = curve.scores.query("representation == @name and seed == @split.seed and fraction == @fraction").set_index("metric")
                assert mine["score"].to_dict() == pytest.approx((sum(slow) / 3).to_dict()) and (mine["n_draws"] == 3).all()
                assert (mine["n_train"] == round(np.mean([len(one.train) for one in own]))).all()


def test_more_labels_teach_more(store, tasks, representations):
    curve = learning_curve(representations, [tasks["regression"]], store.transcripts, SPLITS, (0.1, 0.3, 1.0), progress=False)
    summary = summarise(curve.scores, by=["fraction"])
    mean = summary[summary["metric"] == "pearson"].pivot(index="fraction", columns="representation", values="mean")
    assert mean.loc[0.1, "informed"] < mean.loc[0.3, "informed"] < mean.loc[1.0, "informed"] and mean.loc[1.0, "informed"] > 0.7
    assert mean["noise"].abs().max() < 0.4
    difference = compare(curve.scores, "informed", "noise", by=["fraction"])
    assert difference.query("metric == 'pearson' and fraction == 1")["difference"].item() == pytest.approx(mean.loc[1.0, "informed"] - mean.loc[1.0, "noise"])


def test_what_is_too_small_is_listed_and_counted(store, tasks, representations):
    every = [tasks["regression"], tasks["binary"]]
    with pytest.warns(UserWarning, match=r"\d+ of 30 training samples are too small to learn from") as said:
        curve = learning_curve(representations, every, store.transcripts, SPLITS, (0.01, 0.03, 1.0), 2, progress=False)
    assert int(str(said[0].message).split()[0]) == len(curve.left_out) and list(curve.left_out) == LEFT_OUT_COLUMNS
    assert set(curve.left_out["fraction"]) == {0.01, 0.03} and (curve.left_out["reason"] != "").all()
    used = curve.scores.query("representation == 'noise' and metric in ('rmse', 'accuracy')")
    assert used["n_draws"].sum() + len(curve.left_out) == 30
    summarise(curve.scores, by=["fraction"])


def test_one_class_and_nothing_at_all(store, tasks, representations):
    labels = np.zeros(len(tasks["binary"]), dtype=int)
    labels[:2] = 1
    rare = Task(**{**vars(tasks["binary"]), "labels": labels})
    with pytest.warns(UserWarning, match="of 9 training samples"):
        curve = learning_curve({"noise": representations["noise"]}, [rare], store.transcripts, SPLITS, (0.2,), 3, progress=False)
    assert set(curve.left_out["reason"]) == {"all labels are equal"} and len(curve.left_out) >= 5
    with pytest.warns(UserWarning, match="3 of 3 training samples"):
        empty = learning_curve(representations, [tasks["regression"]], store.transcripts, SPLITS, (0.01,), 1, progress=False)
    assert empty.scores.empty and list(summarise(empty.scores, by=["fraction"]))[-1] == "undefined"


def test_bad_labels_and_bad_representations_are_errors(store, tasks, representations):
    labels = tasks["regression"].labels.copy()
    labels[0] = np.nan
    broken = Task(**{**vars(tasks["regression"]), "labels": labels})
    for X, task, says in ((representations, broken, "not finite"), ({"x": np.full((len(store), 2), np.nan)}, tasks["regression"], "finite numbers")):
        with pytest.raises(InputError, match=says):
            learning_curve(X, [task], store.transcripts, SPLITS, (0.5, 1.0), 1, progress=False)


def test_test_families_are_those_held_out(store, tasks, representations):
    heldout = store.transcripts["group"].isin([f"family{i}" for i in range(30)]).to_numpy()
    curve = learning_curve(representations, [tasks["regression"]], store.transcripts, SPLITS, (0.5,), heldout=heldout, progress=False)
    assert (curve.scores["n_eligible"] == 60).all()


# %% Fine-tuning

QUICK = FinetuneConfig(encoder_learning_rate=3e-3, steps=4, look_every=2, batch_units=16)


def test_fine_tuned_curve_against_single_runs(store, tasks, tmp_path, monkeypatch):
    task, splits = tasks["regression"], SplitConfig(seeds=(0, 1), test_fraction=0.2)
    arguments = {"config": QUICK, "folder": tmp_path, "accelerator": "cpu", "progress": False}
    with pytest.warns(UserWarning, match="4 of 10 training samples are too small"):
        curve = finetune_curve(store, {"tiny": TINY}, [task], splits, (0.01, 0.3, 1.0), 2, **arguments)
    assert list(curve.scores) == [*SCORE_COLUMNS, "fraction", "n_draws"] and set(curve.left_out["fraction"]) == {0.01}
    for split in task_splits(task, store.transcripts, splits):
        own = subsets(split, task.of_units(store.transcripts["group"].to_numpy()), (1.0,))[0].split
        alone = finetune(store, task, own, TINY, config_for(QUICK, own), accelerator="cpu", progress=False).scores
        mine = curve.scores.query("seed == @split.seed and fraction == 1")
        assert mine["score"].tolist() == pytest.approx(alone["score"].tolist())
    assert set(curve.scores.query("fraction == 0.3")["n_draws"]) == {2} and (summarise(curve.scores, by=["fraction"])["n_splits"] == 2).all()
    monkeypatch.setattr(Fitting, "learn", lambda *_: pytest.fail("trained again"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = finetune_curve(store, {"tiny": TINY}, [task], splits, (0.01, 0.3, 1.0), 2, **arguments)
    assert again.scores.equals(curve.scores)


def test_fine_tuning_bad_labels_is_an_error(store, tasks):
    labels = tasks["regression"].labels.copy()
    labels[0] = np.nan
    with pytest.raises(InputError, match="1 of its labels are not finite"):
        finetune_curve(store, {"tiny": TINY}, [Task(**{**vars(tasks["regression"]), "labels": labels})], SPLITS, (0.5,), config=QUICK, accelerator="cpu", progress=False)


# %% Drawing

def summary_of(rows) -> pd.DataFrame:
    columns = ["representation", "task", "method", "split", "metric", "fraction", "mean", "low", "high", "n_train", "n_test", "seeds", "n_splits", "undefined"]
    return pd.DataFrame([(name, task, method, "homology", metric, fraction, mean, mean - 0.1, mean + 0.1 if band else np.nan, int(1000 * fraction), 100, "0,1", 2, 0)
                         for name, task, method, metric, fraction, mean, band in rows], columns=columns)  # fmt: skip


def test_curves_are_drawn():
    table = summary_of([
        ("a", "half_life", "linear", "pearson", 1.0, 0.5, True), ("a", "half_life", "linear", "pearson", 0.1, 0.3, True), ("a", "half_life", "linear", "rmse", 0.1, 9.0, True),
        ("b", "half_life", "linear", "pearson", 0.1, 0.2, False), ("a", "go", "linear", "auroc_macro", 0.1, 0.7, True),
    ])
    figure = draw_learning_curves(table)
    lines = [trace for trace in figure.data if trace.name]
    assert [(line.name, list(line.x), list(line.y)) for line in lines] == [("a", [100, 1000], [0.3, 0.5]), ("b", [100], [0.2]), ("a", [100], [0.7])]
    assert [line.showlegend for line in lines] == [True, True, False]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 2 and list(bands[0].x) == [100, 1000, 1000, 100] and list(bands[0].y) == pytest.approx([0.4, 0.6, 0.4, 0.2])
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log" and {figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text} == {"pearson", "auroc_macro"}
    assert list(draw_learning_curves(table, x="fraction").data[1].x) == [0.1, 1.0]


def test_several_methods_are_told_apart():
    table = summary_of([("a", "t", method, "pearson", 0.1, 0.3, True) for method in ("linear", "fine-tuned")])
    lines = [trace for trace in draw_learning_curves(table).data if trace.name]
    assert [line.name for line in lines] == ["a, linear", "a, fine-tuned"]
    assert len({line.line.color for line in lines}) == len({line.marker.symbol for line in lines}) == 2


def test_tables_that_cannot_be_drawn():
    table = summary_of([("a", "t", "linear", "rmse", 0.1, 0.3, True)])
    for call, error, says in ((lambda: draw_learning_curves(table, x="units"), ConfigError, "x = 'units'"), (lambda: draw_learning_curves(table), InputError, "none of the metrics"),
                              (lambda: draw_learning_curves(table.drop(columns="fraction")), ConfigError, "summarise")):
        with pytest.raises(error, match=says):
            call()
    assert draw_learning_curves(table, metrics=["rmse"]).data


# %% The experiments

@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["finetune", "low_data"])
def test_the_experiments_run(store, tmp_path, experiment):
    build_encoder(TINY).save_pretrained(tmp_path / "encoder")
    table = pd.DataFrame({"gene_id": [f"g{i}" for i in range(120)], "value": np.linspace(0, 1, 120)})
    table.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    tasks = [{"name": "planted", "path": "labels.tsv", "value": "value", "match": "gene_id", "species": "alpha"}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    more = {"finetune": {}, "low_data": {"fractions": [0.01, 0.5, 1.0], "baselines": ["untrained", "codon usage"], "untrained_seeds": [1]}}[experiment]
    done = runs.run(
        experiment, runs_folder=tmp_path / "runs", progress=False, store=str(store.path), encoders={"tiny": str(tmp_path / "encoder")}, tasks=str(tmp_path / "tasks.json"),
        recipes=["head only", "from scratch"], steps=4, settings={"look_every": 2, "batch_units": 16}, seeds=[0, 1], accelerator="cpu", **more,
    )  # fmt: skip
    scores = pd.DataFrame(done.results["scores"])
    assert {"head only", "from scratch"} <= set(scores["method"]) and (scores["n_splits"] == 2).all() and done.results["labels"]["planted"]["matched"] == 120
    assert pd.read_csv(done.path("summary.csv")).shape[0] == len(scores)
    if experiment == "low_data":
        assert set(scores["representation"]) == {"tiny", "untrained", "codon usage"} and {row["fraction"] for row in done.results["left_out"]} == {0.01}
