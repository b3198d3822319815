"""Seconds until a map is drawn, recoloured, and until a lasso is known to Python: the explorer beside bare widgets, in JupyterLab in a headless Chromium, one run. Prints one table.

    python benchmarks/explore.py                    # 20,000 and 100,000 points, about 25 minutes on two cores
    python benchmarks/explore.py --sizes 500000 --sides explorer "bare points" "bare FigureWidget" --rounds 1
    python benchmarks/explore.py --quick            # 2,000 points: whether it runs, not how fast

What is measured, each in a notebook and a kernel of its own, on the same points (nine clusters, nine categories and a number). The notebook has a title above its cells, so that
JupyterLab has loaded what it typesets text with. Sides take turns; a number is the median of the rounds:
  draw      from the end of the cell that opens the embeddings (and has loaded torch and anndata) to the first picture: import of the library that draws, making of
            the widget, its way to the page, painting.
  whole     from the same moment until what stands around the map is there too: legend, controls, panels. A bare widget is whole when it is drawn.
  recolour  from a statement in the kernel that colours by the number to the first changed picture.
  drag      a lasso by mouse along a star, 24 moves: from the first to the last. A map that cannot keep up makes it longer.
  lasso     from the release of the mouse to the callback in Python with the rows.
  exact     whether those rows are the points inside, by another algorithm on the polygon that Python was told (where the widget tells one).

Sides: "explorer" is the whole of ours, "explorer, plotly" the same on a FigureWidget, "bare points" our map alone; "bare FigureWidget" one Scattergl trace with
colours and a callback; "bare jupyter-scatter" the same (it is measured where it is installed). Their ratio to "explorer" stands beside each time. A step that does not
end in 900 s is given up ("> 900"), and what would have followed is left empty.
"""

import argparse
import compileall
import datetime
import importlib.util
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import isoclr

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browsing import Lab, browser_page, until  # noqa: E402
from playwright.sync_api import TimeoutError as SlowPage  # noqa: E402

READ = """
import time, numpy as np, pandas as pd
from isoclr.probe.embed import open_embeddings
heard, adata = [], open_embeddings("{n}.h5ad")
frame = adata.obs.assign(x=adata.obsm["X_umap"][:, 0], y=adata.obsm["X_umap"][:, 1])
"""
HEAR = "\ndef hear(rows, outline=None):\n    heard.append((time.time(), np.asarray(rows).tolist(), outline))\n"
EXPLORER = """
from isoclr.latent.explore import Explorer
explorer = Explorer(adata, color="kind", backend="{backend}")
explorer.observe(lambda change: hear(change["new"], None if explorer.map.lasso is None else explorer.map.lasso.tolist()), "selection")
def recolour(): explorer.color = "number"
explorer
"""
SIDES = {
    "explorer": EXPLORER.format(backend="points"),
    "explorer, plotly": EXPLORER.format(backend="plotly"),
    "bare points": """
from isoclr.latent.colors import code_colors
from isoclr.latent.points import PointsMap
points = PointsMap(frame[["x", "y"]].to_numpy(), lambda rows, mode: (hear(rows, points.lasso.tolist()), points.select(rows)), lambda *_: None, str)
points.paint(code_colors(frame["kind"], len(frame)))
def recolour(): points.paint(code_colors(frame["number"], len(frame)))
points.widget
""",
    "bare FigureWidget": """
import plotly.graph_objects as go
figure = go.FigureWidget(go.Scattergl(x=frame.x, y=frame.y, mode="markers", marker={"color": pd.factorize(frame.kind)[0], "size": 3}))
figure.update_layout(dragmode="lasso", height=480)
figure.data[0].on_selection(lambda trace, points, selector: hear(points.point_inds, np.column_stack([selector.xs, selector.ys]).tolist()) if selector else None)
def recolour(): figure.data[0].marker.color = frame.number.to_numpy()
figure
""",
    "bare jupyter-scatter": """
import jscatter
scatter = jscatter.Scatter(data=frame, x="x", y="y", color_by="kind", height=480)
scatter.mouse(mode="lasso")
scatter.widget.observe(lambda change: hear(change["new"]), "selection")
def recolour(): scatter.color(by="number")
scatter.show()
""",
}
LONGEST_S = 900  # a step that takes longer is given up, and the table says so
WATCH = """
window.look = () => {
  let sum = 0, filled = 0;
  for (const canvas of document.querySelectorAll('.jp-OutputArea canvas')) {
    if (!canvas.width) continue;
    const copy = document.createElement('canvas'); copy.width = 90; copy.height = 60;
    const pen = copy.getContext('2d'); pen.drawImage(canvas, 0, 0, 90, 60);
    const data = pen.getImageData(0, 0, 90, 60).data;
    for (let i = 0; i < data.length; i += 4) {
      const most = Math.max(data[i], data[i + 1], data[i + 2]), least = Math.min(data[i], data[i + 1], data[i + 2]);
      if (data[i + 3] > 20 && most - least > 25) { filled++; sum = (sum * 31 + data[i] + 7 * data[i + 1] + 13 * data[i + 2] + i) % 1000003; }
    }
  }
  return [filled, sum];
};
"""


