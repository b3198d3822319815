"""Embeddings do not depend on how they were computed, and travel as plain .h5ad."""
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError, IsoclrError
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.tracks import tracks_from_tokens
from isoclr.models.encoder import build_encoder, preset
from isoclr.probe.baselines import baseline_representations
from isoclr.probe.embed import embed, observations, open_embeddings, save_embeddings, weights_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    simulation = simulate(folder / "genomes", SimulateConfig(n_families=8, seed=3), progress=False)
    sources = [SpeciesSource.from_dict(source) for source in simulation.sources]
    return build_store(folder / "store", sources, read_homology(simulation.homology, simulation.taxa), progress=False)


@pytest.fixture(scope="module")
def encoder():
    "With running statistics that differ from those of any batch, so that a forgotten eval() shows."
    encoder = build_encoder("demo", seed=5)
    with torch.no_grad():
        encoder(torch.rand(8, 6, 700), torch.full((8,), 700))
    return encoder.eval()


@pytest.fixture(scope="module")
def one_by_one(store, encoder):
    "The slow way: every transcript alone."
    with torch.no_grad():
        tokens = [torch.as_tensor(np.array(store.tokens(i)))[None] for i in range(len(store))]
        return np.concatenate([encoder(tracks_from_tokens(t, 6), torch.tensor([t.shape[1]])).numpy() for t in tokens])


@pytest.mark.parametrize("token_budget", [1, 3000, 50_000, 10**9])
def test_embeddings_do_not_depend_on_the_batch(store, encoder, one_by_one, token_budget):
    X = embed(store, encoder, token_budget=token_budget, progress=False).X
    assert X.dtype == np.float32 and np.abs(X - one_by_one).max() < 1e-5
    assert one_by_one.std(0).max() > 1e-3  # it would be easy to agree on a constant


def test_rows_in_any_order(store, encoder, one_by_one):
    rows = np.random.default_rng(0).permutation(len(store))[:20]
    adata = embed(store, encoder, rows=rows, progress=False)
    assert np.abs(adata.X - one_by_one[rows]).max() < 1e-5
    assert adata.obs.transcript_id.tolist() == store.transcripts.transcript_id.iloc[rows].tolist()
    mask = np.zeros(len(store), dtype=bool)
    mask[[3, 7]] = True
    assert np.abs(embed(store, encoder, rows=mask, progress=False).X - one_by_one[[3, 7]]).max() < 1e-5
    assert embed(store, encoder, rows=[], progress=False).shape == (0, encoder.dim)


def test_modes_and_weights_stay_as_they_were(store):
    encoder = build_encoder("demo").train()
    frozen = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv1d))
    frozen.eval()
    before, modes = weights_id(encoder), [module.training for module in encoder.modules()]
    embed(store, encoder, rows=[0, 1], progress=False)
    assert [module.training for module in encoder.modules()] == modes and not all(modes) and weights_id(encoder) == before
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_modes_are_restored_after_an_error(store, encoder):
    training = build_encoder("demo").train()
    with torch.no_grad():
        next(training.parameters()).fill_(float("nan"))
    with pytest.raises(IsoclrError, match=r"2 of 2 embeddings are not finite, the first that of alpha\|"):
        embed(store, training, rows=[0, 1], progress=False)
    assert training.training


def test_four_tracks(store):
    encoder = build_encoder(preset("demo", n_tracks=4))
    assert np.isfinite(embed(store, encoder, rows=range(3), progress=False).X).all()


@pytest.mark.parametrize("rows", [[-1], [10**6], [0.5], [[0, 1]], [True, False]])
def test_rows_that_the_store_lacks(store, encoder, rows):
    with pytest.raises(InputError, match="rows must be numbers from 0 to"):
        embed(store, encoder, rows=rows, progress=False)


def test_impossible_budget(store, encoder):
    with pytest.raises(ConfigError, match="token_budget = 0"):
        embed(store, encoder, token_budget=0, progress=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), budget=st.integers(1, 20_000))
