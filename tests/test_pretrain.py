"""Pretraining: learns, stops anywhere and goes on exactly, never mixes runs, and keeps held-out families out."""
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isoclr.config import ConfigError, InputError, IsoclrError
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import EncoderConfig, build_encoder
from isoclr.pretrain import learner as module
from isoclr.pretrain.feed import PairFeed
from isoclr.pretrain.learner import ContrastiveModel
from isoclr.pretrain.monitor import METRICS, Monitor
from isoclr.pretrain.optimizer import parameter_groups
from isoclr.pretrain.pairs import PairSampler, holdout_groups
from isoclr.pretrain.pretrain import PretrainConfig, pretrain

TINY = EncoderConfig(filters=(8, 8), blocks=(1, 1), dilations=(1, 2), stem_pool=4)
CONFIG = PretrainConfig(steps=40, batch_pairs=12, log_every=3, checkpoint_every=20, projector_hidden=16, projector_dim=8, seed=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TranscriptStore:
    folder = tmp_path_factory.mktemp("pretrain")
    simulation = simulate(folder / "simulation", SimulateConfig(n_families=24), progress=False)
    homology = read_homology(simulation.homology, simulation.taxa)
    return build_store(folder / "store", [SpeciesSource(**source) for source in simulation.sources], homology, progress=False)


def train(store, folder, config=CONFIG, encoder=TINY):
    return pretrain(store, folder, encoder, config, accelerator="cpu", progress=False)


def metrics(folder: Path) -> list[dict]:
    "Rows without what depends on the clock."
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("seconds", "pairs_per_second")} for row in rows]


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(store, folder)


def last_step(folder: Path) -> int:
    "The step of the checkpoint that a run would go on from."
    checkpoints = folder / "checkpoints"
    return torch.load(checkpoints / (checkpoints / "last").read_text().strip(), weights_only=True)["step"]


