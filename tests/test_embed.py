"""Embeddings do not depend on how they were computed, and travel as plain .h5ad."""
import multiprocessing
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

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
from isoclr.probe.embed import _shards, embed, fitting_budget, observations, open_embeddings, padding_share, precision_on, save_embeddings, weights_id


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
    assert store.transcripts.length_nt.max() > 1000  # from there on batches end at a multiple of 64


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
    with pytest.warns(UserWarning, match=r"The encoder reads 4 tracks \(A C G T\): where the CDS and the exons of 3 of 3 transcripts lie does not count"):
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
    made_from = {"store": store.content_hash, "encoder": encoder.config.config_id, "weights": weights_id(encoder), "n_tracks": 6, "precision": "32-true"}
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


class Composition(torch.nn.Module):
    "An encoder of somebody else: shares of A, C, G and T."

    dim, n_tracks = 4, 4

    def forward(self, tracks, lengths):
        return tracks.sum(2) / lengths[:, None]


class LengthAndMode(torch.nn.Module):
    "Tells whether it was evaluated without gradients, and how long the transcript is."

    dim, n_tracks = 3, 6

    def forward(self, tracks, lengths):
        return torch.stack([lengths.float(), torch.full(lengths.shape, float(self.training)), torch.full(lengths.shape, float(torch.is_inference_mode_enabled()))], 1)


