"""Embeddings of genes and of positions, each against the slow way."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.tracks import tracks_from_tokens
from isoclr.models.encoder import build_encoder, preset
from isoclr.probe.embed import embed
from isoclr.probe.levels import aggregate_genes, embed_positions, position_stride, principal_isoforms


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    simulation = simulate(folder / "genomes", SimulateConfig(n_families=8, seed=4), progress=False)
    sources = [SpeciesSource.from_dict(source) for source in simulation.sources]
    return build_store(folder / "store", sources, read_homology(simulation.homology, simulation.taxa), progress=False)


def made(obs: pd.DataFrame, X: np.ndarray):
    from anndata import AnnData

    return AnnData(X=X, obs=obs.set_axis([f"t{i}" for i in range(len(obs))]), uns={"isoclr": {"store": "s"}})


LABELS = ("PRINCIPAL:1", "PRINCIPAL:2", "PRINCIPAL:5", "ALTERNATIVE:1", "ALTERNATIVE:2", "MINOR", "")
row = st.tuples(st.integers(0, 4), st.sampled_from(LABELS), st.integers(-1, 3), st.integers(0, 3), st.integers(1, 3))


def slowly_chosen(obs: pd.DataFrame) -> list[int]:
    "One transcript a gene, by comparing them one after the other."
    chosen: dict[str, int] = {}
    order = [*LABELS[:5], "MINOR"]

    def better(a, b) -> bool:
        def key(i):
            label = obs.appris.iloc[i] or "MINOR"
            return -order.index(label), obs.cds_end.iloc[i] - obs.cds_start.iloc[i], obs.length_nt.iloc[i]

        return key(a) > key(b)

    for i, gene in enumerate(obs.gene_id):
        if gene not in chosen or better(i, chosen[gene]):
            chosen[gene] = i
    return list(chosen.values())


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=25), seed=st.integers(0, 99))
def test_genes_as_the_slow_way_makes_them(rows, seed):
    gene, appris, start, extra, tail = zip(*rows)
    start = np.array(start)
    end = np.where(start < 0, -1, start + 1 + np.array(extra))
    obs = pd.DataFrame({"gene_id": [f"s:g{g}" for g in gene], "transcript_id": [f"x{i}" for i in range(len(rows))], "appris": appris, "cds_start": start, "cds_end": end,
                        "length_nt": end + 1 + np.array(tail), "species": "s"})
    X = np.random.default_rng(seed).normal(size=(len(rows), 3)).astype(np.float32)
    chosen = slowly_chosen(obs)
    assert principal_isoforms(obs).tolist() == chosen
    principal, mean = aggregate_genes(made(obs, X), "principal"), aggregate_genes(made(obs, X))
    names = list(dict.fromkeys(obs.gene_id))
    assert principal.obs_names.tolist() == mean.obs_names.tolist() == names == mean.obs.gene_id.tolist()
    assert np.array_equal(principal.X, X[chosen]) and principal.obs.transcript_id.tolist() == obs.transcript_id.iloc[chosen].tolist()
    for name, values, n in zip(names, mean.X, mean.obs.n_transcripts):
        of_gene = X[(obs.gene_id == name).to_numpy()]
        assert n == len(of_gene) and np.allclose(values, of_gene.mean(0), atol=1e-6)
    assert mean.X.dtype == np.float32 and "transcript_id" not in mean.obs and dict(mean.uns["isoclr"]) == {"store": "s", "genes": "mean"}


def test_genes_of_a_backed_file(store, tmp_path):
    encoder = build_encoder("demo")
    kept = embed(store, encoder, dtype="float16", progress=False)
    backed = embed(store, encoder, dtype="float16", path=tmp_path / "e.h5ad", progress=False)
    for how in ("mean", "principal"):
        a, b = aggregate_genes(kept, how), aggregate_genes(backed, how)
        assert np.array_equal(a.X, b.X) and a.X.dtype == np.float16 and a.obs_names.tolist() == b.obs_names.tolist() and not b.isbacked
    assert aggregate_genes(kept).n_obs == store.transcripts.gene_id.nunique() < len(store)
    assert "transcript_id" in a.obs and "gene_id" in kept.obs and "n_transcripts" not in kept.obs


def test_genes_that_cannot_be_made(store):
    adata = embed(store, build_encoder("demo"), rows=[0, 1], progress=False)
    with pytest.raises(ConfigError, match="how = 'median'"):
        aggregate_genes(adata, "median")
    del adata.obs["gene_id"]
    with pytest.raises(InputError, match="obs lacks gene_id"):
        aggregate_genes(adata)


@pytest.mark.parametrize("name", ["demo", "dilated_extra_tiny", "saluki", "motif"])
def test_positions_are_those_of_a_transcript_alone(store, name):
    encoder = build_encoder(preset(name, motifs=16, dim=8) if name == "motif" else name).train()
    stride = {"demo": 64, "dilated_extra_tiny": 32, "saluki": 64, "motif": 1}[name]
    assert position_stride(encoder) == stride and encoder.training
    rows = [5, 0, 12, 7]
    for budget in (1, 4000, 10**6):
        windows = list(embed_positions(store, encoder, rows, budget, per_nucleotide=False))
        along = list(embed_positions(store, encoder, rows, budget))
        assert encoder.training and len(windows) == len(along) == 4
        for i, row in enumerate(rows):
            tokens = torch.as_tensor(np.array(store.tokens(row)))[None]
            with torch.no_grad():
                alone, lengths = encoder.eval().feature_map(tracks_from_tokens(tokens, 6), torch.tensor([tokens.shape[1]]))
            encoder.train()
            expected = alone[0, :, : int(lengths[0])].T.numpy()
            assert windows[i].shape == expected.shape and windows[i].dtype == np.float32 and np.abs(windows[i] - expected).max() < 1e-5
            assert len(along[i]) == tokens.shape[1]
            for nucleotide in (0, stride, len(along[i]) // 2, len(along[i]) - 1):
                assert np.array_equal(along[i][nucleotide], windows[i][min(nucleotide // stride, len(expected) - 1)])


def test_a_mark_shows_where_it_stands():
    "A network that sees one position at a time: the row of a nucleotide knows its base."
    encoder = build_encoder(preset("motif", n_tracks=4, motifs=8, dim=4, kernel_size=1, threshold=0.0))
    (values,) = embed_positions(["ACGTTGCA"], encoder)
    assert values.shape == (8, 8) and np.array_equal(values, values[::-1]) and len(np.unique(values, axis=0)) > 1


def test_the_caller_is_left_in_peace_between_transcripts(store):
    encoder = build_encoder("demo").train()
    positions = embed_positions(store, encoder, [0, 1], token_budget=1)
    next(positions)
    assert encoder.training and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert len(list(positions)) == 1 and list(embed_positions(store, encoder, [])) == []


def test_positions_that_are_not_there(store):
    class Composition(torch.nn.Module):
        dim, n_tracks = 4, 4

        def forward(self, tracks, lengths):
            return tracks.sum(2) / lengths[:, None]

    with pytest.raises(InputError, match="Composition has no outputs along the transcript: it lacks feature_map"):
        next(embed_positions(store, Composition()))
    with pytest.raises(ConfigError, match="token_budget = 0"):
        next(embed_positions(store, build_encoder("demo"), token_budget=0))
    with pytest.raises(InputError, match="rows must be numbers"):
        next(embed_positions(store, build_encoder("demo"), rows=[-1]))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 20), max_size=12), budget=st.integers(1, 10_000))
def test_positions_in_any_order(store, rows, budget):
    encoder = build_encoder(preset("motif", motifs=2, dim=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(values) for values in embed_positions(store, encoder, rows, budget)] == store.transcripts.length_nt.iloc[rows].tolist()
