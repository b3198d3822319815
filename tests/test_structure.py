"""Clusters, enrichment and divergence: beside scipy and loops, on what was planted and on nothing at all."""
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import adjusted_rand_score, silhouette_score

from isoclr.config import ConfigError, InputError
from isoclr.latent.project import project
from isoclr.latent.structure import ENRICHMENT, cluster, enrichment, fisher_p, isoform_divergence, silhouette


def clouds(n=240, d=16, n_clouds=4, noise=0.6, seed=0):
    "Transcripts of n / 3 genes in clouds of unequal size."
    rng = np.random.default_rng(seed)
    gene = np.arange(n) // 3
    cloud = np.minimum(rng.integers(0, 2 * n_clouds - 2, n // 3), n_clouds - 1)[gene]
    X = 3 * rng.normal(size=(n_clouds, d))[cloud] + noise * rng.normal(size=(n, d))
    obs = pd.DataFrame({
        "species": np.where(gene % 2, "human", "mouse"), "transcript_id": [f"T{i}" for i in range(n)], "gene_id": [f"G{g}" for g in gene], "gene_name": [f"N{g}" for g in gene],
        "group": gene.astype(str), "cloud": cloud.astype(str), "length_nt": rng.integers(300, 3000, n), "coding": rng.random(n) < 0.6,
        "half_life": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n).round(1)), "biotype": np.array(["mRNA", "lncRNA", ""])[rng.integers(0, 3, n)],
        "GO": [";".join(f"GO:{t}" for t in range(6) if (g * 7 + t * t) % 5 < 2) for g in gene],
    }, index=[f"T{i}" for i in range(n)])
    return AnnData(X.astype(np.float32), obs=obs)


# ------------------------------------------------------------------------------------------------ silhouette

