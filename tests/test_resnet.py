"""The dilated ResNet against the published network: outputs on stored weights, and parameter counts."""
import csv

import numpy as np
import pytest
import torch

from isoclr.config import ConfigError
from isoclr.models.encoder import Encoder
from isoclr.models.heads import Projector
from isoclr.models.layers import NORMS, valid_mask
from isoclr.models.pooling import POOLINGS, WINDOW_POOLS, make_pooling
from isoclr.models.presets import PRESETS, preset
from isoclr.models.resnet import BLOCKS, DilatedResNet


def load_conv(module, reference, name):
    module.weight.data = torch.tensor(reference[f"{name}.kernel"]).permute(2, 1, 0).contiguous()  # Keras: (width, in, out)
    module.bias.data = torch.tensor(reference[f"{name}.bias"])


def load_linear(module, reference, name):
    module.weight.data = torch.tensor(reference[f"{name}.kernel"]).T.contiguous()
    if module.bias is not None:
        module.bias.data = torch.tensor(reference[f"{name}.bias"])


def load_norm(module, reference, name):
    for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
        getattr(module, ours).data = torch.tensor(reference[f"{name}.{theirs}"])


@pytest.fixture(scope="module")
def reference(shared_reference):
    return dict(np.load(shared_reference / "dilated_resnet_tiny.npz"))


@pytest.fixture(scope="module")
def network(reference):
    network = DilatedResNet(6, (8, 12, 12, 16), (2, 2, 2, 2), (1, 4, 16, 64), dilation_doubles=True, kernel_size=2).eval()
    load_conv(network.stem_conv, reference, "conv1")
    load_norm(network.stem_norm, reference, "bn1")
    for i, layer in enumerate(network.layers):
        for j, block in enumerate(layer):
            name = f"layer{i + 1}.{j}"
            for part in "12":
                load_conv(getattr(block, f"conv{part}"), reference, f"{name}.conv{part}")
                load_norm(getattr(block, f"norm{part}"), reference, f"{name}.bn{part}")
            if block.shortcut_conv is not None:
                load_conv(block.shortcut_conv, reference, f"{name}.downsample.conv")
                load_norm(block.shortcut_norm, reference, f"{name}.downsample.bn")
    return network


def test_feature_map_and_representation_of_the_published_network(network, reference):
    tracks = torch.tensor(reference["input"]).float().transpose(1, 2)
    with torch.no_grad():
        features, lengths = network(tracks, torch.full((3,), 1536), masked=False)
    assert lengths.tolist() == [48] * 3
    np.testing.assert_allclose(features.transpose(1, 2).numpy(), reference["feature_map"], atol=1e-4)
    np.testing.assert_allclose(features.mean(-1).numpy(), reference["representation"], atol=1e-4)


def test_masking_changes_the_published_output_only_where_there_is_padding(network, reference):
    tracks = torch.tensor(reference["input"]).float().transpose(1, 2)
    lengths = torch.tensor(reference["input"]).any(2).sum(1)
    assert len(set(lengths.tolist())) > 1
    with torch.no_grad():
        masked, _ = network(tracks, lengths)
        published, _ = network(tracks, lengths, masked=False)
    full = lengths == 1536
    torch.testing.assert_close(masked[full], published[full], atol=1e-5, rtol=0)
    assert (~full).any() and not torch.allclose(masked[~full], published[~full], atol=1e-2)


def test_projection_of_the_published_network(reference):
    projector = Projector(16, 32, 16).eval()
    for linear, norm, part in ((0, 1, 0), (3, 4, 1)):
        load_linear(projector[linear], reference, f"projector.{part}")
        load_norm(projector[norm], reference, f"projector.bn{part}")
    load_linear(projector[6], reference, "projector.2")
    with torch.no_grad():
        projection = projector(torch.tensor(reference["representation"]))
    np.testing.assert_allclose(projection.numpy(), reference["projection"], atol=1e-4)


