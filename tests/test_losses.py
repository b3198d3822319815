"""DCL and NT-Xent against loops, against outputs of published implementations, and in what must not change them."""
import math
from itertools import product

import numpy as np
import pytest
import torch

from isoclr.config import ConfigError, InputError
from isoclr.data.homology import RELATIONS
from isoclr.pretrain.losses import FORMS, LOSSES, contrastive_accuracy, dcl_loss, loss_named, negative_mask, relation_weights

KINDS = [(name, form) for name in FORMS for form in FORMS[name]]


def slow_loss(name, form, z1, z2, temperature, weight, group):
    "One pair after another, in float64, as the formulas stand in the papers and in the published code."
    z1, z2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (np.asarray(z1, float), np.asarray(z2, float)))
    terms, weights = [], []
    for i in range(len(z1)):
        rivals = [j for j in range(len(z1)) if group[j] != group[i]]
        if not rivals:
            continue
        sides = []
        for own, other in ((z1, z2), (z2, z1)):
            positive = own[i] @ other[i] / temperature
            within = sum(math.exp(own[i] @ own[j] / temperature) for j in rivals)
            across = sum(math.exp(own[i] @ other[j] / temperature) for j in rivals)
            if name == "nt_xent":
                sides.append(-math.log(math.exp(positive) / (math.exp(positive) + within + across)))
            elif form == "eq6":
                sides.append(-positive + math.log(within + across))
            else:
                sides.append(-weight[i] * positive + math.log(within) + math.log(across))
        terms.append(weight[i] * sum(sides) if (name, form) == ("nt_xent", "published") else sum(sides) / 2)
        weights.append(1.0 if form == "published" else weight[i])
    return float(np.average(terms, weights=weights)) if sum(weights) else 0.0


