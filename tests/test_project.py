"""Projections: stored, seeded, computed once. UMAP has tests of its own (test_umap)."""
import subprocess
import sys
import warnings

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.latent import project as room
from isoclr.latent.project import METHODS, project, project_vectors, projection_key, vectors


def clouds(n=60, d=12, seed=0):
    rng = np.random.default_rng(seed)
    return AnnData((5 * rng.normal(size=(3, d))[np.arange(n) % 3] + rng.normal(size=(n, d))).astype(np.float32))


def own_cloud(xy):
    "Share of points whose nearest is of their own cloud."
    nearest = ((xy[:, None] - xy) ** 2).sum(-1) + 1e9 * np.eye(len(xy))
    cloud = np.arange(len(xy)) % 3
    return (cloud[nearest.argmin(1)] == cloud).mean()


@pytest.fixture
def counted(monkeypatch):
    "How often each method computes."
    calls = dict.fromkeys(METHODS, 0)

    def counting(name, compute):
        def counted(*arguments, **named):
            calls[name] += 1
            return compute(*arguments, **named)

        return counted

    for name, (compute, *rest) in list(METHODS.items()):
        monkeypatch.setitem(METHODS, name, (counting(name, compute), *rest))
    return calls


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 1000))
def test_pca_equals_the_singular_vectors(n, d, seed):
    adata = AnnData(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))
    project(adata, "pca", n_components=3, cache=False)
    k = min(3, n - 1, d)
    centred = adata.X.astype(float) - adata.X.mean(0, dtype=float)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(Vt[np.arange(k), np.abs(Vt[:k]).argmax(1)])
    gaps = np.abs(np.diff(np.r_[np.inf, s, 0])[: k]).min() if k else 0
    if gaps > 0.1 and (k == len(s) or s[k - 1] - s[k] > 0.1):  # else axes may turn, or a sign hang by a thread
        found, wanted = adata.obsm["X_pca"][:, :k], U[:, :k] * s[:k] * signs
        assert np.abs(found) == pytest.approx(np.abs(wanted), abs=1e-3)
        largest = np.sort(np.abs(Vt[:k]), 1)
        clear = (largest[:, -1] - largest[:, -2] > 0.01) if d > 1 else np.ones(k, bool)
        assert found[:, clear] == pytest.approx(wanted[:, clear], abs=1e-3)
    assert adata.uns["pca"]["variance_ratio"][:k] == pytest.approx((s**2 / (s**2).sum())[:k], abs=1e-5)


def test_the_same_is_not_computed_twice_and_other_vectors_are():
    adata = project(clouds(), "pca")
    first = adata.obsm["X_pca"]
    assert project(adata, "pca").obsm["X_pca"] is first
    adata.X[0] += 1
    assert project(adata, "pca").obsm["X_pca"] is not first
    second = adata.obsm["X_pca"]
    assert project(adata, "pca", seed=1).obsm["X_pca"] is not second


def test_cached_on_disk_by_content(tmp_path, counted):
    first = project(clouds(), "pca", cache=tmp_path)
    again = project(clouds(), "pca", cache=tmp_path)
    assert counted["pca"] == 1 and np.array_equal(first.obsm["X_pca"], again.obsm["X_pca"])
    assert np.array_equal(first.uns["pca"].pop("variance_ratio"), again.uns["pca"].pop("variance_ratio")) and first.uns["pca"] == again.uns["pca"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    other = clouds()
    other.X[17, 3] = np.nextafter(other.X[17, 3], np.float32(np.inf))  # the least that can change
    project(other, "pca", cache=tmp_path)
    assert counted["pca"] == 2 and other.uns["pca"]["made_from"] != first.uns["pca"]["made_from"]
    project(clouds(), "pca", cache=tmp_path, n_components=3)
    project(clouds(), "pca", cache=tmp_path, seed=1)
    assert counted["pca"] == 4 and len(list(tmp_path.iterdir())) == 4
    project(clouds(), "pca", cache=False)
    assert counted["pca"] == 5 and len(list(tmp_path.iterdir())) == 4


def test_a_newer_library_draws_its_own_map(tmp_path, counted, monkeypatch):
    project(clouds(), "pca", cache=tmp_path)
    monkeypatch.setattr(room, "version", lambda name: "99.0")
    assert project(clouds(), "pca", cache=tmp_path).uns["pca"]["made_with"] == "scikit-learn 99.0" and counted["pca"] == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other", "pickled", "folder"])
def test_a_damaged_file_is_computed_again(tmp_path, counted, damage):
    wanted = project(clouds(), "pca", cache=tmp_path).obsm["X_pca"]
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "other":
        np.savez(path, coordinates=np.zeros((7, 2), np.float32))
    elif damage == "pickled":
        np.savez(path, coordinates=np.array([{}, []], dtype=object))
    else:
        path.unlink()
        (path / "inside").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if damage == "folder" else "error")
        assert np.array_equal(project(clouds(), "pca", cache=tmp_path).obsm["X_pca"], wanted) and counted["pca"] == 2
    if damage != "folder":
        project(clouds(), "pca", cache=tmp_path)
        assert counted["pca"] == 2  # and replaced