def points(n: int) -> AnnData:
    "Nine clusters on a ring."
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 9, n)
    place = 4 * np.column_stack([np.cos(kind * 0.7), np.sin(kind * 0.7)]) + rng.normal(size=(n, 2))
    obs = pd.DataFrame({
        "transcript_id": [f"NM_{i}" for i in range(n)], "gene_name": [f"GENE{i // 4}" for i in range(n)], "kind": [f"kind {i}" for i in kind], "number": rng.normal(size=n),
    }, index=[f"t{i}" for i in range(n)])
    return AnnData(np.zeros((n, 8), np.float32), obs=obs, obsm={"X_umap": place}, uns={"isoclr": {}})


def inside(polygon: np.ndarray, at: np.ndarray) -> np.ndarray:
    "Points around which a polygon winds an odd number of times."
    turned = np.zeros(len(at))
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0)):
        u, v = a - at, b - at
        turned += np.arctan2(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0], (u * v).sum(1))
    return np.round(turned / (2 * np.pi)).astype(int) % 2 == 1


def start(page, lab: Lab, notebook: str) -> tuple[float, float]:
    "Run a notebook; seconds from the end of its first cell to a picture, and to what stands around it."
    page.goto(f"http://127.0.0.1:{lab.port}/doc/tree/{notebook}")
    page.wait_for_function("window.jupyterapp && document.querySelectorAll('.jp-Notebook .jp-CodeCell').length == 2", timeout=120_000)
    until(lambda: any(one["path"] == notebook and one["kernel"]["execution_state"] == "idle" for one in lab.api("sessions") or []), 120, "a kernel")
    time.sleep(1)
    page.evaluate(WATCH)
    page.evaluate("""() => {
      const prompt = i => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')][i].textContent;
      const step = () => {
        if (window.begun === undefined && /\\d/.test(prompt(0))) window.begun = performance.now();
        if (window.begun !== undefined && !window.drawn && window.look()[0] > 100) window.drawn = performance.now();
        const around = !document.querySelector('.isoclr-explorer') || document.querySelector('.isoclr-explorer .isoclr-status') && document.querySelector('.isoclr-explorer .jupyter-widget-tab');
        if (window.drawn && around) window.whole = performance.now(); else requestAnimationFrame(step);
      };
      requestAnimationFrame(step);
    }""")
    for _ in range(5):
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        try:
            page.wait_for_function("[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(one => /\\d|\\*/.test(one.textContent))", timeout=5000)
            break
        except Exception:
            continue
    page.wait_for_function("window.whole || document.querySelector('[data-mime-type=\"application/vnd.jupyter.error\"]')", timeout=1000 * LONGEST_S)
    if not page.evaluate("window.whole || 0"):
        raise RuntimeError(page.locator(".jp-OutputArea").last.inner_text()[-2000:])
    return tuple(page.evaluate("[window.drawn, window.whole].map(at => (at - window.begun) / 1000)"))


def still(page, seconds: float = 1.0) -> list:
    "Wait until the picture has not changed for a while."
    seen, since = page.evaluate("window.look()"), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.1)
        now = page.evaluate("window.look()")
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


def drag(page) -> tuple[float, float]:
    "A star by mouse: seconds, and when the button was released."
    box = max((canvas.bounding_box() for canvas in page.locator(".jp-OutputArea canvas").all() if canvas.is_visible()), key=lambda box: box["width"] * box["height"])
    turn = np.linspace(0, 2 * np.pi, 25)
    reach = np.where(np.arange(25) % 4 < 2, 0.32, 0.18) * min(box["width"], box["height"])
    way = np.column_stack([box["x"] + box["width"] / 2 + reach * np.cos(turn), box["y"] + box["height"] / 2 + reach * np.sin(turn)])
    page.mouse.move(*way[0])
    begin = time.monotonic()
    page.mouse.down()
    for place in way[1:]:
        page.mouse.move(*place)
    took, released = time.monotonic() - begin, time.time()
    page.mouse.up()
    return took, released