def test_silhouette_equals_scikit_learn_on_one_transcript_a_gene():
    adata = clouds()
    adata.X = adata.X[np.arange(240) // 3 * 3]  # isoforms alike: it does not matter which is drawn
    found = silhouette(adata, "cloud")
    alone = np.arange(0, 240, 3)
    assert found["silhouette"] == pytest.approx(silhouette_score(adata.X[alone], adata.obs["cloud"].iloc[alone], metric="cosine"), abs=1e-5)
    assert (found["n"], found["n_classes"], found["n_missing"]) == (80, 4, 0) and found["silhouette"] > 0.5 > found["chance_high"]
    by_gene = silhouette(clouds(), "gene_id")
    assert by_gene["n"] == 240 and by_gene["n_classes"] == 80
    assert by_gene["silhouette"] == pytest.approx(silhouette_score(clouds().X, clouds().obs["gene_id"], metric="cosine"), abs=1e-5)


def test_silhouette_of_a_label_without_meaning():
    rng = np.random.default_rng(1)
    gene = np.repeat(np.arange(100), 4)
    X = rng.normal(size=(100, 8))[gene] + 0.01 * rng.normal(size=(400, 8))  # isoforms all but equal
    obs = pd.DataFrame({"gene_id": gene.astype(str), "function": rng.permutation(np.repeat(["a", "b"], 50))[gene]}, index=[str(i) for i in range(400)])
    obs.loc[obs.index[:8], "function"] = ""
    found = silhouette(AnnData(X.astype(np.float32), obs=obs), "function", n_permutations=100)
    assert found["chance_low"] <= found["silhouette"] <= found["chance_high"] and abs(found["chance_mean"]) < 0.02
    assert (found["n"], found["n_missing"]) == (98, 8)
    assert silhouette(AnnData(X.astype(np.float32), obs=obs), "function", sample=40)["n"] == 40


def test_silhouette_refuses():
    adata = clouds()
    adata.obs["one"], adata.obs["none"] = "same", ""
    for label, message in (("half_life", "holds numbers"), ("GO", "several joined"), ("one", "1 classes in 80"), ("none", "0 classes in 0"), ("group", "80 classes in 80"), ("clowd", "Did you mean 'cloud'")):
        with pytest.raises(InputError, match=message):
            silhouette(adata, label)


# -------------------------------------------------------------------------------------------------- clusters

@pytest.mark.parametrize("method", ["hdbscan", "leiden"])
@pytest.mark.parametrize("of", ["X", "pca"])
def test_planted_clusters_are_found(method, of):
    if method == "leiden":
        pytest.importorskip("igraph")
    adata = project(clouds(), "pca", n_components=5)
    cluster(adata, method, of, **({"resolution": 0.2} if method == "leiden" else {}))
    found = adata.obs[method]
    assert adjusted_rand_score(adata.obs["cloud"], found) > 0.9 and {type(name) for name in found} == {str}
    facts = adata.uns[method]
    sizes = found[found != ""].value_counts()
    assert facts["of"] == of and facts["n_clusters"] == len(sizes) == 4 and facts["n_noise"] == (found == "").sum()
    assert sizes.index[0] == "0" and sizes.loc[[str(i) for i in range(4)]].is_monotonic_decreasing
    again = cluster(clouds() if of == "X" else project(clouds(), "pca", n_components=5), method, of, **({"resolution": 0.2} if method == "leiden" else {}))
    assert again.obs[method].tolist() == found.tolist() and again.uns[method]["made_from"] == facts["made_from"]


def test_hdbscan_leaves_noise_out():
    adata = clouds()
    adata.X[:40] = 3 * np.random.default_rng(9).normal(size=(40, 16))
    found = cluster(adata).obs["hdbscan"]
    assert (found[:40] == "").mean() > 0.6 and (found[40:] == "").mean() < 0.1 and adata.uns["hdbscan"]["n_noise"] == (found == "").sum()


def test_length_of_vectors_does_not_matter():
    adata, scaled = clouds(), clouds()
    scaled.X *= np.random.default_rng(0).choice([0.25, 1, 4], (240, 1)).astype(np.float32)
    assert cluster(adata).obs["hdbscan"].tolist() == cluster(scaled).obs["hdbscan"].tolist()


def test_the_same_is_not_clustered_twice_and_other_vectors_are(monkeypatch, tmp_path):
    from isoclr.latent import structure

    calls, compute = [], structure.CLUSTERINGS["hdbscan"][0]
    monkeypatch.setitem(structure.CLUSTERINGS, "hdbscan", (lambda *a, **k: calls.append(1) or compute(*a, **k), structure.CLUSTERINGS["hdbscan"][1]))
    adata = cluster(cluster(clouds()))
    assert len(calls) == 1
    adata.write_h5ad(tmp_path / "clusters.h5ad")
    read = cluster(anndata.read_h5ad(tmp_path / "clusters.h5ad"))
    assert len(calls) == 1 and read.obs["hdbscan"].astype(str).tolist() == adata.obs["hdbscan"].tolist()
    cluster(adata, min_cluster_size=30)
    adata.X[0] += 1
    cluster(adata, min_cluster_size=30)
    cluster(adata, key="mine")
    assert len(calls) == 4 and adata.uns["mine"]["params"]["min_cluster_size"] == 15


def test_cluster_refuses():
    adata = clouds()
    for arguments, kind, message in (
        (("hdbscam",), ConfigError, "Did you mean 'hdbscan'"), (("hdbscan", "umap"), InputError, r"call project\(adata, 'umap'\) first"), (("hdbscan", "X", "cloud"), InputError, "something else named 'cloud'"),
    ):
        with pytest.raises(kind, match=message):
            cluster(adata, *arguments)
    with pytest.raises(ConfigError, match="hdbscan has no parameter 'resolution'"):
        cluster(adata, resolution=1.0)
    with pytest.raises(ConfigError, match="min_cluster_size = 1"):
        cluster(adata, min_cluster_size=1)
    with pytest.raises(InputError, match="10 transcripts are too few"):
        cluster(adata[:10].copy())
    for n, message in ((0, "are no transcripts"), (1, "is one transcript")):
        with pytest.raises(InputError, match=message):
            cluster(adata[:n].copy())
    project(adata, "pca")
    with pytest.raises(InputError, match="something else named 'pca'"):
        cluster(adata, key="pca")
    adata.obsm["X_pca"][0] = np.nan
    with pytest.raises(InputError, match="'pca' are not finite"):
        cluster(adata, of="pca")
    assert "hdbscan" not in adata.obs


def test_leiden_says_what_it_needs():
    code = "import sys; sys.modules['igraph'] = None\nfrom tests.test_structure import clouds, cluster\ntry: cluster(clouds(), 'leiden')\nexcept Exception as error: print(type(error).__name__, error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=__file__.rsplit("/tests/", 1)[0])
    assert done.stdout.startswith("ConfigError Leiden clusters need python-igraph: pip install igraph")


# ------------------------------------------------------------------------------------------------ enrichment

@settings(max_examples=150, deadline=None)
@given(st.data())
def test_fisher_equals_scipy(data):
    n = data.draw(st.integers(2, 400))
    n_selected = data.draw(st.integers(1, n - 1))
    tables = []
    for _ in range(data.draw(st.integers(1, 4))):
        labelled = data.draw(st.integers(0, n))
        k = data.draw(st.integers(max(0, n_selected + labelled - n), min(n_selected, labelled)))
        tables.append((k, labelled))
    k, labelled = np.array(tables).T
    for alternative in ("two-sided", "greater"):
        p = fisher_p(k, labelled, n_selected, n, alternative)
        slow = [stats.fisher_exact([[a, n_selected - a], [m - a, n - n_selected - m + a]], alternative=alternative).pvalue for a, m in tables]
        assert p == pytest.approx(slow, rel=1e-6, abs=1e-12)


def slow_enrichment(obs, chosen, universe, unit, column):
    "Tables of a column by a loop over units: {label: (a, b)} with sizes and missing, or the numbers of both sides."
    units = {}
    for row in universe:
        units.setdefault(row if unit == "transcript" else obs["gene_id"].iloc[row], []).append(row)
    sides = {True: [], False: []}
    for rows in units.values():
        inside = [row for row in rows if row in chosen]
        sides[bool(inside)].append(inside or rows)
    values, result = obs[column].to_numpy(object), {}
    for side, members in sides.items():
        if column in ("half_life", "length_nt"):
            medians = [np.median([values[r] for r in rows if values[r] == values[r]] or [np.nan]) for rows in members]
            result[side] = ([m for m in medians if m == m], sum(m != m for m in medians))
            continue
        counts, missing = {}, 0
        for rows in members:
            sets = [str(values[row]).split(";") for row in rows if values[row] != ""]
            missing += not sets
            for label in {label for labels in sets for label in labels}:
                counts[label] = counts.get(label, 0) + (2 * sum(label in labels for labels in sets) >= len(sets))
        result[side] = (counts, len(members) - missing, missing)
    return result


def by_hand(p):
    "Benjamini and Hochberg."
    order, n, q = np.argsort(p), len(p), np.empty(len(p))
    lowest = 1.0
    for rank in range(n, 0, -1):
        lowest = min(lowest, p[order[rank - 1]] * n / rank)
        q[order[rank - 1]] = lowest
    return q


@pytest.mark.parametrize("unit", ["gene", "transcript"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_enrichment_equals_scipy_on_loops(unit, alternative):
    adata = clouds()
    rng = np.random.default_rng(2)
    universe = np.sort(rng.choice(240, 200, replace=False))
    chosen = universe[(rng.random(200) < np.where(adata.obs["coding"].iloc[universe], 0.3, 0.1))]
    frame = enrichment(adata, chosen, background=universe, unit=unit, alternative=alternative, min_units=1)
    assert tuple(frame.columns) == ENRICHMENT and set(frame["column"]) == {"species", "cloud", "length_nt", "coding", "half_life", "biotype", "GO"}
    for column, part in frame.groupby("column"):
        slow = slow_enrichment(adata.obs, set(chosen.tolist()), universe, unit, column)
        if column in ("half_life", "length_nt"):
            (x, missing), (y, missing_rest) = slow[True], slow[False]
            test, row = stats.mannwhitneyu(x, y, alternative=alternative), part.iloc[0]
            assert row[["p", "median_selection", "median_rest", "auc"]].tolist() == pytest.approx([test.pvalue, np.median(x), np.median(y), np.mean([(a > b) + (a == b) / 2 for a in x for b in y])])
            assert row[["of_selection", "of_rest", "missing_selection", "missing_rest"]].tolist() == [len(x), len(y), missing, missing_rest]
            continue
        (a, n, missing), (c, m, missing_rest) = slow[True], slow[False]
        assert set(part["value"]) == {label for label in a.keys() | c.keys() if a.get(label, 0) + c.get(label, 0)}
        for _, row in part.iterrows():
            i, j = a.get(row["value"], 0), c.get(row["value"], 0)
            ratio, p = stats.fisher_exact([[i, n - i], [j, m - j]], alternative=alternative)
            assert row[["in_selection", "of_selection", "in_rest", "of_rest", "missing_selection", "missing_rest"]].tolist() == [i, n, j, m, missing, missing_rest]
            assert row["p"] == pytest.approx(p) and (row["odds_ratio"] == pytest.approx(ratio, nan_ok=True))
    assert frame["fdr"].to_numpy() == pytest.approx(by_hand(frame["p"].to_numpy())) and frame["fdr"].is_monotonic_increasing


def test_isoforms_are_not_counted_as_evidence():
    "A label that all eight isoforms of one gene have: by transcripts it is significant, by genes it cannot be."
    gene = np.concatenate([np.zeros(8, int), 1 + np.arange(60)])
    obs = pd.DataFrame({"gene_id": gene.astype(str), "biotype": np.where(gene == 0, "odd", np.where(gene % 2, "even", "odd"))}, index=[str(i) for i in range(68)])
    wrong, right = (enrichment(obs, range(8), "biotype", unit=unit).set_index("value").loc["odd"] for unit in ("transcript", "gene"))
    assert wrong["p"] < 0.05 and wrong["of_selection"] == 8
    assert right["p"] > 0.4 and right["of_selection"] == 1 and right["of_rest"] == 60


def test_rare_categories_are_left_out_and_counted():
    adata = clouds()
    full, frame = (enrichment(adata, range(60), ["group", "cloud"], min_units=m) for m in (1, 3))
    assert frame.attrs["n_too_rare"] == 80 and set(frame["column"]) == {"cloud"} and len(full) == 84 and full.attrs["n_too_rare"] == 0
    assert enrichment(adata, range(60), "group").empty and frame["fdr"].min() < full.set_index("column").loc["cloud", "fdr"].min()


def test_columns_without_values_are_said():
    adata = clouds()
    adata.obs["nothing"], adata.obs["blank"], adata.obs["one_side"] = np.nan, "", ""
    adata.obs.loc[adata.obs.index[100:], "one_side"] = "x"
    adata.obs["number_one_side"] = np.where(np.arange(240) < 60, np.nan, 1.0)
    frame = enrichment(adata, range(60), ["nothing", "blank", "one_side", "number_one_side", "length_nt"])
    assert frame["column"].tolist()[0] == "length_nt" and frame.loc[0, "fdr"] == frame.loc[0, "p"]
    rest = frame.set_index("column").drop("length_nt")
    assert len(rest) == 4 and rest[["p", "fdr"]].isna().all(axis=None) and (rest["missing_selection"] == 20).all()
    assert rest["missing_rest"].to_dict() == {"nothing": 60, "blank": 60, "one_side": 13, "number_one_side": 0}


def test_constant_numbers_and_extreme_tables():
    adata = clouds()
    adata.obs["same"], adata.obs["chosen"] = 3, np.arange(240) < 60
    frame = enrichment(adata, range(60), ["same", "chosen"]).set_index(["column", "value"])
    assert frame.loc[("same", ""), "p"] == 1 and frame.loc[("same", ""), "auc"] == 0.5
    assert frame.loc[("chosen", "True"), "odds_ratio"] == np.inf and frame.loc[("chosen", "True"), "p"] < 1e-15 and frame.loc[("chosen", "False"), "odds_ratio"] == 0


def test_without_meaning_few_are_found():
    "Random selections of genes: p values of numbers are uniform, those of tables no smaller than uniform."
    adata, rng, found = clouds(), np.random.default_rng(0), []
    for _ in range(60):
        genes = rng.permutation(80)[:25]
        found.append(enrichment(adata, np.isin(np.arange(240) // 3, genes), ["length_nt", "species"]).set_index("column")["p"])
    numbers = np.array([p.loc["length_nt"] for p in found])
    assert stats.kstest(numbers, "uniform").pvalue > 0.01 and np.mean([p.loc["species"].iloc[0] < 0.05 for p in found]) < 0.12


def test_enrichment_refuses():
    adata = clouds()
    for arguments, options, kind, message in (
        (([],), {}, InputError, "selection is empty"), ((np.zeros(240, bool),), {}, InputError, "selection is empty"), ((range(240),), {}, InputError, "holds every gene of the background: there is nothing to compare it with.$"),
        ((range(0, 240, 3),), {}, InputError, "holds every gene of the background.*Count transcripts"), (([1],), {"background": [2, 3]}, InputError, "1 of 1 selected transcripts are not in the background"),
        (([240],), {}, InputError, "row numbers from 0 to 239"), (("N99",), {}, InputError, "no transcript or gene 'N99'. Did you mean"), (([0], "cloudy"), {}, InputError, "Did you mean 'cloud'"),
        (([0], []), {}, InputError, "no column to test"), (([0],), {"unit": "genes"}, ConfigError, "Did you mean 'gene'"), (([0],), {"alternative": "less"}, ConfigError, "alternative = 'less'"),
    ):
        with pytest.raises(kind, match=message):
            enrichment(adata, *arguments, **options)
    assert enrichment(adata, range(0, 240, 3), "coding", unit="transcript").attrs["n_selection"] == 80
    one = AnnData(adata.X[:3], obs=adata.obs[:3])
    with pytest.raises(InputError, match="every gene"):
        enrichment(one, [0])
    repeated = enrichment(adata, [0, 0, 1, 5], ["coding"])
    pd.testing.assert_frame_equal(repeated, enrichment(adata.obs, ["T0", "T1", "T5"], "coding"))


# ------------------------------------------------------------------------------------------------ divergence

def test_divergence_equals_a_loop():
    adata = clouds()
    rows_of = {gene: np.flatnonzero(adata.obs["gene_id"] == gene) for gene in pd.unique(adata.obs["gene_id"])}
    adata.obs.loc[adata.obs.index[rows_of["G5"][:2]], "gene_id"] = "alone"  # G5 keeps one transcript, "alone" has two
    adata = adata[np.random.default_rng(3).permutation(240)].copy()
    frame, X = isoform_divergence(adata), adata.X.astype(float)
    assert len(frame) == 80 and "G5" not in set(frame["gene_id"]) and frame["max_distance"].is_monotonic_decreasing
    for _, row in frame.iterrows():
        rows = np.flatnonzero(adata.obs["gene_id"] == row["gene_id"])
        distance = {(a, b): 1 - X[a] @ X[b] / np.linalg.norm(X[a]) / np.linalg.norm(X[b]) for a in rows for b in rows if a < b}
        assert row["n_transcripts"] == len(rows) and row["mean_distance"] == pytest.approx(np.mean(list(distance.values())), abs=1e-6)
        a, b = max(distance, key=distance.get)
        assert row["max_distance"] == pytest.approx(distance[a, b], abs=1e-6) and (row["row_a"], row["row_b"]) == (a, b)
        assert (row["transcript_a"], row["transcript_b"]) == tuple(adata.obs["transcript_id"].iloc[[a, b]])
        assert row["length_difference_nt"] == adata.obs["length_nt"].iloc[b] - adata.obs["length_nt"].iloc[a] and row["gene_name"] == adata.obs["gene_name"].iloc[a]


def test_percentile_is_against_strangers_of_like_length_and_species():
    "Vectors are a function of species and length, so strangers of like length stand at a known distance."
    rng = np.random.default_rng(0)
    n = 1200
    length = rng.permutation(np.repeat([500, 5000], n // 2))
    human = np.arange(n) % 4 < 2
    angle = np.where(human, 0, 2.0) + (length == 5000) * 0.8 + rng.uniform(0, 0.01, n)
    obs = pd.DataFrame({"gene_id": (np.arange(n) // 2).astype(str), "transcript_id": np.arange(n).astype(str), "species": np.where(human, "human", "mouse"), "length_nt": length}, index=[str(i) for i in range(n)])
    frame = isoform_divergence(AnnData(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32), obs=obs), n_random=500)
    assert (frame["n_random"] > 450).all()
    unlike = frame["length_difference_nt"] != 0
    assert 0.3 < unlike.mean() < 0.7 and frame["max_distance"][unlike].min() > 0.25 > 0.01 > frame["max_distance"][~unlike].max()
    for part in (frame[unlike], frame[~unlike]):  # isoforms here are as far apart as strangers are: percentiles are uniform
        assert part["percentile"].mean() == pytest.approx(50, abs=6) and stats.kstest(part["percentile"] / 100, "uniform").pvalue > 0.001


def test_divergence_of_few():
    adata = clouds()
    one = isoform_divergence(adata[:3].copy())
    assert len(one) == 1 and np.isnan(one.loc[0, "percentile"]) and one.loc[0, "n_random"] == 0
    with pytest.raises(InputError, match="No gene has two transcripts"):
        isoform_divergence(adata[::3].copy())
    with pytest.raises(InputError, match="No gene has two transcripts"):
        isoform_divergence(adata[:0].copy())
    with pytest.raises(InputError, match="no column 'species'"):
        isoform_divergence(AnnData(adata.X, obs=adata.obs.drop(columns="species")))
    pd.testing.assert_frame_equal(isoform_divergence(adata, seed=4), isoform_divergence(adata, seed=4))
    adata.obs["transcript_id"] = "same"
    assert len(isoform_divergence(adata)) == 80
