"""The explorer in JupyterLab, in a real browser: drawn, recoloured, searched, and a lasso by mouse whose rows are exactly those that lie in it."""
import os
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from browsing import Lab, browser_page, lacking, until
from isoclr.data.store import write_store

WHY_NOT = lacking()
pytestmark = pytest.mark.skipif(bool(WHY_NOT) and os.environ.get("CI") != "true", reason=WHY_NOT)

CELL = """
import anndata
from isoclr.data.store import TranscriptStore
from isoclr.latent.explore import Explorer
adata = anndata.read_h5ad("{n}.h5ad")
explorer = Explorer(adata, TranscriptStore.open("store") if {n} == 2000 else None, color="kind", backend="{backend}")
explorer
"""


def embeddings(n):
    rng = np.random.default_rng(n)
    kind = rng.integers(0, 9, n)
    obs = pd.DataFrame({
        "gene_name": [f"GENE{i // 4}" for i in range(n)], "transcript_id": [f"NM_{i}" for i in range(n)], "species": np.where(np.arange(n) % 2, "human", "mouse"),
        "length_nt": rng.integers(200, 9000, n), "kind": [f"kind {i}" if i < 8 else "" for i in kind], "half_life": np.where(kind == 3, np.nan, rng.normal(size=n)),
    }, index=[f"t{i}" for i in range(n)])
    obs["gene_id"] = obs["species"] + ":" + obs["gene_name"]
    around = 4 * np.column_stack([np.cos(kind * 0.7), np.sin(kind * 0.7)])
    return AnnData(rng.normal(size=(n, 4)).astype(np.float32), obs=obs, obsm={"X_umap": (around + rng.normal(size=(n, 2)) * 1.3).astype(np.float32), "X_pca": rng.normal(size=(n, 2))})


@pytest.fixture(scope="module")
def adatas():
    return {n: embeddings(n) for n in (2000, 50_000)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, adatas):
    assert not WHY_NOT, f"CI must run the browser tests: {WHY_NOT}"
    folder = tmp_path_factory.mktemp("lab")
    for n, adata in adatas.items():
        adata.write_h5ad(folder / f"{n}.h5ad")
    obs, starts = adatas[2000].obs, np.arange(2000)[:, None] * 1000 + [0, 400]
    table = obs[["transcript_id", "gene_id", "gene_name", "species"]].assign(
        chrom="chr1", strand="+", exon_starts=list(starts), exon_ends=list(starts + [100, 200]), length_nt=300, cds_start=30, cds_end=210)
    write_store(folder / "store", table, (np.zeros(300, np.uint8) for _ in range(2000)))
    with Lab(folder) as running:
        yield running


@contextmanager
def opened(lab, tmp_path, n, backend):
    "A page with the explorer drawn, and a line to its kernel. When a test fails, its last picture is saved."
    name = f"{backend}-{n}.ipynb"
    lab.write(name, CELL.format(n=n, backend=backend))
    with browser_page() as page:
        try:
            lab.run_all(page, name)
            drawn = f".isoclr-points[data-drawn='{n}']" if backend == "points" else ".isoclr-explorer .js-plotly-plot .gl-canvas"
            page.wait_for_selector(drawn, state="attached")
            page.get_by_text(f"{n:,} of {n:,} transcripts").wait_for()  # the status line comes last
            with lab.kernel(name) as ask:
                yield page, ask
            assert not page.complaints
        except BaseException as error:
            picture = Path(os.environ.get("ISOCLR_SCREENSHOTS", tmp_path)) / f"{backend}-{n}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(picture))
            error.add_note(f"the page: {picture}")
            raise


def choose(page, control, option):
    "Use a drop-down list."
    page.locator(".isoclr-explorer .widget-dropdown", has=page.get_by_text(control, exact=True)).locator("select").select_option(option)


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def painted(page):
    "How many pixels of the map have each colour, the ground left out; of the commonest 300 colours."
    return page.evaluate("""() => {
      const canvas = document.querySelector('.isoclr-points canvas'), copy = document.createElement('canvas');
      copy.width = canvas.width; copy.height = canvas.height;
      const pen = copy.getContext('2d'); pen.drawImage(canvas, 0, 0);
      const data = new Uint32Array(pen.getImageData(0, 0, copy.width, copy.height).data.buffer), counts = {};
      for (const pixel of data) counts[pixel] = (counts[pixel] || 0) + 1;
      delete counts[data[0]];
      return Object.fromEntries(Object.entries(counts).sort((a, b) => b[1] - a[1]).slice(0, 300));
    }""")


