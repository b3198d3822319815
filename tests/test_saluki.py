"""Saluki: the published numbers on stored weights, lengths that shrink with the positions, and indifference to padding."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.models.encoder import build_encoder, preset
from isoclr.models.saluki import SalukiHead, SalukiModel, SalukiNetwork, Scale, ScaledResidual


def torch_layout(weights, name):
    "Keras puts the gates in the order z, r, h along the last axis; torch r, z, n along the first."
    z, r, h = np.split(weights[name], 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def state_of(reference):
    "The stored weights under the names and in the layout of SalukiModel."
    theirs = {"network.stem.weight": reference["conv0.kernel"].transpose(2, 1, 0)}
    for i in range(6):
        theirs[f"network.blocks.{i}.conv.weight"] = reference[f"block{i + 1}.conv.kernel"].transpose(2, 1, 0)
        theirs[f"network.blocks.{i}.conv.bias"] = reference[f"block{i + 1}.conv.bias"]
        theirs[f"network.blocks.{i}.norm.weight"] = reference[f"block{i + 1}.norm.gamma"]
        theirs[f"network.blocks.{i}.norm.bias"] = reference[f"block{i + 1}.norm.beta"]
    theirs["network.norm.weight"], theirs["network.norm.bias"] = reference["final_norm.gamma"], reference["final_norm.beta"]
    theirs["pooling.gru.weight_ih_l0"] = torch_layout(reference, "gru.kernel").T
    theirs["pooling.gru.weight_hh_l0"] = torch_layout(reference, "gru.recurrent_kernel").T
    theirs["pooling.gru.bias_ih_l0"], theirs["pooling.gru.bias_hh_l0"] = torch_layout(reference, "gru.bias")
    for place, name in ((0, "bn0"), (5, "bn1")):
        for ours, keras in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
            theirs[f"head.{place}.{ours}"] = reference[f"head.{name}.{keras}"]
        theirs[f"head.{place}.num_batches_tracked"] = np.array(0)
    for place, name in ((2, "dense0"), (7, "dense1")):
        theirs[f"head.{place}.weight"], theirs[f"head.{place}.bias"] = reference[f"head.{name}.kernel"].T, reference[f"head.{name}.bias"]
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in theirs.items()}


@pytest.fixture(scope="module")
def reference(shared_reference):
    return dict(np.load(shared_reference / "saluki.npz"))


@pytest.fixture(scope="module")
def tracks(reference):
    return torch.tensor(reference["input"]).float().transpose(1, 2)


def loaded(reference, masked):
    model = SalukiModel(n_targets=2, masked=masked)
    model.load_state_dict(state_of(reference))
    return model.eval()


def test_feature_map_and_prediction_are_the_published_ones(reference, tracks):
    model, lengths = loaded(reference, masked=False), torch.tensor([2048, 2048])
    with torch.no_grad():
        features, positions = model.network(tracks, lengths, masked=False)
        prediction = model(tracks, lengths)
    assert positions.tolist() == [28, 28]
    np.testing.assert_allclose(features.transpose(1, 2).numpy(), reference["feature_map"], atol=1e-4)
    np.testing.assert_allclose(prediction.numpy(), reference["prediction"], atol=1e-4)


def test_the_encoder_in_published_mode_is_the_published_network(reference, tracks):
    state, model, encoder = state_of(reference), loaded(reference, masked=False), build_encoder(preset("saluki", padding="published")).eval()
    encoder.load_state_dict({name.replace("network.", "body."): tensor for name, tensor in state.items() if not name.startswith("head.")})
    with torch.no_grad():
        features, _ = encoder.feature_map(tracks, torch.tensor([2048, 700]))
        prediction = model.head(encoder(tracks, torch.tensor([2048, 700])))
    np.testing.assert_allclose(features.transpose(1, 2).numpy(), reference["feature_map"], atol=1e-4)
    np.testing.assert_allclose(prediction.numpy(), reference["prediction"], atol=1e-4)


def test_a_transcript_without_padding_is_the_same_in_both_modes(reference, tracks):
    lengths = torch.tensor([2048, 1500])
    with torch.no_grad():
        masked, published = loaded(reference, True)(tracks, lengths), loaded(reference, False)(tracks, lengths)
    torch.testing.assert_close(masked[0], published[0], atol=1e-5, rtol=0)
    assert (masked[1] - published[1]).abs().max() > 1e-3


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SalukiNetwork(filters=8, stochastic_shift=0).eval()


def test_shortest_transcript(network):
    assert network.shortest == 320  # ((1 · 2 + 4) · 2 + 4 …) six times, + 4
    with torch.no_grad():
        assert network(torch.rand(1, 6, 320), torch.tensor([320]))[0].shape[2] == 1
        assert network(torch.rand(1, 6, 447), torch.tensor([447]))[1].tolist() == [2]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_a_batch_is_its_transcripts_one_by_one(network, lengths, seed):
    tracks = torch.rand(len(lengths), 6, max(lengths) + 7, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features, positions = network(tracks, torch.tensor(lengths))
        for row, n in enumerate(lengths):
            alone = tracks[row : row + 1, :, :n]
            by_hand, _ = network(F.pad(alone, (0, max(0, 320 - n))), torch.tensor([max(n, 320)]), masked=False)
            assert positions[row] == by_hand.shape[2]
            torch.testing.assert_close(features[row : row + 1, :, : by_hand.shape[2]], by_hand, atol=1e-5, rtol=0)
            assert not features[row, :, by_hand.shape[2] :].any()


@pytest.mark.parametrize("residual", [False, True])
def test_predictions_do_not_depend_on_the_batch(residual):
    torch.manual_seed(1)
    model = SalukiModel(3, filters=8, residual=residual)
    for scale in (module for module in model.modules() if isinstance(module, Scale)):
        torch.nn.init.normal_(scale.factor)
    model(torch.rand(4, 6, 700), torch.tensor([700, 600, 500, 400]))
    model.eval()
    tracks, lengths = torch.rand(4, 6, 1000), torch.tensor([1000, 641, 320, 12])
    with torch.no_grad():
        together = model(tracks, lengths)
        for row, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(model(tracks[row : row + 1, :, :n], lengths[row : row + 1])[0], together[row], atol=1e-5, rtol=0)


def test_a_scale_of_zero_lets_only_itself_learn_at_first():
    branch = ScaledResidual(torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 5), 5, dropout=0.0)
    x = torch.rand(6, 5)
    assert torch.equal(branch(x), x)
    branch(x).square().sum().backward()
    assert branch.scale.factor.grad.abs().min() > 0 and not branch.layer.weight.grad.any()
    torch.testing.assert_close(Scale(5, 2.0)(torch.ones(2, 5, 3)), torch.full((2, 5, 3), 2.0))
    factors = Scale(2)
    factors.factor.data = torch.tensor([1.0, -3.0])
    assert factors(torch.ones(1, 2, 2)).tolist() == [[[1.0, 1.0], [-3.0, -3.0]]]


def test_every_part_learns_and_training_shifts():
    torch.manual_seed(2)
    model = SalukiModel(2, filters=8, residual=True)
    for scale in (module for module in model.modules() if isinstance(module, Scale)):
        torch.nn.init.ones_(scale.factor)
    model(torch.rand(3, 6, 800), torch.tensor([800, 500, 400])).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())
    network = SalukiNetwork(filters=8, dropout=0.0, stochastic_shift=3)
    tracks, lengths = torch.rand(1, 6, 400), torch.tensor([400])
    with torch.no_grad():
        assert len({float(network(tracks, lengths)[0].sum()) for _ in range(20)}) > 1
        assert len({float(network.eval()(tracks, lengths)[0].sum()) for _ in range(5)}) == 1


def test_head_of_the_published_shape():
    head = SalukiHead(64, 2)
    assert sum(p.numel() for p in head.parameters()) == 2 * 64 + 64 * 64 + 64 + 2 * 64 + 64 * 2 + 2
