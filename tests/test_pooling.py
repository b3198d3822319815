"""Pooling of windows and transcripts against loops over unpadded rows, and a shift that loses nothing."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError
from isoclr.models.layers import valid_mask
from isoclr.models.pooling import POOLINGS, WINDOW_POOLS, SoftmaxPool1d, StochasticShift, make_pooling, make_window_pool

lengths_strategy = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def padded_batch(lengths, n_channels, extra, seed):
    "Random rows with junk behind them."
    rng = np.random.default_rng(seed)
    longest = max(lengths) + extra
    x = torch.tensor(rng.normal(size=(len(lengths), n_channels, longest)))
    mask = valid_mask(torch.tensor(lengths), longest, torch.float64)
    return x.masked_fill(mask == 0, 55.0), torch.tensor(lengths), mask


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_strategy, size=st.integers(1, 5), extra=st.integers(0, 7), seed=st.integers(0, 2**16))
def test_softmax_pool_against_loops(lengths, size, extra, seed):
    x, counts, mask = padded_batch(lengths, 3, extra, seed)
    pool = SoftmaxPool1d(3, size).double()
    pool.weight.data += torch.tensor(np.random.default_rng(seed).normal(size=(3, 3)))
    pooled, pooled_lengths, pooled_mask = pool(x, counts, mask)
    weight = pool.weight.detach().numpy()
    assert pooled.shape[-1] == -(-x.shape[-1] // size) and pooled_mask.shape == (len(lengths), 1, pooled.shape[-1])
    for row, n in enumerate(lengths):
        assert pooled_lengths[row] == -(-n // size) == pooled_mask[row].sum()
        for window, start in enumerate(range(0, n, size)):
            values = x[row, :, start : min(start + size, n)].numpy()
            shares = np.exp(weight @ values)
            expected = (values * shares / shares.sum(1, keepdims=True)).sum(1)
            np.testing.assert_allclose(pooled[row, :, window].detach(), expected, atol=1e-10)
        assert not pooled[row, :, pooled_lengths[row] :].any()


def test_softmax_pool_begins_as_twice_the_identity_and_without_mask_reads_padding():
    x = torch.randn(2, 4, 7)
    pooled, lengths, mask = SoftmaxPool1d(4, 2)(x, torch.tensor([7, 3]), None)
    pairs = F.pad(x, (0, 1)).unflatten(-1, (4, 2))
    shares = (2 * pairs).softmax(-1)
    torch.testing.assert_close(pooled[..., :3], (pairs * shares).sum(-1)[..., :3])
    torch.testing.assert_close(pooled[..., 3], x[..., 6])
    assert mask is None and lengths.tolist() == [4, 2]


@pytest.mark.parametrize("kind", sorted(WINDOW_POOLS))
def test_windows_without_sequence_give_no_gradient(kind):
    x, counts, mask = padded_batch([5, 1], 3, 8, 0)
    x.requires_grad_()
    pooled, _, _ = make_window_pool(kind, 3, 2).double()(x, counts, mask)
    pooled.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad[0, :, :5].any() and not (x.grad * (1 - mask)).any()


def slow_pool(kind, row, pooling):
    "row (C, L) of one transcript without padding."
    n_channels, n = row.shape
    if kind == "mean":
        return row.mean(1)
    if kind == "max":
        return row.max(1)
    if kind == "mean_max":
        return np.concatenate([row.mean(1), row.max(1)])
    if kind == "last":
        return row[:, -1]
    if kind == "channel":
        return np.interp(np.linspace(0, n - 1, n_channels) if n_channels > 1 else [0], np.arange(n), row.mean(0))
    w_in, w_hidden, b_in, b_hidden = (p.detach().numpy() for p in pooling.gru.parameters())
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    state = np.zeros(n_channels)
    for position in reversed(range(n)):
        (r, z, new), (hr, hz, hn) = np.split(w_in @ row[:, position] + b_in, 3), np.split(w_hidden @ state + b_hidden, 3)
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        state = (1 - z) * np.tanh(new + r * hn) + z * state
    return state


@pytest.mark.parametrize("kind", sorted(POOLINGS))
@settings(max_examples=25, deadline=None)
@given(lengths=lengths_strategy, n_channels=st.integers(1, 6), extra=st.integers(0, 3), seed=st.integers(0, 2**16))
def test_every_pooling_against_loops(kind, lengths, n_channels, extra, seed):
    torch.manual_seed(seed)
    x, counts, mask = padded_batch(lengths, n_channels, extra, seed)
    pooling = make_pooling(kind, n_channels).double()
    pooled, published = pooling(x, counts, mask), pooling(x, counts, None)
    assert pooled.shape == published.shape == (len(lengths), pooling.dim)
    for row, n in enumerate(lengths):  # channel: places are float32
        np.testing.assert_allclose(pooled[row].detach(), slow_pool(kind, x[row, :, :n].numpy(), pooling), atol=1e-5)
        np.testing.assert_allclose(published[row].detach(), slow_pool(kind, x[row].numpy(), pooling), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(POOLINGS))
def test_poolings_pass_gradients_to_sequence_only(kind):
    torch.manual_seed(0)
    x, counts, mask = padded_batch([6, 1, 3], 4, 2, 0)
    x.requires_grad_()
    pooling = make_pooling(kind, 4).double()
    pooling(x, counts, mask).square().sum().backward()
    assert torch.isfinite(x.grad).all() and not (x.grad * (1 - mask)).any()
    assert all(x.grad[row].any() for row in range(3))
    assert all(p.grad is not None and p.grad.any() for p in pooling.parameters())


@pytest.mark.parametrize("kind", sorted(POOLINGS))
def test_poolings_under_mixed_precision(kind):
    torch.manual_seed(0)
    x, counts, mask = padded_batch([200, 77, 1], 8, 2, 0)
    mask, pooling = mask.float(), make_pooling(kind, 8)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooling(x.bfloat16(), counts, mask)
    torch.testing.assert_close(pooled.float(), pooling(x.float(), counts, mask), atol=0.02, rtol=0.02)


def test_unknown_names():
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        make_pooling("meen", 4)
    with pytest.raises(ConfigError, match="Did you mean 'softmax'"):
        make_window_pool("softmx", 4, 2)


def test_shift_does_nothing_in_evaluation_or_without_room():
    tracks, lengths = torch.rand(2, 3, 9), torch.tensor([9, 2])
    for shift in (StochasticShift(3).eval(), StochasticShift(0)):
        state = torch.get_rng_state()
        moved, moved_lengths = shift(tracks, lengths)
        assert moved is tracks and moved_lengths is lengths and torch.equal(torch.get_rng_state(), state)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_strategy, extra=st.integers(0, 3), max_shift=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_shift_moves_each_transcript_and_loses_nothing_at_its_end(lengths, extra, max_shift, seed):
    x, counts, mask = padded_batch(lengths, 2, extra, seed)
    x = x.masked_fill(mask == 0, 0)
    torch.manual_seed(seed)
    moved, moved_lengths = StochasticShift(max_shift)(x, counts)
    torch.manual_seed(seed)
    shift = int(torch.randint(-max_shift, max_shift + 1, ()))
    for row, n in enumerate(lengths):
        values = x[row, :, :n].numpy()
        expected = np.concatenate([np.zeros((2, shift)), values], 1) if shift >= 0 else values[:, min(-shift, n - 1) :]
        assert moved_lengths[row] == expected.shape[1]
        np.testing.assert_array_equal(moved[row, :, : moved_lengths[row]], expected)


def test_published_shift_keeps_the_length_of_the_batch():
    tracks, lengths, seen = torch.arange(1.0, 6).expand(2, 1, 5), torch.tensor([5, 2]), {}
    for seed in range(40):
        torch.manual_seed(seed)
        moved, moved_lengths = StochasticShift(2)(tracks, lengths, masked=False)
        seen[tuple(moved[0, 0].int().tolist())] = moved_lengths.tolist()
    assert seen == {
        (3, 4, 5, 0, 0): [3, 1], (2, 3, 4, 5, 0): [4, 1], (1, 2, 3, 4, 5): [5, 2], (0, 1, 2, 3, 4): [5, 3], (0, 0, 1, 2, 3): [5, 4],
    }  # fmt: skip
