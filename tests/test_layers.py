"""Layers that carry lengths: padding never matters, and valid positions get what torch's own layers give."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isoclr.models.layers import MaskedBatchNorm1d, Projector, ResidualBlock, SameConv1d, max_pool, mean_pool, valid_mask


def slow_same_conv(x, weight, bias, dilation):
    "x (C_in, L): one output position, channel and tap after another; TensorFlow's 'same'."
    n_out, n_in, width = weight.shape
    left = dilation * (width - 1) // 2
    y = np.zeros((n_out, x.shape[1]))
    for out in range(n_out):
        for position in range(x.shape[1]):
            y[out, position] = bias[out]
            for tap in range(width):
                source = position - left + tap * dilation
                if 0 <= source < x.shape[1]:
                    y[out, position] += weight[out, :, tap] @ x[:, source]
    return y


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_same_conv_against_loops(kernel_size, dilation):
    torch.manual_seed(0)
    conv = SameConv1d(3, 2, kernel_size, dilation)
    x = torch.randn(1, 3, 11)
    expected = slow_same_conv(x[0].numpy(), conv.weight.detach().numpy(), conv.bias.detach().numpy(), dilation)
    np.testing.assert_allclose(conv(x)[0].detach().numpy(), expected, atol=1e-5)


lengths_strategy = st.lists(st.integers(1, 12), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_strategy, seed=st.integers(0, 2**16))
def test_masked_norm_is_torchs_norm_of_the_valid_positions(lengths, seed):
    torch.manual_seed(seed)
    if sum(lengths) < 2:
        lengths = [2, 2]
    longest = max(lengths)
    x = torch.randn(len(lengths), 3, longest, dtype=torch.float64) * 3 + 5
    weight, gradient = torch.randn(2, 3, dtype=torch.float64), torch.randn_like(x)
    mask = valid_mask(torch.tensor(lengths), longest, torch.float64)
    ours, theirs = MaskedBatchNorm1d(3).double(), nn.BatchNorm1d(3, eps=1e-3).double()
    for norm in (ours, theirs):
        norm.weight.data, norm.bias.data = weight[0].clone(), weight[1].clone()
    junk = (x.masked_fill(mask == 0, 1e3)).requires_grad_()
    packed = torch.cat([row[:, :n] for row, n in zip(x, lengths)], 1).T.contiguous().requires_grad_()
    y, y_packed = ours(junk, mask), theirs(packed)
    unpack = lambda tensor: torch.cat([row[:, :n] for row, n in zip(tensor, lengths)], 1).T  # noqa: E731
    torch.testing.assert_close(unpack(y), y_packed)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    (y * mask).backward(gradient)
    y_packed.backward(unpack(gradient))
    torch.testing.assert_close(unpack(junk.grad), packed.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    assert not junk.grad.masked_select(mask == 0).any()


def test_gradient_of_masked_norm_numerically():
    torch.manual_seed(0)
    norm = MaskedBatchNorm1d(2).double()
    norm.weight.data = torch.tensor([0.7, -1.3], dtype=torch.float64)
    mask = valid_mask(torch.tensor([4, 2]), 4, torch.float64)
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x, mask) * mask, (x,))


def test_norm_in_evaluation_uses_running_estimates():
    norm = MaskedBatchNorm1d(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, 2]))
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(norm(x, valid_mask(torch.tensor([5, 2, 1]), 5)), (x - torch.tensor([[1.0], [2]])) / (1 + 1e-3) ** 0.5)


def test_norm_keeps_the_precision_of_its_input():
    norm = MaskedBatchNorm1d(2)
    x = torch.randn(3, 2, 5, dtype=torch.bfloat16, requires_grad=True)
    y = norm(x, valid_mask(torch.tensor([5, 2, 1]), 5))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_strategy, size=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_max_pool_against_loops(lengths, size, seed):
    rng = np.random.default_rng(seed)
    longest = max(lengths) + int(rng.integers(0, 3))
    x = rng.normal(size=(len(lengths), 2, longest)).astype(np.float32) - 5
    pooled, pooled_lengths, mask = max_pool(torch.tensor(x), torch.tensor(lengths), valid_mask(torch.tensor(lengths), longest), size)
    assert pooled.shape[-1] == -(-longest // size) and torch.isfinite(pooled).all()
    for row, n in enumerate(lengths):
        windows = [x[row, :, start : min(start + size, n)].max(1) for start in range(0, n, size)]
        assert pooled_lengths[row] == len(windows) and mask[row].sum() == len(windows)
        np.testing.assert_array_equal(pooled[row, :, : len(windows)], np.stack(windows, 1))


def test_pooling_without_mask_takes_every_position():
    x = torch.randn(2, 3, 7)
    pooled, lengths, mask = max_pool(x, torch.tensor([7, 3]), None)
    assert mask is None and lengths.tolist() == [4, 2]
    torch.testing.assert_close(pooled, F.max_pool1d(F.pad(x, (0, 1), value=-torch.inf), 2))
    torch.testing.assert_close(mean_pool(x), x.mean(-1))


def test_mean_pool_counts_valid_positions_only():
    x = torch.arange(10.0).reshape(1, 1, 10)
    assert mean_pool(x, valid_mask(torch.tensor([4]), 10)).item() == 1.5


@pytest.mark.parametrize("n_in, n_out", [(4, 4), (4, 7)])
@pytest.mark.parametrize("training", [True, False])
def test_block_ignores_what_stands_in_padding(n_in, n_out, training):
    torch.manual_seed(1)
    block = ResidualBlock(n_in, n_out, kernel_size=3, dilation=2).train(training)
    lengths = torch.tensor([15, 6, 1])
    mask = valid_mask(lengths, 15)
    x = torch.randn(3, n_in, 15)
    first = block(x, mask) * mask
    second = block(x.masked_fill(mask == 0, -77.0), mask) * mask
    torch.testing.assert_close(first, second)


def test_projector_has_the_published_form():
    shapes = [tuple(p.shape) for p in Projector(16, 32, 8).parameters()]
    assert shapes == [(32, 16), (32,), (32,), (32,), (32, 32), (32,), (32,), (32,), (8, 32)]
