"""Two processes together are one process with the joint batch: gathered rows, losses, and gradients of parameters."""
import gc
import os
import subprocess
import sys
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from isoclr.pretrain.gather import gather_rows, n_ranks, rows_per_rank, sum_over_ranks
from isoclr.pretrain.losses import FORMS, LOSSES

SIZES = [5, 4]  # pairs of each rank: the uneven last batch
GROUPS = {  # of the joint batch
    "none": None,
    "straddling": [0, 1, 1, 2, 3, 1, 4, 4, 5],
    "one on a rank": [0, 0, 0, 0, 0, 0, 1, 2, 1],  # rank 0 alone would have no negatives
    "one": [0] * 9,
}
CASES = [(name, form, w, g) for name in FORMS for form in FORMS[name] for w, g in product([False, True], GROUPS)]


def end_process() -> None:
    "Leave a process group in the order that does not abort at exit; models are to be deleted before."
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def _rank(rank, work, folder):
    torch.set_num_threads(1)
    patience = timedelta(minutes=2)  # ranks that wait for each other are an error, not a test that hangs
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2, timeout=patience)
    torch.save(work(rank), f"{folder}/rank_{rank}.pt")
    end_process()


def on_two_ranks(work, folder) -> list:
    "What `work(rank)`, a function of a module, returns in each of two processes of one process group."
    mp.spawn(_rank, (work, str(folder)), nprocs=2)
    return [torch.load(Path(folder) / f"rank_{rank}.pt") for rank in range(2)]


def small_model(dtype=torch.float64):
    "An encoder and a projector, without layers that look at the batch."
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)).to(dtype)


def joint_batch(weighted, groups, dtype=torch.float64):
    "Tracks of both members (2, B, 6, L), and what a loss takes beside projections."
    generator = torch.Generator().manual_seed(1)
    tracks = torch.randn(2, sum(SIZES), 6, 20, generator=generator, dtype=dtype)
    weight = torch.rand(sum(SIZES), generator=generator, dtype=dtype) * 3 if weighted else None
    return tracks, weight, None if GROUPS[groups] is None else torch.tensor(GROUPS[groups])


def loss_and_gradients(model, case, rank=None, dtype=torch.float64):
    "Of the joint batch, or of a rank's part of it."
    name, form, weighted, groups = case
    tracks, weight, group = joint_batch(weighted, groups, dtype)
    if rank is not None:
        tracks = tracks.split(SIZES, 1)[rank]
        weight, group = (None if each is None else each.split(SIZES)[rank] for each in (weight, group))
    model.zero_grad()
    z1, z2 = model(tracks.flatten(0, 1)).chunk(2)
    loss = LOSSES[name](z1, z2, 0.2, weight, group, form=form, across_ranks=rank is not None)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def losses_of_a_rank(rank):
    "Of every case, without and with distributed data parallel."
    plain, parallel = small_model(), DistributedDataParallel(small_model())
    found = [(loss_and_gradients(plain, case, rank), loss_and_gradients(parallel, case, rank)) for case in CASES]
    del parallel
    return found


def rows_of_a_rank(rank):
    "What gathering gives, for several shapes and kinds."
    found = {}
    for sizes in ([3, 2], [1, 4], [2, 2], [0, 3]):
        x = (torch.arange(sizes[rank] * 6.0).reshape(-1, 2, 3) + 100 * rank).requires_grad_()
        every = gather_rows(x)
        factor = torch.arange(every.numel()).reshape(every.shape) * 10.0**rank
        (every * factor).sum().backward()
        found[tuple(sizes)] = every.detach(), x.grad, rows_per_rank(len(x))
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.bool):
        row = gather_rows((torch.arange(2 + rank) % 2).to(dtype))
        found[str(dtype)] = row, row.requires_grad
    found["sum"] = sum_over_ranks(torch.tensor([1.0 + rank], requires_grad=True)), n_ranks()
    found["float16"] = gather_rows(torch.ones(1 + rank, 2, dtype=torch.float16))
    return found


