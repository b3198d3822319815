"""Residual blocks: what they add up, what padding does not do to them, and where dropout stands."""
import pytest
import torch
import torch.nn.functional as F

from isoclr.models.blocks import BottleneckBlock, ResidualBlock
from isoclr.models.layers import NORMS, valid_mask

BLOCKS = pytest.mark.parametrize("kind", [ResidualBlock, BottleneckBlock])


@BLOCKS
@pytest.mark.parametrize("widens", [False, True])
@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("training", [True, False])
def test_block_ignores_padding_and_leaves_zeros_there(kind, widens, norm, training):
    torch.manual_seed(1)
    width = 8
    n_in = 5 if widens else width * kind.expansion
    block = kind(n_in, width, kernel_size=3, dilation=2, norm=norm).train(training)
    lengths = torch.tensor([15, 6, 1])
    x = torch.randn(3, n_in, 15) * valid_mask(lengths, 15)
    short, long = x, F.pad(x, (0, 9))
    y, padded = block(short, valid_mask(lengths, 15)), block(long, valid_mask(lengths, 24))
    torch.testing.assert_close(padded[..., :15], y)
    assert not padded[..., 15:].any() and not (y * (1 - valid_mask(lengths, 15))).any()
    assert y.shape[1] == width * kind.expansion and y.min() >= 0
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def slow_block(block, x):
    "The block, spelt out with torch's functions, for one row without padding in evaluation mode."

    def conv(layer, x):
        total = layer.dilation[0] * (layer.kernel_size[0] - 1)
        return F.conv1d(F.pad(x, (total // 2, total - total // 2)), layer.weight, layer.bias, dilation=layer.dilation)

    def norm(layer, x):
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-3)

    y = norm(block.norm1, conv(block.conv1, x).relu()).relu()
    y = norm(block.norm2, conv(block.conv2, y).relu())
    if isinstance(block, BottleneckBlock):
        y = norm(block.norm3, conv(block.conv3, y.relu()).relu())
    shortcut = x if block.shortcut_conv is None else norm(block.shortcut_norm, conv(block.shortcut_conv, x))
    return (y + shortcut).relu()


@BLOCKS
@pytest.mark.parametrize("n_in", [4, 6, 16])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_block_against_its_description(kind, n_in, kernel_size):
    torch.manual_seed(0)
    block = kind(n_in, 4, kernel_size, dilation=3).eval()
    for name, buffer in block.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 2)
    x = torch.randn(1, n_in, 20)
    torch.testing.assert_close(block(x), slow_block(block, x))


def test_bottleneck_widens_with_a_convolution_of_one():
    block = BottleneckBlock(6, 8, kernel_size=3, dilation=4)
    assert [tuple(conv.weight.shape) for conv in (block.conv1, block.conv2, block.conv3)] == [(8, 6, 3), (8, 8, 3), (32, 8, 1)]
    assert [conv.dilation for conv in (block.conv1, block.conv2, block.conv3)] == [(4,), (4,), (1,)]


@BLOCKS
def test_dropout_spares_the_shortcut_and_is_off_in_evaluation(kind):
    torch.manual_seed(0)
    width = 4 * kind.expansion
    block, plain = kind(width, 4, 3, 1, norm="group", dropout=0.999999), kind(width, 4, 3, 1, norm="group")
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, width, 9)
    torch.testing.assert_close(block(x), x.relu())
    torch.testing.assert_close(block.eval()(x), plain(x))
