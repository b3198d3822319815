"""The command line: what is typed becomes the right call, help tells the truth, and every failure has its message and exit code."""
import argparse
import json
import shlex
import subprocess
import sys
import types
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from isoclr import arguments, cli, commands, runs
from isoclr.config import ConfigError, InputError, IsoclrError, fits
from isoclr.parameters import check_parameters, experiment_notebook, experiment_parameters

ISOCLR = str(Path(sys.executable).parent / "isoclr")


def leaves(parser: argparse.ArgumentParser) -> dict[str, cli.Parser]:
    "Every command, `runs list` and the like by their full names."
    (sub,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = {}
    for name, command in sub.choices.items():
        nested = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
        found |= {f"{name} {inner}": leaf for inner, leaf in leaves(command).items()} if nested else {name: command}
    return found


COMMANDS = leaves(cli.parser())
EXAMPLES = [line.strip() for command in (cli.parser(), *COMMANDS.values()) for line in (command.epilog or "").splitlines() if line.startswith("  isoclr ")]


@pytest.fixture
def called(monkeypatch, tmp_path):
    "Calls of `run`, none of which starts anything: experiment, settings, parameters."
    calls = []

    def run(experiment, *, runs_folder, force, timeout_s, progress, **parameters):
        calls.append((experiment, {"runs_folder": runs_folder, "force": force, "timeout_s": timeout_s}, parameters))
        folder = tmp_path / "made" / experiment / "0123456789ab"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "map.html", "summary.txt"):
            (folder / name).write_text("{}")
        return runs.Run(folder)

    monkeypatch.setattr(commands, "run", run)
    return calls


def make_run(folder: Path, name: str, parameters: dict = {}, status: str = "finished", error: str | None = None, files: tuple[str, ...] = ()) -> Path:
    "A run folder as `isoclr.runs` leaves it."
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"experiment": run.parent.name, "parameters": parameters, "versions": {"isoclr": "0"}, "started": "2026-01-02T03:04:05+00:00"}))
    (run / "status.json").write_text(json.dumps({"status": status, "attempt": 2, "started": "2026-01-02T03:04:05+00:00", "ended": None, "duration_s": 61.5, "error": error, "pid": 1, "host": "here"}))
    if status == "finished":
        (run / "results.json").write_text(json.dumps({"loss": 0.25}))
    for file in files:
        (run / file).touch()
    return run


# Help


def test_help_loads_nothing_heavy():
    "What makes `isoclr --help` quick."
    code = "import sys; from isoclr.cli import parser; parser().format_help(); print({'torch', 'numpy', 'pandas', 'plotly', 'papermill', 'anndata'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_help_of_the_installed_command():
    done = subprocess.run([ISOCLR, "--help"], capture_output=True, text=True, check=True)
    assert all(name.split()[0] in done.stdout for name in COMMANDS) and not done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    heard = capsys.readouterr()
    assert ended.value.code == 0 and f"\n  isoclr {name}" in heard.out and "--debug" in heard.out and not heard.err


@pytest.mark.parametrize("example", sorted(set(EXAMPLES)))
def test_examples_are_understood(example):
    "An example that does not parse, or names a parameter that is not there, is worse than none."
    words = shlex.split(example.partition(" > ")[0].partition("     ")[0])[1:]
    if "--help" in words:
        return
    parsed = cli.parse(words)
    experiment = words[1] if words[0] in ("run", "sweep") else words[0]
    given = [text for text in getattr(parsed, "values", []) if "=" in text]
    values = [*arguments.parse_assignments(given).items()]
    for name, varied in arguments.parse_varied(getattr(parsed, "vary", []), getattr(parsed, "random", None) is not None).items():
        values += [(name, value) for value in varied]
    if not experiment.endswith(".ipynb"):
        for name, value in values:
            assert fits(value, type(experiment_parameters(experiment)[name].default))[0], f"{name}={value!r}"


