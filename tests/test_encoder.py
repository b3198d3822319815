"""Encoders: indifferent to padding, reproducible, saved, loaded and shared bit-exactly, and clear about bad input."""
import copy
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isoclr.config import ConfigError, InputError
from isoclr.models import encoder as encoder_module
from isoclr.models.encoder import (
    FAMILIES, Encoder, EncoderConfig, MotifConfig, SalukiConfig, SalukiEncoder, TranscriptEncoder, build_encoder, load_encoder, preset,
)  # fmt: skip
from isoclr.models.presets import PRESETS

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
    again = load_encoder(tmp_path / "encoder")
    assert type(again) is type(encoder) and again.config == encoder.config and not again.training
    for (key, ours), theirs in zip(again.state_dict().items(), encoder.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    with torch.no_grad():
        assert torch.equal(again(tracks, lengths), encoder.eval()(tracks, lengths))
        assert again(tracks, lengths).shape == (2, again.dim) and again.feature_map(tracks, lengths)[0].shape[0] == 2


FURTHER = {
    "bottleneck": SMALL.replace(block="bottleneck"),
    "stem": SMALL.replace(stem_kernel=7, stem_pool=3),
    "softmax windows": SMALL.replace(window_pool="softmax"),
    "constant dilation": SMALL.replace(dilation_doubles=False),
    "four tracks, dropout, shift": SMALL.replace(n_tracks=4, dropout=0.2, stochastic_shift=3),
    "saluki with branches": SalukiConfig(filters=8, residual=True),
    "few motifs": MotifConfig(motifs=16, kernel_size=5, threshold=0.5, dim=8),
    "motifs of four tracks": MotifConfig(n_tracks=4, motifs=16, kernel_size=8, threshold=0.5, dim=8),
    "shallow saluki": SalukiConfig(filters=8, blocks=2, kernel_size=4, pooling="mean"),
    **{f"norm {kind}": SMALL.replace(norm=kind) for kind in ("batch", "sync_batch", "group", "layer", "none")},
    **{f"pooling {kind}": SMALL.replace(pooling=kind) for kind in ("mean", "max", "last", "gru", "channel", "mean_max")},
    **{f"saluki, pooling {kind}": SalukiConfig(filters=8, blocks=3, pooling=kind) for kind in ("max", "last", "channel", "mean_max")},
}


@pytest.mark.parametrize("config", FURTHER.values(), ids=FURTHER)
def test_every_setting_is_indifferent_to_padding_learns_and_loads(config, tmp_path):
    encoder = settled(config)
    torch.manual_seed(0)
    lengths = torch.tensor([1, 40, 101, 300])
    tracks = torch.rand(4, config.n_tracks, 300).masked_fill(torch.arange(300) >= lengths[:, None, None], 50.0)
    with torch.no_grad():
        together = encoder(tracks, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = encoder(tracks[row : row + 1, :, :n], lengths[row : row + 1])
            assert (alone[0] - together[row]).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))
    encoder.save_pretrained(tmp_path)
    again = load_encoder(tmp_path)
    assert again.pretraining == encoder.pretraining and again.config == config and torch.equal(again(tracks, lengths), encoder(tracks, lengths))
    encoder.train()(tracks, lengths).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


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
    "In float64: a bias before a norm has a gradient of zero, which float32 gives as a difference of large numbers."
    tracks, lengths = torch.rand(3, 6, 64, dtype=torch.float64), torch.tensor([64, 20, 43])
    padded = torch.cat([tracks, torch.rand(3, 6, 37, dtype=torch.float64)], -1)
    gradients = []
    for batch in (tracks, padded):
        encoder = build_encoder(SMALL).double()
        encoder(batch, lengths).pow(2).sum().backward()
        gradients.append([p.grad for p in encoder.parameters()] + [encoder.body.stem_norm.running_var])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


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


