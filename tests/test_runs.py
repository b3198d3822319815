"""Runs as their users meet them: through the command line, killed, repeated, and given wrong parameters."""
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import isoclr
from isoclr import runs
from isoclr.config import ConfigError, InputError
from isoclr.data.store import TranscriptStore
from isoclr.parameters import experiments

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
    time.sleep(1)  # the guard of the kernel ends it


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


@pytest.mark.parametrize("experiment", list(experiments()))
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


@pytest.mark.parametrize("experiment, needs", [("pretrain", "store"), ("probe", "store"), ("finetune", "store"), ("low_data", "store"), ("explore", "embeddings")])
def test_what_is_required_is_asked_for_at_once(experiment, needs, tmp_path):
    with pytest.raises(ConfigError, match=f"needs the parameter {needs} "):
        runs.run(experiment, runs_folder=tmp_path)
    with pytest.raises(ConfigError, match="nowhere/at/all does not exist"):
        runs.run(experiment, runs_folder=tmp_path, **{needs: "nowhere/at/all"})
    assert not list(tmp_path.iterdir()), "a refused run leaves nothing"


def test_what_may_be_no_path_is_left_to_the_notebook(tmp_path):
    given = {"store": str(tmp_path), "tasks": "half_life_human,rna_class", "encoders": {"theirs": "owner/name"}}
    assert runs.check_parameters("finetune", given)["tasks"] == given["tasks"]
    with pytest.raises(ConfigError, match="encoders .*/gone does not exist"):
        runs.check_parameters("finetune", {**given, "encoders": {"ours": str(tmp_path / "gone")}})


def test_a_failed_run_keeps_its_notebook_and_says_where(stages, tmp_path):
    "Settings are checked by the notebook, before its first step."
    with pytest.raises(runs.RunError, match="pretrain failed in cell.* Did you mean 'weight_decay'?") as raised:
        runs.run("pretrain", runs_folder=tmp_path, progress=False, store=stages["build"].path("store"), settings={"weight_decya": 0.1})
    run = only_run(tmp_path, "pretrain")
    assert not run.finished and str(run.notebook) in str(raised.value) and "weight_decya" in run.notebook.read_text()
    assert run.status == "failed" and "weight_decay" in run.record["error"] and not (run.folder / "checkpoints").exists()


OWN = """import os, time
from isoclr.runs import Run
run = Run.here(run_folder, 'own')
with open(os.path.join(place, 'executed'), 'a') as file:
    file.write('once ')
while wait and not os.path.exists(os.path.join(place, 'go on')):
    time.sleep(0.05)
run.finish({'seed': seed})
"""


