"""The dilated ResNet against the published network: outputs on stored weights, and parameter counts."""
import csv

import numpy as np
import pytest
import torch

from isoclr.models.encoder import PRESETS, Encoder, preset
from isoclr.models.heads import Projector
from isoclr.models.resnet import DilatedResNet


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
    assert len(rows) == 14 and set(rows) == set(PRESETS) - {"demo", "saluki"}
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