def test_copies_and_seeds_leave_nothing_behind(tmp_path):
    encoder = build_encoder(SMALL)
    encoder.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    copied = copy.deepcopy(encoder)
    assert copied.config == SMALL and all(torch.equal(a, b) for a, b in zip(copied.parameters(), encoder.parameters()))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: preset("dilated_tinny"), "Did you mean 'dilated_tiny'"),
        (lambda: EncoderConfig(filters=(8, 8)), "one number for each layer"),
        (lambda: EncoderConfig(padding="maskd"), "Did you mean 'masked'"),
        (lambda: EncoderConfig(block="bottlenek"), "Did you mean 'bottleneck'"),
        (lambda: EncoderConfig(norm="batchnorm"), "norm = 'batchnorm'"),
        (lambda: EncoderConfig(window_pool="soft_max"), "Did you mean 'softmax'"),
        (lambda: EncoderConfig(pooling="average"), "pooling = 'average'.*mean"),
        (lambda: EncoderConfig(kernel_size=0), "at least 1"),
        (lambda: EncoderConfig(stem_kernel=-1), "stem_kernel: 0, or more"),
        (lambda: EncoderConfig(dropout=1.0), "below 1"),
        (lambda: EncoderConfig(dropout=-0.1), "at least 0"),
        (lambda: EncoderConfig(stochastic_shift=-3), "number of positions"),
        (lambda: EncoderConfig(stochastic_shift=True), "of type bool, not int"),
        (lambda: EncoderConfig.from_dict({"poolin": "max"}), "Did you mean 'pooling'"),
        (lambda: SalukiConfig(filters=0), "at least 1"),
        (lambda: SalukiConfig(pooling="grue"), "Did you mean 'gru'"),
        (lambda: SalukiConfig(dropout=2.0), "below 1"),
        (lambda: preset("saluki", block="basic"), "SalukiConfig has no setting 'block'"),
        (lambda: preset("motif", pooling="mean"), "MotifConfig has no setting 'pooling'"),
        (lambda: build_encoder({"filters": (8,)}), "No encoder is built from a dict"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("config", [SMALL, SalukiConfig(filters=8), MotifConfig(motifs=16, dim=8)], ids=["resnet", "saluki", "motif"])
def test_bad_input_is_refused(config):
    encoder = build_encoder(config)
    with pytest.raises(ValueError, match=r"\(B, 6, L\).*\(2, 4, 50\)"):
        encoder(torch.rand(2, 4, 50), torch.tensor([50, 50]))
    with pytest.raises(ValueError, match="lengths"):
        encoder(torch.rand(2, 6, 50), torch.tensor([50]))
    with pytest.raises(ValueError, match="from 1 to the 50 positions.*0 to 60"):
        encoder.feature_map(torch.rand(2, 6, 50), torch.tensor([60, 0]))


def test_an_encoder_from_before_there_were_families(tmp_path):
    encoder = settled(SMALL)
    encoder.save_pretrained(tmp_path)
    old = ("n_tracks", "filters", "blocks", "dilations", "dilation_doubles", "kernel_size", "stem_pool", "padding")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: settings[name] for name in old}))
    (tmp_path / "README.md").unlink()
    assert {"body.stem_conv.weight", "body.layers.1.1.conv2.weight", "body.layers.1.0.shortcut_conv.weight"} <= set(encoder.state_dict())
    tracks, lengths = torch.rand(2, 6, 90), torch.tensor([90, 50])
    for again in (load_encoder(tmp_path), Encoder.from_pretrained(tmp_path)):
        assert again.config == SMALL and torch.equal(again(tracks, lengths), encoder(tracks, lengths))