def test_a_folder_that_cannot_be_written_to_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="not kept on disk"):
        adata = project(clouds(), "pca", cache=tmp_path / "file")
    assert adata.obsm["X_pca"].shape == (60, 12)


def test_the_default_folder_keeps_what_took_long(tmp_path, monkeypatch, counted):
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path))
    monkeypatch.setattr(room, "WORTH_KEEPING", 1e9)
    project(clouds(), "pca")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(room, "WORTH_KEEPING", 0.0)
    project(clouds(), "pca")
    project(clouds(), "pca")
    assert counted["pca"] == 2 and len(list((tmp_path / "projections").iterdir())) == 1


def test_another_representation_stands_beside():
    adata = clouds()
    adata.obsm["other"] = np.random.default_rng(4).normal(size=(60, 5)).astype(np.float32)
    project(project(adata, "pca", cache=False), "pca", of="other", cache=False)
    alone = project(AnnData(adata.obsm["other"]), "pca", cache=False)
    assert np.array_equal(adata.obsm["X_pca_other"], alone.obsm["X_pca"]) and adata.obsm["X_pca"].shape == (60, 12)
    assert adata.uns["pca_other"]["made_from"] == alone.uns["pca"]["made_from"] != adata.uns["pca"]["made_from"]
    assert projection_key("pca", "other") == "pca_other" and projection_key("pca") == "pca"
    assert np.array_equal(project(adata, "pca", of="other", key="second", cache=False).obsm["X_second"], alone.obsm["X_pca"])
    with pytest.raises(InputError, match="no vectors 'othr'. Did you mean 'other'"):
        project(adata, "pca", of="othr")
    for key, of in (("isoclr", "X"), ("pca", "X_pca")):
        with pytest.raises(ConfigError, match="would replace"):
            project(adata, "pca", key=key, of=of)


def test_what_X_may_be(tmp_path):
    import scipy.sparse

    adata = clouds()
    wanted = project(adata, "pca", cache=False).obsm["X_pca"]
    adata.write_h5ad(tmp_path / "map.h5ad")
    backed = read_h5ad(tmp_path / "map.h5ad", backed="r")
    assert np.array_equal(vectors(backed), adata.X)
    assert np.array_equal(project(backed, "pca", cache=False, key="again").obsm["X_again"], wanted)
    sparse = project(AnnData(scipy.sparse.csr_matrix(adata.X)), "pca", cache=False)
    assert np.array_equal(sparse.obsm["X_pca"], wanted)
    half = project(adata[:30].copy(), "pca", cache=False)  # carries the projection of all, and gets its own
    assert not np.allclose(half.obsm["X_pca"], wanted[:30])
    with pytest.raises(InputError, match="X is empty"):
        project(AnnData(obs=adata.obs), "pca")


def test_few_points_and_identical_points():
    assert project(clouds(2), "pca").obsm["X_pca"].shape == (2, 2)
    flat = project(AnnData(np.ones((5, 3), dtype=np.float32)), "pca")
    assert not flat.obsm["X_pca"].any() and not flat.uns["pca"]["variance_ratio"].any()


@pytest.mark.parametrize("n, message", [(0, "There are no transcripts"), (1, "There is one transcript")])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_project(n, message, method):
    with pytest.raises(InputError, match=message):
        project(clouds(60)[:n].copy(), method)


