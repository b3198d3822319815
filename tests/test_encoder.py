"""Encoders: indifferent to padding, reproducible, saved and loaded bit-exactly, and clear about bad input."""
import json

import pytest
import torch

from isoclr.config import ConfigError, InputError
from isoclr.models.encoder import PRESETS, Encoder, EncoderConfig, build_encoder, preset

SMALL = EncoderConfig(filters=(8, 10, 12), blocks=(1, 2, 1), dilations=(1, 4, 16))


def settled(config, seed=0):
    "An encoder whose norms have seen a few batches, so that running estimates are not their initial ones."
    encoder = build_encoder(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        encoder(torch.rand(4, encoder.n_tracks, 200, generator=generator), torch.tensor([200, 150, 90, 31]))
    return encoder.eval()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_embedding_alone_is_the_embedding_in_a_mixed_batch(name):
    encoder = settled(name)
    torch.manual_seed(0)
    lengths = torch.tensor([1, 33, 257, 400])
    tracks = torch.rand(4, 6, 400).masked_fill(torch.arange(400) >= lengths[:, None, None], 123.0)
    with torch.no_grad():
        together = encoder(tracks, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = encoder(tracks[row : row + 1, :, :n], lengths[row : row + 1])
            assert (alone[0] - together[row]).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns_saves_and_loads(name, tmp_path):
    encoder = build_encoder(name)
    tracks, lengths = torch.rand(2, 6, 70), torch.tensor([70, 41])
    encoder(tracks, lengths).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    encoder.save_pretrained(tmp_path / "encoder")
    again = Encoder.from_pretrained(tmp_path / "encoder")
    assert again.config == encoder.config and not again.training
    for (key, ours), theirs in zip(again.state_dict().items(), encoder.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
@pytest.mark.parametrize("stem_pool", [1, 2, 4, 7])
def test_padding_does_not_matter_whatever_the_kernel(kernel_size, stem_pool):
    encoder = settled(SMALL.replace(kernel_size=kernel_size, stem_pool=stem_pool))
    tracks = torch.rand(1, 6, 101)
    with torch.no_grad():
        alone = encoder(tracks, torch.tensor([101]))
        for padding in (1, 2, 3, 60):
            padded = torch.cat([tracks, torch.full((1, 6, padding), 5.0)], -1)
            torch.testing.assert_close(encoder(padded, torch.tensor([101])), alone, atol=1e-5, rtol=0)


def test_training_step_does_not_depend_on_padding():
    tracks, lengths = torch.rand(3, 6, 64), torch.tensor([64, 20, 43])
    padded = torch.cat([tracks, torch.rand(3, 6, 37)], -1)
    gradients = []
    for batch in (tracks, padded):
        encoder = build_encoder(SMALL)
        encoder(batch, lengths).pow(2).sum().backward()
        gradients.append([p.grad for p in encoder.parameters()] + [encoder.body.stem_norm.running_var])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_published_padding_averages_over_everything():
    encoder = settled(SMALL.replace(padding="published"))
    tracks = torch.rand(2, 6, 64)
    with torch.no_grad():
        features, lengths = encoder.feature_map(tracks, torch.tensor([64, 10]))
        torch.testing.assert_close(encoder(tracks, torch.tensor([64, 10])), features.mean(-1))
        assert torch.equal(encoder(tracks, torch.tensor([64, 10])), encoder(tracks, torch.tensor([64, 64])))
    assert lengths.tolist() == [4, 1]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = build_encoder(SMALL), build_encoder(SMALL), build_encoder(SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [encoder.body.layers[0][0].conv1.weight for encoder in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_bad_settings_and_input_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'dilated_tiny'"):
        preset("dilated_tinny")
    with pytest.raises(ConfigError, match="one number for each layer"):
        EncoderConfig(filters=(8, 8))
    with pytest.raises(ConfigError, match="Did you mean 'masked'"):
        EncoderConfig(padding="maskd")
    with pytest.raises(ConfigError, match="at least 1"):
        EncoderConfig(kernel_size=0)
    encoder = build_encoder(SMALL)
    with pytest.raises(ValueError, match=r"\(B, 6, L\).*\(2, 4, 50\)"):
        encoder(torch.rand(2, 4, 50), torch.tensor([50, 50]))
    with pytest.raises(ValueError, match="lengths"):
        encoder(torch.rand(2, 6, 50), torch.tensor([50]))


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="config.json is missing"):
        Encoder.from_pretrained(tmp_path)
    build_encoder(SMALL).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a usable encoder"):
        Encoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.replace(filters=(8, 10, 13)).to_dict()))
    with pytest.raises(InputError, match="not a usable encoder"):
        Encoder.from_pretrained(tmp_path)
