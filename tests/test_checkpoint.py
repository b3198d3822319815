"""Checkpoints: everything comes back exactly, wrappers leave no trace, and no fault mixes runs or executes a file."""
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from isoclr.config import ConfigError, InputError
from isoclr.pretrain.checkpoint import Checkpoints, append_metrics, bare_module, check_same_run, read_checkpoint, rewind_metrics, stop_on_signal

RUN = {"pretrain": {"seed": 1, "temperature": 0.1}, "store": {"content_hash": "a"}}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def adamw(model: nn.Module, **ways) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=0.01, **ways)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        inputs = torch.randn(6, 3) + random.random() + np.random.rand()
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_files(*steps: int) -> list[str]:
    return [f"step_{step:08d}.pt" for step in steps]


@pytest.fixture
def saved(tmp_path):
    "A folder with checkpoints at 10 and 20."
    checkpoints, model = Checkpoints(tmp_path / "checkpoints"), network()
    optimizer = adamw(model)
    for step in (10, 20):
        learn(model, optimizer, 1)
        checkpoints.save(step, model, optimizer, RUN)
    return checkpoints


def load(checkpoints, identity=RUN):
    model = network(9)
    return checkpoints.load(model, adamw(model), identity)


def test_going_on_gives_the_numbers_of_a_straight_run(tmp_path):
    model = network()
    optimizer = adamw(model)
    learn(model, optimizer, 5)
    Checkpoints(tmp_path).save(5, model, optimizer, RUN, seconds=2.5, scaler={"scale": 65536.0, "_growth_tracker": 3})
    straight = learn(model, optimizer, 5)
    other = network(7)
    other_optimizer = adamw(other)
    learn(other, other_optimizer, 3)
    state = Checkpoints(tmp_path).load(other, other_optimizer, RUN)
    assert state == {"step": 5, "seconds": 2.5, "scaler": {"scale": 65536.0, "_growth_tracker": 3}}
    assert learn(other, other_optimizer, 5) == straight
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_nothing_to_load(tmp_path):
    assert load(Checkpoints(tmp_path / "none")) is None and load(Checkpoints(tmp_path)) is None
    assert Checkpoints(tmp_path).best is None and Checkpoints(tmp_path).load_best(network(), RUN) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_and_best_stay(tmp_path, keep):
    "Against an oracle that keeps everything in mind."
    checkpoints, model, values = Checkpoints(tmp_path, keep), network(), {}
    rng = random.Random(keep)
    for step in range(5, 100, 5):
        checkpoints.save(step, model, adamw(model), RUN)
        values[step] = rng.choice([0.1, 0.2, 0.3, 0.4, float("nan")])
        checkpoints.mark_best(step, values[step], "isoform@1")
        number = [value for value in values.values() if value == value]
        best = next((each for each in values if values[each] == max(number)), None) if number else None
        kept = sorted({*sorted(values)[-keep:], *([best] if best else [])})
        assert names(tmp_path) == (["best"] if best else []) + ["last"] + step_files(*kept)
        assert (tmp_path / "last").read_text() == f"step_{step:08d}.pt\n"
        if best:
            assert json.loads((tmp_path / "best").read_text()) == checkpoints.best == {
                "file": f"step_{best:08d}.pt", "step": best, "monitor": "isoform@1", "value": values[best]
            }  # fmt: skip


def test_another_monitor_starts_over_and_a_lost_best_is_forgotten(saved):
    saved.mark_best(10, float("nan"), "accuracy")
    assert saved.best is None
    saved.mark_best(10, 0.9, "accuracy")
    saved.mark_best(20, 0.2, "isoform@1")
    assert saved.best["step"] == 20 and saved.best["monitor"] == "isoform@1"
    saved.path(20).unlink()
    assert saved.best is None
    saved.mark_best(10, 0.1, "isoform@1")
    assert saved.best["step"] == 10
    (saved.folder / "best").write_text('{"st')
    assert saved.best is None


def test_only_what_is_saved_can_be_best(saved):
    with pytest.raises(InputError, match="step_00000015.pt does not exist"):
        saved.mark_best(15, 1.0)


def test_weights_of_the_best(tmp_path):
    checkpoints, model = Checkpoints(tmp_path, keep=1), network()
    optimizer = adamw(model)
    checkpoints.save(1, model, optimizer, RUN)
    checkpoints.mark_best(1, np.float32(0.5))
    weights = model[0].weight.detach().clone()
    learn(model, optimizer, 3)
    checkpoints.save(2, model, optimizer, RUN)
    checkpoints.mark_best(2, 0.4)
    assert checkpoints.load_best(model, RUN)["step"] == 1 and torch.equal(model[0].weight, weights)
    with pytest.raises(ConfigError, match="another run"):
        checkpoints.load_best(model, {**RUN, "store": {"content_hash": "b"}})