def still(look):
    "What a look sees once it sees the same three times, and something."
    seen = [0, 1, 2]

    def same():
        seen[:] = [*seen[1:], look()]
        return seen[0] == seen[1] == seen[2] and seen[0]

    return until(same, 60, "a picture that stands still")


def repainted(page, before):
    "Wait for another picture that stays."
    until(lambda: (now := painted(page)) != before and now, 60, "a new picture")
    return still(lambda: painted(page))


STAR = [(-0.30, -0.30), (0.02, -0.12), (0.33, -0.28), (0.16, 0.05), (0.28, 0.36), (-0.05, 0.14), (-0.33, 0.22), (-0.15, -0.02)]


def drag(page, canvas, corners, modifier=None):
    "Draw along corners, given as shares of the smaller side from the middle; gives them in pixels of the canvas."
    canvas.scroll_into_view_if_needed()
    box = still(canvas.bounding_box)
    side = min(box["width"], box["height"])
    at = [(round(box["x"] + box["width"] / 2 + x * side), round(box["y"] + box["height"] / 2 + y * side)) for x, y in corners]
    if modifier:
        page.keyboard.down(modifier)
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=2)
    page.mouse.up()
    if modifier:
        page.keyboard.up(modifier)
    return np.array(at, float) - [box["x"], box["y"]]


def winding(polygon, points):
    "Which points a polygon winds around an odd number of times, by the angles of its edges: another way than that of the script."
    turned = np.zeros(len(points))
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0)):
        u, v = a - points, b - points
        turned += np.arctan2(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0], (u * v).sum(1))
    return np.round(turned / (2 * np.pi)).astype(int) % 2 == 1


def off_edge(polygon, points):
    "Distance of points from the outline of a polygon."
    best = np.full(len(points), np.inf)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0)):
        along = np.clip(((points - a) @ (b - a)) / max((b - a) @ (b - a), 1e-12), 0, 1)
        best = np.minimum(best, np.hypot(*(points - a - along[:, None] * (b - a)).T))
    return best


def pixels_of(page, xy):
    "Where points lie on the canvas, from the view that the page tells."
    x, y, scale, width, height = map(float, page.locator(".isoclr-points").get_attribute("data-view").split())
    low, high = xy.min(0), xy.max(0)
    unit = (xy - (low + high) / 2) / ((high - low) / 2).max()
    return np.column_stack([width / 2 + (unit[:, 0] - x) * scale, height / 2 - (unit[:, 1] - y) * scale])


def selected(page, ask, last=None):
    "The selection in Python once it is another one."
    return np.array(until(lambda: (now := ask("explorer.selection.tolist()")) != last and now, 60, "a selection"))


def hovered(page, place, wanted, tip=".isoclr-tip"):
    "Move the mouse to a place, which is asked for again each time, until what is wanted is told."
    def told():
        x, y = place()
        page.mouse.move(x + 2, y + 2)
        page.mouse.move(x, y)
        page.wait_for_timeout(200)
        return any(re.search(rf"{text}(?!\d)", page.locator(tip).text_content()) for text in wanted)

    until(told, 60, f"{wanted} at the mouse")


def check_lasso(at, ask, adata, outline, rows, shown=None):
    "Selected rows are those in the outline: by the mouse's way in pixels, the points being at those places, and by the polygon that arrived in Python."
    xy = adata.obsm["X_umap"].astype(float)
    shown = np.ones(len(xy), bool) if shown is None else shown
    found = np.isin(np.arange(len(xy)), rows)
    unlike = (winding(outline, at) & shown) != found
    assert not unlike.any() or off_edge(outline, at[unlike]).max() < 0.05  # of a pixel
    polygon = np.array(ask("explorer.map.lasso.tolist()"))
    unlike = (winding(polygon, xy) & shown) != found
    assert not unlike.any() or off_edge(polygon, xy[unlike]).max() < 1e-6
    assert len(rows) > len(xy) / 50 and ask("explorer.selected_frame()['transcript_id'].tolist()") == adata.obs["transcript_id"].iloc[rows].tolist()


