"""Sweeps whose runs raise, die and hang, and that are killed themselves; and the points that they go over."""
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr import sweep as sweeps
from isoclr.config import ConfigError
from isoclr.runs import Run
from isoclr.sweep import grid, sweep

PARAMETERS = "number = 0  # decides on the end\nwait_s = 0.0  # s, before it\nplace = ''  # folder for the process ids; not a `path`, whose content would count\nfolder = ''  # path, not used\nrun_folder = ''  # path, filled in by isoclr.runs"
BODY = """import os, subprocess, time
from isoclr.runs import Run
with open(os.path.join(place, f'{number}.txt'), 'a') as file:
    child = subprocess.Popen(['sleep', '600']) if number == 3 else None
    file.write(f'{os.getpid()}\\n' + (f'{child.pid}\\n' if child else ''))
if number == 1:
    raise ValueError('one is refused')
if number == 2:
    os.kill(os.getpid(), 9)
time.sleep(600 if number == 3 else wait_s)
Run.here(run_folder, 'ends').finish({'number': number})
"""
RAISES, DIES, HANGS = 1, 2, 3
POINTS = grid(number=[HANGS, 0, 4, RAISES, DIES, 5, 6, 7, 8, 9, 10, 11])
WELL = {0, *range(4, 12)}


@pytest.fixture
def place(tmp_path) -> Path:
    "A folder with an experiment of three ways to fail, and room for what its kernels write."
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "ends.ipynb")
    (tmp_path / "ids").mkdir()
    return tmp_path


def arguments(place: Path) -> dict:
    return {"experiment": str(place / "ends.ipynb"), "runs_folder": str(place / "runs"), "progress": False, "place": str(place / "ids")}


def processes(place: Path) -> list[int]:
    "Kernels that were ever started, and their children."
    return [int(line) for path in (place / "ids").glob("*.txt") for line in path.read_text().split()]


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def finished(place: Path) -> dict[Path, int]:
    "When the finished runs were finished."
    return {path.parent: path.stat().st_mtime_ns for path in (place / "runs").glob("ends/*/results.json")}


def start(place: Path, code: str) -> subprocess.Popen:
    "A sweep over all points in a process of its own."
    text = f"from isoclr.sweep import sweep\n{code.format(points=POINTS, arguments=arguments(place))}"
    return subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)


def test_a_sweep_survives_what_its_runs_do_and_its_own_death(place):
    killed = start(place, "sweep(over={points}, **{arguments})")
    until(lambda: len(finished(place)) >= 2)
    killed.kill()
    killed.communicate()
    until(lambda: not any(map(alive, processes(place))), 30)
    kept, started = finished(place), len(processes(place))
    assert 2 <= len(kept) < len(WELL), "it was to be killed midway"
    assert {Run(folder).status for folder in (place / "runs" / "ends").iterdir()} <= {"finished", "failed", "killed"}

    table = sweep(over=POINTS, timeout_s=45, **arguments(place)).set_index("number")
    assert not any(map(alive, processes(place))) and len(processes(place)) > started
    assert set(table.index) == {*WELL, RAISES, DIES, HANGS} and table.run_id.is_unique
    assert dict(table.status) == {**dict.fromkeys(WELL, "finished"), RAISES: "failed", DIES: "failed", HANGS: "timed out"}
    assert "ValueError: one is refused" in table.error[RAISES] and "signal 9" in table.error[DIES] and "longer than the 45 s" in table.error[HANGS]
    assert table.error[list(WELL)].isna().all() and all(Path(folder, "ends.ipynb").is_file() for folder in table.folder)
    assert all(Run(table.folder[number]).results == {"number": number} for number in WELL)
    times = finished(place)
    assert {folder: times[folder] for folder in kept} == kept, "what was finished is not run again"
    assert table.attempts[HANGS] == 2 and table.attempts[DIES] >= 2, "once killed with the sweep; once tried again"
    assert sum(table.attempts[list(WELL)]) <= len(WELL) + 1, "but for the one that was killed with the sweep, once each"

    third = sweep(over=[{"number": 0}, {"number": DIES}, {"number": 0}], retries=0, **arguments(place))
    assert list(third.attempts) == [table.attempts[0], table.attempts[DIES] + 1] and finished(place) == times, "a point that stands twice is one run"


def test_a_killed_run_breaks_nothing_else(place):
    "As the system kills the process of a run when memory runs out; its kernel goes with it."

    def kill_parent_of_kernel():
        until(lambda: (place / "ids" / "5.txt").exists() and (place / "ids" / "5.txt").read_text())
        psutil.Process(int((place / "ids" / "5.txt").read_text())).parent().kill()

    killer = threading.Thread(target=kill_parent_of_kernel)
    killer.start()
    table = sweep(over=[{"number": 5}, {"number": 6}], retries=0, wait_s=5.0, **arguments(place))
    killer.join()
    assert list(table.status) == ["killed", "finished"] and "signal 9" in table.error[0]
    until(lambda: not any(map(alive, processes(place))), 30)
    assert Run(table.folder[0]).record["status"] == "running", "nobody was left to write it"


