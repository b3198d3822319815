"""A batch in chunks has the gradients of the whole batch, with all that is random or remembered in a network."""
from contextlib import contextmanager, nullcontext

import pytest
import torch
from test_gather import on_two_ranks, small_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from isoclr.models.layers import MaskedBatchNorm1d
from isoclr.pretrain.gradcache import cached_backward, frozen_statistics
from isoclr.pretrain.losses import LOSSES, dcl_loss

SIZES = [4, 5, 2]  # pairs of each chunk


class RandomShift(nn.Module):
    "Moves a batch along the sequence, by as much as the global generator says."

    def forward(self, x):
        return x.roll(int(torch.randint(-3, 4, ())), -1) if self.training else x


def network(*extra, dtype=torch.float64):
    torch.manual_seed(0)
    layers = RandomShift(), nn.Conv1d(6, 8, 3), nn.ReLU(), *extra, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 5)
    return nn.Sequential(*layers).to(dtype)


def chunks_of_pairs(dtype=torch.float64, seed=1):
    "Tracks of both members (2, b, 6, L) of each chunk."
    return torch.randn(2, sum(SIZES), 6, 20, generator=torch.Generator().manual_seed(seed), dtype=dtype).split(SIZES, 1)


def project_with(model, chunks):
    return lambda chunk: model(chunks[chunk].flatten(0, 1)).chunk(2)


def gradients(model):
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


def whole_batch(model, chunks, loss):
    "Oracle: one graph over all chunks, kept in memory."
    projections = [model(chunk.flatten(0, 1)).chunk(2) for chunk in chunks]
    z1, z2 = (torch.cat(side) for side in zip(*projections))
    value = loss(z1, z2)
    value.backward()
    return value.detach(), z1.detach(), z2.detach(), gradients(model)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n_chunks", [1, 2, 3])
def test_as_the_whole_batch(name, n_chunks):
    "With dropout and shifts; the generator goes on from the same state too."
    model, chunks = network(), chunks_of_pairs()[:n_chunks]
    torch.manual_seed(7)
    *expected, expected_gradients = whole_batch(model, chunks, LOSSES[name])
    expected_draw = torch.rand(1)
    torch.manual_seed(7)
    found = cached_backward(project_with(model, chunks), n_chunks, LOSSES[name], torch.Tensor.backward, model, nullcontext)
    assert torch.equal(torch.rand(1), expected_draw)
    assert not any(each.requires_grad for each in found)
    torch.testing.assert_close(list(found), expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients(model), expected_gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_a_head_sees_the_whole_batch(n_chunks):
    "Batch normalisation in a head that is a part of the loss: statistics and gradients of the whole batch."
    def make():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
        return nn.ModuleDict({"encoder": network(), "head": head})

    def with_head(model):
        return lambda h1, h2: dcl_loss(*model["head"](torch.cat([h1, h2])).chunk(2))

    model, chunks = make(), chunks_of_pairs()[:n_chunks]
    torch.manual_seed(7)
    expected = whole_batch(model["encoder"], chunks, with_head(model))
    expected = expected[0], expected[-1] + gradients(model["head"]), [buffer.clone() for buffer in model["head"].buffers()]
    model = make()
    torch.manual_seed(7)
    project = project_with(model["encoder"], chunks)
    value, *_ = cached_backward(project, n_chunks, with_head(model), torch.Tensor.backward, model, nullcontext, model["head"])
    torch.testing.assert_close((value, gradients(model), list(model["head"].buffers())), expected, rtol=1e-12, atol=1e-14)


def test_accumulates_as_backward_does():
    model, chunks = small_model(), chunks_of_pairs()
    for _ in range(2):
        cached_backward(project_with(model, chunks), 3, dcl_loss, torch.Tensor.backward, model, nullcontext)
    twice = gradients(model)
    once = whole_batch(model, chunks, dcl_loss)[-1]
    torch.testing.assert_close(twice, [2 * each for each in once], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_chunks, expected", [(1, 1), (3, 6)])
def test_forward_passes_and_synchronisation(n_chunks, expected):
    "One chunk costs one forward pass, more cost two each; all backward passes but the last are within `no_sync`."
    model, chunks, passes, depth, within = small_model(), chunks_of_pairs(), [], [], []
    model.register_forward_hook(lambda *_: passes.append((torch.is_grad_enabled(), bool(depth))))

    @contextmanager
    def no_sync():
        depth.append(1)
        yield
        depth.pop()

    next(model.parameters()).register_hook(lambda _: within.append(bool(depth)))
    cached_backward(project_with(model, chunks), n_chunks, dcl_loss, torch.Tensor.backward, model, no_sync)
    assert len(passes) == expected and within == [True] * (n_chunks - 1) + [False]
    assert [inside for graph, inside in passes if graph] == within


class Masked(MaskedBatchNorm1d):
    "As in the encoders: statistics over the first positions only."

    def forward(self, x):
        mask = torch.zeros_like(x[:, :1])
        mask[..., :9] = 1
        return super().forward(x, mask)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, Masked])
def test_running_statistics_are_updated_once(norm):
    model, chunks = network(norm(8)), chunks_of_pairs()
    torch.manual_seed(7)
    expected_gradients = whole_batch(model, chunks, dcl_loss)[-1]
    expected = [buffer.clone() for buffer in model.buffers()]
    assert expected[-1] == len(chunks) and expected[0].any()
    model = network(norm(8))
    torch.manual_seed(7)
    cached_backward(project_with(model, chunks), 3, dcl_loss, torch.Tensor.backward, model, nullcontext)
    torch.testing.assert_close(list(model.buffers()), expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients(model), expected_gradients, rtol=1e-12, atol=1e-14)