def same_run(folder, encoder, straight) -> None:
    "Bitwise: metrics and weights are those of the run that was never interrupted."
    assert metrics(folder) == metrics(straight[0])
    for (name, ours), theirs in zip(encoder.state_dict().items(), straight[1].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_finished_run(store, straight):
    folder, encoder = straight
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [*range(3, 40, 3), 40]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    held_out = holdout_groups(store.transcripts["group"], CONFIG.holdout, CONFIG.holdout_seed)
    training = json.loads((folder / "encoder" / "training.json").read_text())
    assert training["heldout_groups"] == sorted(set(store.transcripts["group"][held_out]))
    assert training["pretrain"] == json.loads(json.dumps(CONFIG.to_dict())) and training["store"]["content_hash"] == store.content_hash
    assert training["longest_nt"] == store.transcripts["length_nt"].max() and 0 < training["coding_share"] <= 1 and encoder.pretraining == training
    monitor = Monitor(store, np.flatnonzero(held_out))
    for name, each in (("trained", encoder), ("untrained", build_encoder(TINY, CONFIG.seed).eval())):
        assert training["heldout_retrieval"][name] == pytest.approx(monitor.measure(each))
    assert training["heldout_retrieval"]["k-mer"] == monitor.baseline and monitor.baseline["homolog@1"] > 0.2
    card = (folder / "encoder" / "README.md").read_text()
    assert store.content_hash in card and "untrained" in card and "k-mer" in card
    assert not encoder.training


def test_a_second_run_of_the_same_settings_is_the_same(store, straight, tmp_path):
    same_run(tmp_path, train(store, tmp_path), straight)


def test_a_finished_run_is_returned_as_it_is(store, straight, monkeypatch):
    monkeypatch.setattr(PairSampler, "chunks", lambda self, step: pytest.fail("trained again"))
    same_run(straight[0], train(store, straight[0]), straight)


KILLED = """
import os, signal, sys
from test_pretrain import CONFIG, TINY, train
from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pairs import PairSampler
draw = PairSampler.chunks
def batch(self, step):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))
    return draw(self, step)
PairSampler.chunks = batch
train(TranscriptStore.open(sys.argv[1]), sys.argv[2])
"""


def run_and_signal(store, folder, step, name) -> int:
    "Train in another process that signals itself before a step; its exit code."
    command = [sys.executable, "-c", KILLED, str(store.path), str(folder), str(step), name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, env=environment, timeout=300, capture_output=True).returncode


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_never_killed(store, straight, tmp_path):
    assert run_and_signal(store, tmp_path, 28, "SIGKILL") == -signal.SIGKILL
    assert [row["step"] for row in metrics(tmp_path)] == list(range(3, 28, 3))  # whole rows, some of them after the checkpoint
    assert not (tmp_path / "encoder").exists()
    assert last_step(tmp_path) == 20
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(store, straight, tmp_path):
    assert run_and_signal(store, tmp_path, 7, "SIGKILL") == -signal.SIGKILL
    assert len(metrics(tmp_path)) == 2 and not (tmp_path / "checkpoints").exists()
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.mark.slow
def test_terminated_writes_a_checkpoint_and_says_so(store, straight, tmp_path):
    assert run_and_signal(store, tmp_path, 13, "SIGTERM") == 128 + signal.SIGTERM
    assert last_step(tmp_path) == 14
    same_run(tmp_path, train(store, tmp_path), straight)


def test_interrupted_in_a_notebook(store, straight, tmp_path, monkeypatch):
    draw, before = PairSampler.chunks, signal.getsignal(signal.SIGINT)

    def interrupted(self, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(PairSampler, "chunks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert last_step(tmp_path) == 11
    same_run(tmp_path, train(store, tmp_path), straight)


def test_killed_between_training_and_the_encoder(store, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "measure", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(store, tmp_path)
    assert not (tmp_path / "encoder").exists()
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.fixture
def half_done(store, tmp_path, monkeypatch):
    "A run that stopped with a checkpoint at step 20."
    draw = PairSampler.chunks
    with monkeypatch.context() as patch:
        patch.setattr(PairSampler, "chunks", lambda self, step: draw(self, step) if step < 22 else (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(store, tmp_path)
    return tmp_path


def test_other_settings_do_not_go_on_with_a_run(store, half_done, straight):
    with pytest.raises(ConfigError, match=r"step_00000020.pt belongs to another run \(pretrain.temperature: 0.1 there, 0.3 here\)"):
        train(store, half_done, CONFIG.replace(temperature=0.3))
    with pytest.raises(ConfigError, match=r"encoder.filters: \[8, 8\] there, \[8, 9\] here"):
        train(store, half_done, encoder=TINY.replace(filters=(8, 9)))
    with pytest.raises(ConfigError, match="another run .*seed"):
        train(store, straight[0], CONFIG.replace(seed=6))


def test_another_store_does_not_go_on_with_a_run(store, half_done):
    other = TranscriptStore(store.path, {**store.info, "content_hash": "another"}, store.nucleotides)
    with pytest.raises(ConfigError, match="store.content_hash"):
        train(other, half_done)


class Foreign:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["ISOCLR_FOREIGN"])),)


@pytest.mark.parametrize("content", ["half", "empty", "text", "pickle", "tensor"])
def test_a_damaged_or_foreign_checkpoint_is_refused(store, half_done, content, monkeypatch):
    path = half_done / "checkpoints" / "step_00000020.pt"
    monkeypatch.setenv("ISOCLR_FOREIGN", str(half_done / "executed"))
    whole = path.read_bytes()
    if content == "tensor":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        foreign = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint\n", "pickle": pickle.dumps(Foreign(), 2)}
        path.write_bytes(foreign[content])
    with pytest.raises(InputError, match="step_00000020.pt is not a checkpoint that can be read.*Delete it to start this run over"):
        train(store, half_done)
    assert not (half_done / "executed").exists()


def test_a_diverging_run_names_step_and_transcripts(store, tmp_path, monkeypatch):
    real, calls = module.loss_named, []

    def poisoned(name, form):
        def loss(*args, **kwargs):
            calls.append(1)
            return real(name, form)(*args, **kwargs) * (math.nan if len(calls) == 22 else 1.0)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(module, "loss_named", poisoned)
        with pytest.raises(IsoclrError, match=r"Step 22: the loss or its gradient is nan .* alpha\|N[MR]_.*Lower learning_rate") as caught:
            train(store, tmp_path)
    pairs = PairSampler(store, np.flatnonzero(~holdout_groups(store.transcripts["group"], 0.2)), CONFIG, CONFIG.seed).batch_of(21)
    assert all(store.transcripts.transcript_id[row] in str(caught.value) for row in pairs.rows_1.tolist()[:8])
    assert last_step(tmp_path) == 20 and metrics(tmp_path)[-1]["step"] == 21
    state = torch.load(tmp_path / "checkpoints" / "step_00000020.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_held_out_families_are_never_seen(store, tmp_path, monkeypatch):
    seen, chunks = set(), PairFeed.batch

    def watched(self, step):
        found = chunks(self, step)
        seen.update(row for chunk in found for rows in (chunk.rows_1, chunk.rows_2) for row in rows.tolist())
        return found

    monkeypatch.setattr(PairFeed, "batch", watched)
    train(store, tmp_path, CONFIG.replace(steps=10))
    held_out = holdout_groups(store.transcripts["group"], 0.2)
    assert held_out.any() and seen and not held_out[sorted(seen)].any()


def test_nothing_held_out(store, tmp_path):
    train(store, tmp_path, CONFIG.replace(holdout=0.0, steps=2))
    training = json.loads((tmp_path / "encoder" / "training.json").read_text())
    assert training["heldout_groups"] == [] and training["heldout_retrieval"]["trained"]["isoform@1"] is None


def test_it_learns(store, tmp_path):
    "On families it trains on, a minute part of a real run already tells families apart."
    train(store, tmp_path, CONFIG.replace(steps=120, mask_share=0.0, learning_rate=0.01, log_every=10), TINY.replace(filters=(16, 32)))
    rows = metrics(tmp_path)
    assert np.mean([row["accuracy"] for row in rows[-3:]]) > 0.5 > rows[0]["accuracy"]
    assert np.mean([row["loss"] for row in rows[-3:]]) < rows[0]["loss"] - 1


def test_norms_and_biases_do_not_decay():
    model = ContrastiveModel(build_encoder(TINY), CONFIG)
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model, 0.1))
    assert not decayed & spared and len(decayed | spared) == len(list(model.parameters()))
    for name, part in model.named_modules():
        for kind, parameter in part.named_parameters(recurse=False):
            is_weight = kind == "weight" and not isinstance(part, torch.nn.BatchNorm1d)
            assert (id(parameter) in decayed) == is_weight, f"{name}.{kind}"


def test_bad_settings_are_refused():
    for name, value in {"steps": 0, "holdout": 1.0, "temperature": 0.0, "batch_pairs": 1}.items():
        with pytest.raises(ConfigError, match=f"{name} = {value}"):
            PretrainConfig(**{name: value})
    with pytest.raises(ConfigError, match="Did you mean 'mask_share'"):
        PretrainConfig.from_dict({"mask_shar": 0.1})
    with pytest.raises(ConfigError, match="Did you mean 'published'"):
        PretrainConfig(loss_form="publishd")
    with pytest.raises(ConfigError, match="Did you mean 'homolog@1'"):
        PretrainConfig(monitor="homolog@2")
    with pytest.raises(ConfigError, match="select = 'best' needs monitor_every"):
        PretrainConfig(select="best")


# %% What a run can be told

def test_chunks_change_the_memory_not_the_result(store, tmp_path):
    "With norms that look at one transcript at a time, a token budget leaves the run as it is."
    encoder, config = TINY.replace(norm="layer"), CONFIG.replace(steps=8, log_every=1, mask_share=0.0, learning_rate=1e-6)
    longest = int(store.transcripts.length_nt.max())
    train(store, tmp_path / "whole", config, encoder)
    train(store, tmp_path / "parts", config.replace(token_budget=4 * longest), encoder)
    for ours, theirs in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
        assert ours["padding"] < theirs["padding"]


def test_accumulated_batches_are_averaged(store, tmp_path):
    "Two batches a step: twice the pairs, and the loss of a row is the mean of its batches."
    train(store, tmp_path / "one", CONFIG.replace(steps=2, log_every=1, learning_rate=1e-12, mask_share=0.0))
    train(store, tmp_path / "two", CONFIG.replace(steps=1, log_every=1, learning_rate=1e-12, mask_share=0.0, accumulate=2))
    one, (two,) = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two["loss"] == pytest.approx(np.mean([row["loss"] for row in one]), rel=1e-5)
    assert two["epoch"] == one[-1]["epoch"]


def test_the_best_look_can_be_kept(store, tmp_path):
    config = CONFIG.replace(monitor_every=4, select="best", monitor="effective_rank", learning_rate=0.05)
    encoder = train(store, tmp_path, config)
    looks = {row["step"]: row["heldout/effective_rank"] for row in metrics(tmp_path) if "heldout/effective_rank" in row}
    assert sorted(looks) == list(range(4, 41, 4)) and set(METRICS) <= {name.removeprefix("heldout/") for row in metrics(tmp_path) for name in row}
    training = json.loads((tmp_path / "encoder" / "training.json").read_text())
    assert training["step"] == max(looks, key=looks.get)
    rows = np.flatnonzero(holdout_groups(store.transcripts["group"], CONFIG.holdout, CONFIG.holdout_seed))
    assert Monitor(store, rows).measure(encoder)["effective_rank"] == pytest.approx(max(looks.values()), rel=1e-4)


def test_loggers_of_fabric_get_the_numbers(store, tmp_path):
    from lightning.fabric.loggers import CSVLogger

    logger = CSVLogger(tmp_path / "csv", flush_logs_every_n_steps=1)
    pretrain(store, tmp_path / "run", TINY, CONFIG.replace(steps=6), accelerator="cpu", progress=False, loggers=[logger])
    written = pd.read_csv(Path(logger.log_dir) / "metrics.csv")
    assert written["loss"].tolist() == pytest.approx([row["loss"] for row in metrics(tmp_path / "run")])


def test_memory_that_does_not_suffice_names_the_budget(store, tmp_path, monkeypatch):
    def full(self, *_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(ContrastiveModel, "forward", full)
    with pytest.raises(IsoclrError, match=r"Step 1 does not fit in the memory of cpu: a forward held [\d,]+ nt.*Set token_budget to \d+ or less"):
        train(store, tmp_path)


def test_a_store_without_positive_pairs_is_refused(store, tmp_path):
    one = store.subset(tmp_path / "store", np.flatnonzero(~store.transcripts.duplicated("group")))
    with pytest.raises(ConfigError, match="there are no pairs to learn from"):
        train(one, tmp_path / "run", CONFIG.replace(batch_pairs=4))
    with pytest.raises(ConfigError, match="batch_pairs = 1000, but there are"):
        train(store, tmp_path / "run", CONFIG.replace(batch_pairs=1000))


class OwnEncoder(torch.nn.Module):
    "The protocol in a dozen lines: composition of a transcript through a hidden layer."

    n_tracks, dim = 4, 8

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))

    def feature_map(self, tracks, lengths):
        return self.layers(tracks.transpose(1, 2)).transpose(1, 2), lengths

    def forward(self, tracks, lengths):
        valid = torch.arange(tracks.shape[2], device=tracks.device) < lengths[:, None]
        return (self.feature_map(tracks, lengths)[0] * valid[:, None]).sum(2) / lengths[:, None]

    def save_pretrained(self, folder):
        from safetensors.torch import save_file
        save_file(self.state_dict(), Path(folder) / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder):
        from safetensors.torch import load_file
        encoder = cls()
        encoder.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return encoder


def test_an_encoder_of_ones_own(store, tmp_path):
    torch.manual_seed(0)
    fresh = OwnEncoder()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    encoder = train(store, tmp_path, CONFIG.replace(steps=10), fresh)
    assert type(encoder) is OwnEncoder and not encoder.training
    assert any(not torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    results = json.loads((tmp_path / "encoder" / "training.json").read_text())["heldout_retrieval"]
    assert results["trained"] != results["untrained"]
    assert type(train(store, tmp_path, CONFIG.replace(steps=10), OwnEncoder())) is OwnEncoder  # what is there


def test_the_generators_of_the_user_stay_as_they_are(store, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train(store, tmp_path, CONFIG.replace(steps=3), TINY.replace(dropout=0.1))
    assert torch.equal(torch.get_rng_state(), before)


RANKS = """
import sys
from test_pretrain import CONFIG, TINY
from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pretrain import pretrain
pretrain(TranscriptStore.open(sys.argv[1]), sys.argv[2], TINY.replace(norm="sync_batch"), CONFIG.replace(steps=6, log_every=1, mask_share=0.0),
         accelerator="cpu", devices=int(sys.argv[3]), progress=False)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(store, tmp_path):
    "torchrun with two ranks: the same losses, and the same encoder, as one process with the whole batch."
    script = tmp_path / "train.py"
    script.write_text(RANKS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    for n in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n), str(script), str(store.path), str(tmp_path / str(n)), str(n)]
        done = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
        assert (tmp_path / str(n) / "encoder" / "training.json").is_file(), done.stderr[-3000:]
    for ours, theirs in zip(metrics(tmp_path / "2"), metrics(tmp_path / "1"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3), ours["step"]
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