def test_points(lab, adatas, tmp_path):
    adata = adatas[2000]
    xy = adata.obsm["X_umap"].astype(float)
    with opened(lab, tmp_path, 2000, "points") as (page, ask):
        canvas, first = page.locator(".isoclr-points canvas").nth(1), still(lambda: painted(page))
        assert sum(first.values()) > 5000 and len(first) > 10
        choose(page, "colour", "half_life")
        page.locator(".isoclr-legend", has_text="half_life").wait_for()
        second = repainted(page, first)
        assert ask("explorer.color") == "half_life" and "missing" in page.locator(".isoclr-legend").inner_text()

        page.get_by_placeholder("gene or transcript").fill("gene12")
        until(lambda: ask("explorer.highlighted.tolist()") == [48, 49, 50, 51], 60, "rings")
        page.locator("datalist option[value='GENE12']").first.wait_for(state="attached")
        third = repainted(page, second)

        at, outline = pixels_of(page, xy), drag(page, canvas, STAR)
        rows = selected(page, ask)
        check_lasso(at, ask, adata, outline, rows)
        page.get_by_text(f"· {len(rows):,} selected").wait_for()
        repainted(page, third)
        ids = adata.obs["transcript_id"].iloc[rows].tolist()
        until(lambda: page.locator(".isoclr-table td:nth-child(2)").all_inner_texts() == ids[:200], 60, "the table")

        tab(page, "transcripts")
        labels = until(lambda: len(found := page.locator(".isoclr-figure[data-drawn] .ytick text").all_text_contents()) == 40 and found, 60, "40 transcripts")
        assert {label.split()[1] for label in labels} <= set(ids)
        tab(page, "colour")
        page.locator(".isoclr-figure").get_by_text(f"selected ({len(rows):,})").wait_for()

        page.get_by_placeholder("length_nt > 2000").fill("length_nt > 4000")
        page.keyboard.press("Tab")
        kept = (adata.obs["length_nt"] > 4000).to_numpy()
        page.wait_for_selector(f".isoclr-points[data-drawn='{kept.sum()}']")
        at, outline = pixels_of(page, xy), drag(page, canvas, STAR)
        check_lasso(at, ask, adata, outline, selected(page, ask, rows.tolist()), kept)

        some = ask("explorer.selection.tolist()")
        canvas.press("b")
        until(lambda: ask("explorer.map.widget.tool") == "box", 60, "the box")
        at = pixels_of(page, xy)
        drag(page, canvas, [(-0.45, -0.45), (-0.1, -0.1)], "Shift")
        more = selected(page, ask, some)
        left, top, side = (lambda b: (b["width"] / 2, b["height"] / 2, min(b["width"], b["height"])))(canvas.bounding_box())
        inside = (np.abs(at - [left - 0.275 * side, top - 0.275 * side]) < 0.175 * side - 1).all(1) & kept
        assert set(more) >= set(some) | set(np.flatnonzero(inside)) and inside.sum() > 5

        row = int(np.flatnonzero(kept)[np.argmin(np.abs(at[kept] - [left, top]).sum(1))])
        near = np.flatnonzero((np.hypot(*(at - at[row]).T) < 2) & kept)
        place = lambda: at[row] + [canvas.bounding_box()["x"], canvas.bounding_box()["y"]]
        ask("setattr(explorer.map, 'label', None)")  # the kernel cannot answer: the page knows few points by itself
        hovered(page, place, [f"transcript NM_{i}" for i in near])
        page.mouse.click(*place())
        until(lambda: ask("explorer.focus is not None"), 60, "a click")
        assert ask("explorer.focus") in near
        tab(page, "neighbours")
        page.get_by_text("Nearest to").wait_for()

        ask("setattr(explorer, 'selection', 'GENE3')")
        tab(page, "selection")
        until(lambda: page.locator(".isoclr-table").first.locator("td:nth-child(1)").all_inner_texts() == ["GENE3"] * 4, 60, "the table")
        canvas.press("Escape")
        until(lambda: ask("len(explorer.selection)") == 0, 60, "Escape")
        page.set_viewport_size({"width": 1100, "height": 1150})  # a laptop's, beside the file browser
        cut = "() => [...document.querySelectorAll('.isoclr-explorer .lm-TabBar-tabLabel')].filter(label => label.scrollWidth > label.clientWidth).map(label => label.textContent)"
        until(lambda: page.evaluate(cut) == [], 60, "labels of tabs that are whole")
        page.get_by_role("button", name="dark").click()
        page.locator(".isoclr-points.dark").wait_for()
        until(lambda: page.evaluate("() => { const c = document.querySelector('.isoclr-points canvas'), g = c.getContext('webgl2'), p = new Uint8Array(4); g.readPixels(1, 1, 1, 1, g.RGBA, g.UNSIGNED_BYTE, p); return p[0]; }") < 40, 60, "a dark ground")


