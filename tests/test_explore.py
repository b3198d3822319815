"""The explorer without a browser: what it knows, what the controls and the messages of both maps do, and what it says of bad input."""
import base64
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.store import write_store
from isoclr.latent.controls import TABLE_ROWS, csv_link, table_html
from isoclr.latent.colors import MARKERS, MISSING_COLOR, VIRIDIS, code_colors, legend_html, point_sizes
from isoclr.latent.explore import TABS, Explorer
from isoclr.latent.state import ExplorerState, NameIndex, filter_mask, transcripts_of


def embeddings(n=120, seed=0, **columns):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({
        "gene_name": [f"GENE{i // 3}" for i in range(n)], "transcript_id": [f"NM_{i}.1" for i in range(n)], "species": np.where(np.arange(n) < n // 2, "human", "mouse"),
        "length_nt": rng.integers(200, 5000, n), "kind": rng.choice(["kinase", "motor", ""], n), "half_life": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)), **columns,
    }, index=[f"t{i}" for i in range(n)])
    obs["gene_id"] = obs["species"] + ":" + obs["gene_name"]
    X = rng.normal(size=(n, 8)).astype(np.float32)
    return AnnData(X, obs=obs, obsm={"X_umap": rng.normal(size=(n, 2)) * 50 + 1000, "X_pca": X[:, :3].copy()})


def store_of(path, adata):
    "A store of the transcripts of some embeddings: two exons each."
    obs, sizes = adata.obs, np.array([[60, 40 + i % 7] for i in range(adata.n_obs)])
    starts = np.column_stack([np.arange(adata.n_obs) * 500, np.arange(adata.n_obs) * 500 + 200])
    table = pd.DataFrame({
        "transcript_id": obs["transcript_id"].astype(str), "gene_id": obs["gene_id"].astype(str), "gene_name": obs["gene_name"].astype(str), "species": obs["species"].astype(str), "chrom": "chr1", "strand": "+",
        "exon_starts": list(starts), "exon_ends": list(starts + sizes), "length_nt": sizes.sum(1), "cds_start": 10, "cds_end": 70,
    })
    return write_store(path, table, (np.zeros(length, np.uint8) for length in sizes.sum(1)))


@pytest.fixture
def adata():
    return embeddings()


# the state

@pytest.mark.parametrize("given, rows", [
    ([5, 3, 5], [3, 5]), (np.array([], int), []), (None, []), (7, [7]), ("NM_9.1", [9]), ("GENE2", [6, 7, 8]), (["GENE0", "NM_4.1"], [0, 1, 2, 4]), (np.arange(120) < 2, [0, 1]),
])
def test_a_selection_is_sorted_row_numbers(adata, given, rows):
    state = ExplorerState(adata)
    state.selection = given
    assert state.selection.tolist() == rows and state.selection.dtype == np.int64 and not state.selection.flags.writeable
    frame = state.selected_frame()
    assert frame.index.tolist() == [f"t{row}" for row in rows] and np.array_equal(frame[["umap_1", "umap_2"]], adata.obsm["X_umap"][rows])
    frame["species"] = "changed"
    assert "changed" not in set(adata.obs["species"])


def test_none_clears(adata):
    state = ExplorerState(adata)
    state.filter, state.size, state.focus, state.color = "length_nt > 0", "length_nt", 3, "kind"
    state.filter = state.size = state.focus = state.color = None
    assert (state.filter, state.size, state.focus, state.color) == ("", None, None, None)


def test_a_selection_by_a_column(adata):
    state = ExplorerState(adata)
    state.selection = adata.obs["length_nt"] > 2000
    assert state.selection.tolist() == [i for i, length in enumerate(adata.obs["length_nt"]) if length > 2000]


