"""Projections: stored, seeded, computed once. UMAP compiles for ten seconds, so one test holds all that is asked of it."""
import subprocess
import sys
import warnings

import numpy as np
import pytest
from anndata import AnnData

from isoclr.config import ConfigError, InputError
from isoclr.latent.project import project


def clouds(n=60, d=12, seed=0):
    rng = np.random.default_rng(seed)
    return AnnData((5 * rng.normal(size=(3, d))[np.arange(n) % 3] + rng.normal(size=(n, d))).astype(np.float32))


def test_pca_equals_the_singular_vectors():
    adata = project(clouds(), "pca", n_components=4)
    centred = adata.X.astype(float) - adata.X.mean(0)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(Vt[np.arange(4), np.abs(Vt[:4]).argmax(1)])
    assert adata.obsm["X_pca"] == pytest.approx(U[:, :4] * s[:4] * signs, abs=1e-3)
    assert adata.uns["pca"]["variance_ratio"] == pytest.approx((s**2 / (s**2).sum())[:4], abs=1e-5)


def test_the_same_is_not_computed_twice_and_other_vectors_are():
    adata = project(clouds(), "pca")
    first = adata.obsm["X_pca"]
    assert project(adata, "pca").obsm["X_pca"] is first
    adata.X[0] += 1
    assert project(adata, "pca").obsm["X_pca"] is not first
    second = adata.obsm["X_pca"]
    assert project(adata, "pca", seed=1).obsm["X_pca"] is not second


def test_few_points_and_identical_points():
    assert project(clouds(2), "pca").obsm["X_pca"].shape == (2, 2)
    flat = project(AnnData(np.ones((5, 3), dtype=np.float32)), "pca")
    assert not flat.obsm["X_pca"].any() and not flat.uns["pca"]["variance_ratio"].any()


@pytest.mark.parametrize("n, message", [(0, "There are no transcripts"), (1, "There is one transcript")])
@pytest.mark.parametrize("method", ["pca", "umap"])
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
    with pytest.raises(InputError, match="at least 4"):
        project(clouds(3), "umap")


def test_umap_is_not_imported_before_it_is_needed():
    code = "import sys, isoclr.latent.project, isoclr.latent.draw; assert not {'umap', 'plotly', 'anndata', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_umap(tmp_path):
    adata = clouds(90)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        project(adata, "umap", seed=3)
    xy, cloud = adata.obsm["X_umap"], np.arange(90) % 3
    assert xy.shape == (90, 2) and np.isfinite(xy).all()
    nearest = ((xy[:, None] - xy) ** 2).sum(-1) + 1e9 * np.eye(90)
    assert (cloud[nearest.argmin(1)] == cloud).mean() > 0.95  # the clouds stay together
    again = project(clouds(90), "umap", seed=3)
    assert np.array_equal(again.obsm["X_umap"], xy) and again.uns["umap"]["made_from"] == adata.uns["umap"]["made_from"]
    assert not np.array_equal(project(clouds(90), "umap", seed=4).obsm["X_umap"], xy)
    assert adata.uns["umap"]["params"] == {"n_neighbors": 15, "min_dist": 0.1, "metric": "cosine", "n_components": 2, "seed": 3}
    for n in (4, 7, 12):
        assert np.isfinite(project(clouds(n), "umap").obsm["X_umap"]).all()

    import anndata

    adata.write_h5ad(tmp_path / "map.h5ad")
    read = anndata.read_h5ad(tmp_path / "map.h5ad")
    assert np.array_equal(read.obsm["X_umap"], xy) and dict(read.uns["umap"]["params"]) == adata.uns["umap"]["params"]
    kept = read.obsm["X_umap"]
    assert np.array_equal(project(read, "umap", seed=3).obsm["X_umap"], kept)
    assert read.uns["umap"]["made_from"] == adata.uns["umap"]["made_from"]