def a_batch(n_pairs, dim, weighted, grouped, seed=0):
    "Projections, weights and groups in float64, and the two as a loss takes them."
    rng = np.random.default_rng([seed, n_pairs, dim])
    z1, z2 = rng.normal(size=(2, n_pairs, dim))
    weight = rng.uniform(0, 3, n_pairs) if weighted else np.ones(n_pairs)
    group = rng.integers(max(n_pairs // 3, 1), size=n_pairs) if grouped else np.arange(n_pairs)
    return z1, z2, weight, group, {"weight": torch.tensor(weight) if weighted else None, "group": torch.tensor(group) if grouped else None}


@pytest.mark.parametrize("name, form", KINDS)
@pytest.mark.parametrize("weighted, grouped", list(product([False, True], [False, True])))
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("dim", [1, 2, 33])
@pytest.mark.parametrize("n_pairs", [1, 2, 3, 17])
def test_against_loops(name, form, n_pairs, dim, temperature, weighted, grouped):
    z1, z2, weight, group, optional = a_batch(n_pairs, dim, weighted, grouped)
    expected = slow_loss(name, form, z1, z2, temperature, weight, group)
    z1, z2 = torch.tensor(z1), torch.tensor(z2)
    assert LOSSES[name](z1, z2, temperature, form=form, **optional).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = LOSSES[name](z1.float(), z2.float(), temperature, form=form, **optional)
    assert single.dtype == torch.float32 and single.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name, form", KINDS)
@pytest.mark.parametrize("weighted, group", list(product([False, True], [None, [0, 1, 0, 2, 3], [0, 0, 0, 0, 0]])))
def test_gradient_numerically(name, form, weighted, group):
    z1, z2, _, _, optional = a_batch(5, 3, weighted, False)
    optional["group"] = None if group is None else torch.tensor(group)
    z1, z2 = torch.tensor(z1, requires_grad=True), torch.tensor(z2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: LOSSES[name](a, b, 0.3, form=form, **optional), (z1, z2))


def check_reference(loss, z1, z2, expected, gradients):
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-4)
    for z, gradient in zip((z1, z2), gradients):
        np.testing.assert_allclose(z.grad, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["unweighted", "weighted"])
def test_published_code(shared_reference, name, kind):
    reference = np.load(shared_reference / "losses.npz")
    z1, z2 = (torch.tensor(reference[side], requires_grad=True) for side in ("z1", "z2"))
    weight = torch.tensor(reference["weight"]) if kind == "weighted" else None
    loss = LOSSES[name](z1, z2, float(reference["temperature"]), weight, form="published")
    check_reference(loss, z1, z2, reference[f"{name}_{kind}"], [reference[f"{name}_{kind}_grad_{side}"] for side in ("z1", "z2")])


def test_equation_6_of_another_library(shared_reference):
    reference = np.load(shared_reference / "dcl_eq6.npz")
    z1, z2 = (torch.tensor(reference[side], requires_grad=True) for side in ("z1", "z2"))
    check_reference(dcl_loss(z1, z2, float(reference["temperature"])), z1, z2, reference["loss"], [reference["grad_z1"], reference["grad_z2"]])


@pytest.mark.parametrize("name, form", KINDS)
def test_symmetric_and_blind_to_length_and_order(name, form):
    torch.manual_seed(0)
    z1, z2, group, weight, order = torch.randn(9, 4), torch.randn(9, 4), torch.arange(9) // 2, torch.rand(9), torch.randperm(9)

    def loss(z1, z2, weight=weight, group=group):
        return LOSSES[name](z1, z2, 0.2, weight, group, form)

    torch.testing.assert_close(loss(z2, z1), loss(z1, z2))
    torch.testing.assert_close(loss(5 * z1, z2 * torch.rand(9, 1)), loss(z1, z2))
    torch.testing.assert_close(loss(z1[order], z2[order], weight[order], group[order]), loss(z1, z2))


@pytest.mark.parametrize("name", LOSSES)
def test_only_ratios_of_weights_matter(name):
    torch.manual_seed(0)
    z1, z2, weight = torch.randn(9, 4), torch.randn(9, 4), torch.rand(9)
    torch.testing.assert_close(LOSSES[name](z1, z2, weight=7 * weight), LOSSES[name](z1, z2, weight=weight))
    torch.testing.assert_close(LOSSES[name](z1, z2, weight=torch.full((9,), 7.0)), LOSSES[name](z1, z2))
    assert LOSSES[name](z1, z2, weight=torch.zeros(9)) == 0


@pytest.mark.parametrize("name, form", KINDS)
def test_members_of_a_group_do_not_repel(name, form):
    "Moving one homolog towards another leaves both their terms as they are; without the option, or without groups, it costs."
    z = torch.eye(4)
    near = z.clone()
    near[1, 0] = 3.0
    group = torch.tensor([0, 0, 1, 2])

    def loss(z, **options):
        return LOSSES[name](z, z, form=form, **options)

    torch.testing.assert_close(loss(near, group=group), loss(z, group=group))
    assert loss(near) > loss(z) + 0.1
    assert torch.equal(loss(near, group=group, exclude_group=False), loss(near))


@pytest.mark.parametrize("name, form", KINDS)
def test_a_batch_without_negatives_teaches_nothing(name, form):
    torch.manual_seed(0)
    z1, z2 = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = LOSSES[name](z1, z2, form=form, group=torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and torch.equal(z1.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("name, form", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_whatever_comes_in(name, form, dtype):
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 16, 8).to(dtype).unbind()
    exact = z1.float().requires_grad_()
    z1.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss, accuracy = LOSSES[name](z1, z2, 0.07, form=form), contrastive_accuracy(z1, z2)
    expected = LOSSES[name](exact, z2.float(), 0.07, form=form)
    loss.backward(), expected.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, expected) and torch.equal(z1.grad, exact.grad.to(dtype))
    assert accuracy == contrastive_accuracy(z1.float(), z2.float())


def test_what_is_not_a_number_is_not_hidden():
    z = torch.randn(4, 3)
    z[1, 1] = torch.nan
    assert all(LOSSES[name](z, torch.randn(4, 3), form=form).isnan() for name, form in KINDS)


@pytest.mark.parametrize("name, form", KINDS)
def test_memory_kept_for_backward(name, form):
    "Three float matrices of B × B and one mask; nothing else that grows with the square."
    n_pairs, kept = 128, {}

    def keep(tensor):
        if tensor.numel() >= n_pairs**2:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    z1, z2 = torch.randn(2, n_pairs, 4, requires_grad=True).unbind()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = LOSSES[name](z1, z2, weight=torch.rand(n_pairs), group=torch.arange(n_pairs) // 2, form=form)
    assert sorted(tensor.untyped_storage().nbytes() for tensor in kept.values()) == [n_pairs**2] + 3 * [4 * n_pairs**2]
    loss.backward()


def test_relation_weights():
    relation = torch.randint(len(RELATIONS), (50,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    table = {"self": 0.0, "isoform": 1.0, "paralog": 0.5, "ortholog": 2.0}
    expected = [table[RELATIONS[code]] for code in relation.tolist()]
    for given in (tuple(table.values()), torch.tensor(list(table.values()))):
        assert relation_weights(relation, given).tolist() == expected
    with pytest.raises(ConfigError, match="self, isoform, paralog, ortholog"):
        relation_weights(relation, (1.0, 2.0))


def test_bad_input_is_refused():
    z = torch.randn(4, 3)
    for loss in LOSSES.values():
        with pytest.raises(InputError, match=r"\(4, 3\) and \(3, 3\)"):
            loss(z, z[:3])
        with pytest.raises(InputError, match="weight must be"):
            loss(z, z, weight=torch.ones(3))
        with pytest.raises(InputError, match="group must be"):
            loss(z, z, group=torch.ones(4, 1))
        with pytest.raises(ConfigError, match="temperature = 0 must be above 0"):
            loss(z, z, 0)
        with pytest.raises(ConfigError, match="Did you mean 'published'"):
            loss(z, z, form="publisched")


def test_losses_by_name():
    z1, z2 = torch.randn(2, 4, 3)
    for name, form in KINDS:
        assert torch.equal(loss_named(name, form)(z1, z2, 0.2), LOSSES[name](z1, z2, 0.2, form=form))
        assert loss_named(name) is LOSSES[name]
        assert torch.equal(LOSSES[name](z1, z2), LOSSES[name](z1, z2, form=FORMS[name][0]))
    with pytest.raises(ConfigError, match="Did you mean 'nt_xent'"):
        loss_named("NT_xent")
    with pytest.raises(ConfigError, match="no form 'eq6'"):
        loss_named("nt_xent", "eq6")


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