def test_an_encoder_of_somebody_else(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = embed(store, Composition(), progress=False)
    for row in range(len(store)):
        assert np.allclose(adata.X[row], [store.sequence(row).count(base) / len(store.sequence(row)) for base in "ACGT"], atol=1e-6)
    assert adata.uns["isoclr"]["encoder"] == "Composition" and adata.uns["isoclr"]["n_tracks"] == 4
    told = embed(store, LengthAndMode().train(), progress=False).X
    assert told.tolist() == [[length, 0, 1] for length in store.transcripts.length_nt]


class NoDim(torch.nn.Module):
    n_tracks = 6


class WrongShape(Composition):
    def forward(self, tracks, lengths):
        return tracks


@pytest.mark.parametrize("wrong, message", [
    (lambda tracks, lengths: tracks, "a function is no encoder"), (NoDim(), "NoDim does not say its dim. An encoder is a torch.nn.Module"),
    (build_encoder(preset("demo", n_tracks=5)), "Encoder reads 5 tracks. A store gives 6"), (WrongShape(), r"WrongShape gave \(\d+, 4, \d+\) for \d+ transcripts, not \(B, dim\)"),
])
@pytest.mark.filterwarnings("ignore:The encoder reads 4")
def test_what_is_no_encoder_is_refused(store, wrong, message):
    with pytest.raises(InputError, match=message):
        embed(store, wrong, progress=False)


@pytest.mark.parametrize("settings, message", [
    ({"dtype": "bfloat16"}, "dtype = 'bfloat16': give"), ({"precision": "32-tru"}, "precision = '32-tru'. Did you mean '32-true'"), ({"executor": ThreadPoolExecutor(1), "shards": 0}, "shards = 0"),
    ({"executor": ThreadPoolExecutor(1), "token_budget": 0}, "token_budget = 0"),
])
def test_settings_that_do_not_exist(store, encoder, settings, message):
    with pytest.raises(ConfigError, match=message):
        embed(store, encoder, progress=False, **settings)


def test_half_precision(store, encoder, one_by_one):
    half = embed(store, encoder, dtype="float16", progress=False).X
    assert half.dtype == np.float16 and np.abs(half - one_by_one).max() <= 2**-11 * np.abs(one_by_one).max() + 1e-5
    assert not np.array_equal(half.astype(np.float32), one_by_one)
    rough = embed(store, encoder, precision="bf16-mixed", progress=False)
    assert rough.uns["isoclr"]["precision"] == "bf16-mixed" and rough.X.dtype == np.float32
    assert 1e-6 < np.abs(rough.X - one_by_one).max() < 0.02 * np.abs(one_by_one).max()
    assert precision_on("auto", torch.device("cpu")) == "32-true"


class Large(LengthAndMode):
    def forward(self, tracks, lengths):
        return super().forward(tracks, lengths) * 100


def test_what_half_precision_cannot_hold(store):
    n = int((store.transcripts.length_nt * 100 > 65504).sum())
    assert 0 < n < len(store)
    with pytest.raises(IsoclrError, match=f'{n} of {len(store)} embeddings are not finite.*numbers are beyond 65,504: try dtype="float32"'):
        embed(store, Large(), dtype="float16", progress=False)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pooled", [False, True])
def test_written_while_embedding(store, encoder, tmp_path, dtype, pooled):
    rows, executor = np.random.default_rng(1).permutation(len(store))[:25], ThreadPoolExecutor(2) if pooled else None
    kept = embed(store, encoder, rows, token_budget=5000, dtype=dtype, progress=False)
    backed = embed(store, encoder, rows, token_budget=5000, dtype=dtype, path=tmp_path / "folder" / "e.h5ad", executor=executor, shards=4, progress=False)
    written = backed.X[:]
    assert backed.isbacked and backed.X.dtype == dtype
    if pooled:  # not bit by bit: in thousands of runs it differed once
        np.testing.assert_allclose(written, kept.X, rtol=0, atol=1e-6 if dtype == "float32" else 1e-3)
    else:
        np.testing.assert_array_equal(written, kept.X)
    backed.file.close()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["e.h5ad"]
    again = open_embeddings(tmp_path / "folder" / "e.h5ad")
    assert not again.isbacked and np.array_equal(again.X, written) and dict(again.uns["isoclr"]) == dict(kept.uns["isoclr"])
    assert again.var_names.equals(kept.var_names) and again.obs_names.equals(kept.obs_names) and again.obs.group.tolist() == kept.obs.group.tolist()
    left = open_embeddings(tmp_path / "folder" / "e.h5ad", backed=True)
    assert left.isbacked and np.array_equal(left.X[3:5], written[3:5])
    save_embeddings(left, tmp_path / "copy.h5ad")
    assert np.array_equal(open_embeddings(tmp_path / "copy.h5ad").X, written)


def test_a_file_is_there_entirely_or_not_at_all(store, encoder, tmp_path):
    broken = build_encoder("demo")
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    embed(store, encoder, [0], path=tmp_path / "e.h5ad", progress=False).file.close()
    before = (tmp_path / "e.h5ad").read_bytes()
    with pytest.raises(IsoclrError, match="not finite"):
        embed(store, broken, path=tmp_path / "e.h5ad", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["e.h5ad"] and (tmp_path / "e.h5ad").read_bytes() == before
    assert embed(store, encoder, [], path=tmp_path / "none.h5ad", progress=False).shape == (0, encoder.dim)


def test_a_large_file_stays_out_of_memory(tmp_path):
    "200 MB of embeddings of short sequences, in a process that may hold little more than it starts with."
    code = """
import resource, sys, torch
from isoclr.probe.embed import embed

class Wide(torch.nn.Module):
    dim, n_tracks = 25_000, 6
    def forward(self, tracks, lengths):
        return lengths[:, None].float().expand(-1, self.dim) + torch.arange(self.dim)

transcripts = ["ACGT" * (1 + i % 40) for i in range(2_000)]
embed(transcripts[:50], Wide(), token_budget=500, path=sys.argv[1] + "0", progress=False)
anonymous = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) // 1024
before, most = anonymous(), [0]
forward = Wide.forward
def watched(self, tracks, lengths):
    most[0] = max(most[0], anonymous())
    return forward(self, tracks, lengths)
Wide.forward = watched
adata = embed(transcripts, Wide(), token_budget=2_000, path=sys.argv[1], progress=False)
assert adata.X.shape == (2_000, 25_000) and adata.X[7, 9] == 4 * 8 + 9
print(most[0] - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "large.h5ad")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "large.h5ad").stat().st_size >= 200e6 and int(done.stdout) < 100  # MB


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_side_by_side_gives_the_same_numbers(store, encoder, kind):
    alone = embed(store, encoder, token_budget=20_000, progress=False)
    pool = ThreadPoolExecutor(3) if kind == "threads" else ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        for shards in (1, 3, 1000) if kind == "threads" else (2,):
            together = embed(store, encoder, token_budget=20_000, executor=pool, shards=shards, progress=False)
            assert np.array_equal(together.X, alone.X) and together.obs_names.equals(alone.obs_names)
        rows = [9, 2, 30]
        assert np.abs(embed(store, encoder, rows, executor=pool, progress=False).X - alone.X[rows]).max() < 1e-5
        assert embed(store, encoder, [], executor=pool, progress=False).shape == (0, encoder.dim)


def test_an_encoder_that_cannot_travel(store):
    class Local(LengthAndMode):
        pass

    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="Local cannot be sent to workers.*embed without an executor"):
        embed(store, Local(), executor=pool, progress=False)


def test_an_error_of_a_worker_is_raised_and_modes_are_restored(store):
    broken = build_encoder("demo").train()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(IsoclrError, match=f"{len(store)} of {len(store)} embeddings are not finite"):
            embed(store, broken, executor=pool, progress=False)
        assert broken.training
        with pytest.raises(InputError, match="WrongShape gave"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            embed(store, WrongShape(), executor=pool, progress=False)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=60), budget=st.integers(1, 2000), n_shards=st.integers(1, 70))
def test_shards_are_whole_batches(lengths, budget, n_shards):
    def batches(some):  # the slow way
        some, made = sorted(some, reverse=True), []
        while some:
            n = max(1, budget // some[0])
            made.append(some[:n])
            some = some[n:]
        return made

    lengths = np.array(lengths, int)
    shards = _shards(lengths, budget, n_shards)
    assert sorted(np.concatenate([*shards, []]).tolist()) == list(range(len(lengths)))
    assert len(shards) <= n_shards and all(len(shard) for shard in shards)
    assert [batch for shard in shards for batch in batches(lengths[shard].tolist())] == batches(lengths.tolist())
    held = sum(batch[0] * len(batch) for batch in batches(lengths.tolist()))
    assert padding_share(lengths, budget) == pytest.approx(1 - lengths.sum() / held if held else 0)
    fitted = fitting_budget(100 * lengths, 2**17)
    assert fitted in {2**power for power in range(14, 18)}
    assert fitted == 2**14 or padding_share(100 * lengths, fitted) <= 0.05
    assert fitted == 2**17 or padding_share(100 * lengths, 2 * fitted) > 0.05


def test_shards_are_of_about_equal_work():
    lengths = np.random.default_rng(0).integers(200, 12_000, 5000)
    work = [lengths[shard].sum() for shard in _shards(lengths, 50_000, 16)]
    assert len(work) == 16 and max(work) < 1.1 * min(work)


def test_sequences_in_place_of_a_store(store, encoder, one_by_one):
    rows = [7, 3, 11]
    table = store.to_frame(np.array(rows))
    from_table = embed(table, encoder, progress=False)
    assert np.abs(from_table.X - one_by_one[rows]).max() < 1e-5 and from_table.obs.transcript_id.tolist() == table.transcript_id.tolist()
    assert np.abs(embed(table, encoder, rows=[2], progress=False).X - one_by_one[[11]]).max() < 1e-5
    bare = embed(table.sequence.tolist(), encoder, progress=False)
    assert np.abs(bare.X - one_by_one[rows]).max() > 1e-4  # without the CDS
    assert np.array_equal(bare.X, embed(["".join(each).lower().replace("t", "u") for each in table.sequence], encoder, progress=False).X)
    with ThreadPoolExecutor(2) as pool:
        assert np.abs(embed(table, encoder, executor=pool, progress=False).X - one_by_one[rows]).max() < 1e-5
    for text in ("ACGU", store.path):
        with pytest.raises(InputError, match="is text. Open a store with"):
            embed(text, encoder, progress=False)


def test_what_is_unlike_training_is_said_once_with_a_count(store):
    encoder = build_encoder("demo")
    table = store.to_frame(np.arange(6)).assign(cds_start=[-1, -1, *store.transcripts.cds_start[2:6]], cds_end=[-1, -1, *store.transcripts.cds_end[2:6]])
    lengths = np.sort(table.length_nt)

    def said(record, transcripts=table, encoder=encoder):
        encoder.pretraining = record
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            embed(transcripts, encoder, progress=False)
        caught = [warning for warning in caught if warning.category is UserWarning]  # others are of libraries
        assert all(warning.filename == __file__ for warning in caught)
        return [str(warning.message) for warning in caught]

    assert said(None) == [] == said({}) == said({"longest_nt": None, "coding_share": None}) == said({"longest_nt": int(lengths[-1]), "coding_share": 0.8})
    assert said({"coding_share": 1.0}) == ["2 of 6 transcripts have no CDS; in the encoder's training 0.0% had none."]
    assert said({"coding_share": 1.0}, table.iloc[2:]) == []
    longer = f"1 of 6 transcripts are longer than any of the encoder's training: up to {lengths[-1]:,} nt, there {lengths[-2]:,}."
    assert said({"longest_nt": int(lengths[-2])}) == [longer] and len(said({"longest_nt": int(lengths[-2]), "coding_share": 1.0})) == 2
    four = build_encoder(preset("demo", n_tracks=4))
    plain = said({"coding_share": 1.0}, ["ACGT", "GG"], four)
    assert plain == [] and len(said({"coding_share": 1.0}, table, four)) == 1
    published = said(None, table, build_encoder(preset("demo", padding="published")))
    assert len(published) == 1 and "depend on what else is in a batch" in published[0]
