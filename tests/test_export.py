"""Files for other tools hold what the embeddings hold."""
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isoclr.config import InputError
from isoclr.latent.export import to_embedding_atlas, to_tensorboard
from isoclr.latent.project import project


def embeddings(n=40, d=6):
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"transcript_id": [f"t{i}" for i in range(n)], "gene_name": ["a\tb" if i == 3 else f"g{i}" for i in range(n)],
                        "half_life": np.where(np.arange(n) == 2, np.nan, rng.normal(size=n))}, index=[f"x|t{i}" for i in range(n)])
    return project(AnnData(rng.normal(size=(n, d)).astype(np.float32), obs), "pca")


def test_atlas_table_has_coordinates_labels_and_exact_neighbours(tmp_path):
    adata = embeddings()
    to_embedding_atlas(adata, tmp_path / "map.parquet", "pca", 5)
    table = pd.read_parquet(tmp_path / "map.parquet")
    assert np.allclose(table[["projection_x", "projection_y"]], adata.obsm["X_pca"][:, :2]) and table["transcript_id"].tolist() == adata.obs["transcript_id"].tolist()
    unit = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    for row, near in enumerate(table["neighbors"]):
        distance = 1 - unit @ unit[row]
        distance[row] = np.inf
        order = np.argsort(distance, kind="stable")[:5]
        assert set(near["ids"]) == set(order) and np.allclose(near["distances"], distance[near["ids"]], atol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_fewer_transcripts_than_neighbours(n, tmp_path):
    to_embedding_atlas(embeddings(n), tmp_path / "map.parquet", "pca", 15)
    assert pd.read_parquet(tmp_path / "map.parquet")["neighbors"].map(lambda near: len(near["ids"])).tolist() == [n - 1] * n


def test_projector_files(tmp_path):
    adata = embeddings()
    to_tensorboard(adata, tmp_path / "all")
    metadata = (tmp_path / "all/metadata.tsv").read_text().splitlines()
    assert metadata[0].split("\t") == ["name", "transcript_id", "gene_name", "half_life"] and len(metadata) == 41
    assert {line.count("\t") for line in metadata} == {3} and metadata[4].split("\t")[2] == "a b" and metadata[3].split("\t")[3] == ""
    assert np.allclose(np.loadtxt(tmp_path / "all/vectors.tsv", delimiter="\t"), adata.X, rtol=1e-5)
    config = (tmp_path / "all/projector_config.pbtxt").read_text()
    assert all(f'"{name}"' in config for name in ("vectors.tsv", "metadata.tsv"))
    to_tensorboard(adata, tmp_path / "names", [])
    assert (tmp_path / "names/metadata.tsv").read_text().splitlines() == adata.obs_names.tolist(), "one column has no header"


def test_refusals(tmp_path):
    adata = embeddings()
    with pytest.raises(InputError, match="no projection 'umap'"):
        to_embedding_atlas(adata, tmp_path / "map.parquet")
    with pytest.raises(InputError, match="Did you mean 'half_life'"):
        to_tensorboard(adata, tmp_path / "p", ["halflife"])
    to_tensorboard(adata, tmp_path / "p")
    with pytest.raises(InputError, match="is there already"):
        to_tensorboard(adata, tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
