"""Layers that carry lengths: padding never matters, and valid positions get what torch's own layers give."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isoclr.config import ConfigError
from isoclr.models.layers import NORMS, MaskedBatchNorm1d, SameConv1d, make_norm, max_pool, mean_pool, valid_mask


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
    x, mask = torch.randn(3, 2, 5), valid_mask(torch.tensor([5, 2, 1]), 5)
    torch.testing.assert_close(norm(x, mask), (x - torch.tensor([[1.0], [2]])) / (1 + 1e-3) ** 0.5 * mask)


def slow_norm(kind, rows, weight, bias, groups):
    "Each unpadded row (C, L) normalised with loops, from all rows for batch norms."
    if kind == "none":
        return rows
    everything, out = np.concatenate(rows, 1), []
    for row in rows:
        y = np.zeros_like(row)
        for channel in range(row.shape[0]):
            for position in range(row.shape[1]):
                if kind in ("batch", "sync_batch"):
                    seen = everything[channel]
                elif kind == "group":
                    size = row.shape[0] // groups
                    seen = row[channel // size * size : (channel // size + 1) * size]
                else:
                    seen = row[:, position]
                y[channel, position] = (row[channel, position] - seen.mean()) / np.sqrt(seen.var() + 1e-3) * weight[channel] + bias[channel]
        out.append(y)
    return out


def norm_with_random_affine(kind, n_channels, seed=0):
    norm, generator = make_norm(kind, n_channels), torch.Generator().manual_seed(seed)
    for parameter in norm.parameters():
        parameter.data = torch.randn(n_channels, generator=generator)
    return norm


@pytest.mark.parametrize("kind", sorted(NORMS))
@pytest.mark.parametrize("n_channels, groups", [(12, 6), (16, 8), (7, 7), (11, 1)])
def test_every_norm_against_loops(kind, n_channels, groups):
    rng = np.random.default_rng(n_channels)
    lengths = [9, 4, 1]
    rows = [rng.normal(3, 2, (n_channels, n)) for n in lengths]
    norm = norm_with_random_affine(kind, n_channels).double()
    weight, bias = (getattr(norm, name, torch.ones(n_channels)).detach().numpy() for name in ("weight", "bias"))
    x = torch.full((3, n_channels, 10), 77.0, dtype=torch.float64)
    for row, values in zip(x, rows):
        row[:, : values.shape[1]] = torch.tensor(values)
    y = norm(x, valid_mask(torch.tensor(lengths), 10)).detach()
    for row, n, expected in zip(y, lengths, slow_norm(kind, rows, weight, bias, groups)):
        np.testing.assert_allclose(row[:, :n], expected, atol=1e-9)
        assert not row[:, n:].any()


@pytest.mark.parametrize("kind", sorted(NORMS))
@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_every_norm_numerically(kind, training):
    torch.manual_seed(0)
    norm = norm_with_random_affine(kind, 4).double().train(training)
    mask = valid_mask(torch.tensor([4, 2, 1]), 5, torch.float64)
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: norm(x, mask), (x, *norm.parameters()))


@pytest.mark.parametrize("kind", sorted(NORMS))
def test_without_mask_every_position_counts(kind):
    torch.manual_seed(0)
    x, norm = torch.randn(3, 8, 6), norm_with_random_affine(kind, 8)
    torch.testing.assert_close(norm(x), norm(x, torch.ones(3, 1, 6)))


@pytest.mark.parametrize("kind", ["batch", "sync_batch", "layer", "none"])
def test_norms_of_projectors_take_plain_vectors(kind):
    torch.manual_seed(0)
    x, norm = torch.randn(5, 8), norm_with_random_affine(kind, 8)
    torch.testing.assert_close(norm(x), norm(x[..., None])[..., 0])


@pytest.mark.parametrize("kind", sorted(NORMS))
@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_float32_under_mixed_precision(kind, training):
    "A mean far above the spread: sums in bfloat16 would be off by more than the spread itself."
    torch.manual_seed(0)
    norm = norm_with_random_affine(kind, 8).train(training)
    mask = valid_mask(torch.tensor([300, 200, 1]), 300)
    x = (torch.randn(3, 8, 300) + 20).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x, mask)
    y.float().square().sum().backward()
    state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert y.dtype == x.grad.dtype == torch.bfloat16 and torch.isfinite(x.grad).all()
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())
    exact = norm_with_random_affine(kind, 8).train(training)
    torch.testing.assert_close(y.float(), exact(x.detach().float(), mask), atol=0, rtol=2**-8)
    if training and "batch" in kind:
        torch.testing.assert_close(state["running_mean"], exact.running_mean)
        torch.testing.assert_close(state["running_var"], exact.running_var)


def test_an_unknown_norm_is_named():
    with pytest.raises(ConfigError, match="no norm 'sync'.*Did you mean|no norm 'sync'.*Known"):
        make_norm("sync", 4)
    with pytest.raises(ConfigError, match="Did you mean 'layer'"):
        make_norm("layr", 4)


# Several processes: a small network with two norms, its statistics over all of them.

LENGTHS = [40, 7, 25, 1, 33, 12, 2, 18]
SHARES = [slice(0, 5), slice(5, 8)]  # uneven


class TwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = SameConv1d(3, 6, 3), make_norm("sync_batch", 6)
        self.conv2, self.norm2 = SameConv1d(6, 4, 3), make_norm("sync_batch", 4)
        self.linear, self.norm3 = nn.Linear(4, 5), make_norm("sync_batch", 5)

    def forward(self, x, mask):
        x = self.norm1(F.relu(self.conv1(x, mask)), mask)
        x = self.norm2(F.relu(self.conv2(x)), mask)
        return self.norm3(self.linear(mean_pool(x, mask)))


def share_of_batch(rows):
    "Inputs, mask and targets of some rows, padded to the longest of them."
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(LENGTHS), 3, max(LENGTHS), generator=generator) + 2
    target = torch.randn(len(LENGTHS), 5, generator=generator)
    lengths = torch.tensor(LENGTHS)[rows]
    return x[rows, :, : lengths.max()], valid_mask(lengths, int(lengths.max())), target[rows]


def learn_once(model, rows, world_size):
    "Gradients and running estimates; the loss is world size times the share of the mean over all rows."
    x, mask, target = share_of_batch(rows)
    (world_size * (model(x, mask) - target).pow(3).sum() / len(LENGTHS)).backward()
    module = getattr(model, "module", model)
    return {**{name: p.grad.clone() for name, p in module.named_parameters()}, **{name: b.clone() for name, b in module.named_buffers()}}


def one_of_two(rank, folder):
    import gc

    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(TwoNorms())
    torch.save(learn_once(model, SHARES[rank], 2), f"{folder}/{rank}.pt")
    del model
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_with_sync_batch_are_one_process_with_the_joint_batch(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    torch.manual_seed(0)
    expected = learn_once(TwoNorms(), slice(None), 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=3e-5 * max(1.0, float(tensor.abs().max())), msg=lambda m: f"{name}: {m}")


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_strategy, size=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_max_pool_against_loops(lengths, size, seed):
    rng = np.random.default_rng(seed)
    longest = max(lengths) + int(rng.integers(0, 3))
    x = rng.normal(size=(len(lengths), 2, longest)).astype(np.float32) - 5
    pooled, pooled_lengths, mask = max_pool(torch.tensor(x), torch.tensor(lengths), valid_mask(torch.tensor(lengths), longest), size)
    assert pooled.shape[-1] == -(-longest // size) and not (pooled * (1 - mask)).any()
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