def test_refusals():
    with pytest.raises(ConfigError, match="no projection 'umpa'. Did you mean 'umap'"):
        project(clouds(), "umpa")
    with pytest.raises(ConfigError, match="umap has no parameter 'n_neighbor'. Did you mean 'n_neighbors'"):
        project(clouds(), "umap", n_neighbor=5)
    adata = clouds()
    adata.X[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 60 vectors are not finite"):
        project(adata, "pca")
    for method in ("umap", "tsne"):
        with pytest.raises(InputError, match="at least 4"):
            project(clouds(3), method)


@pytest.mark.parametrize(
    "method, wrong",
    [("umap", {"n_neighbors": 1}), ("umap", {"n_neighbors": 2.5}), ("umap", {"metric": 3}), ("umap", {"min_dist": float("nan")}), ("umap", {"min_dist": -1}),
     ("pca", {"n_components": 0}), ("tsne", {"perplexity": "30"}), ("tsne", {"n_components": True}), ("pca", {"seed": -1}), ("pca", {"seed": "0"})],
)  # fmt: skip
def test_wrong_settings(method, wrong):
    with pytest.raises(ConfigError, match=f"{method}: {next(iter(wrong))} = "):
        project(clouds(), method, **wrong)


def test_numbers_of_numpy_are_numbers():
    adata = project(clouds(), "pca", n_components=np.int64(3), seed=np.int64(0), cache=False)
    assert adata.uns["pca"]["made_from"] == project(clouds(), "pca", n_components=3, cache=False).uns["pca"]["made_from"]


def test_tsne():
    adata = project(clouds(90), "tsne", seed=3, cache=False)
    xy = adata.obsm["X_tsne"]
    assert xy.shape == (90, 2) and xy.dtype == np.float32 and own_cloud(xy) > 0.95
    assert adata.uns["tsne"]["params"] == {"perplexity": 30.0, "metric": "cosine", "n_components": 2, "seed": 3} and adata.uns["tsne"]["kl_divergence"] > 0
    again = project(clouds(90), "tsne", seed=3, cache=False)
    assert np.array_equal(again.obsm["X_tsne"], xy)
    assert not np.array_equal(project(clouds(90), "tsne", cache=False, perplexity=10).obsm["X_tsne"], xy)
    for n, d in ((4, 12), (7, 12), (20, 1)):
        few = project(clouds(n, d), "tsne", cache=False).obsm["X_tsne"]
        assert few.shape == (n, 2) and np.isfinite(few).all()
    flat = project(AnnData(np.ones((9, 3), np.float32)), "tsne", cache=False)
    assert np.isfinite(flat.obsm["X_tsne"]).all()
    free = project(clouds(90), "tsne", seed=None, cache=False)
    assert "seed" not in free.uns["tsne"]["params"] and own_cloud(free.obsm["X_tsne"]) > 0.95


def test_tsne_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    X = clouds(90).X
    start = PCA(2, svd_solver="full").fit(X)
    near = start.transform(X) * np.sign(start.components_[[0, 1], np.abs(start.components_).argmax(1)])
    theirs = TSNE(2, perplexity=20, metric="cosine", init=(near / near[:, 0].std() * 1e-4).astype(np.float32), random_state=5).fit(X)
    found, record = project_vectors(X, "tsne", 5, perplexity=20, cache=False)
    assert own_cloud(found) == own_cloud(theirs.embedding_) == 1
    assert 0 < record["kl_divergence"] <= 1.05 * theirs.kl_divergence_  # the less the better; it was 0.92 of theirs with scikit-learn of Python 3.12


def test_where_it_begins_is_part_of_the_content(tmp_path, counted):
    X, start = clouds(30).X, np.random.default_rng(1).normal(size=(30, 2))
    first = project_vectors(X, "tsne", init=start, cache=tmp_path)[1]["made_from"]
    assert project_vectors(X, "tsne", init=start, cache=tmp_path)[1]["made_from"] == first and counted["tsne"] == 1
    assert project_vectors(X, "tsne", init=start + 1, cache=tmp_path)[1]["made_from"] != first
    assert project_vectors(X, "tsne", cache=tmp_path)[1]["made_from"] != first and counted["tsne"] == 3
    for wrong in (start[:5], start[:, :1], np.full((30, 2), np.nan)):
        with pytest.raises(InputError, match="init must be"):
            project_vectors(X, "tsne", init=wrong)
    with pytest.raises(InputError, match="not of the shape"):
        project_vectors(X[0], "pca")


def test_umap_is_not_imported_before_it_is_needed():
    code = "import sys, isoclr.latent.project, isoclr.latent.draw; assert not {'umap', 'plotly', 'anndata', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