@pytest.mark.parametrize("experiment", [*cli.EXPERIMENTS, "explore"])
def test_help_of_an_experiment_ends_with_its_parameters(experiment, capsys):
    with pytest.raises(SystemExit):
        cli.main([experiment, "--help"])
    heard = capsys.readouterr().out.splitlines()
    known = [p for p in experiment_parameters(experiment).values() if p.name != "run_folder"]
    assert [line.strip().split("=")[0] for line in heard[-len(known) :]] == [p.name for p in known]
    assert all(p.help in line for p, line in zip(known, heard[-len(known) :]))


# What is typed


def test_assignments():
    assert arguments.parse_assignments(["a=1", "b=1e-3", "c=[1, 2]", "d=x=y", "e=", "f='1'", "g=None"]) == {"a": 1, "b": 0.001, "c": [1, 2], "d": "x=y", "e": "", "f": "1", "g": None}
    for wrong, message in ((["steps"], "'steps' is not of the form name=value"), (["=1"], "not of the form"), (["a=1", "a=2"], "a is given twice")):
        with pytest.raises(ConfigError, match=message):
            arguments.parse_assignments(wrong)


@pytest.mark.parametrize("text, drawn, values", [
    ("a=1", False, [1]), ("a=1,2.5,x", False, [1, 2.5, "x"]), ("a=2..4", False, [2, 3, 4]), ("a=-1..1", True, [-1, 0, 1]), ("a=0.5..1", True, (0.5, 1.0)),
    ("a=[0,1],[2]", False, [[0, 1], [2]]), ("a=[]", False, [[]]), ('a={"x": 1},{}', False, [{"x": 1}, {}]), ('a="x,y",z', False, None), ("a=[x],[y]", False, None),
    ("a=0.1..0.3", False, None), ("a=4..2", False, None), ("a=1..1", True, None), ("a=runs/a..b/store,c", False, ["runs/a..b/store", "c"]), ("a=", False, None), ("a", False, None),
])
def test_varied_values(text, drawn, values):
    if values is None:
        with pytest.raises(ConfigError):
            arguments.parse_varied([text], drawn)
    else:
        assert arguments.parse_varied([text], drawn) == {"a": values}


def test_encoders_are_named():
    assert arguments.encoders_by_name(["a=x/encoder", "runs/pretrain/abc/encoder", "y/z"]) == {"a": "x/encoder", "abc": "runs/pretrain/abc/encoder", "z": "y/z"}
    with pytest.raises(ConfigError, match="Two encoders are named 'z'"):
        arguments.encoders_by_name(["y/z", "x/z"])


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path):
    for name in ("build/aa11", "build/aa22", "probe/aa1", "probe/[aa]"):
        make_run(tmp_path, name)
    (tmp_path / "probe" / "bb").mkdir()

    def found(name):
        return "/".join(arguments.find_run(name, tmp_path).folder.parts[-2:])

    assert found("aa2") == "build/aa22" and found("build/aa1") == "build/aa11" and found("[") == "probe/[aa]" and found(str(tmp_path / "build" / "aa11")) == "build/aa11"
    assert found("aa1") == "probe/aa1", "an id in full is that run, even where others begin with it"
    for name, message in (("aa", "beginning of 3 runs: build/aa11, build/aa22, probe/aa1"), ("bb", "no run 'bb'"), ("", "no run ''"), ("probe/aa2", "no run"), ("*", "no run")):
        with pytest.raises(InputError, match=message):
            found(name)


# Experiments


@pytest.mark.parametrize("experiment", cli.EXPERIMENTS)
def test_an_experiment_by_name_is_run(experiment, called, capsys):
    assert cli.main([experiment, "seed=1", "--timeout", "2.5", "--force", "--runs-folder", "elsewhere", "store=x"]) == 0
    assert cli.main(["run", experiment, "seed=1", "store=x"]) == 0
    assert called == [(experiment, {"runs_folder": "elsewhere", "force": True, "timeout_s": 2.5}, {"seed": 1, "store": "x"}),
                      (experiment, {"runs_folder": "runs", "force": False, "timeout_s": None}, {"seed": 1, "store": "x"})]
    assert f"{experiment} is done: " in capsys.readouterr().out


