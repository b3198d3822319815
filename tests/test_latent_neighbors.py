"""Neighbours with names, labels and chance: beside loops, and beside shuffled labels."""
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.latent import neighbors as module
from isoclr.latent.neighbors import find_rows, label_sets, missing_in, neighbors, purity, shuffled_by


def made(n=120, d=8, n_genes=30, n_groups=12, seed=0):
    "Transcripts whose families and genes are directions; some without a function, some without a group."
    rng = np.random.default_rng(seed)
    gene = rng.integers(0, n_genes, n)
    group = rng.integers(0, n_groups, n_genes)[gene]
    X = 2 * rng.normal(size=(n_groups, d))[group] + rng.normal(size=(n_genes, d))[gene] + 0.5 * rng.normal(size=(n, d))
    species = np.where(gene % 2, "human", "mouse")
    obs = pd.DataFrame({
        "species": species, "transcript_id": [f"ENST{i:03d}.{i % 3}" for i in range(n)], "gene_id": [f"{s}:ENSG{g:03d}.1" for s, g in zip(species, gene)],
        "gene_name": [f"Gene{g}" if g % 2 else f"GENE{g}" for g in gene], "group": np.where(group == 3, "", group.astype(str)),
        "function": np.array(["a", "b", "c", ""])[rng.integers(0, 4, n_genes)][gene], "length_nt": rng.integers(200, 900, n),
    })
    return AnnData(X.astype(np.float32), obs=obs.set_index(obs["species"] + "|" + obs["transcript_id"]))


def loop(X, row, k, candidates, label):
    "The slow way: one by one, in double precision, nearest first."
    X = X.astype(float)
    cosine = {c: X[row] @ X[c] / np.linalg.norm(X[row]) / np.linalg.norm(X[c]) for c in candidates if label[c] != label[row]}
    return sorted(cosine, key=lambda c: -cosine[c])[:k], cosine


