"""Every source notebook runs from top to bottom in a process of its own."""
import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if "experiments" not in p.parts and ".ipynb_checkpoints" not in p.parts)
PRELOADED = ["torch", "pandas", "scipy.stats", "scipy.sparse", "sklearn.linear_model", "anndata", "plotly.graph_objects", "lightning.fabric", "nbdev.test", "execnb.shell"]


class Done(NamedTuple):
    returncode: int | None
    stderr: str


def _process(path: Path, output: Path) -> None:
    "What the forked process does."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(not passed)  # at once: a notebook may have left threads


def run_notebook(path: Path, folder: Path) -> Done:
    "A process is forked from one that has imported the libraries and done nothing else, which saves their import for each of a hundred notebooks."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_process, args=(path, folder / "output"))
    process.start()
    process.join(900)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Done(process.exitcode, (folder / "output").read_text() if (folder / "output").is_file() else "it did not start")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, tmp_path):
    done = run_notebook(path, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_failing_notebook_is_seen(tmp_path):
    import nbformat

    cells = [nbformat.v4.new_code_cell("assert 1 == 2")]
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = run_notebook(path, tmp_path)
    assert done.returncode == 1 and "assert 1 == 2" in done.stderr