def test_batches_hold_each_transcript_once_and_keep_the_budget(store, data, budget):
    rows = np.array(data.draw(st.lists(st.integers(0, len(store) - 1), max_size=60)), int)
    lengths = store.transcripts.length_nt.to_numpy()[rows]
    seen = []
    for take, tokens, of_batch in store.batches(rows, budget):
        assert tokens.size <= budget or len(take) == 1
        assert (of_batch == lengths[take]).all() and tokens.shape[1] == of_batch.max()
        assert all((line[:length] == store.tokens(row)).all() for line, length, row in zip(tokens, of_batch, rows[take]))
        seen += take.tolist()
    assert sorted(seen) == list(range(len(rows)))
    assert lengths[seen].tolist() == sorted(lengths.tolist(), reverse=True)


def test_weights_id_sees_every_number():
    encoder = build_encoder("demo")
    first = weights_id(encoder)
    assert first == weights_id(build_encoder("demo")) != weights_id(build_encoder("demo", seed=1))
    with torch.no_grad():
        list(encoder.buffers())[0].view(-1)[0] += 1
    assert weights_id(encoder) != first


def test_obs_is_unique_and_plain():
    table = pd.DataFrame({
        "transcript_id": ["NM_1", "NM_1", "NM_1"], "species": ["human", "human", "mouse"], "gene_name": ["A", None, "B"],
        "exon_starts": [np.array([0, 5])] * 3, "exon_ends": [np.array([2, 9])] * 3, "length_nt": [6, 6, 6], "offset": [0, 6, 12],
    })
    obs = observations(table)
    assert obs.index.tolist() == ["human|NM_1", "human|NM_1|2", "mouse|NM_1"] and obs.gene_name.tolist() == ["A", "", "B"]
    assert obs.n_exons.tolist() == [2, 2, 2] and not {"exon_starts", "exon_ends", "offset"} & set(obs.columns)
    assert "exon_starts" in table  # the caller's table is left alone


def test_h5ad_opens_without_isoclr(store, encoder, tmp_path):
    adata = embed(store, encoder, progress=False)
    adata.obsm["X_pca"] = adata.X[:, :2]
    save_embeddings(adata, tmp_path / "e.h5ad")
    assert [p.name for p in tmp_path.iterdir()] == ["e.h5ad"]
    code = ("import sys, anndata; a = anndata.read_h5ad(sys.argv[1]); assert not any(m.startswith('isoclr') for m in sys.modules); "
            "print(a.shape, a.obs_names[0], a.uns['isoclr']['store'], a.obs['length_nt'].sum(), a.obs['group'].iloc[-1])")
    printed = subprocess.run([sys.executable, "-c", code, tmp_path / "e.h5ad"], capture_output=True, text=True, check=True).stdout.split()
    table = store.transcripts
    assert printed[2:] == [f"alpha|{table.transcript_id[0]}", store.content_hash, str(table.length_nt.sum()), table.group.iloc[-1]]
    again = open_embeddings(tmp_path / "e.h5ad")
    assert np.array_equal(again.X, adata.X) and again.obs_names.is_unique
    made_from = {"store": store.content_hash, "encoder": encoder.config.config_id, "weights": weights_id(encoder), "n_tracks": 6}
    assert dict(again.uns["isoclr"]) == made_from
    for column in adata.obs:
        assert again.obs[column].tolist() == adata.obs[column].tolist()


def test_what_is_not_embeddings_is_refused(tmp_path):
    from anndata import AnnData

    with pytest.raises(InputError, match="does not exist"):
        open_embeddings(tmp_path / "nothing.h5ad")
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(InputError, match="not an .h5ad"):
        open_embeddings(tmp_path / "text.h5ad")
    AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match=r"uns\['isoclr'\] is missing"):
        open_embeddings(tmp_path / "other.h5ad")


def test_baselines_are_aligned_and_need_no_labels(store):
    found = baseline_representations(store, preset("demo"), untrained_seeds=(4, 5), progress=False)
    assert list(found) == ["untrained", "k-mer", "features"]
    for seed, draw in zip((4, 5), found["untrained"], strict=True):
        assert np.array_equal(draw, embed(store, build_encoder("demo", seed=seed), progress=False).X)
    assert found["k-mer"].shape == (len(store), 1024) and found["k-mer"].sum(1) == pytest.approx(np.ones(len(store)), abs=1e-4)
    assert np.isfinite(found["features"]).all() and np.abs(found["features"].mean(0)).max() < 1e-4