def test_fifty_thousand_points(lab, adatas, tmp_path):
    adata = adatas[50_000]
    xy = adata.obsm["X_umap"].astype(float)
    with opened(lab, tmp_path, 50_000, "points") as (page, ask):
        canvas, before = page.locator(".isoclr-points canvas").nth(1), still(lambda: painted(page))
        choose(page, "colour", "half_life")
        repainted(page, before)
        at, outline = pixels_of(page, xy), drag(page, canvas, STAR)
        check_lasso(at, ask, adata, outline, selected(page, ask))
        lone = int(xy[:, 0].argmax())  # the point farthest to the right has no other near it
        hovered(page, lambda: at[lone] + [canvas.bounding_box()["x"], canvas.bounding_box()["y"]], [f"transcript NM_{lone}"])  # so many points only the kernel knows


def test_plotly(lab, adatas, tmp_path):
    adata = adatas[2000]
    with opened(lab, tmp_path, 2000, "plotly") as (page, ask):
        figure = page.locator(".isoclr-explorer .js-plotly-plot").first
        before = still(figure.screenshot)
        choose(page, "colour", "half_life")
        until(lambda: ask("explorer.color") == "half_life" and ask("isinstance(explorer.map.figure.data[0].marker.symbol, str)"), 60, "the colour")
        until(lambda: figure.screenshot() != before, 60, "a new picture")
        still(figure.screenshot)
        drag(page, figure.locator(".nsewdrag").first, STAR)
        rows, polygon = selected(page, ask), np.array(ask("explorer.map.lasso.tolist()"))
        xy = adata.obsm["X_umap"].astype(float)
        unlike = winding(polygon, xy) != np.isin(np.arange(2000), rows)
        assert not unlike.any() or off_edge(polygon, xy[unlike]).max() < 1e-3
        assert 40 < len(rows) < 2000 and ask("explorer.selected_frame()['transcript_id'].tolist()") == adata.obs["transcript_id"].iloc[rows].tolist()
        page.get_by_text(f"· {len(rows):,} selected").wait_for()
        page.get_by_role("button", name="clear").click()
        until(lambda: ask("len(explorer.selection)") == 0, 60, "clear")


def test_the_page_opens_from_disk_without_a_network(tmp_path, adatas):
    "The picture of `write_html`: drawn, hovered, recoloured by its menu, in a browser that is offline."
    from isoclr.latent.draw import draw_map, write_html

    adata = adatas[2000]
    figure = draw_map(adata, ["kind", "half_life"], "umap")
    write_html(figure, tmp_path / "map.html")
    with browser_page() as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.context.set_offline(True)
        page.goto((tmp_path / "map.html").as_uri())
        page.wait_for_selector(".js-plotly-plot .gl-canvas", state="attached")
        drawn = page.evaluate("() => { const gd = document.querySelector('.js-plotly-plot'); return gd._fullData.filter(t => t.visible === true).map(t => [t.name, t.x.length]); }")
        assert drawn == [[trace.name, len(trace.x)] for trace in figure.data if trace.visible is True]
        lone = int(adata.obsm["X_umap"][:, 0].argmax())  # the point farthest to the right has no other near it
        where = """([x, y]) => { const gd = document.querySelector('.js-plotly-plot'), l = gd._fullLayout, box = gd.getBoundingClientRect();
            return [box.left + l.xaxis._offset + l.xaxis.l2p(x), box.top + l.yaxis._offset + l.yaxis.l2p(y)]; }"""
        hovered(page, lambda: page.evaluate(where, adata.obsm["X_umap"][lone].tolist()), [f"transcript NM_{lone}"], ".hoverlayer")
        page.locator(".updatemenu-header").click()
        page.locator(".updatemenu-dropdown-button", has_text="half_life").click()
        until(lambda: "half_life" in page.locator(".gtitle").text_content(), 60, "another colour")
        assert not page.complaints and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