def test_parameters_of_an_experiment(called, capsys):
    assert cli.main(["run", "build", "--parameters"]) == 0 and not called
    assert "simulate_families=300" in capsys.readouterr().out


def test_probe(called, capsys):
    assert cli.main(["probe", "--store", "s", "--encoder", "a=x", "--encoder", "y/encoder", "seeds=[0]", "--tasks", "t", "n_folds=5"]) == 0
    assert called == [("probe", {"runs_folder": "runs", "force": False, "timeout_s": None}, {"store": "s", "encoders": {"a": "x", "y": "y/encoder"}, "tasks": "t", "labels": "", "seeds": [0], "n_folds": 5})]


def test_demo_says_where_to_go_on(monkeypatch, tmp_path, capsys):
    folders = {name: make_run(tmp_path, f"{name}/0123", files=("map.html", "summary.txt")) for name in ("build", "pretrain", "probe", "explore")}
    asked = []
    monkeypatch.setattr(runs, "chain", lambda runs_folder, progress: asked.append(runs_folder) or {name: runs.Run(folder) for name, folder in folders.items()})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo"]) == 0 and asked == [tmp_path / "runs"], "absolute, so that the notebooks can be run again where they lie"
    heard = capsys.readouterr().out
    hints = [shlex.split(line.partition(":")[2])[1:] for line in heard.splitlines() if "isoclr explore" in line]
    assert [("--open" in words, "--lab" in words) for words in hints] == [(True, False), (False, True)]
    assert all(commands._explored(cli.parse(words).values[0], "runs").folder == folders["explore"] for words in hints)


# The explorer


@pytest.fixture
def embedded(tmp_path) -> Path:
    "Runs that embedded: a store elsewhere, a store of their own, none."
    (tmp_path / "store").mkdir()
    make_run(tmp_path / "runs", "probe/aa", {"store": str(tmp_path / "store"), "seeds": [0]}, files=("embeddings.h5ad",))
    (make_run(tmp_path / "runs", "embed/bb", {"store": ""}, files=("embeddings.h5ad",)) / "store").mkdir()
    make_run(tmp_path / "runs", "explore/cc", files=("embeddings.h5ad", "map.html"))
    make_run(tmp_path / "runs", "pretrain/dd")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x=y.h5ad").touch()
    return tmp_path


