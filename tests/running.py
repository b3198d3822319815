"""A source notebook runs from top to bottom in a process of its own."""
import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
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