@pytest.fixture
def own(tmp_path) -> dict:
    "An experiment of one's own: `seed=13` raises behind `run.finish` for as long as there is no file `well`."
    cells = [nbformat.v4.new_code_cell("seed = 0\nwait = False\nplace = ''\nrun_folder = ''  # path", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(OWN),
             nbformat.v4.new_code_cell("assert seed != 13 or os.path.exists(os.path.join(place, 'well')), 'unwell'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    return {"experiment": str(tmp_path / "own.ipynb"), "runs_folder": tmp_path / "runs", "progress": False, "place": str(tmp_path)}


def test_a_run_keeps_account_of_its_attempts(own, tmp_path):
    with pytest.raises(runs.RunError, match="unwell"):
        runs.run(**own, seed=13)
    run = only_run(tmp_path / "runs", "own")
    assert run.status == "failed" and not run.finished, "a run that fails behind `run.finish` is not finished"
    (tmp_path / "well").touch()
    assert runs.run(**own, seed=13).folder == run.folder and run.status == "finished" and run.results == {"seed": 13}
    record, config = run.record, json.loads((run.folder / "config.json").read_text())
    assert record["attempt"] == 2 and record["error"] is None and record["duration_s"] > 0 and record["started"] <= record["ended"]
    assert config["parameters"] == {"seed": 13, "wait": False, "place": str(tmp_path)} and config["notebook"] == own["experiment"]
    assert config["git"] is None and {"isoclr", "python", "torch", "numpy", "pandas"} <= set(config["versions"]) and set(config["machine"]) == {"host", "platform", "cpus"}
    (run.folder / "old").mkdir()
    runs.run(**own, seed=13, force=True)
    assert run.record["attempt"] == 3 and not (run.folder / "old").exists()
    assert (tmp_path / "executed").read_text().split() == ["once"] * 3


def test_a_second_process_waits_for_the_first(own, tmp_path, caplog):
    code = f"from isoclr.runs import run\nrun(**{ {**own, 'runs_folder': str(own['runs_folder'])} }, wait=True)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 120
        while not (tmp_path / "executed").exists():
            assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
            time.sleep(0.05)
        run = only_run(tmp_path / "runs", "own")
        assert run.status == "running"

        class GoesOn(logging.Handler):
            def emit(self, record):
                (tmp_path / "go on").touch()

        handler = GoesOn()
        logging.getLogger("isoclr.runs").addHandler(handler)
        second = runs.run(**own, wait=True)
        logging.getLogger("isoclr.runs").removeHandler(handler)
        assert first.wait(60) == 0, first.stderr.read()
    assert second.folder == run.folder and second.finished and "waiting for it" in caplog.text
    assert (tmp_path / "executed").read_text().split() == ["once"] and run.record["attempt"] == 1


def test_a_finished_run_is_returned_without_importing_anything_heavy(own, tmp_path):
    given = {**own, "runs_folder": str(own["runs_folder"])}
    run = runs.Run(tmp_path / "runs" / "own" / runs.run_id(own["experiment"], runs.check_parameters(own["experiment"], {"place": str(tmp_path)})))
    run.folder.mkdir(parents=True)
    run.finish({})
    code = f"import sys\nfrom isoclr.runs import run\nassert run(**{given}).finished\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "isoclr.runs" in loaded and not {"torch", "numpy", "pandas", "papermill", "nbformat", "filelock", "tqdm"} & set(loaded)


def test_the_state_of_git_is_noted_and_never_in_the_way(tmp_path):
    assert runs._git_state(tmp_path) is None and runs._git_state(tmp_path / "nowhere") is None
    if not shutil.which("git"):
        pytest.skip("no git on this machine")

    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    git("init")
    assert runs._git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "tracked").write_text("1")
    git("add", "tracked")
    git("commit", "-m", "first")
    state = runs._git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["changed"] is False
    (tmp_path / "tracked").write_text("2")
    assert runs._git_state(tmp_path) == {**state, "changed": True}


def test_an_installed_package_brings_its_experiments(tmp_path, monkeypatch):
    for folder, name in (("isoclr/experiments", "packaged"), ("nbs/experiments", "checkout")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.ipynb").touch()
    monkeypatch.setattr(isoclr, "__file__", str(tmp_path / "isoclr" / "__init__.py"))
    assert list(experiments()) == ["packaged"]
    (tmp_path / "isoclr" / "experiments" / "packaged.ipynb").unlink()
    assert list(experiments()) == ["checkout"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["build/*/config.json", "build/*/simulated", "build/*/simulated/labels", "build/*/.store.*.partial"])
def test_a_killed_build_is_not_finished_and_is_made_good(moment, tmp_path):
    arguments = ("build", "simulate_families=60")
    kill_when(some(tmp_path, moment), *arguments, folder=tmp_path)
    killed = only_run(tmp_path, "build")
    assert not killed.finished and killed.status == "killed"
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


def test_paths_are_absolute_in_what_is_kept(tmp_path, monkeypatch):
    "So that the executed notebook can be run again where it lies."
    import nbformat

    cells = [nbformat.v4.new_code_cell("place = ''  # path\nrun_folder = ''  # path", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("from isoclr.runs import Run\nRun.here(run_folder, 'mine').finish({'place': place})")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "mine.ipynb")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    done = runs.run("mine.ipynb", progress=False, place="data")
    assert done.results == {"place": str(tmp_path / "data")} and json.loads((done.folder / "config.json").read_text())["parameters"]["place"] == str(tmp_path / "data")