def test_a_rank_that_does_not_write_reads(saved):
    before = names(saved.folder)
    other = Checkpoints(saved.folder, keep=1, write=False)
    other.save(30, network(), adamw(network()), RUN)
    other.mark_best(30, 1.0)
    assert names(saved.folder) == before and load(other)["step"] == 20


def test_the_pointer_decides_and_without_it_the_step_in_the_name(saved):
    os.utime(saved.path(10), (time.time() + 100,) * 2)  # newest by time
    (saved.folder / "last").write_text("step_00000010.pt\n")
    assert load(saved)["step"] == 10  # killed between file and pointer
    for pointer in (None, "", "step_00000015.pt", "../step_00000010.pt", "\0\xff", "best"):
        (saved.folder / "last").unlink(missing_ok=True)
        if pointer is not None:
            (saved.folder / "last").write_text(pointer, encoding="latin-1")
        assert load(saved)["step"] == 20, pointer


def test_going_on_from_an_earlier_step_leaves_no_later_ones(saved):
    (saved.folder / "last").write_text("step_00000010.pt\n")
    saved.mark_best(10, 0.5)
    saved.save(15, network(), adamw(network()), RUN)
    assert names(saved.folder) == ["best", "last", *step_files(10, 15)] and load(saved)["step"] == 15


def test_a_file_of_a_killed_writer_is_no_checkpoint_and_goes(saved):
    child = subprocess.Popen(["true"])
    child.wait()
    partial = saved.folder / f".step_00000030.pt.{child.pid}.0123abcd.partial"
    partial.write_bytes(b"half")
    assert load(saved)["step"] == 20
    saved.save(40, network(), adamw(network()), RUN)
    assert not partial.exists()


