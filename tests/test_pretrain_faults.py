"""Pretraining under stress: everything switched on, several processes, signals at bad moments, folders and modules that do not do."""
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from isoclr.config import ConfigError, IsoclrError
from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import build_encoder
from isoclr.pretrain import pretrain as module
from isoclr.pretrain.checkpoint import Checkpoints
from isoclr.pretrain.learner import Learner
from isoclr.pretrain.monitor import Monitor
from isoclr.pretrain.pairs import PairSampler
from isoclr.pretrain.pretrain import PretrainConfig, pretrain
from isoclr.pretrain.schedule import learning_rate
from test_pretrain import CONFIG, TINY, OwnEncoder, last_step, metrics, same_run, store, train  # noqa: F401

EVERYTHING = {"mask_span": 5, "track_dropout": 0.3, "token_budget": 9000, "accumulate": 2, "monitor_every": 6, "select": "best", "monitor": "effective_rank"}
ALL_ON = CONFIG.replace(**EVERYTHING, checkpoint_every=5, steps=24)
DROPPING = TINY.replace(dropout=0.2, stochastic_shift=3)


class Killed(BaseException):
    "Ends a run as abruptly as can be done inside a process."


def during(monkeypatch, owner, name, number, action):
    "A context in which the call of that number, from 1, of a method acts first."
    real, calls = getattr(owner, name), []

    def acts(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            action()
        return real(self, *args, **kwargs)

    context = monkeypatch.context()
    context.__enter__().setattr(owner, name, acts)
    return context


def stopped(monkeypatch, owner, name, number, action, run, error):
    "Run with a fault in that call; it ends in that error."
    context = during(monkeypatch, owner, name, number, action)
    try:
        with pytest.raises(error) as caught:
            run()
    finally:
        context.__exit__(None, None, None)
    return caught.value


def kill():
    raise Killed


# %% Going on

@pytest.fixture(scope="module")
def all_on(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all_on")
    return folder, train(store, folder, ALL_ON, DROPPING)


@pytest.mark.parametrize("batch", [11, 21, 39])  # of two a step: before, just after, and between checkpoints
def test_everything_switched_on_and_interrupted(store, all_on, tmp_path, monkeypatch, batch):
    stopped(monkeypatch, PairSampler, "chunks", batch, kill, lambda: train(store, tmp_path, ALL_ON, DROPPING), Killed)
    same_run(tmp_path, train(store, tmp_path, ALL_ON, DROPPING), all_on)
    assert Checkpoints(tmp_path / "checkpoints").best == Checkpoints(all_on[0] / "checkpoints").best


@pytest.mark.parametrize("look", [1, 2, 4])
def test_killed_between_a_checkpoint_and_calling_it_the_best(store, all_on, tmp_path, monkeypatch, look):
    stopped(monkeypatch, Checkpoints, "mark_best", look, kill, lambda: train(store, tmp_path, ALL_ON, DROPPING), Killed)
    assert last_step(tmp_path) == 6 * look
    same_run(tmp_path, train(store, tmp_path, ALL_ON, DROPPING), all_on)
    assert Checkpoints(tmp_path / "checkpoints").best == Checkpoints(all_on[0] / "checkpoints").best


def test_totals_survive_a_stop_in_the_middle_of_an_interval(store, tmp_path):
    "A checkpoint each step, none of them where a row is due but the last: rows are sums over three runs."
    config = CONFIG.replace(steps=9, log_every=9, checkpoint_every=100)
    train(store, tmp_path / "straight", config)
    for calls in (2, 4):
        received = [signal.SIGTERM]
        real = module.stop_on_signal
        try:
            module.stop_on_signal = lambda: _after(received, calls)
            with pytest.raises(SystemExit):
                train(store, tmp_path / "parts", config)
        finally:
            module.stop_on_signal = real
    train(store, tmp_path / "parts", config)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "straight") and len(metrics(tmp_path / "parts")) == 1


class _after:
    "A list of signals that fills after so many looks at it."

    def __init__(self, received, calls):
        self.received, self.calls = received, calls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __bool__(self):
        self.calls -= 1
        return self.calls <= 0

    def __getitem__(self, i):
        return self.received[i]


def test_bf16_goes_on_as_well(store, tmp_path, monkeypatch):
    def run(folder):
        return pretrain(store, folder, TINY, CONFIG.replace(steps=10, checkpoint_every=4), accelerator="cpu", precision="bf16-mixed", progress=False)

    straight = tmp_path / "straight", run(tmp_path / "straight")
    stopped(monkeypatch, PairSampler, "chunks", 7, kill, lambda: run(tmp_path / "parts"), Killed)
    same_run(tmp_path / "parts", run(tmp_path / "parts"), straight)
    train(store, tmp_path / "exact", CONFIG.replace(steps=10, checkpoint_every=4))
    assert metrics(tmp_path / "exact")[0]["loss"] != metrics(straight[0])[0]["loss"]  # it was not float32
    assert metrics(tmp_path / "exact")[0]["loss"] == pytest.approx(metrics(straight[0])[0]["loss"], rel=0.1)


def test_a_run_goes_on_compiled(store, tmp_path, monkeypatch):
    "Captured as for any backend, without the minutes that a compiler takes."
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    config, minute = CONFIG.replace(steps=6, checkpoint_every=3, log_every=1), TINY.replace(filters=(8,), blocks=(1,), dilations=(1,))
    stopped(monkeypatch, PairSampler, "chunks", 5, kill, lambda: train(store, tmp_path, config, minute), Killed)
    encoder = pretrain(store, tmp_path, minute, config, accelerator="cpu", compiled=True, progress=False)
    train(store, tmp_path / "eager", config, minute)
    for ours, theirs in zip(metrics(tmp_path), metrics(tmp_path / "eager"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert not any("_orig_mod" in name for name in encoder.state_dict())


def test_the_encoder_that_could_not_be_written(store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(OwnEncoder, "save_pretrained", full)
        with pytest.raises(OSError, match="disk full"):
            train(store, tmp_path, CONFIG.replace(steps=4), OwnEncoder())
    assert last_step(tmp_path) == 4 and not (tmp_path / "encoder").exists() and not list(tmp_path.glob(".encoder*"))
    monkeypatch.setattr(PairSampler, "chunks", lambda self, step: pytest.fail("trained again"))
    assert type(train(store, tmp_path, CONFIG.replace(steps=4), OwnEncoder())) is OwnEncoder


# %% Signals

@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("look, step", [(1, 7), (4, 24)])  # while it measures at step 6, and after the last step
def test_signal_while_the_monitor_measures(store, all_on, tmp_path, monkeypatch, number, error, look, step):
    before = signal.getsignal(number)
    action = lambda: os.kill(os.getpid(), number)  # noqa: E731
    stopped(monkeypatch, Monitor, "measure", look, action, lambda: train(store, tmp_path, ALL_ON, DROPPING), error)
    assert signal.getsignal(number) is before and last_step(tmp_path) == step and not (tmp_path / "encoder").exists()
    same_run(tmp_path, train(store, tmp_path, ALL_ON, DROPPING), all_on)


def test_a_second_interrupt_ends_it_at_once(store, all_on, tmp_path, monkeypatch):
    def twice():
        "The second once the first was handled, by whatever thread: two signals at once are one."
        handler, end = signal.getsignal(signal.SIGINT), time.monotonic() + 60
        signal.raise_signal(signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is handler and time.monotonic() < end:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.01)

    stopped(monkeypatch, PairSampler, "chunks", 13, twice, lambda: train(store, tmp_path, ALL_ON, DROPPING), KeyboardInterrupt)
    assert last_step(tmp_path) == 6  # nothing was written since
    same_run(tmp_path, train(store, tmp_path, ALL_ON, DROPPING), all_on)


# %% Several processes

SCRIPT = """
import json, os, signal, sys
from test_pretrain import CONFIG, TINY
from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pairs import PairSampler
from isoclr.pretrain.pretrain import pretrain
store, folder, devices, config, encoder, step, name = sys.argv[1:]
draw = PairSampler.chunks
def chunks(self, batch):
    if batch == int(step):
        os.kill(os.getpid(), getattr(signal, name))
    return draw(self, batch)
PairSampler.chunks = chunks
pretrain(TranscriptStore.open(store), folder, TINY.replace(**json.loads(encoder)), CONFIG.replace(**json.loads(config)),
         accelerator="cpu", devices=int(devices), progress=False)
"""
JOINT = {"steps": 8, "log_every": 4, "checkpoint_every": 3, "mask_share": 0.0, "accumulate": 2, "token_budget": 9000, "learning_rate": 1e-4}


def launch(store, folder, ranks, config=JOINT, norm="layer", step=-1, name="SIGKILL", torchrun=True):
    "Train in processes of their own, which signal themselves before a batch."
    script = folder.parent / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if torchrun else []
    arguments = [store.path, folder, ranks, json.dumps(config), json.dumps({"norm": norm}), step, name]
    return subprocess.run([sys.executable, *start, script, *map(str, arguments)], env=environment, timeout=120, capture_output=True, text=True)


def same_numbers(ours: Path, theirs: Path, names=("loss", "gradient_norm")) -> None:
    "Up to rounding: the order of sums depends on the number of processes."
    ours, theirs = metrics(ours), metrics(theirs)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs):
        assert {name: a[name] for name in names} == pytest.approx({name: b[name] for name in names}, rel=2e-4), a["step"]


@pytest.mark.slow
def test_many_chunks_many_batches_many_processes(store, tmp_path, monkeypatch):
    "Killed on both of two ranks in the middle of an interval and gone on with on one, and the reverse, after one straight run."
    train(store, tmp_path / "straight", CONFIG.replace(**JOINT), TINY.replace(norm="layer"))
    batches = PairSampler(store, None, CONFIG).batches_per_epoch
    assert len({len(PairSampler(store, None, CONFIG).batch_of(i).rows_1) for i in range(batches)}) > 1  # batches of unequal size
    two_one, one_two = tmp_path / "two_one", tmp_path / "one_two"
    alone = lambda folder: train(store, folder, CONFIG.replace(**JOINT), TINY.replace(norm="layer"))  # noqa: E731
    done = launch(store, two_one, 2, step=13)
    assert done.returncode and last_step(two_one) == 6 and not (two_one / "encoder").exists(), done.stderr[-2000:]
    alone(two_one)
    stopped(monkeypatch, PairSampler, "chunks", 14, kill, lambda: alone(one_two), Killed)
    done = launch(store, one_two, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in (two_one, one_two):
        same_numbers(folder, tmp_path / "straight", ("loss", "gradient_norm", "epoch", "learning_rate"))


@pytest.mark.slow
def test_sigterm_to_all_ranks_writes_one_checkpoint(store, tmp_path):
    "And the run goes on without torchrun: Fabric starts the other process itself. Norms over both ranks are those of one process."
    run, config = tmp_path / "run", {**JOINT, "token_budget": 0, "log_every": 3, "checkpoint_every": 100}
    done = launch(store, run, 2, config, "sync_batch", step=9, name="SIGTERM")
    assert done.returncode and last_step(run) == 6 and not (run / "encoder").exists(), done.stderr[-2000:]
    done = launch(store, run, 2, config, "sync_batch", torchrun=False)
    assert done.returncode == 0, done.stderr[-2000:]
    train(store, tmp_path / "straight", CONFIG.replace(**config), TINY.replace(norm="sync_batch"))
    same_numbers(run, tmp_path / "straight")


def test_processes_that_are_not_asked_for(store, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, but devices × num_nodes = 1 × 1"):
        train(store, tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    with pytest.raises(ConfigError, match="devices = 2, num_nodes = 1: a notebook drives one device"):
        pretrain(store, tmp_path, TINY, CONFIG, accelerator="cpu", devices=2, progress=False)
    assert not list(tmp_path.iterdir())


def test_refused_before_other_processes_start(store, tmp_path, monkeypatch):
    from lightning.fabric import Fabric

    monkeypatch.setattr(Fabric, "launch", lambda *_: pytest.fail("launched"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    for folder, config, encoder, devices, message in (
        (tmp_path, CONFIG.replace(batch_pairs=1000), TINY, 2, "batch_pairs = 1000, but there are"),
        (tmp_path, CONFIG.replace(batch_pairs=3), TINY, 2, "batch_pairs = 3 for 2 ranks"),
        (tmp_path, CONFIG.replace(token_budget=100), TINY, 1, "token_budget = 100 is too small"),
        (tmp_path, CONFIG.replace(holdout=1e-9, monitor_every=2, select="best"), TINY, 1, "holds out none of the homology groups"),
        (tmp_path, CONFIG, torch.nn.Linear(2, 2), 1, "Linear has no dim, n_tracks, save_pretrained, from_pretrained"),
        (blocked, CONFIG, TINY, 1, "file cannot be the folder of a run: File exists"),
        (blocked / "run", CONFIG, TINY, 1, "run cannot be the folder of a run: Not a directory"),
        (tmp_path, CONFIG, TINY, 0, "devices = 0"),
    ):
        with pytest.raises(IsoclrError, match=message):
            pretrain(store, folder, encoder, config, accelerator="cpu", devices=devices, progress=False)
    with pytest.raises(ConfigError, match="precision = 'bf16-true'. Did you mean 'bf16-mixed'"):
        pretrain(store, tmp_path, TINY, CONFIG, accelerator="cpu", precision="bf16-true", progress=False)


def test_a_folder_that_is_read_only(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(IsoclrError, match="cannot be the folder of a run: you may not write to it"):
        train(store, tmp_path)


# %% Settings

def test_odd_settings():
    for change in ({"seed": -1}, {"holdout_seed": -1}, {"learning_rate": math.inf}, {"temperature": math.nan}, {"clip_norm": math.inf}, {"weight_decay": math.inf}):
        (name, value), = change.items()
        with pytest.raises(ConfigError, match=f"{name} = {float(value) if isinstance(value, float) else value} must be"):
            PretrainConfig(**change)
    with pytest.raises(ConfigError, match="A warm-up of 300 and a cool-down of 300 steps do not fit in 500 steps"):
        PretrainConfig(warmup_share=0.6, cooldown_share=0.6)


@pytest.mark.parametrize("schedule", ["cosine", "reciprocal_sqrt", "one_cycle", "constant"])
def test_rows_tell_the_rate_of_their_step(store, tmp_path, schedule):
    config = CONFIG.replace(steps=10, log_every=1, schedule=schedule, warmup_share=0.3, cooldown_share=0.2)
    used, step = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        used.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = watched
    try:
        train(store, tmp_path, config)
    finally:
        torch.optim.AdamW.step = step
    expected = [config.learning_rate * learning_rate(schedule, step, 10, 3, 2) for step in range(10)]
    assert [row["learning_rate"] for row in metrics(tmp_path)] == expected and used == [{rate} for rate in expected]


def test_the_best_by_what_cannot_be_measured(store, tmp_path):
    one = store.subset(tmp_path / "store", np.flatnonzero(~store.transcripts.duplicated("gene_id")))
    config = CONFIG.replace(batch_pairs=4, steps=2, monitor_every=1, select="best", monitor="isoform@1")
    with pytest.raises(ConfigError, match="monitor = 'isoform@1' cannot be measured"):
        train(one, tmp_path / "run", config)
    train(one, tmp_path / "run", config.replace(monitor="homolog@1"))


def test_one_species(store, tmp_path):
    one = store.subset(tmp_path / "store", np.flatnonzero(store.transcripts["species"] == store.species[0]))
    train(one, tmp_path / "run", CONFIG.replace(batch_pairs=4, steps=4, monitor_every=2))
    assert json.loads((tmp_path / "run" / "encoder" / "training.json").read_text())["species"] == [store.species[0]]


def test_watched_with_nothing_held_out(store, tmp_path):
    train(store, tmp_path, CONFIG.replace(steps=4, holdout=0.0, monitor_every=2))
    assert not any(name.startswith("heldout/") for row in metrics(tmp_path) for name in row)


# %% The user's modules and surroundings

def test_a_given_module_stays_as_it_is(store, tmp_path, monkeypatch):
    "So that a run goes on, or starts again, from the same module, and `untrained` is what it says."
    fresh, config = OwnEncoder(), CONFIG.replace(steps=6, checkpoint_every=4)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    stopped(monkeypatch, PairSampler, "chunks", 3, kill, lambda: train(store, tmp_path / "a", config, fresh), Killed)
    stopped(monkeypatch, PairSampler, "chunks", 6, kill, lambda: train(store, tmp_path / "a", config, fresh), Killed)
    trained = train(store, tmp_path / "a", config, fresh)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    same_run(tmp_path / "a", trained, (tmp_path / "b", train(store, tmp_path / "b", config, fresh)))
    results = [json.loads((tmp_path / run / "encoder" / "training.json").read_text())["heldout_retrieval"] for run in "ab"]
    assert results[0] == results[1]


def test_own_modules_of_equal_shapes_are_not_the_same_run(store, tmp_path):
    config, other = CONFIG.replace(steps=2), OwnEncoder()
    train(store, tmp_path, config, OwnEncoder())
    other.layers[1] = torch.nn.Tanh()
    with pytest.raises(ConfigError, match="encoder.layers"):
        train(store, tmp_path, config, other)


def test_weights_that_are_nan_from_the_start(store, tmp_path):
    broken = OwnEncoder()
    with torch.no_grad():
        broken.layers[0].weight.fill_(math.nan)
    with pytest.raises(IsoclrError, match="Step 1: the loss or its gradient is nan"):
        train(store, tmp_path, CONFIG, broken)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "metrics.jsonl").exists()


def test_a_step_of_many_batches_names_pairs_of_each(store, tmp_path):
    broken, config = OwnEncoder(), CONFIG.replace(accumulate=4)
    with torch.no_grad():
        broken.layers[0].weight.fill_(math.nan)
    with pytest.raises(IsoclrError) as caught:
        train(store, tmp_path, config, broken)
    rows = np.flatnonzero(~module.holdout_groups(store.transcripts["group"], config.holdout, config.holdout_seed))
    sampler = PairSampler(store, rows, config, config.seed)
    batches = [sampler.batch_of(batch).rows_1 for batch in range(4)]
    assert f"in {sum(map(len, batches))} pairs" in str(caught.value)
    assert all(store.transcripts.transcript_id[row] in str(caught.value) for some in batches for row in some[:2])


def test_surroundings_of_the_user(store, tmp_path):
    "Default type and gradient mode do not matter, and are left as they are."
    config = CONFIG.replace(steps=3, log_every=1)
    train(store, tmp_path / "plain", config)
    with torch.no_grad():
        train(store, tmp_path / "no_grad", config)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        train(store, tmp_path / "inference", config, build_encoder_outside())
    assert metrics(tmp_path / "no_grad") == metrics(tmp_path / "inference") == metrics(tmp_path / "plain")
    torch.set_default_dtype(torch.float64)
    try:
        train(store, tmp_path / "double", config)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(math.isfinite(row["loss"]) for row in metrics(tmp_path / "double"))


def build_encoder_outside():
    with torch.inference_mode(False):
        return build_encoder(TINY, CONFIG.seed)


def test_generators_stay_when_a_run_goes_on(store, tmp_path, monkeypatch):
    config = CONFIG.replace(steps=6, checkpoint_every=3)
    stopped(monkeypatch, PairSampler, "chunks", 5, kill, lambda: train(store, tmp_path, config), Killed)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train(store, tmp_path, config)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_nothing_is_left_open(store, tmp_path, monkeypatch):
    "Neither threads nor files, with a store that is fetched ahead, whether the run ends or fails."
    from isoclr.pretrain import feed

    monkeypatch.setattr(feed, "fits_on", lambda *_: False)
    train(store, tmp_path / "first", CONFIG.replace(steps=2))  # what is opened once and for all

    def now():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = now()
    train(store, tmp_path / "whole", CONFIG.replace(steps=4))
    assert now() == before
    stopped(monkeypatch, Learner, "learn", 3, kill, lambda: train(store, tmp_path / "failed", CONFIG.replace(steps=4)), Killed)
    assert now() == before


def test_loggers_hold_nothing_back(store, tmp_path):
    "A CSV logger of Fabric writes every hundred rows; the others come when the run ends."
    from lightning.fabric.loggers import CSVLogger

    logger = CSVLogger(tmp_path / "csv")
    pretrain(store, tmp_path / "run", TINY, CONFIG.replace(steps=6), accelerator="cpu", progress=False, loggers=[logger], live=True)
    assert len((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()) == 1 + len(metrics(tmp_path / "run"))
