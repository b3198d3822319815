"""Attribution: mutagenesis equals forward passes one by one, gradients equal finite differences, a planted motif is found, and sums by codon and motif equal loops."""
import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.tracks import BASE_BITS, CODON, MASK, PAD, sequence_from_tokens, tokens_from_exons, tracks_from_tokens, translate
from isoclr.latent.attribute import BASELINES, Attribution, Readout, fit_readout, group_direction, integrated_gradients, ism, saliency
from isoclr.latent.tracks import cds_of, codon_summary, draw_attribution, motif_summary, regions_of, strongest_windows
from isoclr.models.encoder import build_encoder, preset
from isoclr.models.substitute import CountedMotifs, WindowedResNet, in_full, substituted
from isoclr.probe.embed import embed

torch.set_num_threads(1)
UNUSUAL = preset("demo", n_tracks=4, kernel_size=4, stem_kernel=7, stem_pool=3, block="bottleneck", pooling="gru", filters=(8, 8, 8, 12))
ENCODERS = {
    "demo": (preset("demo"), WindowedResNet), "unusual": (UNUSUAL, WindowedResNet),
    "dilated": (preset("dilated_extra_tiny"), WindowedResNet),
    "softmax pools": (preset("demo", window_pool="softmax", norm="none"), WindowedResNet),
    "layer norm": (preset("demo", norm="layer", pooling="mean_max"), WindowedResNet),
    "published padding": (preset("demo", padding="published", pooling="max"), WindowedResNet),
    "group norm": (preset("demo", norm="group"), None),
    "motif": (preset("motif", motifs=48, dim=24), CountedMotifs), "motif, 4 tracks": (preset("motif", motifs=48, dim=24, n_tracks=4, kernel_size=5), CountedMotifs),
    "saluki": (preset("saluki", filters=16), None),
}