STEPS = ("draw", "whole", "recolour", "drag", "lasso")


def measure(lab: Lab, side: str, n: int, at: np.ndarray) -> dict:
    "One side at one size; a step that does not end in `LONGEST_S` is infinite, and those after it are not known."
    notebook = f"{side.replace(' ', '-').replace(',', '')}-{n}.ipynb"
    lab.write(notebook, READ.format(n=n) + HEAR, SIDES[side], title=side)
    run = dict.fromkeys(STEPS, np.nan) | {"selected": "", "exact": ""}
    with browser_page(1400, 1100) as page:
        try:
            run["draw"], run["whole"] = start(page, lab, notebook)
            with lab.kernel(notebook) as ask:
                before, begin = still(page), time.monotonic()
                ask("recolour()")
                page.wait_for_function(f"String(window.look()) !== '{before[0]},{before[1]}'", timeout=1000 * LONGEST_S)
                run["recolour"] = time.monotonic() - begin
                still(page)
                run["drag"], released = drag(page)
                until(lambda: ask("len(heard)"), LONGEST_S, "a lasso")
                heard, rows, outline = ask("heard[0]")
        except (TimeoutError, SlowPage):
            return run | {next(step for step in STEPS if np.isnan(run[step])): np.inf}
    unlike = None if outline is None else len(set(rows) ^ set(np.flatnonzero(inside(np.array(outline), at)).tolist()))
    exact = "not told" if unlike is None else "yes" if not unlike else f"{unlike} rows differ"
    return run | {"lasso": heard - released, "selected": f"{len(rows):,}", "exact": exact}


def written(seconds: float, ours: float | None) -> str:
    "A time as it stands in the table."
    if np.isnan(seconds):
        return ""
    if np.isinf(seconds):
        return f"> {LONGEST_S}"
    return f"{seconds:.2f}" if ours is None else f"{seconds:.2f} ({seconds / ours:.1f}×)"


def lines(arguments: argparse.Namespace) -> list[dict]:
    "A row a side and size."
    found = []
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        for n in arguments.sizes:
            adata = points(n)
            adata.write_h5ad(Path(folder) / f"{n}.h5ad")
            runs = {side: [] for side in arguments.sides if side != "bare jupyter-scatter" or importlib.util.find_spec("jscatter")}
            for _ in range(arguments.rounds):
                for side in runs:
                    runs[side].append(measure(lab, side, n, adata.obsm["X_umap"]))
                    sys.stderr.write(f"{n:,}  {side}  {runs[side][-1]}\n")
            ours = None
            for side in arguments.sides:
                if side not in runs:
                    found.append({"points": f"{n:,}", "side": side, "draw s": "not installed"})
                    continue
                middle = {step: float(np.median([run[step] for run in runs[side]])) for step in STEPS}
                line = {"points": f"{n:,}", "side": side} | {f"{step} s": written(seconds, ours and ours[step]) for step, seconds in middle.items()}
                ours = ours or middle
                found.append({**line, "selected": runs[side][0]["selected"], "exact": "/".join(sorted({run["exact"] for run in runs[side]}))})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="the first is what the others are compared with")
    parser.add_argument("--rounds", type=int, default=5, help="sides take turns; the median of these is told")
    parser.add_argument("--quick", action="store_true", help="2,000 points, one round")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "explore.md", metavar="FILE", help="also to this file (results/explore.md)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.rounds = [2_000], 1
    compileall.compile_dir(Path(isoclr.__file__).parent, quiet=1)  # as pip does with what it installs
    load = os.getloadavg()[0]
    table = pd.DataFrame(lines(arguments)).fillna("")
    text = "| " + " | ".join(table.columns) + " |\n" + "|---" * len(table.columns) + "|\n"
    text += "".join("| " + " | ".join(values) + " |\n" for values in table.itertuples(index=False))
    facts = f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), software rendering; Python {platform.python_version()}. Load average when it began: {load:.2f}. The median of {arguments.rounds} round(s).\n"
    text = f"# The explorer in a browser\n\n{facts}\n```\n{__doc__.strip()}\n```\n\n{text}"
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
