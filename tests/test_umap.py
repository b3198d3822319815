"""What umap-learn and pynndescent compute. They compile for a minute in each process that calls them: here, in one."""
import subprocess
import sys
import warnings

import numpy as np
import pytest
from anndata import read_h5ad
from test_align import checkpoints
from test_project import clouds, own_cloud

from isoclr.latent.align import checkpoint_maps, procrustes
from isoclr.latent.neighbors import nearest_rows
from isoclr.latent.project import project, project_vectors


def test_umap(tmp_path):
    adata = clouds(90)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        project(adata, "umap", seed=3, cache=tmp_path / "cache")
    xy = adata.obsm["X_umap"]
    assert xy.shape == (90, 2) and np.isfinite(xy).all() and own_cloud(xy) > 0.95  # the clouds stay together
    again = project(clouds(90), "umap", seed=3, cache=False)
    assert np.array_equal(again.obsm["X_umap"], xy) and again.uns["umap"]["made_from"] == adata.uns["umap"]["made_from"]
    assert not np.array_equal(project(clouds(90), "umap", seed=4, cache=False).obsm["X_umap"], xy)
    assert adata.uns["umap"]["params"] == {"n_neighbors": 15, "min_dist": 0.1, "metric": "cosine", "n_components": 2, "seed": 3}
    for n in (4, 7, 12):
        assert np.isfinite(project(clouds(n), "umap", cache=False).obsm["X_umap"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        free = project(clouds(90), "umap", seed=None, cache=False)
    assert "seed" not in free.uns["umap"]["params"] and own_cloud(free.obsm["X_umap"]) > 0.95

    import umap  # called directly, the same numbers

    direct = umap.UMAP(metric="cosine", random_state=3, n_jobs=1).fit_transform(clouds(90).X)
    assert np.array_equal(direct, xy)
    for sign in (1, -1):  # begun from the map, or from its mirror image, it stays there
        begun = project_vectors(clouds(90).X, "umap", seed=4, init=sign * xy, cache=False)[0]
        assert sign * np.corrcoef(begun[:, 0], xy[:, 0])[0, 1] > 0.9 and sign * np.corrcoef(begun[:, 1], xy[:, 1])[0, 1] > 0.9
    line = project_vectors(clouds(90).X, "umap", init=np.c_[np.arange(90), np.zeros(90)], cache=False)[0]
    assert np.isfinite(line).all() and own_cloud(line) > 0.95

    for one in (adata, free):
        one.write_h5ad(tmp_path / "map.h5ad")
        read = read_h5ad(tmp_path / "map.h5ad")
        assert dict(read.uns["umap"]["params"]) == one.uns["umap"]["params"] and read.uns["umap"]["made_from"] == one.uns["umap"]["made_from"]
        kept = read.obsm["X_umap"]
        assert np.array_equal(kept, one.obsm["X_umap"])
        assert np.array_equal(project(read, "umap", seed=3 if one is adata else None, cache=False).obsm["X_umap"], kept)

    # another process finds it on disk, and does not even import umap
    np.save(tmp_path / "X.npy", clouds(90).X)
    code = """if True:
        import sys
        import numpy as np
        from anndata import AnnData
        from isoclr.latent.project import project
        adata = AnnData(np.load(sys.argv[1]))
        project(adata, "umap", seed=3, cache=sys.argv[2])
        assert "umap" not in sys.modules
        np.save(sys.argv[3], adata.obsm["X_umap"])
    """
    subprocess.run([sys.executable, "-c", code, tmp_path / "X.npy", tmp_path / "cache", tmp_path / "found.npy"], check=True)
    assert np.array_equal(np.load(tmp_path / "found.npy"), xy)


def test_umap_of_checkpoints():
    "From noise to clouds: the map follows, and once the clouds are there they stay where they are."
    steps = checkpoints()
    film = checkpoint_maps({**steps, 40: steps[30].copy()}, "umap", cache=False)
    assert film.xy.shape == (5, 90, 2) and film.explained[1] < 0.5 and film.explained[4] > 0.9
    assert all(own_cloud(xy) > 0.95 for xy in film.xy[1:])
    one_by_one = [project(steps[step], "umap", seed, cache=False).obsm["X_umap"] for seed, step in ((0, 20), (1, 30))]
    assert film.explained[3] > procrustes(*one_by_one).explained


@pytest.mark.slow
def test_pynndescent_finds_what_is_there():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(60, 24))[np.arange(1500) % 60] + 0.5 * rng.normal(size=(1500, 24))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found, similarity, how = nearest_rows(X, np.arange(1500), 10, exact=False)
    assert how["recall"] > 0.95 and (np.diff(similarity, axis=1) <= 0).all() and (found != np.arange(1500)[:, None]).all()
    again, _, _ = nearest_rows(X, np.arange(1500), 10, exact=False)
    assert (found == again).all()