@pytest.mark.parametrize("typed, embeddings, store", [
    (["runs/probe/aa"], "runs/probe/aa/embeddings.h5ad", "store"), (["a"], "runs/probe/aa/embeddings.h5ad", "store"),
    (["runs/probe/aa/embeddings.h5ad"], "runs/probe/aa/embeddings.h5ad", "store"), (["b"], "runs/embed/bb/embeddings.h5ad", "runs/embed/bb/store"),
    (["mine/x=y.h5ad"], "mine/x=y.h5ad", None), (["embeddings=mine/x=y.h5ad", "store=store"], "mine/x=y.h5ad", "store"), (["mine/x=y.h5ad", "store=store"], "mine/x=y.h5ad", "store"),
    (["a", "store="], "runs/probe/aa/embeddings.h5ad", ""), (["a", "seed=1", "--force"], "runs/probe/aa/embeddings.h5ad", "store"), (["c", "seed=1"], "runs/explore/cc/embeddings.h5ad", None),
])
def test_what_is_explored(typed, embeddings, store, embedded, called, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    assert cli.main(["explore", *typed]) == 0, capsys.readouterr().err
    ((experiment, _, parameters),) = called
    expected = {"embeddings": str(embedded / embeddings), **({} if store is None else {"store": str(embedded / store) if store else ""})}
    found = {name: value and str(Path(value).absolute()) for name, value in parameters.items() if name != "seed"}  # a run makes them absolute by itself
    assert experiment == "explore" and found == expected
    assert "map.html" in capsys.readouterr().out


@pytest.mark.parametrize("typed, message", [(["a", "b"], "One .h5ad file or run"), (["d"], "made no 'embeddings.h5ad'"), (["nowhere.h5ad"], "nowhere.h5ad does not exist"), (["zz"], "no run 'zz'")])
def test_what_cannot_be_explored(typed, message, embedded, called, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    assert cli.main(["explore", *typed]) == 1 and not called
    assert message in capsys.readouterr().err


def test_a_finished_exploration_is_shown_as_it_is(embedded, called, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    opened = []
    monkeypatch.setattr(commands.webbrowser, "open", lambda address: opened.append(address) or len(opened) == 1)
    assert cli.main(["explore", "runs/explore/cc", "--open"]) == 0 and not called
    assert opened == [(embedded / "runs/explore/cc/map.html").as_uri()]
    assert cli.main(["explore", "cc", "--open"]) == 0
    assert "There is no browser here" in capsys.readouterr().out


def test_jupyterlab_is_started_on_the_notebook_and_survives_ctrl_c(embedded, called, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    codes, started = [KeyboardInterrupt, 0, 1], []

    class Process:
        def __init__(self, command):
            started.append(command)

        def wait(self):
            code = codes.pop(0)
            if code is KeyboardInterrupt:
                raise code
            return code

    monkeypatch.setattr(commands.subprocess, "Popen", Process)
    monkeypatch.setattr(commands, "find_spec", lambda name: object())
    assert cli.main(["explore", "cc", "--lab"]) == 0 and codes == [1]
    assert started == [[sys.executable, "-m", "jupyterlab", "runs/explore/cc/explore.ipynb"]]
    assert cli.main(["explore", "cc", "--lab"]) == 1 and "JupyterLab ended with exit code 1" in capsys.readouterr().err


def test_without_jupyterlab_nothing_is_computed_first(embedded, called, monkeypatch, capsys):
    monkeypatch.chdir(embedded)
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert cli.main(["explore", "a", "--lab"]) == 1 and not called
    assert 'pip install "isoclr[lab]"' in capsys.readouterr().err


# Sweeps, runs, doctor


@pytest.fixture
def swept(monkeypatch):
    "Calls of `sweep`; the last run of each failed where `statuses` says so."
    calls, statuses = [], ["finished", "finished"]

    def sweep(experiment, over, progress, **settings):
        calls.append((experiment, list(over), settings))
        return pd.DataFrame([{**values, "run_id": f"id{i}", "status": status, "attempts": 1, "duration_s": float("nan"), "error": None, "folder": "f"} for i, (values, status) in enumerate(zip(over, statuses))])

    monkeypatch.setattr("isoclr.sweep.sweep", sweep)
    return calls, statuses


def test_a_sweep_of_a_grid(swept, capsys):
    calls, statuses = swept
    typed = ["sweep", "pretrain", "store=s", "--vary", "seed=0..1", "--vary", "steps=5", "--timeout", "9", "--retries", "0", "--max-parallel", "3", "--runs-folder", "r", "batch_pairs=8"]
    assert cli.main(typed) == 0
    settings = {"runs_folder": "r", "max_parallel": 3, "timeout_s": 9.0, "retries": 0, "store": "s", "batch_pairs": 8}
    assert calls == [("pretrain", [{"seed": 0, "steps": 5}, {"seed": 1, "steps": 5}], settings)]
    statuses[1] = "timed out"
    assert cli.main(typed) == 1, "a run did not finish"
    heard = capsys.readouterr()
    assert "timed out" in heard.out and "1 of 2 runs did not finish" in heard.err and "isoclr runs show id1" in heard.err


def test_a_sweep_at_random(swept):
    calls, _ = swept
    typed = ["sweep", "pretrain", "--vary", "learning_rate=0.1..0.2", "--vary", "seed=1,2", "--random", "6", "--seed"]
    for seed in ("3", "3", "4"):
        assert cli.main([*typed, seed]) == 0
    (first, again, other) = [over for _, over, _ in calls]
    assert len(first) == 6 and all(0.1 <= values["learning_rate"] <= 0.2 and values["seed"] in (1, 2) for values in first)
    assert first == again != other


@pytest.mark.parametrize("typed, message", [(["seed=1", "--vary", "seed=1,2"], "seed is both fixed and varied"), (["--vary", "learning_rate=0.1..0.2"], "only whole numbers can be counted")])
def test_a_sweep_that_makes_no_sense(typed, message, swept, capsys):
    assert cli.main(["sweep", "pretrain", *typed]) == 1 and not swept[0]
    assert message in capsys.readouterr().err


@pytest.fixture
def some_runs(tmp_path) -> Path:
    "Two pretrainings, one of which failed, and a build."
    make_run(tmp_path, "pretrain/aa", {"seed": 0, "steps": 5})
    make_run(tmp_path, "pretrain/bb", {"seed": 1, "steps": 5}, status="failed", error="ValueError: no\nsuch luck")
    make_run(tmp_path, "build/cc", {})
    return tmp_path


def test_runs_are_listed(some_runs, capsys):
    assert cli.main(["runs", "list", "--runs-folder", str(some_runs)]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert list(rows) == ["run_id", "cc", "aa", "bb"] and "2026-01-02 03:04" in rows["aa"] and " 62 " in rows["aa"]
    assert "seed=1" in rows["bb"] and "ValueError: no such luck" in rows["bb"] and "seed" not in rows["cc"] and "steps" not in rows["bb"], "parameters in which the runs of an experiment differ"
    assert "seed=1.0" not in rows["bb"]
    assert cli.main(["runs", "list", "--status", "failed", "killed", "--experiment", "pretrain", "--csv", "--runs-folder", str(some_runs)]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert "parameters.steps" in header and row.startswith("pretrain,bb,failed")
    assert cli.main(["runs", "list", "--experiment", "probe", "--runs-folder", str(some_runs)]) == 0
    assert "no such runs" in capsys.readouterr().out


def test_a_status_that_does_not_exist_is_refused(some_runs, capsys):
    for command in (["list"], ["clean"]):
        assert cli.main(["runs", *command, "--status", "faild", "--runs-folder", str(some_runs)]) == 1
        assert "Did you mean 'failed'?" in capsys.readouterr().err


def test_a_run_is_shown(some_runs, capsys):
    (some_runs / "pretrain/aa/pretrain.ipynb").write_text(json.dumps({"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["seed = 0\n", "steps = 9"]}]}))
    assert cli.main(["runs", "show", "aa", "--runs-folder", str(some_runs)]) == 0
    heard = capsys.readouterr().out
    assert "pretrain aa: finished, 62 s, attempt 2" in heard and "  * steps=5" in heard and "    seed=0" in heard and "loss  0.25" in heard
    assert cli.main(["runs", "show", "b", "--runs-folder", str(some_runs)]) == 0
    assert "Error:\n  ValueError: no\n  such luck\n" in capsys.readouterr().out


def test_cleaning_removes_only_when_told(some_runs, capsys):
    typed = ["runs", "clean", "--runs-folder", str(some_runs)]
    assert cli.main(typed) == 0 and (some_runs / "pretrain/bb").exists()
    assert "1 runs would be removed" in capsys.readouterr().out
    assert cli.main([*typed, "--yes"]) == 0 and not (some_runs / "pretrain/bb").exists() and (some_runs / "pretrain/aa").exists()
    assert cli.main(typed) == 0 and "nothing to remove" in capsys.readouterr().out


def test_pages_are_written(some_runs, monkeypatch, capsys):
    monkeypatch.chdir(some_runs)
    assert cli.main(["runs", "gallery", "--runs-folder", ".", "--experiment", "pretrain", "--out", "g.html"]) == 0
    page = (some_runs / "g.html").read_text()
    assert "aa" in page and "such luck" in page and ">cc<" not in page
    assert cli.main(["runs", "compare", "loss", "--x", "steps", "--color", "seed", "--runs-folder", str(some_runs)]) == 0
    assert "Plotly.newPlot" in (some_runs / "compare.html").read_text() and capsys.readouterr().out.split() == ["g.html", "compare.html"]


@pytest.mark.parametrize("ok, code", [(True, 0), (None, 0), (False, 1)])
def test_doctor(ok, code, monkeypatch, capsys):
    found = pd.DataFrame({"check": ["Python", "GPU"], "found": ["3.11", "none"], "ok": [True, ok], "what_to_do": ["", "buy one"]}, dtype=object)
    monkeypatch.setattr("isoclr.doctor.doctor", lambda: found)
    assert cli.main(["doctor"]) == code
    heard = capsys.readouterr()
    assert "buy one" in heard.out and ("1 of 2 checks failed: GPU" in heard.err) == (code == 1)


# Failures


@pytest.mark.parametrize("typed", [
    [], ["pretrian"], ["runs"], ["pretrain", "--stpes", "5"], ["pretrain", "--forc"], ["pretrain", "--timeout", "0"], ["pretrain", "--timeout", "nan"], ["pretrain", "--timeout", "soon"],
    ["sweep", "pretrain", "seed=1"], ["sweep", "pretrain", "--vary", "seed=1", "--random", "0"], ["sweep", "pretrain", "--vary", "seed=1", "--max-parallel", "0"], ["runs", "show"], ["runs", "show", "a", "b"],
    ["runs", "compare", "loss"], ["probe", "--store", "s"], ["data", "fetch"],
])
def test_a_wrong_command_line_has_exit_code_2(typed, called, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    heard = capsys.readouterr()
    assert ended.value.code == 2 and not called and heard.err.startswith("usage: isoclr") and not heard.out


ERRORS = [(IsoclrError("what was wrong"), 1, "isoclr: what was wrong\n"), (ConfigError("so and so"), 1, "isoclr: so and so\n"), (PermissionError(13, "denied", "/x"), 1, "denied: '/x'"),
          (KeyboardInterrupt(), 130, "isoclr: interrupted"), (ZeroDivisionError("of a number"), 70, "unexpected error: ZeroDivisionError: of a number")]


@pytest.mark.parametrize("error, code, message", ERRORS, ids=lambda value: type(value).__name__)
def test_a_failure_is_one_message_and_an_exit_code(error, code, message, monkeypatch, capsys):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(commands, "run", run)
    assert cli.main(["pretrain", "seed=1"]) == code
    heard = capsys.readouterr()
    assert message in heard.err and "Traceback" not in heard.err and not heard.out
    for typed in (["--debug", "pretrain", "seed=1"], ["pretrain", "--debug", "seed=1"], ["pretrain", "seed=1", "--debug"]):
        assert cli.main(typed) == code
        heard = capsys.readouterr()
        assert message in heard.err and "Traceback" in heard.err and "in run\n" in heard.err


def test_what_was_said_before_a_failure_is_not_lost(monkeypatch, capsys):
    def fails(_):
        yield "the first half"
        raise IsoclrError("the second")

    monkeypatch.setattr(cli, "parse", lambda _: types.SimpleNamespace(call=fails))
    assert cli.main([]) == 1 and capsys.readouterr() == ("the first half\n", "isoclr: the second\n")


def test_a_reader_that_goes_away_is_no_error():
    "As `isoclr … | head -1`."
    with subprocess.Popen([ISOCLR, "run", "build", "--parameters"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_an_unknown_parameter_is_told_by_the_installed_command(tmp_path):
    done = subprocess.run([ISOCLR, "build", "simulate_famillies=3"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "Did you mean 'simulate_families'?" in done.stderr and "Traceback" not in done.stderr and not list(tmp_path.iterdir())


# The experiment `embed`


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    "A small store of two species, the same as FASTA, and an encoder."
    from isoclr.data.build import SpeciesSource, build_store
    from isoclr.data.simulate import SimulateConfig, simulate
    from isoclr.models.encoder import build_encoder

    folder = tmp_path_factory.mktemp("embed")
    genomes = simulate(folder / "genomes", SimulateConfig(n_families=6))
    store = build_store(folder / "store", [SpeciesSource.from_dict(source) for source in genomes.sources], progress=False)
    store.to_fasta(folder / "all.fa")
    build_encoder("dilated_extra_tiny").save_pretrained(folder / "encoder")
    return {"store": str(folder / "store"), "sequences": str(folder / "all.fa"), "encoder": str(folder / "encoder")}


def embed_notebook(folder: Path, **parameters) -> runs.Run:
    "The cells of the experiment, run here: a kernel would add nothing but time."
    folder.mkdir()
    values = {**check_parameters("embed", parameters), "run_folder": str(folder)}
    for cell in json.loads(experiment_notebook("embed").read_text())["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), values)
    return runs.Run(folder)


@pytest.mark.parametrize("of", ["store", "sequences"])
def test_embed_gives_what_the_function_gives(of, inputs, tmp_path):
    from isoclr.data.store import TranscriptStore
    from isoclr.models.encoder import load_encoder
    from isoclr.probe.embed import embed, open_embeddings

    run = embed_notebook(tmp_path / "run", encoder=inputs["encoder"], genes="mean", device="cpu", **{of: inputs[of]})
    found, expected = open_embeddings(run.path("embeddings.h5ad")), embed(TranscriptStore.open(inputs["store"]), load_encoder(inputs["encoder"]), progress=False)
    np.testing.assert_allclose(found[expected.obs_names].X, expected.X, atol=1e-6)
    genes = anndata.read_h5ad(run.path("genes.h5ad"))
    assert run.results["transcripts"] == len(found) == len(expected) and run.results["genes"] == genes.n_obs == expected.obs["gene_id"].nunique()
    assert found.obs["gene_id"].nunique() < len(found), "some genes have isoforms"
    inputs_of = arguments.explore_inputs(str(run.path("embeddings.h5ad")))
    assert ("store" in inputs_of) == (of == "sequences") and set(found.obs["species"]) == set(expected.obs["species"])


def test_embed_takes_bare_sequences_whatever_their_length_or_chromosome(inputs, tmp_path):
    (tmp_path / "bare.fa").write_text(f">a\n{'ACGT' * 4000}\n>b|x\nACGUNACG\n")
    run = embed_notebook(tmp_path / "run", encoder=inputs["encoder"], sequences=str(tmp_path / "bare.fa"), species="designed")
    found = anndata.read_h5ad(run.path("embeddings.h5ad"))
    assert found.obs["length_nt"].tolist() == [16000, 8] and set(found.obs["species"]) == {"designed"} and not (run.folder / "genes.h5ad").exists()


@pytest.mark.parametrize("given, message", [({}, "needs the parameter encoder"), ({"encoder": "e"}, "Give the transcripts once"), ({"encoder": "e", "store": "s", "sequences": "f"}, "Give the transcripts once"), ({"encoder": "e", "store": "s", "genes": "median"}, "'mean', 'principal' or nothing")])
def test_embed_refuses(given, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        embed_notebook(tmp_path / "run", **given)


def test_embed_refuses_sequences_of_which_some_name_a_species(inputs, tmp_path):
    (tmp_path / "half.tsv").write_text("transcript_id\tgene_id\tspecies\tsequence\na\ta\thuman\tACGT\nb\tb\t\tACGT\n")
    with pytest.raises(InputError, match="names the species of some transcripts"):
        embed_notebook(tmp_path / "run", encoder=inputs["encoder"], sequences=str(tmp_path / "half.tsv"))
