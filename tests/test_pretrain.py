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
import pytest
import torch

from isoclr.config import ConfigError, InputError, IsoclrError
from isoclr.data.homology import read_homology
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import EncoderConfig, build_encoder
from isoclr.pretrain import pretrain as module
from isoclr.pretrain.checkpoint import append_metrics, rewind_metrics
from isoclr.pretrain.pairs import PairSampler, holdout_groups
from isoclr.pretrain.pretrain import ContrastiveModel, PretrainConfig, heldout_retrieval, parameter_groups, pretrain, transcript_vectors
from isoclr.pretrain.schedule import warmup_cosine

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
    for name, each in (("trained", encoder), ("untrained", build_encoder(TINY, CONFIG.seed).eval())):
        assert training["heldout_retrieval"][name] == heldout_retrieval(each, store, np.flatnonzero(held_out))
    assert not encoder.training


def test_a_second_run_of_the_same_settings_is_the_same(store, straight, tmp_path):
    same_run(tmp_path, train(store, tmp_path), straight)


def test_a_finished_run_is_returned_as_it_is(store, straight, monkeypatch):
    monkeypatch.setattr(PairSampler, "batch", lambda self, step: pytest.fail("trained again"))
    same_run(straight[0], train(store, straight[0]), straight)


KILLED = """
import os, signal, sys
from test_pretrain import CONFIG, TINY, train
from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pairs import PairSampler
draw = PairSampler.batch
def batch(self, step):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))
    return draw(self, step)
PairSampler.batch = batch
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
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 20
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(store, straight, tmp_path):
    assert run_and_signal(store, tmp_path, 7, "SIGKILL") == -signal.SIGKILL
    assert len(metrics(tmp_path)) == 2 and not (tmp_path / "checkpoints").exists()
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.mark.slow
def test_terminated_writes_a_checkpoint_and_says_so(store, straight, tmp_path):
    assert run_and_signal(store, tmp_path, 13, "SIGTERM") == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 14
    same_run(tmp_path, train(store, tmp_path), straight)


def test_interrupted_in_a_notebook(store, straight, tmp_path, monkeypatch):
    draw, before = PairSampler.batch, signal.getsignal(signal.SIGINT)

    def interrupted(self, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(PairSampler, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 11
    same_run(tmp_path, train(store, tmp_path), straight)


def test_killed_between_training_and_the_encoder(store, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "heldout_retrieval", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(store, tmp_path)
    assert not (tmp_path / "encoder").exists()
    same_run(tmp_path, train(store, tmp_path), straight)


@pytest.fixture
def half_done(store, tmp_path, monkeypatch):
    "A run that stopped with a checkpoint at step 20."
    draw = PairSampler.batch
    with monkeypatch.context() as patch:
        patch.setattr(PairSampler, "batch", lambda self, step: draw(self, step) if step < 22 else (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(store, tmp_path)
    return tmp_path


def test_other_settings_do_not_go_on_with_a_run(store, half_done, straight):
    with pytest.raises(ConfigError, match=r"last.pt belongs to another run \(pretrain.temperature: 0.1 there, 0.3 here\)"):
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
    path = half_done / "checkpoints" / "last.pt"
    monkeypatch.setenv("ISOCLR_FOREIGN", str(half_done / "executed"))
    whole = path.read_bytes()
    if content == "tensor":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        foreign = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint\n", "pickle": pickle.dumps(Foreign(), 2)}
        path.write_bytes(foreign[content])
    with pytest.raises(InputError, match="last.pt is not a checkpoint that can be read.*Delete it to start this run over"):
        train(store, half_done)
    assert not (half_done / "executed").exists()


def test_a_diverging_run_names_step_and_transcripts(store, tmp_path, monkeypatch):
    real = module.dcl_loss
    calls = []

    def poisoned(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) * (math.nan if len(calls) == 22 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(module, "dcl_loss", poisoned)
        with pytest.raises(IsoclrError, match=r"Step 22: the loss is nan.* alpha\|N[MR]_.*Lower learning_rate") as caught:
            train(store, tmp_path)
    batch = PairSampler(store, np.flatnonzero(~holdout_groups(store.transcripts["group"], 0.2)), CONFIG, CONFIG.seed).batch(21)
    assert all(store.transcripts.transcript_id[row] in str(caught.value) for row in batch.rows_1.tolist()[:8])
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 20 and all(torch.isfinite(value).all() for value in state["model"].values())


def test_held_out_families_are_never_seen(store, tmp_path, monkeypatch):
    seen, gather = set(), TranscriptStore.gather

    def watched(self, rows):
        seen.update(np.asarray(rows).tolist())
        return gather(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(TranscriptStore, "gather", watched)
        patch.setattr(module, "heldout_retrieval", lambda *_: {})
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
    assert np.mean([row["accuracy"] for row in rows[-3:]]) > 0.5 > np.mean([row["accuracy"] for row in rows[:2]])
    assert np.mean([row["loss"] for row in rows[-3:]]) < rows[0]["loss"] - 1


def test_vectors_do_not_depend_on_the_batch(store):
    encoder = build_encoder(TINY)
    rows = np.array([5, 0, 17, 3, 40])
    together = transcript_vectors(encoder, store, rows)
    assert encoder.training  # as it was
    torch.testing.assert_close(transcript_vectors(encoder, store, rows, token_budget=1), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(transcript_vectors(encoder, store, rows[::-1].copy()).flip(0), together, atol=1e-5, rtol=0)
    assert transcript_vectors(encoder, store, np.array([], int)).shape == (0, encoder.dim)


def test_norms_and_biases_do_not_decay():
    model = ContrastiveModel(build_encoder(TINY), CONFIG)
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model, 0.1))
    assert not decayed & spared and len(decayed | spared) == len(list(model.parameters()))
    for name, part in model.named_modules():
        for kind, parameter in part.named_parameters(recurse=False):
            is_weight = kind == "weight" and not isinstance(part, torch.nn.BatchNorm1d)
            assert (id(parameter) in decayed) == is_weight, f"{name}.{kind}"


def test_rewinding_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rewind_metrics(path, 0)
    assert not path.exists()
    for step in (1, 2, 3):
        append_metrics(path, {"step": step})
    path.write_text(path.read_text()[:-4])  # half a last row
    rewind_metrics(path, 2)
    rewind_metrics(path, 9)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("steps, warmup", [(10, 0), (100, 10), (7, 6), (1, 0)])
def test_schedule(steps, warmup):
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates) and rates[warmup] == 1.0
    assert rates[:warmup] == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    middle = warmup + (steps - warmup) / 2
    if middle.is_integer():
        assert warmup_cosine(int(middle), steps, warmup) == pytest.approx(0.5)


def test_bad_settings_are_refused():
    for name, value in {"steps": 0, "holdout": 1.0, "temperature": 0.0, "batch_pairs": 1}.items():
        with pytest.raises(ConfigError, match=f"{name} = {value}"):
            PretrainConfig(**{name: value})
    with pytest.raises(ConfigError, match="Did you mean 'mask_share'"):
        PretrainConfig.from_dict({"mask_shar": 0.1})
