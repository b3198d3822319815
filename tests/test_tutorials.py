"""Every tutorial runs from top to bottom."""
from pathlib import Path

import pytest

from running import run_notebook

TUTORIALS = sorted((Path(__file__).parents[1] / "nbs" / "tutorials").glob("*.ipynb"))


def test_they_are_there():
    assert {path.stem for path in TUTORIALS} == {"quickstart", "your_genome", "pretraining", "probing", "walk", "cluster"}


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, tmp_path):
    done = run_notebook(path, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