def test_a_family_is_not_taken_for_another(tmp_path):
    build_encoder(SalukiConfig(filters=8)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "saluki"
    assert type(load_encoder(tmp_path)) is type(SalukiEncoder.from_pretrained(str(tmp_path))) is SalukiEncoder
    with pytest.raises(InputError, match="'saluki', not 'resnet'.*load_encoder"):
        Encoder.from_pretrained(tmp_path)
    assert all(family == made.family for family, made in FAMILIES.items())


class Payload:
    "What unpickling would run."

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


DAMAGE = {
    "cut": lambda whole, folder: (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2]),
    "empty": lambda whole, folder: (folder / "model.safetensors").write_bytes(b""),
    "pickle": lambda whole, folder: (folder / "model.safetensors").write_bytes(pickle.dumps({"body.stem_conv.weight": Payload()})),
    "torch.save": lambda whole, folder: torch.save({"a": Payload()}, folder / "model.safetensors"),
    "other shape": lambda whole, folder: (folder / "config.json").write_text(json.dumps(SMALL.replace(filters=(8, 10, 13)).to_dict())),
    "other norm": lambda whole, folder: (folder / "config.json").write_text(json.dumps(SMALL.replace(norm="none").to_dict())),
    "unknown key": lambda whole, folder: (folder / "config.json").write_text(json.dumps({**SMALL.to_dict(), "heads": 4})),
    "unknown family": lambda whole, folder: (folder / "config.json").write_text('{"family": "resnt"}'),
    "family of no name": lambda whole, folder: (folder / "config.json").write_text('{"family": ["resnet"]}'),
    "ill-typed": lambda whole, folder: (folder / "config.json").write_text('{"filters": "wide"}'),
    "a list": lambda whole, folder: (folder / "config.json").write_text("[1, 2]"),
    "no JSON": lambda whole, folder: (folder / "config.json").write_text("{filters"),
    "no text": lambda whole, folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_encoder_is_refused_and_nothing_is_unpickled(damage, tmp_path, monkeypatch):
    build_encoder(SMALL).save_pretrained(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    damage((tmp_path / "encoder" / "model.safetensors").read_bytes(), tmp_path / "encoder")
    with pytest.raises(InputError, match="not a usable encoder"):
        load_encoder(tmp_path / "encoder")
    assert not (tmp_path / "unpickled").exists()


def test_what_is_no_encoder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="config.json is missing"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="model.safetensors is missing"):
        load_encoder(tmp_path)
    monkeypatch.setattr(encoder_module, "snapshot_download", lambda *args, **kwargs: pytest.fail("asked the hub"))
    for name in ("/no/such/folder", "one_word", "a/b/c", "../owner/name"):
        with pytest.raises(InputError, match="not a folder.*owner/name"):
            load_encoder(name)


def test_a_save_that_fails_leaves_the_older_encoder(tmp_path, monkeypatch):
    older, newer = build_encoder(SMALL), build_encoder(SMALL, seed=1)
    older.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(Exception, match="could not be written"):
        newer.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Hub:
    "A hub in a folder: what the mixin and `from_pretrained` ask of huggingface_hub."

    def __init__(self, root):
        self.root, self.calls = root, []

    def api(self, token=None):
        self.calls.append(("token", token))
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id, private=None, exist_ok=False):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, revision=None, **_):
        shutil.copytree(folder_path, self.root / repo_id / (revision or "main"), dirs_exist_ok=True)
        return f"https://hub/{repo_id}"

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None, **options):
        self.calls.append(("download", repo_id, revision, sorted(allow_patterns), options))
        folder = self.root / repo_id / (revision or "main")
        if not folder.is_dir():
            raise FileNotFoundError(f"no revision {revision} of {repo_id}")
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", hub.api)
    monkeypatch.setattr(encoder_module, "snapshot_download", hub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


@pytest.mark.parametrize("config", [SMALL, SalukiConfig(filters=8), MotifConfig(motifs=16, dim=8)], ids=["resnet", "saluki", "motif"])
def test_to_the_hub_and_back(hub, config):
    encoder = settled(config)
    encoder.pretraining = {"longest_nt": 90}
    url = encoder.push_to_hub("lab/rna", token="secret", branch="v2", model_card_kwargs={"license": "cc-by-4.0"})
    assert url == "https://hub/lab/rna"
    assert sorted(path.name for path in (hub.root / "lab/rna/v2").iterdir()) == ["README.md", "config.json", "model.safetensors", "training.json"]
    again = load_encoder("lab/rna", revision="v2", token="secret")
    assert hub.calls[-1] == ("download", "lab/rna", "v2", ["README.md", "config.json", "model.safetensors", "training.json"], {"token": "secret"})
    tracks, lengths = torch.rand(2, 6, 90), torch.tensor([90, 50])
    assert again.config == config and torch.equal(again(tracks, lengths), encoder(tracks, lengths))
    assert 'license: "cc-by-4.0"' in again.card
    again.push_to_hub("lab/other")
    assert (hub.root / "lab/other/main/README.md").read_text() == again.card
    assert torch.equal(TranscriptEncoder.from_pretrained("lab/other")(tracks, lengths), encoder(tracks, lengths))
    with pytest.raises(InputError, match="no revision v9 of lab/rna.*v9.*connection"):
        load_encoder("lab/rna", revision="v9")


def test_a_folder_comes_before_the_hub(hub, tmp_path):
    build_encoder(SMALL).save_pretrained(tmp_path / "runs" / "encoder")
    load_encoder("runs/encoder")
    assert not hub.calls
    with pytest.raises(InputError, match="no folder runs/encodr in .*hub"):
        load_encoder("runs/encodr")


def test_the_card_that_is_there_is_kept_until_a_new_one_is_asked_for(tmp_path):
    encoder = build_encoder(SMALL)
    encoder.save_pretrained(tmp_path)
    assert "library_name: isoclr" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine" == load_encoder(tmp_path).card
    encoder.save_pretrained(tmp_path, model_card_kwargs={"training": {"store": {"content_hash": "abc"}}})
    assert "content hash: abc" in (tmp_path / "README.md").read_text()