def work_of_a_rank(rank):
    return losses_of_a_rank(rank), rows_of_a_rank(rank)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return on_two_ranks(work_of_a_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_ranks_are_the_joint_batch(two_ranks, case):
    loss, gradients = loss_and_gradients(small_model(), case)
    ranks = [losses[CASES.index(case)] for losses, _ in two_ranks]
    assert (loss == 0) == (case[-1] == "one")
    for plain, parallel in ranks:
        assert torch.equal(plain[0], parallel[0])
        torch.testing.assert_close(parallel[1], gradients, rtol=1e-9, atol=1e-14)  # what an optimiser would see, on both ranks
    torch.testing.assert_close(sum(plain[0] for plain, _ in ranks) / 2, loss, rtol=1e-9, atol=1e-14)
    mean = [sum(each) / 2 for each in zip(*(plain[1] for plain, _ in ranks))]
    torch.testing.assert_close(mean, gradients, rtol=1e-9, atol=1e-14)


def test_a_rank_alone_is_another_objective():
    "A test of the test above: the cases tell the joint batch from the mean of two batches."
    for case in CASES:
        if case[-1] != "one":
            joint = loss_and_gradients(small_model(), case)
            tracks, weight, group = joint_batch(*case[2:])
            parts = [None if each is None else each.split(SIZES) for each in (weight, group)]
            alone = []
            for rank, part in enumerate(tracks.split(SIZES, 1)):
                z1, z2 = small_model()(part.flatten(0, 1)).chunk(2)
                options = [None if each is None else each[rank] for each in parts]
                alone.append(LOSSES[case[0]](z1, z2, 0.2, *options, form=case[1]))
            assert not torch.isclose(sum(alone) / 2, joint[0], rtol=1e-3)


def test_gathered_rows_and_gradients(two_ranks):
    ranks = [rows for _, rows in two_ranks]
    for sizes in ([3, 2], [1, 4], [2, 2], [0, 3]):
        parts = [torch.arange(n * 6.0).reshape(-1, 2, 3) + 100 * rank for rank, n in enumerate(sizes)]
        both = torch.arange(sum(sizes) * 6.0).reshape(-1, 2, 3) * 11  # 10**0 + 10**1
        for rank, found in enumerate(ranks):
            every, gradient, counts = found[tuple(sizes)]
            assert torch.equal(every, torch.cat(parts)) and counts == sizes
            assert torch.equal(gradient, both.split(sizes)[rank])
    for found in ranks:
        for dtype in (torch.uint8, torch.int32, torch.int64, torch.bool):
            row, has_gradient = found[str(dtype)]
            assert row.dtype == dtype and row.tolist() == [0, 1, 0, 1, 0] and not has_gradient
        total, count = found["sum"]
        assert total.tolist() == [3] and not total.requires_grad and count == 2
        assert torch.equal(found["float16"], torch.ones(3, 2, dtype=torch.float16))


def test_one_rank_changes_nothing():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(x) is x and rows_per_rank(3) == [3] and n_ranks() == 1
    total = sum_over_ranks(x)
    assert torch.equal(total, x) and not total.requires_grad and total.data_ptr() != x.data_ptr()
    z1, z2 = torch.randn(2, 6, 3)
    for name, loss in LOSSES.items():
        assert torch.equal(loss(z1, z2, across_ranks=True), loss(z1, z2)), name


TORCHRUN_CASES = [("dcl", "eq6", True, "straddling"), ("nt_xent", "eq1", True, "straddling")]


def test_torchrun(tmp_path):
    "The same in processes that torchrun starts, in float32."
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(2)]
    for number, case in enumerate(TORCHRUN_CASES):
        loss, gradients = loss_and_gradients(small_model(torch.float32), case, dtype=torch.float32)
        torch.testing.assert_close(sum(found[number][0] for found in ranks) / 2, loss, rtol=1e-5, atol=0)
        for found in ranks:
            for ours, expected in zip(found[number][1], gradients):
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def main(folder):
    "What a process of torchrun does."
    dist.init_process_group("gloo")
    rank, model = dist.get_rank(), DistributedDataParallel(small_model(torch.float32))
    torch.save([loss_and_gradients(model, case, rank, torch.float32) for case in TORCHRUN_CASES], Path(folder) / f"rank_{rank}.pt")
    del model
    end_process()


if __name__ == "__main__":
    main(sys.argv[1])