def test_statistics_come_back_after_an_error():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError), frozen_statistics(norm):
        norm(torch.randn(4, 3) + 1)
        assert norm.running_mean.any()
        raise RuntimeError
    assert not norm.running_mean.any() and norm.num_batches_tracked == 0 and norm.training


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 6e-2), (torch.float16, 6e-3)])
@pytest.mark.parametrize("outside", [False, True])
def test_mixed_precision(dtype, tolerance, outside):
    "A loss so small that its gradient is zero in float16 unless scaled; autocast around all of it, or around each forward pass."
    model, chunks, scale = small_model(torch.float32), chunks_of_pairs(torch.float32), 2.0**24

    def tiny_loss(z1, z2):
        return 1e-8 * dcl_loss(z1, z2, 1.0)

    expected = whole_batch(model, chunks, tiny_loss)[-1]
    autocast = torch.autocast("cpu", dtype=dtype)

    def project(chunk):
        with nullcontext() if outside else autocast:
            return project_with(model, chunks)(chunk)

    with autocast if outside else nullcontext():
        cached_backward(project, 3, tiny_loss, lambda tensor: (scale * tensor).backward(), model, nullcontext)
    for ours, wanted in zip(gradients(model), expected):
        torch.testing.assert_close(ours / scale, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())


def test_with_fabric():
    from lightning.fabric import Fabric

    fabric, chunks = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"), chunks_of_pairs(torch.float32)
    expected = whole_batch(small_model(torch.float32), chunks, dcl_loss)
    model = small_model(torch.float32)
    model, _ = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.1))
    value, z1, z2 = cached_backward(project_with(model, chunks), 3, dcl_loss, fabric.backward, model, lambda: fabric.no_backward_sync(model))
    assert value.dtype == z1.dtype == torch.float32 and len(z1) == len(z2) == sum(SIZES)
    torch.testing.assert_close(value, expected[0], rtol=2e-2, atol=0)
    for ours, wanted in zip(gradients(model), expected[-1]):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=5e-2 * wanted.abs().max().item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_generator_of_the_gpu():
    model, chunks = network().cuda(), [chunk.cuda() for chunk in chunks_of_pairs()]
    torch.manual_seed(7)
    *expected, expected_gradients = whole_batch(model, chunks, dcl_loss)
    expected_draw = torch.rand(1, device="cuda")
    torch.manual_seed(7)
    found = cached_backward(project_with(model, chunks), 3, dcl_loss, torch.Tensor.backward, model, nullcontext)
    assert torch.equal(torch.rand(1, device="cuda"), expected_draw)
    torch.testing.assert_close(list(found), expected)
    torch.testing.assert_close(gradients(model), expected_gradients)


def across_ranks(z1, z2):
    return dcl_loss(z1, z2, across_ranks=True)


def chunks_of_a_rank(rank):
    "Rank 0 has three chunks, rank 1 two: gradients with data parallel, and how often they were reduced."
    model = DistributedDataParallel(small_model())
    reduced = []

    def count(_, bucket):
        reduced.append(bucket.index())
        tensor = bucket.buffer()
        return torch.distributed.all_reduce(tensor.div_(2), async_op=True).get_future().then(lambda future: future.value()[0])

    model.register_comm_hook(None, count)
    chunks = chunks_of_pairs(seed=rank)[: 3 - rank]
    value, *_ = cached_backward(project_with(model, chunks), len(chunks), across_ranks, torch.Tensor.backward, model, model.no_sync)
    found = value, gradients(model), len(reduced)
    del model
    return found


class WithHead(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.encoder, self.head = small_model(), nn.Linear(small_model()(torch.zeros(1, 6, 20, dtype=torch.float64)).shape[1], 3).double()

    def forward(self, tracks):
        return self.encoder(tracks)


def head_on_a_rank(rank):
    "A head outside of the wrapped forward pass is reduced all the same, once."
    bare = WithHead()
    model = DistributedDataParallel(bare)
    found = []
    for n_chunks in (1, 2):
        chunks = chunks_of_pairs(seed=rank)[:n_chunks]
        loss = lambda h1, h2: dcl_loss(bare.head(h1), bare.head(h2), across_ranks=True)
        cached_backward(project_with(model, chunks), n_chunks, loss, torch.Tensor.backward, model, model.no_sync, bare.head)
        found.append(gradients(model))
    del model
    return found


def test_a_head_on_two_ranks(tmp_path):
    ranks = on_two_ranks(head_on_a_rank, tmp_path)
    for n_chunks in (1, 2):
        model = WithHead()
        chunks = [chunk for rank in range(2) for chunk in chunks_of_pairs(seed=rank)[:n_chunks]]
        expected = whole_batch(model.encoder, chunks, lambda h1, h2: dcl_loss(model.head(h1), model.head(h2)))[-1] + gradients(model.head)
        for found in ranks:
            torch.testing.assert_close(found[n_chunks - 1], expected, rtol=1e-9, atol=1e-14)


def test_two_ranks(tmp_path):
    ranks = on_two_ranks(chunks_of_a_rank, tmp_path)
    chunks = [chunk for rank in range(2) for chunk in chunks_of_pairs(seed=rank)[: 3 - rank]]
    value, _, _, expected = whole_batch(small_model(), chunks, dcl_loss)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, value, rtol=1e-9, atol=0)
    for _, found, reductions in ranks:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
        assert reductions == 1
