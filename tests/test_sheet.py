"""The sheet is what its parts give, on families that no encoder has met; `isoclr probe` writes it."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest

from isoclr import runs
from isoclr.arguments import encoders_by_name
from isoclr.cli import main
from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.models.encoder import build_encoder, preset
from isoclr.probe.embed import embed, open_embeddings
from isoclr.probe.intervals import compare, summarise
from isoclr.probe.probe import probe_all
from isoclr.probe.sheet import benchmark_sheet, unseen_families
from isoclr.probe.splits import SplitConfig
from isoclr.probe.tasks import load_tasks

SMALL = preset("demo", filters=(8, 12, 16), blocks=(1, 1, 1), dilations=(1, 2, 4))
CONFIG = SplitConfig(seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A simulated store, its tasks, and two encoders that held out overlapping halves of the families."
    folder = tmp_path_factory.mktemp("sheet")
    genomes = simulate(folder / "genomes", SimulateConfig(n_families=60), progress=False)
    (folder / "tasks.json").write_text(json.dumps(genomes.tasks))
    store = build_store(folder / "store", [SpeciesSource(**s) for s in genomes.sources], read_homology(genomes.homology, genomes.taxa), progress=False)
    groups = sorted(set(store.transcripts["group"]))
    encoders = {}
    for name, seed, held in (("one", 1, groups[: len(groups) * 3 // 4]), ("two", 2, groups[len(groups) // 4 :])):
        encoders[name] = build_encoder(SMALL, seed=seed)
        encoders[name].pretraining = {"heldout_groups": held}
        encoders[name].save_pretrained(folder / name)
    return folder, store, load_tasks(folder / "tasks.json", store.transcripts), encoders, groups[len(groups) // 4 : len(groups) * 3 // 4]


@pytest.fixture(scope="module")
def sheet(world):
    _, store, tasks, encoders, _ = world
    return benchmark_sheet(store, encoders, tasks, CONFIG, progress=False)


def test_only_families_that_no_encoder_has_met_are_tested(world, sheet):
    both = set(world[4])
    assert set(sheet.unseen) == both and set(sheet.tested["group"]) <= both and len(set(sheet.tested["group"])) > 10
    for adata in sheet.embeddings.values():
        assert (adata.obs["heldout"] == adata.obs["group"].isin(both)).all()


def test_all_representations_have_the_same_splits(sheet):
    linear = sheet.scores[sheet.scores["method"] == "linear"]
    assert list(pd.unique(linear["representation"])) == ["one", "two", "untrained", "k-mer", "k-mer PCA", "codon usage", "features"]
    sizes = linear.groupby(["task", "metric", "seed"])[["n_train", "n_test", "n_eligible"]].nunique()
    assert (sizes == 1).all(axis=None)
    trees = sheet.scores[sheet.scores["method"] == "trees"]
    assert set(trees["representation"]) == {"features"} and set(trees["task"]) == set(linear["task"])
    retrieval = sheet.summary[sheet.summary["method"] == "nearest"]
    assert set(retrieval["task"]) == {"isoform@1", "homolog@1"} and len(retrieval) == 14


def test_scores_and_differences_are_those_of_the_parts(world, sheet):
    _, store, tasks, encoders, both = world
    heldout = store.transcripts["group"].isin(both).to_numpy()
    vectors = {name: embed(store, encoder, progress=False).X for name, encoder in encoders.items()}
    alone = probe_all(vectors, tasks, store.transcripts, CONFIG, heldout, progress=False)
    found = sheet.scores[sheet.scores["representation"].isin(["one", "two"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, alone, rtol=1e-4)
    expected = compare(alone, "one", "two").set_index(["task", "metric"])["difference"]
    rows = sheet.comparisons[(sheet.comparisons["a"] == "one") & (sheet.comparisons["b"] == "two")].set_index(["task", "metric"])
    assert np.allclose(rows["difference"], expected.loc[rows.index], atol=1e-4)
    assert len(sheet.comparisons) == (6 + 5) * len(expected) and (sheet.comparisons["p_holm"] >= sheet.comparisons["p"] - 1e-12).all()
    summary = summarise(sheet.scores)
    pd.testing.assert_frame_equal(sheet.summary.head(len(summary)), summary)


def test_leakage_stands_beside_the_scores(sheet):
    assert (sheet.leakage["shared_groups"] == 0).all() and (sheet.leakage["shared_genes"] == 0).all()
    assert sheet.leakage.groupby("task").size().tolist() == [3] * sheet.leakage["task"].nunique()
    assert sheet.leakage["nearest_max"].between(0, 1).all()


def test_a_random_split_shows_in_the_report(world):
    _, store, tasks, encoders, _ = world
    with pytest.warns(UserWarning, match="at random"):
        found = benchmark_sheet(store, {"one": encoders["one"]}, tasks[:1], SplitConfig("random", (0,)), ("features",), trees=False, progress=False)
    assert (found.leakage["shared_groups"] > 5).all() and set(found.scores["split"]) == {"random"}


def test_what_is_written_can_be_read(sheet, tmp_path):
    sheet.write(tmp_path)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert np.allclose(scores["score"], sheet.scores["score"], equal_nan=True) and scores.columns.tolist() == sheet.scores.columns.tolist()
    assert {p.name for p in tmp_path.iterdir()} == {
        "scores.csv", "summary.csv", "comparisons.csv", "leakage.csv", "splits.csv", "summary.txt", "sizes.json", "scores.html", "embeddings.h5ad", "embeddings_two.h5ad"}
    for name, file in (("one", "embeddings.h5ad"), ("two", "embeddings_two.h5ad")):
        adata = open_embeddings(tmp_path / file)
        assert np.array_equal(adata.X, sheet.embeddings[name].X) and {"heldout", "half_life", "function"} <= set(adata.obs)
    assert "isoform@1" in (tmp_path / "summary.txt").read_text() and "Plotly.newPlot" in (tmp_path / "scores.html").read_text()


def test_encoders_of_other_settings_have_untrained_ones_of_their_own(world):
    _, store, tasks, encoders, _ = world
    other = build_encoder(SMALL.replace(filters=(8, 12, 24)), seed=3)
    with pytest.warns(UserWarning, match="other: no record"):
        found = benchmark_sheet(store, {"one": encoders["one"], "other": other}, tasks[:1], CONFIG, ("untrained",), (1,), False, progress=False)
    assert list(pd.unique(found.scores["representation"])) == ["one", "other", "untrained one", "untrained other"]
    assert found.sizes["other"] > found.sizes["one"]
    assert found.unseen == sorted(encoders["one"].pretraining["heldout_groups"])


def test_without_labels_there_is_retrieval(world):
    _, store, _, encoders, _ = world
    found = benchmark_sheet(store, {"one": encoders["one"]}, [], CONFIG, ("features",), progress=False)
    assert found.scores.empty and len(found.summary) == 4 and found.side_by_side().shape == (2, 2)


def test_nothing_held_out_by_all_is_said(world):
    a, b = build_encoder(SMALL), build_encoder(SMALL)
    a.pretraining, b.pretraining = {"heldout_groups": ["x"]}, {"heldout_groups": ["y"]}
    with pytest.warns(UserWarning, match="No family was held out of the pretraining of all of a, b"):
        assert unseen_families({"a": a, "b": b}) is None
    with pytest.warns(UserWarning, match="no record"):
        assert unseen_families({"c": build_encoder(SMALL)}) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unseen_families({"a": a}) == ["x"]


def test_names_that_cannot_be(world):
    _, store, _, encoders, _ = world
    for given, baselines, message in (
        ({}, ("features",), "no encoder"), ({"features": encoders["one"]}, ("k-mer",), "name of a baseline"), ({"a": encoders["one"]}, ("kmer",), "Did you mean 'k-mer'"),
    ):
        with pytest.raises(ConfigError, match=message):
            benchmark_sheet(store, given, [], baselines=baselines, progress=False)


def test_isoclr_probe_compares_two_encoders(world, tmp_path, capsys):
    folder = world[0]
    command = ["probe", "--store", str(folder / "store"), "--encoder", f"new={folder / 'one'}", "--encoder", str(folder / "two"), "--tasks", str(folder / "tasks.json"),
               "--runs-folder", str(tmp_path), "seeds=[0,1]", "baselines=['features', 'untrained']", "untrained_seeds=[1]"]
    assert main(command) == 0
    heard = capsys.readouterr().out
    (place,) = (tmp_path / "probe").iterdir()
    assert all(word in heard for word in ("half_life", "new", "two", "features", "summary.csv"))
    summary = pd.read_csv(place / "summary.csv")
    assert set(summary["representation"]) == {"new", "two", "features", "untrained"} and summary[summary["method"] == "linear"].n_splits.max() == 2
    assert runs.Run(place).results["sizes"].keys() == {"new", "two"}
    assert main(command) == 0 and len(list((tmp_path / "probe").iterdir())) == 1, "the same comparison is not run twice"


def test_encoders_are_named_on_the_command_line():
    assert encoders_by_name(["a=x/encoder", "runs/pretrain/abc/encoder", "y/z"]) == {"a": "x/encoder", "abc": "runs/pretrain/abc/encoder", "z": "y/z"}
    with pytest.raises(ConfigError, match="Two encoders are named 'z'"):
        encoders_by_name(["y/z", "x/z"])
    with pytest.raises(SystemExit):
        main(["probe", "--tasks", "all"])
