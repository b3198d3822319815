"""Every source notebook of the package runs from top to bottom."""
from pathlib import Path

import pytest

from running import run_notebook

NBS = Path(__file__).parents[1] / "nbs"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not {"experiments", "tutorials", ".ipynb_checkpoints"} & {*path.parts})


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