@pytest.mark.parametrize("trait, value, said", [
    ("selection", [120], "row numbers from 0 to 119"), ("selection", [-1], "row numbers"), ("selection", [0.5], "row numbers"), ("selection", "GENE99", "Did you mean 'GENE"),
    ("selection", np.zeros(5, bool), "120 booleans"), ("color", "half_lief", "Did you mean 'half_life'"), ("size", "kind", "no numbers"), ("size", "nothing", "no column"),
    ("basis", "tsne", "no projection 'tsne'"), ("encoder", "other", "no embeddings 'other'"), ("focus", 120, "row number from 0 to 119"), ("focus", True, "row number"),
    ("filter", "length_nt >", "cannot be read"), ("filter", "lenght_nt > 3", "Did you mean 'length_nt'"), ("filter", "length_nt", "yes or no"), ("filter", "length_nt.sum() > 3", "yes or no"),
    ("filter", "species > 3", "cannot be read"), ("filter", 3, "A filter is text"), ("filter", "species", "yes or no"), ("basis", None, "no projection None"), ("encoder", None, "no embeddings None"),
])
def test_what_makes_no_sense_is_refused_and_changes_nothing(adata, trait, value, said):
    state, heard = ExplorerState(adata), []
    state.selection, state.filter = [4], "length_nt > 300"
    before = {name: str(getattr(state, name)) for name in state.trait_names()}
    state.observe(heard.append)
    with pytest.raises(InputError, match=re.escape(said)):
        setattr(state, trait, value)
    assert {name: str(getattr(state, name)) for name in state.trait_names()} == before and not heard


@pytest.mark.parametrize("expression, slow", [
    ("", lambda row: True), ("   ", lambda row: True), ("length_nt > 2000", lambda row: row.length_nt > 2000), ("species == 'human' and half_life < 0", lambda row: row.species == "human" and row.half_life < 0),
    ("kind in ['motor', 'kinase']", lambda row: row.kind in ("motor", "kinase")), ("not (length_nt < 999) or kind == ''", lambda row: row.length_nt >= 999 or row.kind == ""),
    ("half_life == half_life", lambda row: row.half_life == row.half_life), ("gene_name.str.endswith('7')", lambda row: row.gene_name.endswith("7")),
])
def test_a_filter_is_the_rows_for_which_it_holds(adata, expression, slow):
    expected = [bool(slow(row)) for row in adata.obs.itertuples()]
    assert filter_mask(adata.obs, expression).tolist() == expected and any(expected)


def test_a_filter_that_cannot_tell_does_not_let_through(adata):
    obs = adata.obs.assign(flag=pd.array([None, True, False] * 40, dtype="boolean"))
    assert filter_mask(obs, "flag").tolist() == [False, True, False] * 40