def test_a_full_disk_leaves_the_last_one_as_it_was(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.folder.iterdir()}
    monkeypatch.setattr(torch, "save", lambda state, path: path.write_bytes(b"half") and (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(Exception, match="Free some space"):
        saved.save(30, network(), adamw(network()), RUN)
    assert {path.name: path.read_bytes() for path in saved.folder.iterdir()} == before


def test_a_state_that_could_not_be_read_again_is_not_written(saved):
    with pytest.raises(pickle.UnpicklingError):
        saved.save(30, network(), adamw(network()), RUN, seconds=np.float64(1.5))
    assert saved.last == saved.path(20) and not saved.path(30).exists()


class Foreign:
    def __reduce__(self):
        return os.mkdir, (os.environ["ISOCLR_FOREIGN"],)


@pytest.mark.parametrize("content", ["half", "empty", "text", "pickle", "torch pickle", "tensors", "one bit"])
def test_a_damaged_or_foreign_file_is_refused(saved, content, tmp_path, monkeypatch):
    path = saved.last
    monkeypatch.setenv("ISOCLR_FOREIGN", str(tmp_path / "executed"))
    whole = path.read_bytes()
    if content == "tensors":
        torch.save({"weights": torch.zeros(3)}, path)
    elif content == "torch pickle":
        torch.save(Foreign(), path)
    else:
        bit = whole.index(network_bytes(path))
        flipped = whole[:bit] + bytes([whole[bit] ^ 1]) + whole[bit + 1 :]
        contents = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no\n", "pickle": pickle.dumps(Foreign(), 2), "one bit": flipped}
        path.write_bytes(contents[content])
    with pytest.raises(InputError, match=r"step_00000020.pt is not a checkpoint that can be read \(\w+\). Delete it to go on from step_00000010.pt"):
        load(saved)
    saved.path(10).unlink()
    with pytest.raises(InputError, match="step_00000020.pt is not a checkpoint that can be read .*Delete it to start this run over"):
        load(saved)
    assert not (tmp_path / "executed").exists()
    path.unlink()
    assert load(saved) is None


def network_bytes(path) -> bytes:
    "Weights as they lie in a checkpoint."
    return torch.load(path, weights_only=True)["model"]["0.weight"].numpy().tobytes()


def test_another_run_is_refused_before_anything_changes(saved):
    model = network(5)
    optimizer, before = adamw(model), model[0].weight.detach().clone()
    with pytest.raises(ConfigError, match=r"step_00000020.pt belongs to another run \(pretrain.temperature: 0.1 there, 0.3 here\)"):
        saved.load(model, optimizer, {**RUN, "pretrain": {"seed": 1, "temperature": 0.3}})
    assert torch.equal(model[0].weight, before) and not optimizer.state


def test_weights_or_an_optimizer_that_do_not_fit_are_refused(saved):
    other = nn.Sequential(nn.Linear(3, 5))
    before = other[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"step_00000020.pt holds weights that do not fit the model \(9 differ, first 0.bias\)"):
        saved.load(other, adamw(other), RUN)
    assert torch.equal(other[0].weight, before)
    with pytest.raises(InputError, match="step_00000020.pt holds an optimizer that does not fit"):
        saved.load(network(), torch.optim.AdamW(network().parameters()), RUN)


def test_identity_may_have_more_parts_there_and_tuples_here():
    check_same_run({"a": {"x": [1]}, "more": 1}, {"a": {"x": (1,)}}, "run")
    with pytest.raises(ConfigError, match="a.y: None there, 2 here"):
        check_same_run({"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, "run")


def distributed(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fabric(model: nn.Module) -> nn.Module:
    from lightning.fabric import Fabric

    return Fabric(accelerator="cpu", devices=1).setup_module(model)


def partly(model: nn.Module) -> nn.Module:
    model[3] = torch.compile(model[3])
    return model


WRAPPERS = {
    "bare": lambda model: model,
    "compiled": torch.compile,
    "a part compiled": partly,
    "fabric": fabric,
    "compiled, fabric": lambda model: fabric(torch.compile(model)),
    "distributed": distributed,
    "compiled, distributed": lambda model: distributed(torch.compile(model)),
    "distributed, compiled": lambda model: torch.compile(distributed(model)),
    "compiled, distributed, fabric": lambda model: fabric(distributed(torch.compile(model))),
}


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_wrappers_leave_no_trace(tmp_path, process_group):
    reference = network()
    for number, (name, wrap) in enumerate(WRAPPERS.items()):
        folder = tmp_path / str(number)
        wrapped = wrap(network())
        Checkpoints(folder).save(1, wrapped, adamw(wrapped), RUN)
        state = read_checkpoint(Checkpoints(folder).last, RUN)["model"]
        assert list(state) == list(reference.state_dict()), name
        for other, wrap_other in WRAPPERS.items():
            target = wrap_other(network(3))
            assert Checkpoints(folder).load(target, adamw(target), RUN) == {"step": 1}
            weights = bare_module(target).state_dict().values()
            assert all(torch.equal(a, b) for a, b in zip(weights, reference.state_dict().values(), strict=True)), (name, other)


def test_how_the_optimizer_computes_is_up_to_where_it_goes_on(tmp_path):
    model = network()
    optimizer = adamw(model, fused=True)
    learn(model, optimizer, 2)
    Checkpoints(tmp_path).save(2, model, optimizer, RUN)
    other = network(4)
    plain = adamw(other)
    Checkpoints(tmp_path).load(other, plain, RUN)
    assert not any(group["fused"] for group in plain.param_groups)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    straight = learn(model, optimizer, 3)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    assert learn(other, plain, 3) == pytest.approx(straight, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_between_devices(tmp_path):
    model = network().cuda()
    optimizer = adamw(model, fused=True)
    model(torch.randn(6, 3, device="cuda")).sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, model, optimizer, RUN)
    expected = torch.rand(3, device="cuda")
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    for device, ways in (("cpu", {}), ("cuda", {"fused": True}), ("cuda", {})):
        other = network(2).to(device)
        other_optimizer = adamw(other, **ways)
        assert checkpoints.load(other, other_optimizer, RUN) == {"step": 1}
        assert torch.equal(torch.rand(3, device="cuda"), expected)
        assert all(torch.equal(value.cpu(), weights[name]) for name, value in other.state_dict().items())
        other(torch.randn(6, 3, device=device)).sum().backward()
        other_optimizer.step()


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="keep = 0 must be at least 1"):
        Checkpoints(tmp_path, keep=0)


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number):
    before = signal.getsignal(number)
    signal.signal(number, lambda *_: (_ for _ in ()).throw(TimeoutError))
    try:
        with pytest.raises(TimeoutError), stop_on_signal() as received:
            os.kill(os.getpid(), number)
            assert received == [number]
            os.kill(os.getpid(), number)
            pytest.fail("went on")
        with stop_on_signal() as received:
            pass
        with pytest.raises(TimeoutError):
            os.kill(os.getpid(), number)
            time.sleep(1)
    finally:
        signal.signal(number, before)


KILLED = """
import os, signal, sys
from pathlib import Path
from test_checkpoint import RUN, Checkpoints, adamw, network

def save_until_killed(folder, renames):
    checkpoints = Checkpoints(folder)
    checkpoints.save(10, network(), adamw(network()), RUN)
    replace, left = os.replace, [renames]
    def replaced(*names):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)
    os.replace = replaced
    checkpoints.save(20, network(), adamw(network()), RUN)

for renames in range(3):  # one process for all: most of the time goes into importing torch
    if not (child := os.fork()):
        save_until_killed(Path(sys.argv[1]) / str(renames), renames)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == (signal.SIGKILL if renames < 2 else 0)
"""


def test_killed_while_saving(tmp_path):
    "Before the file, between file and pointer, and after both."
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, timeout=120, check=True)
    for renames, files, step in [(0, (10,), 10), (1, (10, 20), 10), (2, (10, 20), 20)]:
        folder = tmp_path / str(renames)
        checkpoints = Checkpoints(folder)
        assert [path.name for path in sorted(folder.glob("step_*"))] == step_files(*files) and load(checkpoints)["step"] == step
        checkpoints.save(20, network(), adamw(network()), RUN)
        assert names(folder) == ["last", *step_files(10, 20)] and load(checkpoints)["step"] == 20
