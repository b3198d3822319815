"""Label-free monitors against slow loops, numpy and symmetry; and whether a collapse is called one."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.store import TranscriptStore, write_store
from isoclr.models.encoder import EncoderConfig, build_encoder
from isoclr.pretrain.losses import contrastive_accuracy
from isoclr.pretrain.monitor import (METRICS, RETRIEVAL, Monitor, alignment, collapse, effective_rank, kmer_baselines, positive_pairs,
                                     sample_groups, transcript_vectors, uniformity)

TINY = EncoderConfig(filters=(8, 8), blocks=(1, 1), dilations=(1, 2), stem_pool=4)
SHAPES = given(n=st.integers(2, 20), d=st.integers(1, 12), chunk=st.integers(1, 7), seed=st.integers(0, 2**16))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TranscriptStore:
    folder = tmp_path_factory.mktemp("monitor")
    simulation = simulate(folder / "simulation", SimulateConfig(n_families=12), progress=False)
    homology = read_homology(simulation.homology, simulation.taxa)
    return build_store(folder / "store", [SpeciesSource(**source) for source in simulation.sources], homology, progress=False)


class Says(nn.Module):
    "An encoder by protocol only: the vectors it is given, by the length of the transcript."

    def __init__(self, dim: int, say):
        super().__init__()
        self.dim, self.n_tracks, self.say, self.modes = dim, 6, say, []
        self.inner = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tracks, lengths):
        self.modes.append((self.training, self.inner.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return self.scale * self.say(tracks, lengths)


def constant(tracks, lengths):
    return torch.full((len(lengths), 16), 0.3)


def hashed(tracks, lengths):
    "Random, but the same for the same transcript."
    code = (tracks.double() * torch.arange(1, tracks.shape[2] + 1)).sum((1, 2)).long()
    return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(int(seed))) for seed in code])


def on_a_line(tracks, lengths):
    return hashed(tracks, lengths)[:, :1] * torch.arange(1.0, 17)


def narrow(tracks, lengths):
    return 100 + hashed(tracks, lengths) * 0.1


def broken(tracks, lengths):
    vectors = hashed(tracks, lengths)
    vectors[lengths == lengths.max(), 3] = torch.nan
    return vectors


def slow_uniformity(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    n = len(x)
    return np.log(np.mean([np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(n) for j in range(n) if i != j]))


def slow_alignment(x, y):
    return np.mean([np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2) for a, b in zip(x, y)])


def slow_rank(x):
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    share = s[s > 1e-6 * np.linalg.norm(x)]
    share = share / share.sum()
    return np.exp(-np.sum(share * np.log(share)))


@settings(max_examples=60, deadline=None)
@SHAPES
def test_against_loops_and_numpy(n, d, chunk, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, d)) + 0.1
    assert uniformity(torch.tensor(x), chunk).item() == pytest.approx(slow_uniformity(x), abs=2e-5)
    assert alignment(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(slow_alignment(x, y), abs=1e-5)
    assert effective_rank(torch.tensor(x)).item() == pytest.approx(slow_rank(x), rel=1e-5)


@settings(max_examples=40, deadline=None)
@SHAPES
def test_invariances(n, d, chunk, seed):
    rng = np.random.default_rng(seed)
    x, y = torch.tensor(rng.normal(size=(2, n, d)))
    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(d, d)))[0])
    order = torch.tensor(rng.permutation(n))
    values = torch.stack([alignment(x, y), uniformity(x, chunk), effective_rank(x)])
    for a, b in ((x @ rotation, y @ rotation), (x[order], y[order]), (7 * x, 7 * y)):
        torch.testing.assert_close(torch.stack([alignment(a, b), uniformity(a), effective_rank(a)]), values, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(effective_rank(x + 3), effective_rank(x), rtol=1e-5, atol=0)  # centred
    assert alignment(x, x) == 0 and 0 <= values[0] <= 4 + 1e-6
    assert values[2] <= min(n - 1, d) + 1e-6


def test_spread_is_lower():
    base = torch.randn(100, 16, generator=torch.Generator().manual_seed(1))
    values = [uniformity(base + shift).item() for shift in (0, 1, 3, 10, 100)]
    assert values == sorted(values) and values[0] < -3 and -0.1 < values[-1] < 0
    assert uniformity(torch.zeros(5, 4)).item() == pytest.approx(0, abs=1e-6)  # dead units are one point, not spread
    for shift in (10, 100, 1000):  # a narrow bundle keeps its digits
        x = base + shift
        assert uniformity(x).item() == pytest.approx(slow_uniformity(x.double().numpy()), rel=2e-3)


def test_rank_of_known_matrices():
    assert effective_rank(torch.ones(6, 4)) == 0 and effective_rank(torch.zeros(6, 4)) == 0 and effective_rank(torch.ones(1, 4)) == 0
    torch.testing.assert_close(effective_rank(torch.cat([torch.eye(5), -torch.eye(5)])).item(), 5.0)
    noisy = torch.full((200, 32), 0.7) * (1 + 1e-7 * torch.randn(200, 32, generator=torch.Generator().manual_seed(0)))
    assert effective_rank(noisy) == 0, "rounding is no direction"


def test_vectors_leave_the_encoder_as_it_was(store):
    encoder = Says(16, hashed)
    encoder.inner.eval()  # frozen inside a training encoder
    vectors = transcript_vectors(encoder, store, np.array([2, 0]), autocast=torch.bfloat16)
    assert encoder.training and not encoder.inner.training and not vectors.requires_grad and vectors.dtype == torch.float32
    assert set(encoder.modes) == {(False, False, False, True)}
    encoder.say = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        transcript_vectors(encoder, store, np.array([2, 0]))
    assert encoder.training and not encoder.inner.training
    assert transcript_vectors(encoder, store, np.array([], int)).shape == (0, 16)


def test_vectors_do_not_depend_on_the_batch(store):
    encoder, rows = build_encoder(TINY), np.array([5, 0, 17, 3, 20])
    together = transcript_vectors(encoder, store, rows)
    torch.testing.assert_close(transcript_vectors(encoder, store, rows, token_budget=1), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(transcript_vectors(encoder, store, rows[::-1].copy()).flip(0), together, atol=1e-5, rtol=0)


def slow_kmers(store, row, k):
    sequence, counts = store.sequence(row), {}
    for i in range(len(sequence) - k + 1):
        counts[sequence[i : i + k]] = counts.get(sequence[i : i + k], 0) + 1
    return counts


def slow_hits(x, genes, groups, k):
    "isoform@k and homolog@k by their definitions, with similarities in double precision."
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity, hits = x @ x.T, {"isoform": [], "homolog": []}
    for i in range(len(x)):
        ranked = [j for j in np.argsort(-similarity[i], kind="stable") if j != i]
        if (genes == genes[i]).sum() > 1:
            hits["isoform"].append(any(genes[j] == genes[i] for j in ranked[:k]))
        if ((groups == groups[i]) & (genes != genes[i])).any():
            hits["homolog"].append(any(groups[j] == groups[i] for j in [j for j in ranked if genes[j] != genes[i]][:k]))
    return {f"{name}@{k}": np.mean(hit) for name, hit in hits.items()}


def test_baselines_are_what_counting_words_gives(store):
    rows = np.flatnonzero(store.transcripts["group"].isin(store.transcripts["group"].unique()[:6]))[::-1]
    table = store.transcripts.iloc[rows]
    genes, groups = table["gene_id"].to_numpy(), table["group"].to_numpy()
    found = kmer_baselines(store, rows, words=(3, 4))
    for k in (3, 4):
        counts = pd.DataFrame([slow_kmers(store, row, k) for row in rows]).fillna(0).to_numpy(float)
        plain = counts / counts.sum(1, keepdims=True)
        centred = plain - plain.mean(0)
        for form, x in (("", plain), (", centred", centred), (", standardised", centred / plain.std(0))):
            expected = slow_hits(x, genes, groups, 1) | slow_hits(x, genes, groups, 10)
            for name, value in expected.items():  # ties of almost equal transcripts may fall either way
                assert found.loc[f"{k}-mers{form}", name] == pytest.approx(value, abs=2.01 / len(rows)), (k, form, name)


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.sampled_from("abcdefgh"), max_size=40), most=st.integers(1, 45), seed=st.integers(0, 99))
def test_samples_are_whole_groups(groups, most, seed):
    groups = np.array(groups, dtype=object)
    kept = sample_groups(groups, most, seed)
    names = set(groups[kept])
    assert sorted(kept) == [i for i, group in enumerate(groups) if group in names]
    assert len(kept) == len(groups) if len(groups) <= most else len(kept) <= most or len(names) == 1
    assert kept.tolist() == sample_groups(groups, most, seed).tolist()
    assert names or not len(groups)


def test_other_seeds_sample_other_groups():
    groups = np.repeat(np.arange(50), 3)
    samples = {tuple(sample_groups(groups, 30, seed)) for seed in range(5)}
    assert len(samples) > 1 and all(len(sample) == 30 for sample in samples)


@settings(max_examples=60, deadline=None)
@given(genes=st.lists(st.integers(0, 9), max_size=30), seed=st.integers(0, 99))
def test_pairs_are_an_isoform_or_else_a_homolog(genes, seed):
    genes = np.array(genes, int)
    groups = genes // 3
    pairs = positive_pairs(genes, groups, seed)
    assert len(set(genes[pairs[:, 0]])) == len(pairs)  # one for each gene
    paired = set(genes[pairs[:, 0]])
    for first, second in pairs:
        assert first != second and groups[first] == groups[second]
        assert (genes[first] == genes[second]) == ((genes == genes[first]).sum() > 1)
    for gene in set(genes) - paired:
        assert (genes == gene).sum() == 1 and (groups == gene // 3).sum() == 1
    np.testing.assert_array_equal(pairs, positive_pairs(genes, groups, seed))


def test_a_measurement_is_its_parts(store):
    rows, encoder = np.arange(10, 45), build_encoder(TINY)
    monitor = Monitor(store, rows, seed=3, words=(4,))
    row = monitor.measure(encoder)
    assert tuple(row) == (*METRICS, "monitored", "non_finite") and row["monitored"] == 35 and row["non_finite"] == 0
    vectors = transcript_vectors(encoder, store, rows)
    first, second = vectors[monitor.pairs].unbind(1)
    x, table = vectors.double().numpy(), store.transcripts.iloc[rows]
    groups = table["group"].to_numpy()
    assert row["alignment"] == pytest.approx(slow_alignment(x[monitor.pairs[:, 0]], x[monitor.pairs[:, 1]]), rel=1e-3)
    assert row["uniformity"] == pytest.approx(slow_uniformity(x), rel=1e-3) and row["effective_rank"] == pytest.approx(slow_rank(x), rel=1e-4)
    codes = torch.as_tensor(np.unique(groups, return_inverse=True)[1])[monitor.pairs[:, 0]]
    assert row["heldout_accuracy"] == contrastive_accuracy(first, second, codes).item()
    expected = slow_hits(x, table["gene_id"].to_numpy(), groups, 1) | slow_hits(x, table["gene_id"].to_numpy(), groups, 10)
    assert {name: row[name] for name in RETRIEVAL} == pytest.approx(expected, abs=2.01 / 35)
    assert monitor.measure(encoder) == row == Monitor(store, rows, seed=3, words=(4,)).measure(encoder)


def test_the_baseline_is_the_strongest(store):
    monitor = Monitor(store, np.arange(len(store)), words=(2, 4))
    assert list(monitor.baseline) == list(RETRIEVAL)
    for name, value in monitor.baseline.items():
        assert value == monitor.baselines[name].max() == monitor.baselines.loc[monitor.baseline_names[name], name]
    assert len(monitor.baselines) == 6


def test_a_bool_mask_is_as_good_as_rows(store):
    mask = np.arange(len(store)) % 2 == 0
    np.testing.assert_array_equal(Monitor(store, mask, words=(2,)).rows, np.flatnonzero(mask))


def test_large_sets_are_sampled_by_whole_groups(store):
    table, monitor = store.transcripts, Monitor(store, np.arange(len(store)), max_transcripts=40, words=(2,))
    row = monitor.measure(build_encoder(TINY))
    assert 0 < row["monitored"] == len(monitor.rows) <= 40 < len(store)
    whole = np.flatnonzero(table["group"].isin(set(table["group"].iloc[monitor.rows])))
    np.testing.assert_array_equal(monitor.rows, whole)
    assert f"{len(whole)} of {len(store)}" in repr(monitor)


@pytest.mark.parametrize("say, words", [
    (constant, "are equal"), (lambda t, l: 0 * constant(t, l), "are equal"), (narrow, "same direction"), (on_a_line, "one direction: effective rank 1.0"),
    (broken, "NaN or infinity"), (lambda t, l: constant(t, l) / 0, "NaN or infinity"),
])  # fmt: skip
def test_collapse_is_called_out(store, say, words):
    monitor = Monitor(store, np.arange(len(store)), words=(2,))
    row = monitor.measure(Says(16, say))
    message = monitor.collapse(row)
    assert words in message and "learning_rate" in message
    if "NaN" in words:
        assert row["non_finite"] > 0 and all(row[name] is None for name in METRICS)


def test_health_is_not_called_collapse(store):
    monitor = Monitor(store, np.arange(len(store)), words=(2,))
    for encoder in (Says(16, hashed), build_encoder(TINY), build_encoder("dilated_extra_tiny"), build_encoder("demo")):
        assert monitor.collapse(monitor.measure(encoder)) is None


def test_bf16_of_a_constant_is_still_a_collapse(store):
    monitor = Monitor(store, np.arange(len(store)), words=(2,))
    noisy = Says(16, lambda t, l: constant(t, l) * (1 + 0.002 * hashed(t, l)))  # one rounding of bfloat16
    assert "same direction" in monitor.collapse(monitor.measure(noisy))


def without_kin(tmp_path, genes, groups):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "transcript_id": [f"t{i}" for i in range(len(genes))], "gene_id": [f"yeast:{gene}" for gene in genes], "gene_name": genes, "species": "yeast",
        "chrom": "I", "strand": "+", "exon_starts": [[0]] * len(genes), "exon_ends": [[60]] * len(genes), "length_nt": 60, "cds_start": -1, "cds_end": -1,
        "group": [f"yeast:{group}" for group in groups],
    })  # fmt: skip
    return write_store(tmp_path / "store", table, [rng.integers(4, size=60).astype(np.uint8) for _ in genes])


def test_one_species_without_homologs(tmp_path):
    store = without_kin(tmp_path, list("aabbcd"), list("aabbcd"))
    monitor = Monitor(store, np.arange(6))
    row = monitor.measure(build_encoder(TINY))
    assert len(monitor.pairs) == 2 and row["homolog@1"] is row["homolog@10"] is None and monitor.baseline["homolog@1"] is None
    assert monitor.baseline_names["homolog@1"] is None and monitor.baseline["isoform@1"] is not None
    assert all(row[name] is not None for name in ("heldout_accuracy", "alignment", "uniformity", "effective_rank", "isoform@1", "isoform@10"))


@pytest.mark.parametrize("genes, groups", [("abc", "abc"), ("aa", "aa"), ("ab", "aa"), ("a", "a"), ("", "")])
def test_hardly_anything_to_measure(tmp_path, genes, groups):
    store = without_kin(tmp_path, [*genes, "x"], [*groups, "x"])
    monitor = Monitor(store, np.arange(len(genes)), words=(3,))
    row = monitor.measure(build_encoder(TINY))
    assert row["monitored"] == len(genes) and row["heldout_accuracy"] is None  # nothing to be told from
    assert (row["alignment"] is None) == (genes in ("abc", "a", "")) and (row["uniformity"] is None) == (len(genes) < 2)
    assert collapse(row) is None
