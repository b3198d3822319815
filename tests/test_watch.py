"""The figure of a training: every kind of missing data, and a live plot that stays in the executed notebook."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from browsing import Lab, browser_page, lacking
from isoclr.pretrain import watch
from isoclr.pretrain.watch import LivePlot, draw_training, read_metrics

TRAINING = {"loss": 2.0, "accuracy": 0.5, "learning_rate": 1e-3, "epoch": 0.5, "gradient_norm": 1.0, "padding": 0.1, "seconds": 1.0, "pairs_per_second": 9.0}
HELDOUT = {
    "heldout/heldout_accuracy": 0.4, "heldout/alignment": 0.3, "heldout/uniformity": -1.5, "heldout/effective_rank": 20.0, "heldout/isoform@1": 0.8,
    "heldout/isoform@10": 0.9, "heldout/homolog@1": 0.6, "heldout/homolog@10": 0.7, "heldout/monitored": 500, "heldout/non_finite": 0, "heldout/collapse": None,
}  # fmt: skip
PANELS = {"Loss", "Contrastive accuracy", "Learning rate", "Held out: retrieval", "Held out: lower is better", "Held out: effective rank"}


def write(folder: Path, rows: list[dict], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder


def rows(n: int = 6, heldout_every: int = 2) -> list[dict]:
    return [{"step": 10 * i, **TRAINING, "loss": 3 / i, **(HELDOUT if i % heldout_every == 0 else {})} for i in range(1, n + 1)]


def panels(figure) -> set[str]:
    return {note.text for note in figure.layout.annotations}


def lines(figure) -> dict[str, list[tuple[float, float]]]:
    return {f"{trace.name} {trace.yaxis}": list(zip(trace.x, trace.y)) for trace in figure.data}


def test_reading_what_is_there(tmp_path):
    whole = rows()
    assert read_metrics(tmp_path / "nowhere").empty and list(read_metrics(tmp_path)) == ["step"]
    for tail in ("", "\n", '{"step": 70, "lo', '{"step": 70', "[1, 2]\n", "null\n", '{"loss": 1}\n', '{"step": "x"}\n', "\x00\x00"):
        pd.testing.assert_frame_equal(read_metrics(write(tmp_path / "run", whole, tail)), pd.DataFrame(whole))
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "word": "\xe2')  # half a letter
    assert read_metrics(tmp_path / "run")["step"].tolist() == [1]


def test_everything_is_drawn(tmp_path):
    figure = draw_training(write(tmp_path / "run", rows()), {"isoform@1": 0.97, "isoform@10": 0.99, "homolog@1": 0.85, "homolog@10": None})
    assert panels(figure) == PANELS
    drawn = lines(figure)
    assert drawn["training y"] == [(10 * i, 3 / i) for i in range(1, 7)]
    assert drawn["isoform@1 y4"] == [(20, 0.8), (40, 0.8), (60, 0.8)] and drawn["uniformity y5"][0] == (20, -1.5) and drawn["held out y6"][0] == (20, 20.0)
    dashed = {(shape.y0, shape.line.dash, shape.yref) for shape in figure.layout.shapes}
    assert dashed == {(0.97, "dash", "y4"), (0.85, "dash", "y4")}
    title = figure.layout.title.text
    assert title == "Step 60, epoch 0.5, loss 0.5, accuracy 0.50<br>isoform@1 0.80 (k-mers 0.97), homolog@1 0.60 (k-mers 0.85)"
    assert sum(bool(trace.showlegend) for trace in figure.data) == len({trace.name for trace in figure.data})
    assert all(axis.title.text for axis in figure.select_yaxes()) and all(axis.title.text == "step" for axis in figure.select_xaxes())
    json.loads(figure.to_json())


DRAWN = ["epoch", "loss", "accuracy", "learning_rate", *HELDOUT]


@pytest.mark.parametrize("column, how", [(column, ("absent", "null", "nan", "text")[i % 4]) for i, column in enumerate(DRAWN)]
                         + [("loss", how) for how in ("absent", "nan", "text")] + [("heldout/uniformity", how) for how in ("absent", "null", "nan")])  # fmt: skip
def test_any_column_may_be_missing(tmp_path, column, how):
    value = {"null": None, "nan": math.nan, "text": "?"}.get(how)
    table = [{name: value if name == column else each for name, each in row.items() if how != "absent" or name != column} for row in rows()]
    figure = draw_training(write(tmp_path / "run", table), {"isoform@1": 0.97, "homolog@1": 0.85})
    alone = {"loss": "Loss", "learning_rate": "Learning rate", "heldout/effective_rank": "Held out: effective rank"}
    assert panels(figure) == PANELS - {alone.get(column)}
    assert all(len(trace.x) and all(map(math.isfinite, trace.y)) for trace in figure.data)


def test_training_without_monitors_and_monitors_without_training(tmp_path):
    training = draw_training(write(tmp_path / "a", [{"step": 5, **TRAINING}]))
    assert panels(training) == {"Loss", "Contrastive accuracy", "Learning rate"} and training.data[0].mode == "lines+markers"
    heldout = draw_training(write(tmp_path / "b", [{"step": 5, **HELDOUT}]), {"isoform@1": 0.9})
    assert "Loss" not in panels(heldout) and heldout.layout.title.text == "Step 5<br>isoform@1 0.80 (k-mers 0.90), homolog@1 0.60"
    apart = draw_training(write(tmp_path / "c", [{"step": 5, **TRAINING}, {"step": 5, **HELDOUT}]))  # a row of each kind
    assert panels(apart) == PANELS and "loss 2, accuracy 0.50<br>isoform@1 0.80" in apart.layout.title.text


def test_nothing_yet(tmp_path):
    for folder in (tmp_path / "nowhere", write(tmp_path / "empty", []), write(tmp_path / "half", [], '{"ste')):
        figure = draw_training(folder, {"isoform@1": 0.9})
        assert figure.layout.title.text == "Nothing is written yet" and not figure.data
    assert not draw_training(write(tmp_path / "bare", [{"step": 3}])).data


def test_collapse_is_marked_where_it_begins(tmp_path):
    said = [None, None, "first <i>", "first, later", None, "second & worse", "second, later"]
    table = [{"step": 10 * i, **TRAINING, **({**HELDOUT, "heldout/collapse": said[i // 2]} if i % 2 == 0 else {})} for i in range(14)]
    figure = draw_training(write(tmp_path / "run", table))
    assert {shape.x0 for shape in figure.layout.shapes} == {40, 100} and len(figure.layout.shapes) == 2 * len(PANELS)
    text = figure.layout.title.text
    assert "Collapse at step 100. second &amp; worse" in text and "first" not in text
    figure = draw_training(write(tmp_path / "one", table[:6]))
    assert "Collapse at step 40. first &lt;i&gt;" in figure.layout.title.text
    assert "Collapse" not in draw_training(write(tmp_path / "none", table[:4])).layout.title.text
    broken = [{"step": 10, "heldout/uniformity": None, "heldout/collapse": "all NaN"}, {"step": 10, **TRAINING}]
    assert "all NaN" in draw_training(write(tmp_path / "broken", broken)).layout.title.text


def test_long_runs_are_thinned_by_averaging(tmp_path):
    table = [{"step": i, "loss": float(i % 7)} for i in range(1, 5001)]
    trace = draw_training(write(tmp_path / "run", table)).data[0]
    size = 17  # ceil(5000 / 300)
    expected = [(sum(row[name] for row in table[i : i + size]) / len(table[i : i + size])) for name in ("loss",) for i in range(0, 5000, size)]
    assert len(trace.x) <= 300 and list(trace.y) == pytest.approx(expected) and trace.mode == "lines"


def test_colours_are_told_apart():
    "No two lines of a panel share a colour, and all are of Okabe and Ito's eight."
    okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    for *_, panel_lines in watch._PANELS:
        colors = [line.color for line in panel_lines]
        assert len(set(colors)) == len(colors) and set(colors) <= okabe_ito


def test_outside_a_notebook_nothing_happens(tmp_path):
    code = f"import sys\nfrom isoclr.pretrain.watch import LivePlot\nwith LivePlot({str(tmp_path)!r}, 0) as live: live.update()\nprint('plotly' in sys.modules, 'IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"] and not done.stderr


@pytest.fixture
def shown(monkeypatch):
    "As in a notebook; what is shown, instead of showing it."
    bundles, clock = [], [100.0]
    monkeypatch.setattr(watch, "in_notebook", lambda: True)
    monkeypatch.setattr(LivePlot, "_show", lambda self, bundle: bundles.append(bundle))
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    return bundles, clock


def test_redraws_are_rare_and_only_for_news(tmp_path, shown):
    bundles, clock = shown
    with LivePlot(write(tmp_path / "run", rows(2)), every_seconds=2) as live:
        assert len(bundles) == 1
        write(tmp_path / "run", rows(3))
        live.update()
        assert len(bundles) == 1  # too early
        clock[0] += 2.5
        live.update()
        assert len(bundles) == 2
        clock[0] += 2.5
        live.update()
        assert len(bundles) == 2  # nothing new
        write(tmp_path / "run", rows(4))
    assert [bundle["text/plain"][:7] for bundle in bundles] == ["Step 20", "Step 30", "Step 40"]


def test_slow_drawing_takes_a_fiftieth_of_the_time(tmp_path, shown, monkeypatch):
    bundles, clock = shown
    draw = draw_training
    monkeypatch.setattr(watch, "draw_training", lambda *given: (clock.__setitem__(0, clock[0] + 1), draw(*given))[1])  # takes a second
    live = LivePlot(write(tmp_path / "run", rows(2)), every_seconds=2)
    live.update()
    for n, (wait, expected) in enumerate(((49, 1), (2, 2)), 3):
        write(tmp_path / "run", rows(n))
        clock[0] += wait
        live.update()
        assert len(bundles) == expected


def test_a_drawing_that_fails_does_not_stop_the_training(tmp_path, shown, monkeypatch):
    monkeypatch.setattr(watch, "draw_training", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="ZeroDivisionError.*The training goes on"):
        with LivePlot(tmp_path) as live:
            live.update()
    assert not shown[0]


def test_the_last_state_is_shown_also_when_interrupted(tmp_path, shown):
    with pytest.raises(KeyboardInterrupt):
        with LivePlot(write(tmp_path / "run", rows(2)), every_seconds=1000):
            write(tmp_path / "run", rows(5))
            raise KeyboardInterrupt
    assert shown[0][-1]["text/plain"].startswith("Step 50")


def test_the_executed_notebook_keeps_the_last_figure(tmp_path):
    import nbformat
    import papermill

    source = f"""
