"""Projector and supervised heads: their form, where they begin, and that they learn."""
import pytest
import torch
from torch import nn

from isoclr.config import ConfigError
from isoclr.models.heads import HEADS, Projector, make_head


def test_projector_has_the_published_form():
    shapes = [tuple(p.shape) for p in Projector(16, 32, 8).parameters()]
    assert shapes == [(32, 16), (32,), (32,), (32,), (32, 32), (32,), (32,), (32,), (8, 32)]
    assert [layer.eps for layer in Projector(16, 32, 8) if isinstance(layer, nn.BatchNorm1d)] == [1e-3, 1e-3]


def test_projector_without_hidden_layers_is_one_linear_map():
    projector = Projector(16, 32, 8, n_layers=0)
    x = torch.randn(5, 16)
    torch.testing.assert_close(projector(x), x @ projector[0].weight.T)
    assert len(list(projector.parameters())) == 1


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("norm", ["batch", "sync_batch", "layer", "none"])
def test_projector_passes_gradients(n_layers, norm):
    projector = Projector(6, 10, 4, n_layers, norm)
    projector(torch.randn(5, 6)).square().sum().backward()
    assert sum(isinstance(layer, nn.ReLU) for layer in projector) == n_layers
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in projector.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_zero_initialised_heads_begin_at_their_bias(kind):
    head = make_head(kind, 6, 3, zero_init=True)
    x, bias = torch.randn(5, 6), torch.tensor([1.0, -2, 0.5])
    last = [layer for layer in head if isinstance(layer, nn.Linear)][-1]
    assert not last.weight.any() and not last.bias.any()
    last.bias.data = bias
    expected = bias.sigmoid() if kind == "linear_sigmoid" else bias
    torch.testing.assert_close(head(x), expected.expand(5, 3))
    assert make_head(kind, 6, 3)(x).std(0).min() > 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("zero_init", [False, True])
def test_heads_learn(kind, zero_init):
    torch.manual_seed(0)
    head = make_head(kind, 6, 2, zero_init)
    x = torch.randn(64, 6)
    target = torch.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], 1).float()
    optimizer, losses = torch.optim.Adam(head.parameters(), lr=0.02), []
    for _ in range(150):
        loss = (head(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.55 * losses[0] and losses[-1] < 0.13


def test_mlp_has_one_hidden_layer_as_wide_as_its_input():
    head = make_head("mlp", 6, 2)
    assert [type(layer).__name__ for layer in head] == ["Linear", "MaskedBatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert head[0].weight.shape == (6, 6) and head[-1].weight.shape == (2, 6)


def test_an_unknown_head_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'linear_sigmoid'"):
        make_head("linear_sigmod", 4, 1)
