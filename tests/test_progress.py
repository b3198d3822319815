"""Progress bars: tqdm's in a terminal, and in a notebook a line of text that stays as it ended."""
import subprocess
import sys

import nbformat

COUNT = """
from isoclr.progress import progress_bar
with progress_bar(total=4, desc="outer") as outer:
    for _ in progress_bar(range(3), desc="inner", mininterval=0):
        outer.update()
for _ in progress_bar(range(3), disable=True):
    pass
"""


def test_a_notebook_keeps_the_last_line():
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(COUNT)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"] * 2, "text alone: nothing red, no widget"
    outer, inner = [output.data["text/plain"] for output in outputs]
    assert "outer:  75%" in outer and "3/4" in outer and "inner: 100%" in inner and "3/3" in inner


def test_a_terminal_has_tqdm():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert "inner: 100%" in done.stderr and "outer:  75%" in done.stderr and not done.stdout