@pytest.mark.parametrize("exclude", ["self", "gene", "group"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_neighbors_equal_a_loop(exclude, k):
    adata, among = made(), np.arange(0, 120, 2)
    obs = adata.obs
    label = {"self": np.arange(120), "gene": obs["gene_id"].to_numpy(), "group": np.where(obs["group"] == "", obs["gene_id"], obs["group"])}[exclude]
    frame = neighbors(adata, [5, 0, 77], k=k, among=among, exclude=exclude)
    assert pd.unique(frame["query_row"]).tolist() == [5, 0, 77] and frame.attrs["exact"]
    for row, part in frame.groupby("query_row"):
        rows, cosine = loop(adata.X, row, k, among, label)
        assert part["row"].tolist() == rows and part["rank"].tolist() == list(range(1, len(rows) + 1))
        assert part["similarity"].to_numpy() == pytest.approx([cosine[c] for c in rows], abs=1e-5)
        assert part["gene_name"].tolist() == obs["gene_name"].iloc[rows].tolist() and (part["query"] == obs.index[row]).all()


def test_rows_by_name():
    adata = made()
    obs = adata.obs

    def rows(column, value):
        return np.flatnonzero(obs[column] == value).tolist()

    assert find_rows(adata, "ENST007.1").tolist() == find_rows(adata, "enst007").tolist() == [7]
    assert find_rows(adata, obs.index[7]).tolist() == find_rows(obs, 7).tolist() == [7]
    gene = obs["gene_id"].iloc[7]
    for name in (gene, gene.split(":")[1], gene.split(":")[1].split(".")[0], obs["gene_name"].iloc[7], obs["gene_name"].iloc[7].lower()):
        assert find_rows(adata, [name, "ENST003.0"]).tolist() == [*rows("gene_id", gene), 3]
    assert find_rows(adata).tolist() == list(range(120)) and find_rows(adata, []).tolist() == []
    assert find_rows(adata, obs["species"] == "human").tolist() == rows("species", "human")
    categorical = obs.astype({"gene_name": "category", "transcript_id": "category"})
    assert find_rows(categorical, ["GENE4", "enst009"]).tolist() == [*rows("gene_name", "GENE4"), 9]


def test_an_exact_spelling_wins_over_a_loose_one():
    obs = pd.DataFrame({"transcript_id": ["a.1", "a.2", "A.1"], "gene_name": ["Tp53", "TP53", "x"]}, index=["0", "1", "2"])
    assert find_rows(obs, "TP53").tolist() == [1] and find_rows(obs, "tp53").tolist() == [0, 1]
    assert find_rows(obs, "a.1").tolist() == [0] and find_rows(obs, "a").tolist() == [0, 1, 2]


def test_duplicate_ids_are_all_meant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = made(20)
        adata.obs["transcript_id"] = "same"
        adata.obs.index = ["same"] * 20
    assert find_rows(adata, "same").tolist() == list(range(20))
    assert neighbors(adata, "same", k=1)["query_row"].tolist() == list(range(20))


@pytest.mark.parametrize("wanted", [[-1], [120], [0.5], [True] * 3, [[1, 2]], ["GENE4", 3]])
def test_rows_that_are_not_there(wanted):
    with pytest.raises(InputError, match="row numbers from 0 to 119, or 120 booleans"):
        find_rows(made(), wanted)


def test_refusals():
    adata = made()
    with pytest.raises(InputError, match="no transcript or gene 'Gen21'. Did you mean 'Gene21'.* 2 of 3 names are unknown"):
        find_rows(adata, ["Gen21", "GENE4", ""])
    with pytest.raises(ConfigError, match="exclude = 'genes'. Did you mean 'gene'"):
        neighbors(adata, 0, exclude="genes")
    with pytest.raises(InputError, match="`queries` is empty"):
        neighbors(adata, [])
    with pytest.raises(InputError, match="`among` is empty"):
        neighbors(adata, 0, among=np.zeros(120, bool))
    with pytest.raises(InputError, match="k = 0"):
        neighbors(adata, 0, k=0)
    with pytest.raises(InputError, match="no column 'grp'.*Did you mean 'group'"):
        purity(adata, "grp")
    adata.obs["half_life"] = 0.5
    with pytest.raises(InputError, match="'half_life' holds numbers"):
        purity(adata, ["gene_id", "half_life"])
    with pytest.raises(InputError, match="at least 1"):
        purity(adata, "group", ks=[0])
    adata.obs["none"] = ""
    with pytest.raises(InputError, match="'none' is empty"):
        purity(adata, "none")
    with pytest.raises(InputError, match="no column 'group'"):
        neighbors(AnnData(adata.X, obs=adata.obs.drop(columns="group")), 0, exclude="group")
    adata.X[3, 2] = np.nan
    with pytest.raises(InputError, match=r"1 of 120 vectors are not finite, the first that of \w+\|ENST003"):
        neighbors(adata, 0)


def test_one_transcript_has_no_neighbour():
    assert len(neighbors(made()[:1].copy(), 0)) == 0
    with pytest.raises(InputError):
        neighbors(made()[:0].copy(), 0)


def nearby_graph(X, n_neighbors, seed):
    "A graph as good as it can be, in place of pynndescent."
    return np.argsort(-(X @ X.T), axis=1, kind="stable")[:, :n_neighbors]


def blind_graph(X, n_neighbors, seed):
    return np.random.default_rng(seed).integers(-1, len(X), (len(X), n_neighbors))


@pytest.mark.parametrize("exclude", ["self", "gene", "group"])
def test_the_approximate_search_with_a_good_graph_is_exact(monkeypatch, exclude):
    "Also where the graph leaves too few after those that are passed over."
    adata, among = made(), np.arange(30, 120)
    monkeypatch.setattr(module, "_graph", nearby_graph)
    true = neighbors(adata, range(40, 80), k=6, among=among, exclude=exclude, exact=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = neighbors(adata, range(40, 80), k=6, among=among, exclude=exclude, exact=False)
    assert not found.attrs["exact"] and found.attrs["recall"] == 1 and found.attrs["recall_queries"] == 40
    pd.testing.assert_frame_equal(found, true, atol=1e-5, check_dtype=False)
    everything = neighbors(adata, range(40, 80), k=400, among=among, exclude=exclude, exact=False)
    assert len(everything) == len(neighbors(adata, range(40, 80), k=400, among=among, exclude=exclude))


def test_a_graph_that_misses_is_noticed(monkeypatch):
    adata = made()
    monkeypatch.setattr(module, "_graph", blind_graph)
    with pytest.warns(UserWarning, match="approximate search finds .*Set exact=True"):
        found = neighbors(adata, range(120), k=5, exact=False)
    true = neighbors(adata, range(120), k=5)
    hits = [len(set(found["row"][found["query_row"] == row]) & set(true["row"][true["query_row"] == row])) for row in range(120)]
    assert found.attrs["recall"] == pytest.approx(sum(hits) / 600, abs=1e-9) and found.attrs["recall"] < 0.9
    assert (found["row"] != found["query_row"]).all()


def test_size_decides(monkeypatch):
    adata = made()
    monkeypatch.setattr(module, "_graph", nearby_graph)
    monkeypatch.setattr(module, "EXACT_PAIRS", 120 * 119)
    assert neighbors(adata, range(119), device="cpu").attrs["exact"] and not neighbors(adata, range(120), device="cpu").attrs["exact"]
    assert neighbors(adata, range(120), exact=True, device="cpu").attrs["exact"]
    monkeypatch.setattr(module, "EXACT_PAIRS", 10)
    assert neighbors(adata, range(60), among=range(50), device="cpu").attrs["exact"]  # asks from outside
    with pytest.raises(ConfigError, match="candidates themselves"):
        neighbors(adata, range(60), among=range(50), exact=False)


def purity_loop(adata, label, ks, outside):
    "The slow way: every query, every one of its labels, every neighbour."
    sets = [set(filter(None, text.split(";"))) for text in adata.obs[label]]
    there = [row for row in range(len(sets)) if sets[row]]
    sums = {k: [] for k in ks}
    for row in there:
        others = [c for c in there if outside[c] != outside[row]]
        rows, _ = loop(adata.X, row, max(ks), others, outside)
        for name in sets[row]:
            elsewhere = sum(name in sets[c] for c in others)
            if elsewhere:
                for k in ks:
                    places = min(k, len(others))
                    sums[k].append((row, sum(name in sets[c] for c in rows[:k]) / places, min(places, elsewhere) / places, elsewhere / len(others)))
    return {k: np.array([s[1:] for s in sums[k]]).mean(axis=0) for k in ks}, len({s[0] for s in sums[ks[0]]}), len(there)


@pytest.mark.parametrize("label, exclude", [("gene_id", "gene"), ("group", "gene"), ("function", "gene"), ("function", "group"), ("terms", "gene")])
def test_purity_equals_a_loop(label, exclude):
    adata, ks = made(), (1, 4, 15, 300)
    obs = adata.obs
    obs["terms"] = np.where(obs["function"] == "", "", "root;" + obs["function"] + ";only" + obs["gene_name"])
    family = np.where(obs["group"] == "", obs["gene_id"], "g" + obs["group"])
    outside = np.arange(120) if label == "gene_id" else family if exclude == "group" else obs["gene_id"].to_numpy()
    slow, n_asked, n_labelled = purity_loop(adata, label, ks, outside)
    frame = purity(adata, label, ks, exclude=exclude, n_permutations=3)
    assert frame["k"].tolist() == list(ks) and (frame["n_asked"] == n_asked).all() and (frame["n_labelled"] == n_labelled).all()
    assert frame[["purity", "possible", "expected"]].to_numpy() == pytest.approx(np.array([slow[k] for k in ks]), abs=1e-9)


def test_shuffled_labels_give_what_is_expected():
    "Labels without any meaning: the shares lie in the interval, and the middle of the interval is the expectation."
    rng = np.random.default_rng(4)
    gene = np.repeat(np.arange(200), 2)
    obs = pd.DataFrame({"gene_id": gene.astype(str), "function": np.array(["a", "b", "b", "c"])[rng.integers(0, 4, 200)][gene]}, index=[f"{i}" for i in range(400)])
    adata = AnnData(rng.normal(size=(400, 6)).astype(np.float32), obs=obs)
    frame = purity(adata, "function", (5, 50), n_permutations=200)
    assert ((frame["chance_low"] < frame["purity"]) & (frame["purity"] < frame["chance_high"])).all()
    assert (frame["chance_low"] + frame["chance_high"]).to_numpy() / 2 == pytest.approx(frame["expected"].to_numpy(), abs=0.02)
    isoforms = purity(adata, "gene_id", (1,), n_permutations=200).iloc[0]
    assert isoforms["expected"] == pytest.approx(1 / 399) and isoforms["chance_low"] <= isoforms["expected"] <= isoforms["chance_high"]


def test_isoforms_alone_do_not_make_a_function_pure():
    "Each gene a tight bundle, functions without meaning: a search that counted isoforms would find a purity near 1."
    rng = np.random.default_rng(0)
    gene = np.repeat(np.arange(60), 5)
    X = rng.normal(size=(60, 16))[gene] + 0.01 * rng.normal(size=(300, 16))
    obs = pd.DataFrame({"gene_id": gene.astype(str), "function": np.array(["a", "b", "c"])[rng.integers(0, 3, 60)][gene]}, index=[f"{i}" for i in range(300)])
    row = purity(AnnData(X.astype(np.float32), obs=obs), "function", (4,)).iloc[0]
    assert row["chance_low"] < row["purity"] < row["chance_high"] < 0.6


def test_a_sample_asks_for_the_whole():
    adata = made(600)
    whole, part = purity(adata, "group", (5,), sample=None, n_permutations=2).iloc[0], purity(adata, "group", (5,), sample=300, n_permutations=2).iloc[0]
    assert part["n_asked"] < 301 < whole["n_asked"] and part["purity"] == pytest.approx(whole["purity"], abs=0.08)
    pd.testing.assert_frame_equal(purity(adata, "group", (5,), sample=300, seed=1), purity(adata, "group", (5,), sample=300, seed=1))


def test_nobody_can_ask():
    frame = purity(made(10, n_genes=1), "species", (1, 3))
    assert frame[["purity", "expected", "chance_low"]].isna().all(axis=None) and (frame["n_asked"] == 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcde"), max_size=4), min_size=1, max_size=20), st.integers(0, 9))
def test_label_sets_and_shuffles(rows, seed):
    values = pd.Series([" ; ".join(row) for row in rows])
    code, names, sets = label_sets(values)
    assert ((code < 0) == missing_in(values)).all()
    for row, wanted in enumerate(rows):
        assert code[row] < 0 or set(names[sets[[code[row]]].toarray()[0] > 0]) == set(wanted)
    blocks = np.arange(len(rows)) // 3
    dealt = shuffled_by(blocks, np.arange(len(rows)), np.random.default_rng(seed))
    assert sorted(dealt) == list(range(len(rows)))


def test_shuffles_keep_blocks_of_equal_size_together():
    blocks = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 4))
    dealt = shuffled_by(blocks, blocks, np.random.default_rng(1))
    assert pd.DataFrame({"block": blocks, "dealt": dealt}).groupby("block")["dealt"].nunique().eq(1).all() and (dealt != blocks).any()


def test_missing():
    assert missing_in(pd.Series([1, np.nan, np.inf])).tolist() == [False, True, True]
    assert missing_in(pd.Series(["a", "", None, " "], dtype=object)).tolist() == [False, True, True, True]
    assert missing_in(pd.Series(["a", None]).astype("category")).tolist() == [False, True]
    assert missing_in(pd.Series([True, False])).tolist() == [False, False]
