"""Every source notebook runs from top to bottom in a process of its own."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if "experiments" not in p.parts and ".ipynb_checkpoints" not in p.parts)

RUN = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
passed, _ = test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split(), basepath=sys.argv[2])
sys.exit(not passed)
"""


def run_notebook(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", RUN, str(path), str(ROOT)], cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    done = run_notebook(path)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_failing_notebook_is_seen(tmp_path):
    import nbformat

    cells = [nbformat.v4.new_code_cell("assert 1 == 2")]
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = run_notebook(path)
    assert done.returncode == 1 and "assert 1 == 2" in done.stderr