def test_ctrl_c_ends_all_runs(place):
    code = "try:\n    sweep(over={points}, wait_s=600.0, **{arguments})\nexcept KeyboardInterrupt:\n    raise SystemExit(7)"
    process = start(place, code)
    until(lambda: processes(place))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 7, process.stderr.read()[-2000:]
    process.communicate()
    until(lambda: not any(map(alive, processes(place))), 30)
    runs = [Run(folder) for folder in (place / "runs" / "ends").iterdir()]
    assert "interrupted" in {run.status for run in runs} and len(runs) <= 3, "no other was started"


def test_points_that_cannot_be_run_are_all_named_and_nothing_starts(place):
    with pytest.raises(ConfigError) as raised:
        sweep(over=[{"number": 1.5}, {"number": 0}, {"numer": 2}, {"folder": str(place / "no" / "where")}], **arguments(place))
    message = str(raised.value)
    assert message.startswith("3 of 4 points") and "not int" in message and "Did you mean 'number'?" in message and "does not exist" in message
    assert not (place / "runs").exists()
    with pytest.raises(ConfigError, match="timeout_s"):
        sweep(over=[{"number": 0}], timeout_s=0, **arguments(place))


def test_a_sweep_over_nothing_is_an_empty_table(place):
    table = sweep(over=[], **arguments(place))
    assert len(table) == 0 and list(table) == ["run_id", "status", "attempts", "duration_s", "error", "folder"]


def test_dask_runs_a_sweep(place):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        table = sweep(over=[{"number": 0}, {"number": RAISES}], executor=client.get_executor(), **arguments(place))
        again = sweep(over=[{"number": RAISES}], executor=client.get_executor(), **arguments(place))
    assert list(table.status) == ["finished", "failed"] and "one is refused" in table.error[1]
    assert list(again.attempts) == [2], "what failed is tried again, and not remembered by Dask"


VALUES = st.lists(st.integers(), min_size=1, max_size=4, unique=True)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4))
def test_a_grid_holds_every_combination_once(lists):
    points = grid(**lists)
    number = 1
    for values in lists.values():
        number *= len(values)
    assert len(points) == number == len({json.dumps(point) for point in points})
    assert all(point[name] in values for point in points for name, values in lists.items())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.integers(-9, 9), st.integers(0, 9)), st.tuples(st.floats(-5, 5), st.floats(0, 10)), st.floats(1e-6, 1e-3), VALUES)
def test_random_points_keep_to_their_ranges_and_seed(seed, whole, real, low, values):
    ranges = {"whole": (whole[0], whole[0] + whole[1]), "real": (real[0], real[0] + real[1]), "rate": (low, low * 1000), "choice": values}
    points = sweeps.random(8, seed, **ranges)
    assert points == sweeps.random(8, seed, **ranges) and len(points) == 8
    for point in points:
        assert isinstance(point["whole"], int) and ranges["whole"][0] <= point["whole"] <= ranges["whole"][1]
        assert ranges["real"][0] <= point["real"] <= ranges["real"][1]
        assert ranges["rate"][0] <= point["rate"] <= ranges["rate"][1] and point["choice"] in values


def test_another_seed_draws_other_points_and_ends_are_included():
    assert sweeps.random(4, 1, a=(0.0, 1.0)) != sweeps.random(4, 2, a=(0.0, 1.0))
    assert {point["a"] for point in sweeps.random(100, 0, a=(1, 3))} == {1, 2, 3}
    rates = [point["a"] for point in sweeps.random(300, 0, a=(1e-4, 1e-1))]
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130, "a third of the orders of magnitude, a third of the draws"


@pytest.mark.parametrize("values", ["dcl", 3, {"a": 1}])
def test_one_value_is_no_grid(values):
    with pytest.raises(ConfigError, match="Give a list"):
        grid(loss=values)


@pytest.mark.parametrize("values", [(2.0, 1.0), (1, 2, 3), [], "dcl", 3])
def test_what_is_neither_list_nor_range_is_refused(values):
    with pytest.raises(ConfigError, match="neither a list"):
        sweeps.random(1, 0, a=values)


def test_a_process_that_ignores_the_interrupt_is_killed(monkeypatch):
    monkeypatch.setattr(sweeps, "GRACE_S", 0.5)
    code = "import signal, sys, time\nsignal.signal(signal.SIGINT, {})\nprint(flush=True)\ntime.sleep(600)"
    deaf, good = [subprocess.Popen([sys.executable, "-c", code.format(what)], stdout=subprocess.PIPE) for what in ("signal.SIG_IGN", "lambda *_: sys.exit(5)")]
    for process in (deaf, good):
        process.stdout.readline()
    sweeps._end([deaf, good])
    assert [process.wait(30) for process in (deaf, good)] == [-signal.SIGKILL, 5]
    for process in (deaf, good):
        process.stdout.close()
