"""Optimisers: what decays, and the steps they make against their papers."""
import sys

import pytest
import torch
from torch import nn

from isoclr.config import ConfigError, IsoclrError
from isoclr.pretrain.optimizer import OPTIMIZERS, make_optimizer, parameter_groups


class Odd(nn.Module):
    "Every kind of parameter: matrices, kernels, vectors, a learnt scalar, a shared and a frozen one."

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.group = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.GroupNorm(2, 6)
        self.gru, self.layer, self.head = nn.GRU(6, 5), nn.LayerNorm(5), nn.Linear(5, 5)
        self.scalar, self.vector = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.ones(6))
        self.tied = self.head
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_norms_biases_vectors_and_scalars_do_not_decay():
    module = Odd()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    decaying, steady = ([names[id(parameter)] for parameter in group["params"]] for group in groups)
    assert decaying == ["conv.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "head.weight"]
    learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert sorted(decaying + steady) == sorted(learning) and {"scalar", "vector", "layer.weight", "gru.bias_ih_l0"} <= set(steady)


def test_a_group_without_parameters_is_left_out():
    assert [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == [0.1]
    assert [group["weight_decay"] for group in parameter_groups(nn.LayerNorm(2), 0.1)] == [0.0]


def steps_of(optimizer: torch.optim.Optimizer, module: nn.Module, gradients: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    for each in gradients:
        for name, parameter in module.named_parameters():
            parameter.grad = each[name].clone()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def random_problem() -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    return module, [{name: torch.randn_like(p) for name, p in module.named_parameters()} for _ in range(5)]


def test_adamw_against_its_paper():
    module, gradients = random_problem()
    expected = {}
    for name, parameter in module.named_parameters():
        weight, m, v, decay = parameter.detach().clone(), 0.0, 0.0, 0.1 if parameter.ndim > 1 else 0.0
        for t, gradient in enumerate((each[name] for each in gradients), 1):
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            weight = weight - 0.02 * (m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8) + decay * weight)
        expected[name] = weight
    torch.testing.assert_close(steps_of(make_optimizer("adamw", module, 0.02, 0.1), module, gradients), expected)


def test_lamb_against_its_paper():
    "Algorithm 2 of arXiv 1904.00962, version 3, which leaves the bias correction out; the norm of weights is capped at 10."
    pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed")
    module, gradients = random_problem()
    expected = {}
    for name, parameter in module.named_parameters():
        weight, m, v, decay = parameter.detach().clone(), 0.0, 0.0, 0.1 if parameter.ndim > 1 else 0.0
        for gradient in (each[name] for each in gradients):
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            update = m / (v.sqrt() + 1e-6) + decay * weight
            size = weight.norm().clamp(max=10)
            weight = weight - 0.02 * update * (size / update.norm() if size > 0 and update.norm() > 0 else 1.0)
        expected[name] = weight
    torch.testing.assert_close(steps_of(make_optimizer("lamb", module, 0.02, 0.1), module, gradients), expected, rtol=1e-4, atol=1e-6)


def test_lamb_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(IsoclrError, match='"lamb" needs a package.*pip install "pytorch-optimizer>=.*Or use "adamw"'):
        make_optimizer("lamb", nn.Linear(2, 2), 0.1, 0.1)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="no optimizer 'lambda'. Did you mean 'lamb'"):
        make_optimizer("lambda", nn.Linear(2, 2), 0.1, 0.1)
    assert OPTIMIZERS == ("adamw", "lamb")


def test_on_the_cpu_adamw_is_not_fused():
    assert not any(group["fused"] for group in make_optimizer("adamw", Odd(), 0.1, 0.1).param_groups)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_adamw_is_fused_unless_told_otherwise():
    module = Odd().cuda()
    assert all(group["fused"] for group in make_optimizer("adamw", module, 0.1, 0.1).param_groups)
    assert not any(group["fused"] for group in make_optimizer("adamw", module, 0.1, 0.1, fused=False).param_groups)
