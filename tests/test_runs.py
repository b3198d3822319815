"""Runs as their users meet them: through the command line, killed, repeated, and given wrong parameters."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoclr import runs
from isoclr.config import ConfigError, InputError
from isoclr.data.store import TranscriptStore

TINY_BUILD = {"simulate_families": 40}
TINY_PRETRAIN = {"encoder": "dilated_extra_tiny", "steps": 12, "batch_pairs": 8}


def command(*arguments: str, folder: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "isoclr"), "run", *arguments, "--runs-folder", str(folder)]


def finish(*arguments: str, folder: Path) -> runs.Run:
    "Run a command to its end."
    done = subprocess.run(command(*arguments, folder=folder), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return only_run(folder, arguments[0])


def only_run(folder: Path, experiment: str) -> runs.Run:
    (found,) = (folder / experiment).iterdir()
    return runs.Run(found)


def kill_when(condition, *arguments: str, folder: Path) -> None:
    "Start a command and kill -9 it at the first moment at which the condition holds."
    with subprocess.Popen(command(*arguments, folder=folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not condition():
            assert process.poll() is None, "the command ended before the moment at which it was to be killed"
            assert time.monotonic() < deadline, "the moment at which the command was to be killed never came"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    time.sleep(3)  # the kernel notices within a second that its parent is gone, and ends


def some(folder: Path, pattern: str):
    return lambda: any(folder.glob(pattern))


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, runs.Run]:
    "The whole path on tiny parameters."
    folder = tmp_path_factory.mktemp("runs")
    return runs.chain(runs_folder=folder, progress=False, build=TINY_BUILD, pretrain=TINY_PRETRAIN, probe={"seeds": [0, 1, 2]}, explore={"projection": "pca"})


def test_every_experiment_runs_on_tiny_parameters(stages):
    assert list(stages) == ["build", "pretrain", "probe", "explore"]
    for stage in stages.values():
        assert stage.finished and stage.notebook.is_file()
        cells = json.loads(stage.notebook.read_text())["cells"]
        assert not [c for c in cells if any(o["output_type"] == "error" for o in c.get("outputs", []))]


def test_the_same_parameters_are_not_run_twice(stages):
    folder = stages["build"].folder.parents[1]
    before = stages["build"].notebook.stat().st_mtime_ns
    again = runs.run("build", runs_folder=folder, progress=False, **TINY_BUILD)
    assert again.folder == stages["build"].folder and again.notebook.stat().st_mtime_ns == before


def test_another_store_is_another_run(stages, tmp_path):
    first = runs.check_parameters("pretrain", {"store": str(stages["build"].path("store"))})
    same = tmp_path / "moved"
    same.symlink_to(stages["build"].path("store"), target_is_directory=True)
    moved = runs.check_parameters("pretrain", {"store": same})
    assert runs.run_id("pretrain", first) == runs.run_id("pretrain", moved), "a store is named by its content, not by its place"
    info = json.loads((same / "store.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "store.json").write_text(json.dumps({**info, "content_hash": "0" * 64}))
    assert runs.run_id("pretrain", first) != runs.run_id("pretrain", {**first, "store": str(other)})


@pytest.mark.parametrize("experiment", list(runs.experiments()))
def test_unknown_and_ill_typed_parameters_are_refused(experiment, tmp_path):
    with pytest.raises(ConfigError, match="no parameter 'sede'"):
        runs.run(experiment, runs_folder=tmp_path, sede=1)
    name, parameter = next((n, p) for n, p in runs.experiment_parameters(experiment).items() if isinstance(p.default, (int, str)))
    with pytest.raises(ConfigError, match=f"Parameter {name} .* of type complex"):
        runs.run(experiment, runs_folder=tmp_path, **{name: 1j})
    assert not list(tmp_path.iterdir()), "a refused run leaves nothing"


def test_unknown_parameter_on_the_command_line(tmp_path):
    done = subprocess.run(command("build", "simulate_famillies=3", folder=tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and "Did you mean 'simulate_families'?" in done.stderr and "Traceback" not in done.stderr


def test_unknown_experiment():
    with pytest.raises(InputError, match="Did you mean 'build'?"):
        runs.run("biuld")


def test_a_failed_run_keeps_its_notebook_and_says_where(tmp_path):
    with pytest.raises(runs.RunError, match="pretrain failed in cell") as raised:
        runs.run("pretrain", runs_folder=tmp_path, progress=False, store=str(tmp_path / "nowhere"))
    run = only_run(tmp_path, "pretrain")
    assert not run.finished and str(run.notebook) in str(raised.value) and "nowhere" in run.notebook.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["build/*/config.json", "build/*/simulated", "build/*/simulated/labels", "build/*/.store.*.partial"])
def test_a_killed_build_is_not_finished_and_is_made_good(moment, tmp_path):
    arguments = ("build", "simulate_families=60")
    kill_when(some(tmp_path, moment), *arguments, folder=tmp_path)
    killed = only_run(tmp_path, "build")
    assert not killed.finished
    if (killed.folder / "store").exists():  # then it is a whole one
        TranscriptStore.open(killed.folder / "store").validate()
    made_good = finish(*arguments, folder=tmp_path)
    assert made_good.folder == killed.folder
    TranscriptStore.open(made_good.path("store")).validate()
    assert not list(made_good.folder.glob(".store.*"))


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_where_it_was(stages, tmp_path):
    arguments = ("pretrain", f"store={stages['build'].path('store')}", "encoder=dilated_extra_tiny", "steps=60", "batch_pairs=8", "checkpoint_every=10")
    kill_when(some(tmp_path, "pretrain/*/checkpoints/*"), *arguments, folder=tmp_path)
    killed = only_run(tmp_path, "pretrain")
    assert not killed.finished and not (killed.folder / "encoder").exists()
    made_good = finish(*arguments, folder=tmp_path)
    straight = finish(*arguments, folder=tmp_path / "straight")
    assert made_good.folder == killed.folder

    def metrics(run):
        return [{k: v for k, v in json.loads(row).items() if "second" not in k and "_s" not in k}
                for row in (run.folder / "metrics.jsonl").read_text().splitlines()]

    assert metrics(made_good) == metrics(straight)


def test_runs_that_start_together_have_kernels_of_their_own(tmp_path):
    "Sockets at one and the same place would mix the kernels up, and leave files in the working folder."
    together = [subprocess.Popen(command("build", f"simulate_families={n}", folder=tmp_path / "runs"), cwd=tmp_path, stderr=subprocess.PIPE) for n in (8, 9, 10)]
    assert [process.wait(timeout=300) for process in together] == [0, 0, 0], [process.stderr.read()[-1000:] for process in together]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and len(list((tmp_path / "runs" / "build").iterdir())) == 3
