"""DCL against a reference implementation's numbers and against loops."""
import math

import numpy as np
import pytest
import torch

from isoclr.pretrain.losses import contrastive_accuracy, dcl_loss, negative_mask


def slow_dcl(z1, z2, temperature, weight, group):
    "Equation 6, one term after another, in float64."
    z1, z2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1.astype(float), z2.astype(float)))
    total, total_weight = 0.0, 0.0
    for i in range(len(z1)):
        sides = []
        for own, other in ((z1, z2), (z2, z1)):
            negatives = [math.exp(own[i] @ view[j] / temperature) for j in range(len(z1)) if group[j] != group[i] for view in (own, other)]
            if negatives:
                sides.append(-own[i] @ other[i] / temperature + math.log(sum(negatives)))
        if sides:
            total, total_weight = total + weight[i] * sum(sides) / 2, total_weight + weight[i]
    return total / total_weight if total_weight else 0.0


@pytest.mark.parametrize("n_pairs", [2, 3, 17])
@pytest.mark.parametrize("dim", [1, 2, 33])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_dcl_against_loops(n_pairs, dim, temperature, weighted, grouped):
    rng = np.random.default_rng([n_pairs, dim])
    z1, z2 = rng.normal(size=(2, n_pairs, dim)).astype(np.float32)
    weight = rng.uniform(0, 3, n_pairs).astype(np.float32) if weighted else np.ones(n_pairs, np.float32)
    group = rng.integers(max(n_pairs // 3, 1), size=n_pairs) if grouped else np.arange(n_pairs)
    optional = (torch.tensor(weight) if weighted else None, torch.tensor(group) if grouped else None)
    loss = dcl_loss(torch.tensor(z1), torch.tensor(z2), temperature, *optional)
    assert loss.item() == pytest.approx(slow_dcl(z1, z2, temperature, weight, group), rel=1e-4, abs=1e-4)


def test_dcl_of_a_reference_implementation(shared_reference):
    reference = np.load(shared_reference / "dcl_eq6.npz")
    z1, z2 = (torch.tensor(reference[name], requires_grad=True) for name in ("z1", "z2"))
    loss = dcl_loss(z1, z2, float(reference["temperature"]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), reference["loss"], rtol=1e-4)
    np.testing.assert_allclose(z1.grad, reference["grad_z1"], rtol=1e-4)
    np.testing.assert_allclose(z2.grad, reference["grad_z2"], rtol=1e-4)


@pytest.mark.parametrize("grouped", [False, True])
def test_gradient_of_dcl_numerically(grouped):
    "Against finite differences of the loops."
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 5, 3))
    weight, group = rng.uniform(0.5, 2, 5), np.array([0, 1, 0, 2, 3]) if grouped else np.arange(5)
    tensor = torch.tensor(z1, dtype=torch.float32, requires_grad=True)
    dcl_loss(tensor, torch.tensor(z2), 0.5, torch.tensor(weight), torch.tensor(group)).backward()
    for i, j in np.ndindex(z1.shape):
        step = np.zeros_like(z1)
        step[i, j] = 1e-5
        slope = (slow_dcl(z1 + step, z2, 0.5, weight, group) - slow_dcl(z1 - step, z2, 0.5, weight, group)) / 2e-5
        assert tensor.grad[i, j].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_loss_is_symmetric_and_blind_to_length():
    torch.manual_seed(0)
    z1, z2, group = torch.randn(9, 4), torch.randn(9, 4), torch.arange(9) // 2
    loss = dcl_loss(z1, z2, group=group)
    torch.testing.assert_close(dcl_loss(z2, z1, group=group), loss)
    torch.testing.assert_close(dcl_loss(5 * z1, z2 * torch.rand(9, 1), group=group), loss)
    order = torch.randperm(9)
    torch.testing.assert_close(dcl_loss(z1[order], z2[order], group=group[order]), loss)


def test_members_of_a_group_do_not_repel():
    "Moving one homolog towards another leaves both their terms as they are; without groups it costs."
    z = torch.eye(4)
    near = z.clone()
    near[1, 0] = 3.0
    group = torch.tensor([0, 0, 1, 2])
    torch.testing.assert_close(dcl_loss(near, near, group=group), dcl_loss(z, z, group=group))
    assert dcl_loss(near, near) > dcl_loss(z, z) + 1


def test_a_pair_without_negatives_is_left_out():
    torch.manual_seed(0)
    z1, z2 = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = dcl_loss(z1, z2, group=torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and torch.equal(z1.grad, torch.zeros(3, 4))


def test_float32_inside_whatever_comes_in():
    torch.manual_seed(0)
    z1, z2 = torch.randn(16, 8).bfloat16(), torch.randn(16, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dcl_loss(z1, z2, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dcl_loss(z1.float(), z2.float(), 0.07))


def test_bad_shapes_are_refused():
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        dcl_loss(z, z[:3])
    with pytest.raises(ValueError, match="weight must be"):
        dcl_loss(z, z, weight=torch.ones(3))
    with pytest.raises(ValueError, match="group must be"):
        dcl_loss(z, z, group=torch.ones(4, 1))


@pytest.mark.parametrize("n_groups", [2, 7, 40])
def test_accuracy_against_loops(n_groups):
    rng = np.random.default_rng(n_groups)
    z1 = rng.normal(size=(20, 3))
    z2, group = z1 + rng.normal(size=z1.shape), rng.integers(n_groups, size=20)
    cosine = (z1 / np.linalg.norm(z1, axis=1, keepdims=True)) @ (z2 / np.linalg.norm(z2, axis=1, keepdims=True)).T
    hits = []
    for matrix in (cosine, cosine.T):
        hits += [all(matrix[i, i] > matrix[i, j] for j in range(20) if group[i] != group[j]) for i in range(20)]
    assert contrastive_accuracy(torch.tensor(z1), torch.tensor(z2), torch.tensor(group)).item() == pytest.approx(np.mean(hits), abs=1e-6)


def test_negative_mask_without_groups():
    assert torch.equal(negative_mask(None, 3), ~torch.eye(3, dtype=torch.bool))