def published_rows(shared_reference):
    with open(shared_reference / "presets.csv") as file:
        return {row["preset"]: row for row in csv.DictReader(file)}


def test_presets_are_the_published_ones(shared_reference):
    rows = published_rows(shared_reference)
    assert len(rows) == 14 and set(rows) == set(PRESETS) - {"demo", "saluki", "motif"}
    for name, row in rows.items():
        config = preset(name)
        numbers = [tuple(map(int, row[column].split())) for column in ("filters", "blocks_per_layer", "dilation_per_layer")]
        assert [config.filters, config.blocks, config.dilations] == numbers, name
        assert config.dilation_doubles == (row["dilation_doubles_within_layer"] == "True"), name
        assert config.kernel_size == int(row["default_kernel_size"]), name
        assert config.stochastic_shift == (3 if row["stochastic_shift"] == "True" else 0), name
        assert config.block == {"dilated": "basic", "dilated_bottleneck": "bottleneck"}[row["block"]], name


def n_parameters(name):
    "Of a preset's encoder with kernel 2; mean pooling has none of its own."
    with torch.device("meta"):
        return sum(p.numel() for p in Encoder(preset(name, kernel_size=2)).parameters())


def test_parameter_counts_are_the_published_ones(shared_reference):
    rows = {name: row["encoder_parameters_kernel2_6tracks"] for name, row in published_rows(shared_reference).items()}
    assert [name for name, count in rows.items() if not count] == ["less_dilated_medium2"]
    for name, count in rows.items():
        assert not count or n_parameters(name) == int(count), name


def test_parameter_count_of_the_bottleneck_preset_by_hand():
    def conv(n_in, n_out, width):
        return n_in * n_out * width + n_out + 2 * n_out  # with bias, and the norm behind it

    n_in, count = 64, conv(6, 64, 2)
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3)):
        for _ in range(blocks):
            count += conv(n_in, width, 2) + conv(width, width, 2) + conv(width, 4 * width, 1)
            count += conv(n_in, 4 * width, 1) if n_in != 4 * width else 0
            n_in = 4 * width
    assert n_parameters("less_dilated_medium2") == count


def test_dilation_doubles_inside_a_layer_or_stays():
    def dilations(doubles):
        network = DilatedResNet(4, (4, 4), (3, 2), (1, 5), dilation_doubles=doubles)
        return [[(block.conv1.dilation[0], block.conv2.dilation[0]) for block in layer] for layer in network.layers]

    assert dilations(True) == [[(1, 1), (2, 2), (4, 4)], [(5, 5), (10, 10)]]
    assert dilations(False) == [[(1, 1)] * 3, [(5, 5)] * 2]


# Every part with every other.


def small_network(**settings):
    return DilatedResNet(6, (6, 8), (2, 1), (1, 3), **settings)


def settled(network, seed=0):
    "In evaluation mode, with running estimates that are not the initial ones."
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        network(torch.rand(4, 6, 60, generator=generator), torch.tensor([60, 45, 9, 20]))
    return network.eval()


PARTS = pytest.mark.parametrize("block, window_pool, norm", [(b, w, n) for b in BLOCKS for w in WINDOW_POOLS for n in NORMS])


@PARTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_embedding_alone_is_the_embedding_in_a_mixed_batch(block, window_pool, norm, dtype):
    "In float32, norms of single transcripts raise rounding by a hundred: what leaks shows in float64."
    torch.manual_seed(0)
    network = settled(small_network(block=block, window_pool=window_pool, norm=norm, dropout=0.1, stochastic_shift=3)).to(dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4 if norm in ("group", "layer") else 1e-5
    lengths = torch.tensor([83, 1, 33, 50, 2])
    tracks = torch.rand(5, 6, 83, dtype=dtype).masked_fill(torch.arange(83) >= lengths[:, None, None], 123.0)
    with torch.no_grad():
        together, together_lengths = network(tracks, lengths)
        mask = valid_mask(together_lengths, together.shape[-1], dtype)
        assert not (together * (1 - mask)).any()
        for row, n in enumerate(lengths.tolist()):
            alone, alone_lengths = network(tracks[row : row + 1, :, :n], lengths[row : row + 1])
            assert alone_lengths[0] == alone.shape[-1] == together_lengths[row]
            for kind in set(POOLINGS) - {"channel"} if dtype == torch.float64 else POOLINGS:  # places along a profile are float32
                pooling = make_pooling(kind, network.dim).to(dtype)
                in_batch = pooling(together, together_lengths, mask)[row]
                alone_pooled = pooling(alone, alone_lengths, torch.ones(1, 1, alone.shape[-1], dtype=dtype))[0]
                assert (alone_pooled - in_batch).abs().max() <= tolerance, kind


@PARTS
@pytest.mark.parametrize("masked", [True, False])
def test_every_network_learns(block, window_pool, norm, masked):
    torch.manual_seed(0)
    network = small_network(block=block, window_pool=window_pool, norm=norm, dropout=0.1, stochastic_shift=3, stem_kernel=5, stem_pool=3)
    features, lengths = network(torch.rand(3, 6, 40), torch.tensor([40, 1, 17]), masked=masked)
    assert features.shape[:2] == (3, network.dim) and lengths.max() <= features.shape[-1] and lengths.min() >= 1
    features.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert network.stem_conv.weight.grad.any()


@PARTS
def test_published_mode_does_not_look_at_lengths(block, window_pool, norm):
    torch.manual_seed(0)
    network = settled(small_network(block=block, window_pool=window_pool, norm=norm))
    tracks = torch.rand(2, 6, 41)
    with torch.no_grad():
        features = [network(tracks, torch.tensor(lengths), masked=False)[0] for lengths in ([41, 41], [3, 20])]
        masked, _ = network(tracks, torch.tensor([41, 41]))
    assert torch.equal(*features)
    torch.testing.assert_close(features[0], masked)


@PARTS
def test_mixed_precision_is_close_and_does_not_depend_on_padding(block, window_pool, norm):
    torch.manual_seed(0)
    network = small_network(block=block, window_pool=window_pool, norm=norm)
    tracks, lengths = torch.rand(4, 6, 60), torch.tensor([60, 31, 1, 44])
    results = []
    for batch, enabled in ((tracks, False), (tracks, True), (torch.cat([tracks, torch.rand(4, 6, 17)], -1), True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features, found = network(batch, lengths)
        results.append(features.float()[..., : int(found.max())])
        assert features.dtype == (torch.bfloat16 if enabled else torch.float32)
    exact, mixed, padded = results
    distance = lambda a, b: float((a - b).detach().norm() / exact.detach().norm())  # noqa: E731
    assert distance(mixed, exact) < 0.2 and distance(padded, mixed) < 0.2
    mixed.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters())


def test_training_batches_are_shifted():
    torch.manual_seed(0)
    network = small_network(norm="none", stochastic_shift=3)
    tracks, lengths = torch.rand(1, 6, 32), torch.tensor([32])
    shapes = {network(tracks, lengths)[0].shape[-1] for _ in range(30)}
    assert shapes == {4, 5}
    network.eval()
    assert torch.equal(network(tracks, lengths)[0], network(tracks, lengths)[0])


def test_stem_kernel_and_width():
    assert small_network().stem_conv.kernel_size == (3,) and small_network(stem_kernel=7).stem_conv.kernel_size == (7,)
    assert small_network().dim == 8 and small_network(block="bottleneck").dim == 32


@pytest.mark.parametrize("part, name, nearest", [("block", "basik", "basic"), ("norm", "bach", "batch"), ("window_pool", "softmx", "softmax")])
def test_unknown_parts_are_named(part, name, nearest):
    with pytest.raises(ConfigError, match=f"Did you mean '{nearest}'"):
        small_network(**{part: name})
