"""The motif family: fused counting beside a plain convolution, regions beside a loop, and vectors that know nothing of padding or company."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isoclr.config import ConfigError
from isoclr.data.tracks import CODON, EXON_END, MASK, PAD, tracks_from_tokens
from isoclr.models import motif
from isoclr.models.encoder import MotifConfig, MotifEncoder, build_encoder, load_encoder
from isoclr.models.motif import MotifNetwork, count_motifs, regions

SMALL = MotifConfig(motifs=24, kernel_size=7, threshold=1.0, dim=10)
LENGTHS = (160, 90, 33, 5, 1)


def transcripts(lengths=LENGTHS, seed=0, hidden=0.1):
    "Tokens (B, L) with a CDS in all but the third, hidden positions, and padding; and the lengths."
    rng = np.random.default_rng(seed)
    tokens = np.full((len(lengths), max(lengths) + 9), PAD, np.uint8)
    for row, n in enumerate(lengths):
        tokens[row, :n] = rng.integers(0, 5, n)
        if row != 2 and n > 20:
            tokens[row, 10 : n - 11 : 3] |= CODON
        tokens[row, n - 1] |= EXON_END
        tokens[row, :n][rng.random(n) < hidden] = MASK
    return torch.from_numpy(tokens), torch.tensor(lengths)


def plain_detectors(network):
    "Weights, standardised by loops."
    weight = network.weight.detach().double().clone()
    for one in weight:
        variance = 0.0
        for position in range(one.shape[1]):
            one[:4, position] -= one[:4, position].mean()
            variance += float(one[:4, position].square().mean())
        one /= variance**0.5
    return weight


def plain_rates(network, tokens):
    "Mean responses of one transcript without padding, by loops: codons' first bases, and positions outside of the CDS."
    tracks = tracks_from_tokens(tokens[None], network.weight.shape[1])[0].double()
    kernel, weight = network.weight.shape[2], plain_detectors(network)
    padded = F.pad(tracks, (kernel // 2, kernel - 1 - kernel // 2))
    sums, counts = torch.zeros(network.running_mean.shape, dtype=torch.double), [0] * len(network.running_mean)
    for i in range(len(tokens)):
        if len(counts) == 1:
            pools = [0]
        else:
            marks = [tracks[4, j] for j in range(max(0, i - 2), i + 1)]
            pools = [0] * bool(marks[-1] == 1) + [1] * all(mark == 0 for mark in marks)
        response = F.relu((weight * padded[:, i : i + kernel]).sum((1, 2)) - network.threshold.detach())
        for pool in pools:
            sums[pool], counts[pool] = sums[pool] + response, counts[pool] + 1
    return sums / torch.tensor(counts).clamp_min(1)[:, None], [n > 0 for n in counts]


@pytest.mark.parametrize("n_tracks", [4, 6])
@pytest.mark.parametrize("kernel_size", [1, 2, 7, 12])
def test_rates_are_those_of_loops(n_tracks, kernel_size):
    network = build_encoder(SMALL.replace(n_tracks=n_tracks, kernel_size=kernel_size)).body.double()
    tokens, lengths = transcripts()
    rates, present = network.rates(tracks_from_tokens(tokens, n_tracks).double(), lengths)
    for row, n in enumerate(lengths.tolist()):
        expected, there = plain_rates(network, tokens[row, :n])
        torch.testing.assert_close(rates[row], expected, rtol=1e-6, atol=1e-9)  # the network adds 1e-8 to a variance
        assert present[row, :, 0].tolist() == there


def test_what_is_hidden_is_neither_codon_nor_outside():
    tokens = torch.zeros(1, 12, dtype=torch.uint8)
    tokens[0, 3:9:3] |= CODON
    tokens[0, 6] = tokens[0, 0] = MASK
    marked = regions(tracks_from_tokens(tokens), torch.tensor([11]))
    assert marked[0, 0].nonzero()[:, 0].tolist() == [3] and marked[0, 1].nonzero()[:, 0].tolist() == [9, 10]
    assert regions(torch.full((2, 6, 9), 0.25), torch.tensor([9, 1])).sum() == 0


@pytest.mark.parametrize("tracks_too", [False, True])
def test_gradients_are_right(tracks_too):
    torch.manual_seed(0)
    tracks, weight = torch.rand(2, 3, 9, dtype=torch.double), torch.randn(4, 3, 4, dtype=torch.double)
    threshold, pools = torch.rand(4, dtype=torch.double), torch.rand(2, 2, 9, dtype=torch.double) * (torch.rand(2, 2, 9) < 0.6)
    inputs = [tracks.requires_grad_(tracks_too), weight.requires_grad_(), threshold.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *values: count_motifs(*values, pools), inputs)


@pytest.mark.parametrize("kernel_size", [1, 6, 7])
def test_values_and_gradients_are_those_of_a_convolution(kernel_size):
    torch.manual_seed(0)
    values = [torch.rand(3, 6, 80), torch.randn(9, 6, kernel_size), torch.rand(9)]
    inputs, pools = [v.double().requires_grad_() for v in values], (torch.rand(3, 2, 80) < 0.4).double()
    padded = F.pad(inputs[0], (kernel_size // 2, kernel_size - 1 - kernel_size // 2))
    plain = torch.einsum("bml,bpl->bpm", F.relu(F.conv1d(padded, inputs[1], -inputs[2])), pools)
    fused, wanted = count_motifs(*inputs, pools), torch.randn(plain.shape, dtype=torch.double)
    torch.testing.assert_close(fused, plain)
    for ours, theirs in zip(torch.autograd.grad(fused, inputs, wanted), torch.autograd.grad(plain, inputs, wanted)):
        torch.testing.assert_close(ours, theirs)


def of_all_at_once(size):
    "As a GPU does it: every row, and every position, in pieces."
    return lambda pools, n_motifs: ((slice(None), at) for at in torch.arange(pools.shape[2]).split(size))


def test_how_the_work_is_cut_does_not_matter(monkeypatch):
    tokens, lengths = transcripts((700, 90, 300))
    untouched, results = build_encoder(SMALL).double(), []

    def measure():
        encoder = copy.deepcopy(untouched)
        tracks = tracks_from_tokens(tokens).double().requires_grad_()
        vectors = encoder(tracks, lengths)
        vectors.square().sum().backward()
        results.append([vectors.detach(), tracks.grad, *(p.grad for p in encoder.parameters())])

    measure()
    for cut in (of_all_at_once(64), of_all_at_once(10_000)):
        with monkeypatch.context() as patch:
            patch.setattr(motif, "_pieces", cut)
            measure()
    monkeypatch.setattr(motif, "CPU_PIECE", 1)
    measure()
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert results[0][1].abs().sum() > 0 and results[0][1][1, :, 90:].abs().sum() == 0


def test_pieces_are_small_and_cover_what_counts():
    pools = (torch.rand(3, 2, 5000) < 0.2).float()
    seen = torch.zeros(3, 5000)
    for rows, at in motif._pieces(pools, 1024):
        assert len(at) * 1024 <= motif.CPU_PIECE
        seen[rows, at] += 1
    assert torch.equal(seen, pools.amax(1))
    pieces = list(motif._pieces(torch.empty(64, 2, 5000, device="meta"), 1024))
    assert len(pieces) == 5 and sum(len(at) for _, at in pieces) == 5000


def test_nothing_as_large_as_the_responses_is_held():
    network, sizes = MotifNetwork(), []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        network(torch.rand(2, 6, 4000), torch.tensor([4000, 4000]))
    assert 6 * 4000 * 2 <= max(sizes) <= 2048 * 1024  # the tracks, and the readout


def test_response_to_random_bases_has_variance_one():
    network = MotifNetwork(motifs=32, dim=4)
    with torch.no_grad():
        network.weight[:, 4:] = 0
        bases = F.one_hot(torch.randint(4, (1, 60_000)), 4).float().transpose(1, 2)
        responses = F.conv1d(F.pad(bases, (0, 0, 0, 2)), network.detectors())
    assert (responses.var(2) - 1).abs().max() < 0.1 and responses.mean(2).abs().max() < 0.1
    assert network.rates(torch.full((1, 6, 50), 0.25), torch.tensor([50]))[0].abs().sum() == 0


@pytest.mark.parametrize("n_tracks", [4, 6])
def test_a_transcript_alone_is_what_it_is_in_a_batch_in_training_too(n_tracks):
    encoder = build_encoder(SMALL.replace(n_tracks=n_tracks))
    tokens, lengths = transcripts()
    tracks = tracks_from_tokens(tokens, n_tracks).masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None, None], 9.0)
    together = copy.deepcopy(encoder)(tracks, lengths)
    assert torch.equal(together, encoder.eval()(tracks, lengths))
    for row, n in enumerate(lengths.tolist()):
        alone = encoder(tracks[row : row + 1, :, :n], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)
    assert together.isfinite().all()


def test_running_statistics_are_those_of_the_transcripts_that_have_the_region():
    network = build_encoder(SMALL).body
    tokens, lengths = transcripts()
    tracks = tracks_from_tokens(tokens)
    rates, present = network.rates(tracks, lengths)
    mean, var = network.running_mean.clone(), network.running_var.clone()
    network(tracks, lengths)
    for pool, rows in enumerate(([0, 1], [0, 1, 2, 3, 4])):
        rows = [row for row in rows if present[row, pool]]
        assert len(rows) == present[:, pool].sum() > 1
        new = 0.98 * mean[pool] + 0.02 * rates[rows, pool].mean(0)
        torch.testing.assert_close(network.running_mean[pool], new)
        torch.testing.assert_close(network.running_var[pool], 0.98 * var[pool] + 0.02 * (rates[rows, pool] - new).square().mean(0))
    before = [buffer.clone() for buffer in network.buffers()]
    network(torch.full((2, 6, 40), 0.25), torch.tensor([40, 3]))  # all hidden: no region, nothing to learn
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers()))


def test_a_transcript_of_which_nothing_is_known_is_the_origin():
    encoder = build_encoder(SMALL)
    vectors = encoder(torch.full((1, 6, 40), 0.25), torch.tensor([40]))
    vectors.sum().backward()
    assert not vectors.any() and all(p.grad.isfinite().all() for p in encoder.parameters())


def test_silent_detectors_do_not_divide_by_zero():
    encoder = build_encoder(SMALL.replace(threshold=50.0))
    tokens, lengths = transcripts()
    encoder(tracks_from_tokens(tokens), lengths).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_feature_map_is_what_is_counted():
    encoder = build_encoder(SMALL)
    tokens, lengths = transcripts()
    tracks = tracks_from_tokens(tokens).masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None, None], 9.0)
    features, positions = encoder.feature_map(tracks, lengths)
    assert torch.equal(positions, lengths) and features.shape == (5, 24, tokens.shape[1])
    pools = regions(tracks, lengths)
    rates, _ = encoder.body.rates(tracks, lengths)
    torch.testing.assert_close(torch.einsum("bml,bpl->bpm", features, pools) / pools.sum(2, keepdim=True).clamp_min(1), rates)


def test_seed_and_saving_are_exact(tmp_path):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = build_encoder(SMALL), build_encoder(SMALL), build_encoder(SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.body.running_mean, other.body.running_mean)
    tokens, lengths = transcripts()
    one(tracks_from_tokens(tokens), lengths)  # moves the running statistics
    one.save_pretrained(tmp_path)
    again = load_encoder(tmp_path)
    assert type(again) is MotifEncoder and again.config == SMALL and again.dim == 10
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(again(tracks_from_tokens(tokens), lengths), one.eval()(tracks_from_tokens(tokens), lengths))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    tokens, lengths = transcripts((400, 200))
    tracks, encoder = tracks_from_tokens(tokens), build_encoder(SMALL)
    expected = copy.deepcopy(encoder)(tracks, lengths)
    if dtype == torch.float64:
        torch.testing.assert_close(encoder.double()(tracks.double(), lengths), expected.double(), rtol=1e-4, atol=1e-4)
        return
    with torch.autocast("cpu", dtype):
        vectors = encoder(tracks, lengths)
    vectors.float().square().sum().backward()
    torch.testing.assert_close(vectors.float(), expected, rtol=0.05, atol=0.05 * float(expected.detach().abs().max()))
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in encoder.parameters())


def test_bfloat16_products_are_added_up_in_float32(monkeypatch):
    torch.manual_seed(0)
    tracks, weight, threshold = torch.rand(2, 6, 3000), torch.randn(8, 6, 12), torch.ones(8)
    pools = (torch.rand(2, 2, 3000) < 0.5).float()
    exact = count_motifs(tracks, weight, threshold, pools)
    monkeypatch.setattr(motif, "_pieces", of_all_at_once(64))
    inputs = [v.bfloat16().requires_grad_() for v in (tracks, weight, threshold)]
    rough = count_motifs(*inputs, pools.bfloat16())
    assert rough.dtype == torch.float32
    assert ((rough - exact).abs() / exact.clamp_min(1)).max() < 0.02
    rough.sum().backward()
    assert all(v.grad.dtype == torch.bfloat16 and v.grad.isfinite().all() for v in inputs)


def test_compiled_it_gives_the_same_vectors_and_gradients():
    encoder, (tokens, lengths) = build_encoder(SMALL), transcripts()
    results = []
    for each in (copy.deepcopy(encoder), torch.compile(copy.deepcopy(encoder), dynamic=True, backend="aot_eager")):
        vectors = each(tracks_from_tokens(tokens), lengths)
        vectors.square().sum().backward()
        results.append([vectors.detach(), *(p.grad for p in each.parameters()), *each.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_what_the_cpu_gives():
    encoder, (tokens, lengths) = build_encoder(SMALL), transcripts((700, 90, 300))
    results = []
    for device in ("cpu", "cuda"):
        each = copy.deepcopy(encoder).to(device)
        vectors = each(tracks_from_tokens(tokens.to(device)), lengths.to(device))
        vectors.square().sum().backward()
        results.append([value.cpu() for value in (vectors.detach(), *(p.grad for p in each.parameters()))])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * float(ours.abs().max()))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_tracks": 5}, "6 tracks.*or 4"),
        ({"motifs": 0}, "at least 1"),
        ({"threshold": -1.0}, "0, or more"),
        ({"threshold": float("inf")}, "0, or more"),
        ({"padding": "published"}, "padding = 'published'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MotifConfig(**settings)