NAMES = st.lists(st.text("aAbB1.", max_size=4), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(NAMES, st.data())
def test_names_are_found_as_by_looking_at_each(genes, data):
    obs = pd.DataFrame({"gene_name": genes, "transcript_id": [f"x{i // 2}" for i in range(len(genes))]}, index=[f"row{i}" for i in range(len(genes))])
    columns = [obs["gene_name"], obs["transcript_id"], obs.index.to_series()]
    index, prefix = NameIndex(obs), data.draw(st.text("aAbB1x", max_size=2))
    there = {name.lower() for column in columns for name in column if name and name.lower().startswith(prefix.lower())}
    assert [name.lower() for name in index.complete(prefix, 99)] == sorted(there)
    for name in there:
        assert index.rows(f" {name.upper()} ").tolist() == [i for i in range(len(genes)) if any(column.iloc[i].lower() == name for column in columns)]
    with pytest.raises(InputError, match="no gene or transcript"):
        index.rows("zebra")


def test_highlight_and_search(adata):
    state = ExplorerState(adata)
    assert state.highlight("gene11").tolist() == [33, 34, 35] == state.highlighted.tolist()
    assert state.search("nm_11", 3) == ["NM_11.1", "NM_110.1", "NM_111.1"] and state.search("zzz") == []
    with pytest.raises(InputError, match="Did you mean 'GENE11'"):
        state.highlight("GENEE11")
    assert state.highlight("").tolist() == []


def test_observers_hear_each_change_once(adata):
    state, heard = ExplorerState(adata), []
    state.observe(lambda change: heard.append((change["name"], change["new"])), ["color", "focus", "basis"])
    state.color, state.color, state.focus, state.basis = "kind", "kind", np.int64(3), "pca"
    assert heard == [("color", "kind"), ("focus", 3), ("basis", "pca")]


def test_neighbours_and_enrichment_are_those_of_their_rooms(adata):
    state = ExplorerState(adata)
    with pytest.raises(InputError, match="Click a point first"):
        state.neighbors()
    state.focus = 17
    unit = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    nearest = [row for row in np.argsort(-(unit @ unit[17])) if row != 17][:4]
    assert state.neighbors(k=4)["row"].tolist() == nearest and len(state.neighbors(0, 10_000)) == 119
    state.selection = adata.obs["species"] == "human"
    assert state.enrichment().iloc[0]["column"] == "species"
    state.selection = []
    with pytest.raises(InputError, match="selection is empty"):
        state.enrichment()


# several encoders

def test_encoders_are_brought_into_one_order(adata):
    order = np.random.default_rng(1).permutation(120)
    other = embeddings(seed=5)[order].copy()
    state = ExplorerState({"first": adata, "second": other})
    state.selection = "GENE3"
    state.encoder = "second"
    assert state.obs.index.tolist() == adata.obs.index.tolist() and state.selected_frame()["gene_name"].unique().tolist() == ["GENE3"]
    assert np.array_equal(state.xy[9], other[["t9"]].obsm["X_umap"][0])


def test_what_an_encoder_lacks_is_given_up_and_said(adata):
    poor = AnnData(adata.X, obs=adata.obs.drop(columns=["kind", "half_life"]), obsm={"X_pca": adata.obsm["X_pca"]})
    state = ExplorerState({"rich": adata, "poor": poor}, color="kind")
    state.size, state.filter, state.selection = "half_life", "half_life > 0", [1, 2]
    state.encoder = "poor"
    assert (state.basis, state.color, state.size, state.filter) == ("pca", None, None, "") and state.selection.tolist() == [1, 2]
    assert all(name in state.message for name in ("umap", "kind", "half_life", "half_life > 0"))


@pytest.mark.parametrize("made, said", [
    (lambda a: a[:0].copy(), "no transcripts"), (lambda a: AnnData(a.X, obs=a.obs), "no projection"), (lambda a: {}, "no embeddings"),
    (lambda a: {"one": a, "two": a[:50].copy()}, "other transcripts"),
    (lambda a: AnnData(a.X, obs=a.obs, obsm={"X_umap": np.where(np.arange(240).reshape(120, 2) < 4, np.nan, 1.0)}), "2 points without a place"),
])
def test_embeddings_that_cannot_be_explored(adata, made, said):
    with pytest.raises(InputError, match=said):
        Explorer(made(adata))


def test_a_backend_that_is_not_there(adata):
    with pytest.raises(ConfigError, match="Did you mean 'plotly'"):
        Explorer(adata, backend="plotli")


# colours

def test_codes_of_numbers_and_of_categories(adata):
    colors = code_colors(adata.obs["half_life"], 120)
    values = adata.obs["half_life"].to_numpy()
    low, high = np.nanmin(values), np.nanmax(values)
    assert colors.codes.tolist() == [0 if np.isnan(v) else round(1 + 254 * (v - low) / (high - low)) for v in values]
    assert colors.hex[0] == MISSING_COLOR and (colors.hex[1], colors.hex[255]) == (VIRIDIS[0], VIRIDIS[-1]) and colors.scale == ("half_life", low, high)
    kinds = code_colors(adata.obs["kind"], 120)
    assert [{"": 0, "kinase": 1, "motor": 2}[kind] for kind in adata.obs["kind"]] == kinds.codes.tolist()
    assert sum(count for *_, count in kinds.legend) == 120 and kinds.legend[-1][0] == "missing"


def test_colours_of_extremes():
    assert not code_colors(pd.Series([np.nan] * 3, name="x"), 3).codes.any() and "missing (3)" in legend_html(code_colors(pd.Series([np.nan] * 3, name="x"), 3))
    assert code_colors(pd.Series([4, 4], name="x"), 2).codes.tolist() == [1, 1]
    assert code_colors(pd.Series([-1.7e308, 1.7e308, np.inf], name="x"), 3).codes.tolist() == [1, 255, 0]
    many = code_colors(pd.Series([f"c{i:03}" for i in range(90)]), 90)
    assert len(set(zip(many.codes.tolist(), many.shapes.tolist()))) == 35 and many.shapes.max() == len(MARKERS) - 1
    assert point_sizes(pd.Series([0.0, 10.0, np.nan]), 3).argmax() == 1 and np.ptp(point_sizes(pd.Series([np.nan, np.nan]), 2)) == 0


# the widget

@pytest.fixture(params=["points", "plotly"])
def explorer(request, adata, tmp_path):
    explorer = Explorer({"demo": adata, "again": embeddings(seed=7)}, store_of(tmp_path / "store", adata), color="kind", backend=request.param)
    explorer.widget
    return explorer


def drawn(explorer):
    "Codes, selected rows, ringed rows and shown points, as either map has them."
    if explorer.backend == "points":
        model = explorer.map.widget
        return [np.frombuffer(value, kind).tolist() for value, kind in ((model.codes, np.uint8), (model.selected, "<u4"), (model.rings, "<u4"), (model.shown, np.uint8))]
    points, rings = explorer.map.figure.data
    ringed = [int(np.flatnonzero((explorer.xy == place).all(1))[0]) for place in zip(rings.x, rings.y)]
    return [list(points.marker.color), list(points.selectedpoints or ()), ringed, np.isfinite(np.array(points.x, float)).astype(int).tolist()]


def lasso(explorer, rows, mode="replace"):
    "The message of the browser after a lasso."
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    if explorer.backend == "points":
        explorer.map._hear(explorer.map.widget, {"kind": "lasso", "mode": mode}, [np.array(rows, "<u4").tobytes(), square.tobytes()])
    else:
        selector = {"type": "lasso", "selector_state": {"xs": [0.0, 1.0, 1.0], "ys": [0.0, 0.0, 1.0]}}
        points = {"trace_indexes": [0] * len(rows), "point_indexes": list(rows), "xs": [0.0] * len(rows), "ys": [0.0] * len(rows)}
        explorer.map.figure._handler_js2py_pointsCallback({"new": {"event_type": "plotly_selected", "points": points, "device_state": None, "selector": selector}})


def click(explorer, row):
    "The message of the browser after a click."
    if explorer.backend == "points":
        explorer.map._hear(explorer.map.widget, {"kind": "click", "row": row, "mode": "replace"}, [])
    else:
        points = {"trace_indexes": [0], "point_indexes": [row], "xs": [0.0], "ys": [0.0]}
        state = {"alt": False, "ctrl": False, "meta": False, "shift": False, "button": 0, "buttons": 1}
        explorer.map.figure._handler_js2py_pointsCallback({"new": {"event_type": "plotly_click", "points": points, "device_state": state, "selector": None}})


def test_a_lasso_reaches_python_and_the_table(explorer):
    heard = []
    explorer.observe(lambda change: heard.append(change["new"].tolist()), "selection")
    lasso(explorer, [9, 2, 70])
    assert heard == [[2, 9, 70]] and drawn(explorer)[1] == [2, 9, 70] and "3 selected" in explorer.status.value
    table = explorer.panels.table.value
    assert re.findall(r"<td>(NM_\d+\.1)</td>", table) == ["NM_2.1", "NM_9.1", "NM_70.1"]
    explorer.panels.sort.value = "length_nt"
    explorer.panels.falling.value = True
    lengths = [int(text) for text in re.findall(r'<td class="number">(\d+)</td><td>(?:kinase|motor|)</td>', explorer.panels.table.value)]
    assert lengths == sorted(explorer.selected_frame()["length_nt"], reverse=True)
    explorer.panels.export.click()
    saved = pd.read_csv(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", explorer.panels.link.value).group(1))))
    assert saved["transcript_id"].tolist() == explorer.selected_frame().sort_values("length_nt", ascending=False)["transcript_id"].tolist()


def test_hidden_points_are_not_caught_but_stay_selected(explorer):
    explorer.selection = [0, 1, 100]
    explorer.filter = "species == 'mouse'"
    shown = (explorer.obs["species"] == "mouse").to_numpy()
    assert drawn(explorer)[3] == shown.astype(int).tolist() and explorer.selection.tolist() == [0, 1, 100] and "(2 hidden by the filter)" in explorer.status.value
    if explorer.backend == "plotly":
        lasso(explorer, [0, 99])
        assert explorer.selection.tolist() == [99]
    explorer.filter = ""
    assert all(drawn(explorer)[3])


def test_recolouring_switching_and_rings(explorer):
    for name in ("half_life", "species", None, "kind"):
        explorer.color = name
        assert drawn(explorer)[0] == code_colors(None if name is None else explorer.obs[name], 120).codes.tolist()
        assert explorer.controls.color.value == (name or "(none)")
    explorer.highlight("gene5")
    explorer.focus = 3
    assert drawn(explorer)[2] == [3, 15, 16, 17]
    explorer.selection = "GENE5"
    for name, basis in (("again", "umap"), ("demo", "pca")):
        explorer.encoder, explorer.basis = name, basis
        points = explorer.map.points * explorer.map._span + explorer.map._center if explorer.backend == "points" else np.column_stack([explorer.map.figure.data[0].x, explorer.map.figure.data[0].y])
        assert np.allclose(points, explorer.adatas[name].obsm[f"X_{basis}"][:, :2], rtol=0, atol=1e-4)
        assert explorer.controls.encoder.value == name and explorer.controls.basis.value == basis and drawn(explorer)[1:3] == [[15, 16, 17], [3, 15, 16, 17]]


def test_controls_do_what_python_does(explorer):
    controls = explorer.controls
    controls.color.value, controls.size.value, controls.basis.value = "length_nt", "half_life", "pca"
    assert (explorer.color, explorer.size, explorer.basis) == ("length_nt", "half_life", "pca")
    controls.color.value = controls.size.value = "(none)"
    assert explorer.color is None and explorer.size is None
    controls.search.value = "gene1"
    assert controls.search.options[:2] == ("GENE1", "GENE10") and explorer.highlighted.tolist() == [3, 4, 5]
    controls.take.click()
    assert explorer.selection.tolist() == [3, 4, 5]
    controls.filter.value = "length_nt > 4000"
    assert explorer.filter == "length_nt > 4000"
    controls.filter.value = "length_nt >"
    assert explorer.filter == "length_nt > 4000" and "cannot be read" in html.unescape(explorer.status.value)
    controls.search.value = "nobody"
    assert "begins with 'nobody'" in explorer.message
    controls.dark.value = True
    assert "dark" in explorer.widget._dom_classes and (explorer.backend == "plotly" or explorer.map.widget.dark)
    controls.clear.click()
    assert not len(explorer.selection) and not len(explorer.highlighted) and explorer.filter == controls.filter.value == controls.search.value == explorer.message == ""


def open_tab(explorer, name):
    explorer.panels.widget.selected_index = TABS.index(name)
    return explorer.panels.widget.children[TABS.index(name)].children


def test_panels_follow_selection_and_click(explorer):
    open_tab(explorer, "transcripts")
    assert "Draw a lasso" in explorer.panels.note.value
    lasso(explorer, [30, 31, 64])
    labels = explorer.panels._place.figure.layout.yaxis.ticktext
    assert list(labels) == ["GENE10 NM_30.1", "GENE10 NM_31.1", "GENE21 NM_64.1"]
    click(explorer, 64)
    assert explorer.focus == 64
    explorer.panels.of.value, explorer.panels.system.value = "gene of the clicked point", "genome"
    assert list(explorer.panels._place.figure.layout.yaxis.ticktext) == ["GENE21 NM_63.1", "GENE21 NM_64.1", "GENE21 NM_65.1"]
    open_tab(explorer, "colour")
    assert explorer.panels._place.figure.data[1].name == "selected (3)"
    open_tab(explorer, "enrichment")
    assert len(explorer.panels._place.figure.data[0].x)
    open_tab(explorer, "neighbours")
    assert re.findall(r"<td>(NM_\d+\.1)</td>", explorer.panels.near.value) == explorer.neighbors(64, 20)["transcript_id"].tolist()


def test_a_closed_tab_is_not_drawn(explorer):
    lasso(explorer, [1])
    assert explorer.panels._place is None  # no figure was made
    open_tab(explorer, "colour")
    before = explorer.panels._place.widget.figure
    open_tab(explorer, "selection")
    lasso(explorer, [5, 6])
    assert explorer.panels._place.widget.figure == before
    open_tab(explorer, "colour")
    assert explorer.panels._place.widget.figure != before


def test_a_point_under_the_mouse_is_told(explorer):
    facts = explorer.obs.iloc[33]
    assert explorer._label(33) == f"gene GENE11\ntranscript NM_33.1\nspecies human\nlength (nt) {facts.length_nt}\nkind {facts.kind}"
    explorer.color, explorer.encoder = "length_nt", "again"
    assert f"length_nt {explorer.obs.length_nt.iloc[5]}" in explorer._label(5)


def test_the_page_holds_what_is_told_of_few_points(adata, monkeypatch):
    explorer = Explorer(adata, color="kind")
    model = (explorer.widget, explorer.map.widget)[1]

    def told(row):
        return "\n".join(f"{title} {values[row]}" for title, values in json.loads(model.facts))

    assert [told(row) for row in range(120)] == [explorer._label(row) for row in range(120)]
    explorer.color = "half_life"
    assert told(7) == explorer._label(7) and f"half_life {adata.obs['half_life'].iloc[7]}" in told(7)
    monkeypatch.setattr("isoclr.latent.points.TOLD_POINTS", 119)
    explorer.color = "kind"
    assert model.facts == b""


@pytest.mark.parametrize("backend", ["points", "plotly"])
def test_the_map_is_shown_before_the_rest_is_made(adata, monkeypatch, backend):
    from ipywidgets import Widget

    explorer, made, shown = Explorer(adata, backend=backend), [], []
    monkeypatch.setattr("IPython.display.display", lambda frame: shown.append((frame, [box.children for box in frame.children], len(made))))
    Widget.on_widget_constructed(made.append)
    try:
        explorer._ipython_display_()
    finally:
        Widget.on_widget_constructed(None)
    (frame, children, models), = shown
    assert frame is explorer.widget and children == [(explorer.map.widget,), ()] and models <= 8 < len(made)  # a page makes those before it draws
    assert explorer.controls.widget in frame.children[1].children and drawn(explorer)[0] == code_colors(adata.obs["species"], 120).codes.tolist()


def test_messages_that_a_browser_would_not_send(adata):
    explorer = Explorer(adata)
    hear, widget = (explorer.widget, explorer.map._hear)[1], explorer.map.widget
    for content, buffers in (({}, []), ({"kind": "lasso"}, []), ({"kind": "click", "row": 999}, []), ({"kind": "click", "row": "1"}, []), ({"kind": "lasso", "mode": "burn"}, [b"", b""]), ({"kind": "hover"}, [])):
        hear(widget, content, buffers)
    assert not len(explorer.selection) and explorer.focus is None
    hear(widget, {"kind": "lasso", "mode": "replace"}, [np.array([1, 4], "<u4").tobytes(), b""])
    hear(widget, {"kind": "lasso", "mode": "add"}, [np.array([7], "<u4").tobytes(), b""])
    hear(widget, {"kind": "lasso", "mode": "subtract"}, [np.array([1, 9], "<u4").tobytes(), b""])
    assert explorer.selection.tolist() == [4, 7]
    hear(widget, {"kind": "clear"}, [])
    assert not len(explorer.selection)


def test_errors_in_callbacks_are_text(explorer, monkeypatch):
    explorer.observe(lambda change: 1 / 0, "selection")
    lasso(explorer, [1])
    assert "ZeroDivisionError" in explorer.message
    monkeypatch.setattr("isoclr.latent.explore.draw_histogram", lambda *_: [][1])
    assert "IndexError" in open_tab(explorer, "colour")[0].value


# bad input in the widget

def test_one_transcript():
    explorer = Explorer(embeddings(1))
    explorer.widget
    explorer.selection, explorer.focus = [0], 0
    for name in TABS:
        open_tab(explorer, name)
    assert "no neighbours" in explorer.panels.near.value and len(explorer.figure().data[0].x) == 1


@pytest.mark.parametrize("backend", ["points", "plotly"])
def test_a_colour_without_values(backend):
    explorer = Explorer(embeddings(empty=np.nan), color="empty", backend=backend)
    explorer.widget
    assert "missing (120)" in explorer.legend.value and not any(drawn(explorer)[0])
    assert "Every value of empty is missing" in open_tab(explorer, "colour")[0].value


def test_duplicate_ids_are_said_and_chosen_together():
    explorer = Explorer(embeddings(transcript_id=[f"NM_{i // 2}" for i in range(120)]))
    explorer.widget
    assert "60 transcripts share the id" in explorer.status.value
    explorer.selection = "NM_4"
    assert explorer.selection.tolist() == [8, 9]


def test_a_store_that_lacks_the_transcripts(adata, tmp_path):
    half = store_of(tmp_path / "half", adata[:60])
    explorer = Explorer(adata, half)
    explorer.widget
    explorer.selection = [59, 60, 61]
    open_tab(explorer, "transcripts")
    assert "2 of 3 transcripts are not in the store" in explorer.panels.note.value and transcripts_of(explorer, np.array([59, 60]))["transcript_id"].tolist() == ["NM_59.1"]
    explorer.selection = [100]
    assert "The store has none of these 1 transcripts, NM_100.1" in explorer.panels.note.value
    without = Explorer(adata)
    without.widget
    without.selection = [1]
    open_tab(without, "transcripts")
    assert "No store was given" in without.panels.note.value


def test_markup_in_the_data_is_text():
    evil = "<img src=x onerror=alert(1)>"
    explorer = Explorer(embeddings(gene_name=evil, kind=evil), color="kind")
    explorer.widget
    explorer.selection, explorer.focus = [0], 0
    open_tab(explorer, "neighbours")
    explorer.filter = "length_nt > 0"
    explorer.message = evil
    for part in (explorer.panels.table, explorer.panels.near, explorer.legend, explorer.status):
        assert "<img" not in part.value
    assert "<img" not in table_html(pd.DataFrame({evil: [evil]}, index=[evil])) and csv_link(pd.DataFrame({"a": [evil]})).count("<") == 2


def test_a_long_table_is_cut_and_sorted_as_a_whole():
    frame = pd.DataFrame({"x": np.random.default_rng(0).permutation(1000)})
    assert re.findall(r'number">(\d+)<', table_html(frame, "x", False)) == [str(i) for i in range(999, 999 - TABLE_ROWS, -1)]


# the still picture

def test_figure_shows_what_the_map_shows(adata):
    explorer = Explorer(adata, color="species")
    explorer.filter, explorer.selection = "length_nt > 1000", np.arange(40)
    figure, shown = explorer.figure(), (adata.obs["length_nt"] > 1000).to_numpy()
    names = {trace.name for trace in figure.data}
    assert {name: sum(len(trace.x) for trace in figure.data if trace.name == name) for name in names} == {
        "human": int((shown[:60]).sum()), "mouse": int(shown[60:].sum()), "selected": int(shown[:40].sum()),
    }
    explorer.color, explorer.selection = None, []
    assert [len(trace.x) for trace in explorer.figure().data] == [int(shown.sum())]
    explorer.filter = "length_nt < 0"
    with pytest.raises(InputError, match="no transcripts to draw"):
        explorer.figure()