import json
from pathlib import Path
from isoclr.pretrain.watch import LivePlot
folder = Path({str(tmp_path)!r})
with LivePlot(folder, every_seconds=0, baseline={{"isoform@1": 0.97}}) as live:
    for step in range(10, 60, 10):
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({{"step": step, "loss": 1 / step, "heldout/isoform@1": 0.5}}) + "\\n")
        live.update()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell("step")])
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False)
    done = nbformat.read(tmp_path / "out.ipynb", 4)
    (figure,) = [output.data for output in done.cells[0].outputs if output.output_type == "display_data"]
    assert figure["text/plain"].startswith("Step 50")
    assert figure["application/vnd.plotly.v1+json"]["data"][0]["x"] == [10, 20, 30, 40, 50]
    assert "widgets" not in done.metadata and (tmp_path / "out.ipynb").stat().st_size < 50_000


@pytest.mark.skipif(bool(lacking()) and os.environ.get("CI") != "true", reason=lacking())
def test_jupyterlab_draws_every_state(tmp_path):
    "It draws a plotly figure once, and lets later states of it pass."
    folder = write(tmp_path / "run", rows(2))
    first = f"from isoclr.pretrain.watch import LivePlot\nlive = LivePlot({str(folder)!r}, 0)\nlive.update()"
    second = f"with open({str(folder / 'metrics.jsonl')!r}, 'a') as file:\n    file.write({json.dumps(rows(4)[-1])!r} + '\\n')\nlive.update(last=True)"
    with Lab(tmp_path) as lab, browser_page() as page:
        lab.write("live.ipynb", first, second)
        lab.run_all(page, "live.ipynb")
        page.locator(".js-plotly-plot .gtitle", has_text="Step 40").wait_for()
        assert page.locator(".js-plotly-plot").count() == 1