def transcript(length=700, seed=0, coding=True):
    "Random bases with one N, in three exons."
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 4, length).astype(np.uint8)
    bases[length // 3] = 4
    exons = np.array([length // 4, length // 2, length - length // 4 - length // 2])
    cds = (length // 10, length // 10 + length // 2 // 3 * 3) if coding else (-1, -1)
    return tokens_from_exons(bases, exons, *cds)


def settled(config, seed=0):
    "An encoder whose running statistics differ from those of any batch."
    encoder = build_encoder(config, seed=seed)
    tokens = torch.as_tensor(np.stack([transcript(900, seed=i) for i in range(4)]))
    with torch.no_grad():
        for _ in range(10):
            encoder(tracks_from_tokens(tokens, encoder.n_tracks), torch.full((4,), 900))
    return encoder.eval()


def vector_of(encoder, tokens):
    "A forward pass over one transcript."
    with torch.inference_mode():
        return encoder(tracks_from_tokens(torch.as_tensor(tokens.copy())[None], encoder.n_tracks), torch.tensor([len(tokens)]))[0].double().numpy()


def measured(encoder, tokens, of, positions):
    "The slow way: every substitution by itself; `of` takes an embedding and that of the transcript."
    reference, scores = vector_of(encoder, tokens), np.full((len(tokens), 4), np.nan)
    for at, base in itertools.product(positions, range(4)):
        changed = tokens.copy()
        changed[at] = int(changed[at]) // 8 * 8 + base
        scores[at, base] = of(vector_of(encoder, changed), reference)
    return scores


def cosine(u, v):
    return 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)


@pytest.mark.parametrize("name", ENCODERS)
def test_mutagenesis_equals_forward_passes_one_by_one(name):
    config, kind = ENCODERS[name]
    encoder, tokens = settled(config), transcript(703)
    tracks = tracks_from_tokens(torch.as_tensor(tokens)[None], encoder.n_tracks)[0]
    assert type(substituted(encoder, tracks)) is kind or kind is None and not hasattr(substituted(encoder, tracks), "reads")
    positions, readout = [*range(3), 234, 235, 350, *range(700, 703)], Readout(np.random.default_rng(1).normal(size=encoder.dim))
    found = ism(encoder, tokens, target="euclidean", positions=positions, token_budget=5000).scores
    expected = measured(encoder, tokens, lambda u, v: np.linalg.norm(u - v), positions)
    assert np.array_equal(np.isnan(found), np.isnan(expected)) and np.nanmax(expected) > 3e-4
    assert np.nanmax(np.abs(found - expected)) < min(1e-4, 1e-3 * np.nanmax(expected))
    assert (found[positions, :][np.arange(4) == (tokens[positions] & BASE_BITS)[:, None]] == 0).all() and (found[234] != 0).sum() > 2
    found = ism(encoder, tokens, target=readout, positions=positions).scores
    expected = measured(encoder, tokens, lambda u, v: (u - v) @ readout.weights, positions)
    assert np.nanmax(np.abs(found - expected)) < min(1e-4, 1e-3 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize("name", ["demo", "unusual", "dilated", "motif"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(length=st.integers(8, 300), first=st.floats(0, 1), n=st.integers(1, 20), seed=st.integers(0, 99))
def test_windows_are_exact_anywhere_in_transcripts_of_any_length(name, length, first, n, seed):
    encoder = KEPT.setdefault(name, settled(ENCODERS[name][0]))
    tracks = tracks_from_tokens(torch.as_tensor(transcript(length, seed))[None], encoder.n_tracks)[0]
    start = int(first * (length - 1))
    at = torch.arange(start, min(start + n, length)).repeat_interleave(4)
    bases = torch.eye(4).repeat(len(at) // 4, 1)
    with torch.inference_mode():
        full = in_full(encoder, tracks, at, bases)
        assert (substituted(encoder, tracks)(at, bases) - full).abs().max() < 1e-5 * (1 + full.abs().max())


KEPT = {}


def test_distance_of_small_changes_and_batches_do_not_matter():
    encoder, tokens = settled(preset("demo")), transcript(1200)
    one = ism(encoder, tokens, positions=range(500, 560), token_budget=1).scores
    many = ism(encoder, tokens, positions=range(500, 560), token_budget=10**6).scores
    assert np.nanmax(np.abs(one - many)) < 1e-3 * np.nanmax(one)
    expected = measured(encoder, tokens, cosine, range(500, 510))
    assert np.nanmax(np.abs(one[500:510] - expected[500:510])) < 0.01 * np.nanmax(expected)


def test_marks_stay_and_an_unknown_base_has_four_substitutions():
    encoder, tokens = settled(preset("demo")), transcript(300)
    scores = ism(encoder, tokens).scores
    assert ((scores != 0).sum(1)[tokens & BASE_BITS < 4] <= 3).all() and (scores[100] != 0).all() and tokens[100] & BASE_BITS == 4
    at = int(np.flatnonzero(tokens & CODON)[3])
    assert np.abs(scores[at] - measured(encoder, tokens, cosine, [at])[at]).max() < 1e-6  # `measured` keeps the upper bits


def test_the_encoder_is_left_as_it_was():
    encoder = build_encoder("demo").train()
    before = copy.deepcopy(encoder.state_dict())
    readout = Readout(np.ones(encoder.dim))
    ism(encoder, transcript(200), positions=[5])
    saliency(encoder, transcript(200), target=readout)
    integrated_gradients(encoder, transcript(200), n_steps=2)
    assert encoder.training and all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    with pytest.raises(ValueError, match="encoder.eval"):
        substituted(encoder, torch.zeros(6, 50))


# gradients


@pytest.mark.parametrize("config", [preset("demo", stem_kernel=13), preset("demo", n_tracks=4, window_pool="softmax"), preset("motif", motifs=48, dim=24), preset("saluki", filters=16)], ids=["wide stem", "softmax", "motif", "saluki"])
def test_saliency_equals_finite_differences(config):
    "Wide stems or smooth pools: where two positions read the same few bases, their maximum has two slopes."
    encoder, tokens = settled(config), transcript(250)
    readout = Readout(np.random.default_rng(0).normal(size=encoder.dim), 3.0, "half-life")
    slope = saliency(encoder, tokens, target=readout, times_input=False)
    exact, step, rng = copy.deepcopy(encoder).double(), 1e-6, np.random.default_rng(1)
    tracks = tracks_from_tokens(torch.as_tensor(tokens)[None], encoder.n_tracks).double()
    assert slope.scores.shape == (250, encoder.n_tracks)
    for at, track in zip(rng.integers(0, 250, 25), rng.integers(0, 4, 25)):
        outputs = []
        for sign in (1, -1):
            moved = tracks.clone()
            moved[0, track, at] += sign * step
            with torch.no_grad():
                outputs.append(float(exact(moved, torch.tensor([250]))[0].numpy() @ readout.weights))
        assert slope.scores[at, track] == pytest.approx((outputs[0] - outputs[1]) / (2 * step), abs=2e-3 * float(np.abs(slope.scores).max()))
    product = saliency(encoder, tokens, target=readout).scores
    assert np.allclose(product, slope.scores * tracks[0].T.numpy(), atol=1e-6) and np.abs(slope.scores).max() > 1e-3


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("target", ["readout", "euclidean"])
def test_integrated_gradients_add_up(baseline, target):
    encoder, tokens = settled(preset("demo")), transcript(300)
    target = Readout(np.random.default_rng(0).normal(size=encoder.dim)) if target == "readout" else target
    rough, fine = (integrated_gradients(encoder, tokens, target=target, n_steps=n, baseline=baseline, n_shuffles=2) for n in (2, 200))
    size = float(np.abs(fine.scores).sum())
    assert fine.gap == pytest.approx(abs(fine.scores.sum() - fine.gained), abs=1e-4 * size)
    assert fine.gap < 0.01 * size and fine.gap < rough.gap and abs(fine.gained) > 1e-3
    marks = fine.scores[:, 4:]
    assert marks.any() == (baseline == "mask") and fine.scores[:, :4].any()
    if baseline != "shuffled":
        start = tracks_from_tokens(torch.as_tensor(tokens)[None])
        start[:, : 4 if baseline == "uniform" else 6] = 0.25
        with torch.inference_mode():
            away = vector_of(encoder, tokens) - encoder(start, torch.tensor([300]))[0].double().numpy()
        expected = -np.linalg.norm(away) if target == "euclidean" else away @ target.weights
        assert fine.gained == pytest.approx(expected, rel=1e-4)


def test_motif_network_adds_up_where_its_regions_stay():
    encoder = settled(preset("motif", motifs=48, dim=24))
    found = integrated_gradients(encoder, transcript(300), target=Readout(np.ones(24)), n_steps=300)
    assert found.gap < 0.01 * np.abs(found.scores).sum()


# stores


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attribute")
    simulation = simulate(folder / "genomes", SimulateConfig(n_families=120, seed=1, species=("alpha",)), progress=False)
    sources = [SpeciesSource.from_dict(source) for source in simulation.sources]
    store = build_store(folder / "store", sources, read_homology(simulation.homology, simulation.taxa), progress=False)
    truth = simulation.truth["half_life"].set_index("transcript_id").loc[store.transcripts.transcript_id]
    return store, truth.au_rich_elements.to_numpy(float)


@pytest.mark.parametrize("padding", ["masked", "published"])
def test_padding_and_other_rows_do_not_matter(simulated, padding):
    store, encoder = simulated[0], settled(preset("demo", padding=padding))
    readout, rows = Readout(np.random.default_rng(0).normal(size=encoder.dim)), [7, 0, 41, 7]
    together = saliency(encoder, store, rows, readout, token_budget=10**5)
    for row, found in zip(rows, together, strict=True):
        alone = saliency(encoder, store, row, readout, token_budget=1)
        assert np.array_equal(found.tokens, store.tokens(row)) and len(found.scores) == store.transcripts.length_nt[row]
        assert np.abs(found.scores - alone.scores).max() < 1e-4 * np.abs(alone.scores).max()
    for method, more in ((ism, {"positions": [3, 90]}), (integrated_gradients, {"n_steps": 3})):
        several, alone = method(encoder, store, [7, 2], readout, **more), method(encoder, np.array(store.tokens(2)), target=readout, **more)
        assert len(several) == 2 and np.allclose(several[1].scores, alone.scores, atol=1e-6, equal_nan=True)


def test_a_planted_motif_stands_out_after_training(simulated):
    "AU-rich elements (ATTTA in the 3'UTR), planted by the simulation: a small encoder learns to count them, and is explained on families that it has not seen."
    store, y = simulated
    table = store.transcripts
    groups = table.group.to_numpy()
    held_out = np.isin(groups, np.unique(groups)[::5])
    train, rng = np.flatnonzero(~held_out), np.random.default_rng(0)
    encoder = build_encoder(preset("demo", filters=(32,), blocks=(1,), dilations=(1,), stem_kernel=7, stem_pool=2), seed=0)
    head = torch.nn.Linear(encoder.dim, 1)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    labels = torch.tensor((y - y[train].mean()) / y[train].std(), dtype=torch.float32)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    for _ in range(120):
        rows = rng.choice(train, 24, replace=False)
        tokens, lengths = store.gather(rows)
        outputs = head(encoder(tracks_from_tokens(torch.as_tensor(tokens)), torch.as_tensor(lengths)))[:, 0]
        optimizer.zero_grad()
        (outputs - labels[rows]).square().mean().backward()
        optimizer.step()
        schedule.step()
    X = embed(store, encoder, progress=False).X
    readout = fit_readout(X[train], y[train], groups[train], "AU-rich elements")
    assert np.corrcoef(readout(X[held_out]), y[held_out])[0, 1] > 0.5
    found = ism(encoder, store, np.flatnonzero(held_out & (y >= 1) & (y <= 3))[::8], readout)
    assert len(found) >= 5
    for one in found:
        letters, end = sequence_from_tokens(one.tokens), cds_of(one.tokens)[1]
        planted = np.zeros(len(letters), bool)
        for at in range(end, len(letters) - 4):
            planted[at : at + 5] |= letters[at : at + 5] == "ATTTA"
        size = np.abs(np.where(np.arange(4) == (one.tokens & BASE_BITS)[:, None], np.nan, one.scores))
        size = np.nanmean(size, 1)
        assert (size[~planted] < size[planted].mean()).mean() > 0.95
        assert one.contribution[planted].mean() > 0  # they are what is counted
    motifs = motif_summary(found, motifs=["ATTTA", "GCGCG", "CCCCC"]).query("region == \"3'UTR\"").set_index("motif")["mean"]
    assert motifs.idxmax() == "ATTTA"


# targets


def test_a_fitted_readout_is_the_ridge():
    from isoclr.probe.linear import ridge

    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(60, 9)) * 5 + 2, np.arange(60) // 3
    X[:, 4] = 1.5  # a column that says nothing
    y = X @ rng.normal(size=9) + rng.normal(size=60)
    some = np.where(np.arange(60) % 7, y, np.nan)
    known = np.isfinite(some)
    readout = fit_readout(X, some, groups, "y")
    assert np.allclose(readout(X), ridge(X[known], y[known], groups[known], X)[0], atol=1e-8) and readout.weights[4] == pytest.approx(0, abs=1e-9)
    group = y > 3
    direction = group_direction(X, group, y < 1)
    assert np.linalg.norm(direction.weights) == pytest.approx(1) and direction(X)[y < 1].mean() == pytest.approx(0, abs=1e-9) and direction(X)[group].mean() > 1
    for wrong in (lambda: fit_readout(X, np.full(60, np.nan), groups), lambda: fit_readout(X[:5], y, groups), lambda: Readout(np.array([1, np.nan])),
                  lambda: group_direction(X, np.zeros(60, bool)), lambda: group_direction(X, np.arange(60)), lambda: group_direction(X[:2] * 0, np.array([True, False]))):
        with pytest.raises(InputError):
            wrong()


def test_faults(simulated):
    store, encoder, tokens = simulated[0], build_encoder("demo"), transcript(100)
    readout = Readout(np.ones(encoder.dim))
    n = len(store)
    for wrong, message in (
        (lambda: ism(encoder, store, n), f"0 to {n - 1}"), (lambda: ism(encoder, store, -1), "rows must be numbers"), (lambda: ism(encoder, store), "which transcripts"),
        (lambda: ism(encoder, store, []), "names no transcript"), (lambda: ism(encoder, tokens, 3), "no rows"), (lambda: ism(encoder, tokens[:0]), "tokens"),
        (lambda: ism(encoder, "ACGT"), "tokens"), (lambda: ism(encoder, np.array([0, MASK, 1], np.uint8)), "Masked or padded"),
        (lambda: ism(encoder, np.array([0, PAD], np.uint8)), "Masked or padded"), (lambda: ism(encoder, tokens, positions=[]), "at least one"),
        (lambda: ism(encoder, tokens, positions=[100]), "0 to 99"), (lambda: ism(encoder, tokens, positions=[-1]), "0 to 99"), (lambda: ism(encoder, tokens, positions=[1.5]), "0 to 99"),
        (lambda: ism(encoder, tokens, target=Readout(np.ones(5), name="half-life")), "'half-life' has 5 weights.*96"),
        (lambda: ism(build_encoder(preset("demo", n_tracks=5)), tokens), "reads 5 tracks"), (lambda: ism(None, tokens), "no encoder"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
    for wrong, message in (
        (lambda: ism(encoder, tokens, target="cosin"), "'cosin'.*Did you mean 'cosine'"), (lambda: ism(encoder, tokens, token_budget=0), "token_budget"),
        (lambda: saliency(encoder, tokens, target="cosine"), "no slope"), (lambda: saliency(encoder, tokens), "no slope"),
        (lambda: integrated_gradients(encoder, tokens, target=readout, baseline="masks"), "Did you mean 'mask'"), (lambda: integrated_gradients(encoder, tokens, n_steps=0), "n_steps = 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_an_encoder_of_four_tracks():
    encoder, tokens = settled(preset("demo", n_tracks=4)), transcript(200)
    readout = Readout(np.ones(encoder.dim))
    assert ism(encoder, tokens).scores.shape == saliency(encoder, tokens, target=readout).scores.shape == (200, 4)
    found = integrated_gradients(encoder, tokens, baseline="mask")
    assert found.scores.shape == (200, 4) and draw_attribution(found).data[0].z.shape == (4, 200)


# sums and figure


def scored(length=240, seed=3, method="ism", target="half-life"):
    tokens, rng = transcript(length, seed), np.random.default_rng(seed)
    scores = rng.normal(size=(length, 4 if method == "ism" else 6)).astype(np.float32)
    if method == "ism":
        scores[np.arange(4) == (tokens & BASE_BITS)[:, None]] = 0
    return Attribution(method, target, tokens, scores)


def test_contributions():
    one = scored()
    expected = [-np.mean([one.scores[i, b] for b in range(4) if b != token & BASE_BITS]) for i, token in enumerate(one.tokens)]
    assert np.allclose(one.contribution, expected, atol=1e-6)
    assert np.allclose(scored(target="cosine").contribution, -np.array(expected), atol=1e-6)
    assert np.allclose(scored(method="saliency").contribution, scored(method="saliency").scores[:, :4].sum(1))


def test_sums_by_codon_equal_loops():
    several, effects = [scored(seed=seed) for seed in range(3)], {}
    several[0].scores[:100] = np.nan
    for one in several:
        letters = sequence_from_tokens(one.tokens)
        start, end = cds_of(one.tokens)
        for at in range(start, end, 3):
            codon = letters[at : at + 3]
            for position, base in itertools.product(range(3), "ACGT"):
                changed = codon[:position] + base + codon[position + 1 :]
                effect = one.scores[at + position, "ACGT".index(base)]
                if changed == codon or "N" in codon or np.isnan(effect):
                    continue
                before, after = translate(codon), translate(changed)
                kind = "synonymous" if before == after else "stop lost" if before == "*" else "nonsense" if after == "*" else "missense"
                effects.setdefault((codon, before, position + 1, kind), []).append(effect)
    table = codon_summary(several).set_index(["codon", "amino_acid", "position", "kind"])
    assert set(table.index) == set(effects)
    for key, values in effects.items():
        assert table.n[key] == len(values) and table["mean"][key] == pytest.approx(np.mean(values), abs=1e-5)
        assert table.mean_size[key] == pytest.approx(np.abs(values).mean(), abs=1e-5)
    assert codon_summary(scored(method="saliency")).kind.eq("contribution").all()
    assert len(codon_summary(Attribution("ism", "x", transcript(90, coding=False), np.zeros((90, 4), np.float32)))) == 0


@pytest.mark.parametrize("k", [1, 3, 4])
def test_sums_by_motif_equal_loops(k):
    several, sums, everything = [scored(seed=seed) for seed in range(2)], {}, {}
    for one in several:
        letters, regions = sequence_from_tokens(one.tokens), regions_of(one.tokens)
        for at in range(len(letters) - k + 1):
            word, region = letters[at : at + k], regions[at + k // 2]
            if "N" not in word:
                sums.setdefault((word, region), []).append(one.contribution[at : at + k].sum())
                everything.setdefault(region, []).append(sums[word, region][-1])
    table = motif_summary(several, k=k)
    assert table["mean"].is_monotonic_decreasing
    table = table.set_index(["motif", "region"])
    assert set(table.index) == set(sums)
    for (word, region), values in sums.items():
        z = (np.mean(values) - np.mean(everything[region])) / (np.std(everything[region], ddof=1) / np.sqrt(len(values)))
        assert table.n[word, region] == len(values) and table["mean"][word, region] == pytest.approx(np.mean(values), abs=1e-5)
        assert table.z[word, region] == pytest.approx(z, abs=1e-4)
    few = motif_summary(several, motifs=["ac", "GUA"])
    assert set(few.motif) <= {"AC", "GTA"} and set(few.motif) and motif_summary(several, k=k, min_n=10**6).empty


def test_strongest_windows_do_not_overlap():
    one = scored(method="saliency")
    table, letters = strongest_windows(one, k=8, n=100), sequence_from_tokens(one.tokens)
    sums = {at: one.contribution[at : at + 8].sum() for at in range(len(letters) - 7) if "N" not in letters[at : at + 8]}
    assert abs(table.score[0]) == pytest.approx(max(map(abs, sums.values())), rel=1e-5) and table.score.abs().is_monotonic_decreasing
    covered = [at for start, end in zip(table.start, table.end) for at in range(start, end)]
    assert len(covered) == len(set(covered)) and len(table) > 10
    for line in table.itertuples():
        assert line.sequence == letters[line.start : line.end] and line.score == pytest.approx(sums[line.start], abs=1e-4) and line.region == regions_of(one.tokens)[line.start + 4]
    assert len(strongest_windows(one, k=8, n=2)) == 2


def test_summaries_refuse_what_they_cannot_sum():
    one = scored()
    for wrong in (lambda: codon_summary([]), lambda: codon_summary([one, scored(method="saliency")]), lambda: motif_summary([one, scored(target="cosine")]),
                  lambda: motif_summary(one, motifs=["ANA"]), lambda: motif_summary(one, motifs=[]), lambda: motif_summary(one, k=0),
                  lambda: strongest_windows(one, k=0), lambda: strongest_windows(one, k=241), lambda: strongest_windows(one, n=0)):
        with pytest.raises((InputError, ConfigError)):
            wrong()


@pytest.mark.parametrize("method, target", [("ism", "half-life"), ("ism", "cosine"), ("saliency", "half-life")])
def test_figure_shows_the_scores_to_scale(method, target):
    one = scored(method=method, target=target)
    figure = draw_attribution(one, start=100, end=160)
    heat, *rest = figure.data
    named = {trace.name: trace for trace in rest}
    assert np.array_equal(heat.z, one.scores.T.astype(float)) and list(heat.y) == ["A", "C", "G", "T", "CDS", "splice"][: one.scores.shape[1]]
    assert heat.zmin == (0 if target == "cosine" else -heat.zmax)
    exons = named["UTR"].x[np.isfinite(named["UTR"].x)]
    assert sorted(set(exons)) == [-0.5, 59.5, 179.5, 239.5] and (np.nanmin(named["CDS"].x), np.nanmax(named["CDS"].x)) == (23.5, 143.5)
    letters = sequence_from_tokens(one.tokens)
    for base in "ACGT":
        x, y = (np.asarray(values, float) for values in (named[base].x, named[base].y))
        for at in range(100, 160):
            heights = y[np.abs(x - at) < 0.5]
            if letters[at] != base:
                assert not len(heights)
                continue
            value = one.contribution[at]
            assert sorted([heights.min(), heights.max()]) == pytest.approx(sorted([0, value]), abs=0.01 * abs(float(value)))
    assert np.allclose(named["contribution"].y, one.contribution[100:160])
    assert len({trace.fillcolor for name, trace in named.items() if name in "ACGT"}) == 4


def test_figure_of_a_store_and_its_windows(simulated):
    store, encoder = simulated[0], settled(preset("demo"))
    found = ism(encoder, store, 3, positions=range(200, 260))
    figure = draw_attribution(found, store, 3)
    assert store.transcripts.transcript_id[3] in figure.layout.title.text and np.isnan(figure.data[0].z[:, 0]).all()
    low, high = figure.layout.xaxis3.range
    assert high - low == 60 and low < 260 and high > 200
    for wrong in (lambda: draw_attribution(found, store, 4), lambda: draw_attribution(found, store), lambda: draw_attribution(found, start=0, end=151),
                  lambda: draw_attribution(found, start=5, end=5), lambda: draw_attribution(found, end=10**6)):
        with pytest.raises(InputError):
            wrong()
    tiny = Attribution("saliency", "x", transcript(20, coding=False), np.zeros((20, 6), np.float32))
    assert draw_attribution(tiny).layout.xaxis3.range == (-0.5, 19.5) and pd.unique(regions_of(tiny.tokens)).tolist() == ["non-coding"]
