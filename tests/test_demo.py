"""The promise of the front door: on the simulated default, with no parameter changed, training teaches the encoder something."""
import re

import numpy as np
import pandas as pd
import pytest

from isoclr import runs
from isoclr.data.store import TranscriptStore


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, runs.Run]:
    "The demo: every stage with its default parameters."
    return runs.chain(runs_folder=tmp_path_factory.mktemp("demo"), progress=False)


@pytest.fixture(scope="module")
def table(stages) -> pd.DataFrame:
    summary = pd.read_csv(stages["probe"].path("summary.csv"))
    return summary[summary["method"] != "trees"].set_index(["task", "metric", "representation"])


@pytest.mark.slow
def test_the_default_is_as_large_as_it_says(stages):
    store = TranscriptStore.open(stages["build"].path("store"))
    assert len(store.species) == 2 and 1500 <= len(store) <= 2500
    assert store.transcripts.group.nunique() >= 290


@pytest.mark.slow
@pytest.mark.parametrize("task, metric", [("half_life", "pearson"), ("function", "auroc")])
def test_trained_beats_untrained_on_the_same_splits(stages, table, task, metric):
    "Paired over the splits: both rise and fall with the families that are tested, so that their own intervals say little about the difference."
    comparisons = pd.read_csv(stages["probe"].path("comparisons.csv")).set_index(["task", "metric", "a", "b"])
    found = comparisons.loc[(task, metric, "trained", "untrained")]
    assert found.low > 0 and found.n_splits == 10, found.to_dict()
    assert found.difference == pytest.approx(table.loc[(task, metric, "trained"), "mean"] - table.loc[(task, metric, "untrained"), "mean"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["isoform@1", "homolog@1"])
def test_trained_finds_relatives_beyond_the_intervals(table, task):
    trained, untrained = table.loc[(task, "share", "trained")], table.loc[(task, "share", "untrained")]
    assert trained.low > untrained.high, f"{task}: trained {trained.to_dict()}, untrained {untrained.to_dict()}"


@pytest.mark.slow
def test_every_probe_has_five_seeds_or_more_and_a_baseline(table):
    probes = table[table.index.get_level_values("metric") != "share"]
    assert (probes.seeds.str.split(",").str.len() >= 5).all()
    assert set(table.index.get_level_values("representation")) == {"trained", "untrained", "k-mer", "k-mer PCA", "codon usage", "features"}
    assert np.isfinite(table[["mean", "low", "high"]].to_numpy()).all()


@pytest.mark.slow
def test_the_tested_families_were_held_out_of_pretraining(stages):
    store = TranscriptStore.open(stages["build"].path("store"))
    tested = pd.read_csv(stages["probe"].path("splits.csv"))
    seen = set(store.transcripts.group) - set(stages["probe"].results["heldout_groups"])
    assert len(tested) and not set(tested.group) & seen
    leakage = pd.read_csv(stages["probe"].path("leakage.csv"))
    assert len(leakage) == 30 and (leakage["shared_groups"] == 0).all()


@pytest.mark.slow
def test_the_map_needs_no_network(stages):
    html = stages["explore"].path("map.html").read_text()
    assert "Plotly.newPlot" in html
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", html)
