"""Figures of scores: what is drawn is what the table says, and what a paper says is never drawn as if it had been measured here."""
import functools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.probe.baselines import BASELINES
from isoclr.probe.figures import _apart, _size_ticks, draw_differences, draw_scores, draw_size
from isoclr.probe.intervals import SCORE_COLUMNS, SUMMARY_COLUMNS, compare, summarise
from isoclr.probe.panels import GREYS, PALETTE, PUBLISHED_SYMBOL, SYMBOLS, PublishedValue, axis_range

TASKS = {"half-life": ("pearson", "r2", "rmse"), "localisation": ("auroc", "accuracy"), "GO & <levels>": ("auroc_macro",)}
PAPER = PublishedValue("half-life", "pearson", 0.7, "a net", "made up: 10-fold by gene", "Nobody (2000)", 3e6)
SIZES = {"small": 1e6, "large": 2e7}


def scores_of(names=("small", "large", "k-mer", "features"), tasks=TASKS, methods=("linear",), splits=("homology",), n=5, seed=0):
    "A table as `probe_all` gives it."
    rng, rows = np.random.default_rng(seed), []
    for name in names:
        for task, metrics in tasks.items():
            for method in methods:
                for split in splits:
                    rows += [(name, task, method, split, metric, s, 0, rng.uniform(-0.2, 0.9), 200, 40, 260, 0, 1.0) for metric in metrics for s in range(n)]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


@functools.cache
def _whole():
    return summarise(scores_of())


def whole():
    "A summary of all tasks, made once."
    return _whole().copy()


def axis_of(trace, letter):
    "x3 → xaxis3."
    return f"{letter}axis{(trace[letter + 'axis'] or letter)[1:]}"


def panel_of(figure, trace):
    "Task and metric that a panel says it has: bold title, axis title."
    layout = figure.layout
    x, y = layout[axis_of(trace, "x")], layout[axis_of(trace, "y")]
    titles = [a.text for a in layout.annotations if a.x == pytest.approx(sum(x.domain) / 2) and a.y == pytest.approx(y.domain[1]) and a.text.startswith("<b>")]
    assert len(titles) == 1
    return titles[0].split("</b>")[0].removeprefix("<b>"), x.title.text if x.title.text != "parameters" else y.title.text


def drawn(figure, values="x", others="y"):
    "All dots as (panel, name, value, place, low, high)."
    rows = []
    for trace in figure.data:
        error = trace[f"error_{values}"]
        if error.array is None:
            continue
        for value, place, up, down in zip(trace[values], trace[others], error.array, error.arrayminus):
            rows.append((*panel_of(figure, trace), trace.name, value, place, value - down, value + up))
    return pd.DataFrame(rows, columns=["task", "metric", "name", "value", "place", "low", "high"])


# ---- draw_scores

def test_dots_and_intervals_are_those_of_the_table():
    summary = whole()
    figure = draw_scores(summary, metric="pearson")
    dots = drawn(figure)
    own = summary[summary["metric"] == "pearson"]
    assert dots["name"].tolist() == ["small", "large", "k-mer", "features"]
    np.testing.assert_array_equal(dots["value"], own["mean"])
    np.testing.assert_allclose(dots[["low", "high"]], own[["low", "high"]], atol=1e-12)
    assert dots["place"].tolist() == [0, 1, 2, 3]
    assert list(figure.layout.yaxis.ticktext) == ["small", "large", "k-mer", "features"]
    assert figure.layout.yaxis.range == (3.5, -0.5)  # the first row is at the top


def test_every_dot_lies_in_sight_with_its_interval():
    figure = draw_scores(whole(), metric=["pearson", "r2", "auroc"], published=[PAPER._replace(value=3.0)])
    for trace in figure.data:
        low, high = figure.layout[axis_of(trace, "x")].range
        ends = np.concatenate([trace.x, *([np.add(trace.x, trace.error_x.array), np.subtract(trace.x, trace.error_x.arrayminus)] if trace.error_x.array else [])])
        assert (low < ends).all() and (ends < high).all()


def test_a_panel_is_one_task_and_one_metric():
    summary = whole()
    dots = drawn(draw_scores(summary, metric=["pearson", "rmse", "auroc"]))
    assert dots[["task", "metric"]].drop_duplicates().values.tolist() == [["half-life", "Pearson r"], ["half-life", "RMSE (lower is better)"], ["localisation", "AUROC"]]
    names = {"Pearson r": "pearson", "RMSE (lower is better)": "rmse", "AUROC": "auroc"}
    table = summary.set_index(["task", "metric", "representation"])["mean"]
    for one in dots.itertuples():
        assert one.value == table[one.task, names[one.metric], one.name]


def test_without_a_metric_each_task_has_its_usual_one():
    dots = drawn(draw_scores(whole()))
    assert dots[["task", "metric"]].drop_duplicates().values.tolist() == [
        ["half-life", "Pearson r"], ["localisation", "AUROC"], ["GO &amp; &lt;levels&gt;", "AUROC, macro"]]
    dots = drawn(draw_scores(summarise(scores_of(tasks={"t": ("r2", "spearman")}))))
    assert set(dots["metric"]) == {"R²"}  # none is usual: the first


def test_order_is_stable_and_baselines_are_below():
    summary = summarise(scores_of(["features", "large", "untrained", "small"]))
    rows = lambda *a, **k: list(draw_scores(summary, "pearson", *a, **k).layout.yaxis.ticktext)
    assert rows() == ["large", "small", "features", "untrained"]
    assert rows(order=["small", "untrained"]) == ["small", "untrained", "large", "features"]
    assert rows(baselines=[]) == ["features", "large", "untrained", "small"]
    shuffled = draw_scores(summary.sample(frac=1, random_state=1), "pearson", order=["features", "large", "untrained", "small"])
    assert list(shuffled.layout.yaxis.ticktext) == ["features", "large", "untrained", "small"]
    with pytest.raises(InputError, match="order names 'smal'.*small"):
        draw_scores(summary, order=["smal"])


def test_encoders_have_colours_and_baselines_greys():
    names = [f"encoder {i}" for i in range(8)] + list(BASELINES)
    figure = draw_scores(summarise(scores_of(names, {"t": ("pearson",)})), order=["encoder 3"])
    color = {trace.name: trace.marker.color for trace in figure.data}
    assert [color[f"encoder {i}"] for i in range(8)] == [*PALETTE, *PALETTE[:2]]  # order does not change them
    assert [color[name] for name in BASELINES] == list(GREYS)
    assert all(trace.error_x.color == trace.marker.color for trace in figure.data)
    alone = draw_scores(summarise(scores_of(["codon usage"], {"t": ("pearson",)})))
    assert alone.data[0].marker.color == color["codon usage"]  # the same in every figure


def test_methods_and_splits_differ_in_shape_and_place():
    summary = summarise(scores_of(methods=("linear", "knn"), splits=("homology", "random"), tasks={"t": ("pearson",)}))
    figure = draw_scores(summary)
    trace = figure.data[1]
    assert trace.name == "large" and list(trace.marker.symbol) == list(SYMBOLS[:4])
    np.testing.assert_allclose(trace.y, [0.7, 0.9, 1.1, 1.3])
    legend = {entry.name: entry.marker.symbol for entry in figure.data if entry.showlegend}
    assert legend == dict(zip(["linear, homology", "linear, random", "knn, homology", "knn, random"], SYMBOLS))
    own = summary[summary["representation"] == "large"]
    assert [text.split("<br>")[2:4] for text in trace.hovertext] == [[f"method: {m}", f"split: {s}"] for m, s in zip(own["method"], own["split"])]
    with pytest.raises(InputError, match="9 combinations"):
        draw_scores(summarise(scores_of(["a"], {"t": ("pearson",)}, methods=list("abcdefghi"))))


def test_a_panel_that_one_method_has_centres_its_dots():
    both = pd.concat([scores_of(["a"], {"t": ("pearson",)}), scores_of(["a"], {"retrieval": ("share",)}, methods=("nearest",))])
    assert drawn(draw_scores(summarise(both)))["place"].tolist() == [0, 0]


def test_hover_says_what_the_row_says():
    summary = summarise(scores_of(["small"], {"t": ("pearson",)}))
    row, text = summary.iloc[0], draw_scores(summary).data[0].hovertext[0]
    for fact in (f"Pearson r {row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}]", "method: linear", "split: homology", "200 to train, 40 to test", "seeds: 0,1,2,3,4", "5 splits"):
        assert fact in text
    title = draw_scores(summary).layout.annotations[0].text
    assert "train 200, test 40" in title


def test_unknown_intervals_are_dots_alone_with_a_note():
    summary = summarise(scores_of(["small", "large"], {"t": ("pearson",)}))
    complete = draw_scores(summary)
    assert "interval is unknown" not in complete.layout.annotations[-1].text
    summary.loc[0, ["low", "high"]] = np.nan
    figure = draw_scores(summary)
    dots = drawn(figure)
    assert dots["value"].tolist() == summary["mean"].tolist()
    assert np.isnan(dots.loc[0, ["low", "high"]].to_numpy(float)).all() and np.isfinite(dots.loc[1, ["low", "high"]].to_numpy(float)).all()
    assert "interval is unknown" in figure.layout.annotations[-1].text and "interval unknown" in figure.data[0].hovertext[0]
    assert json.loads(figure.to_json())["data"][0]["error_x"]["array"] == [None]  # what plotly leaves out


def test_one_split_has_no_interval():
    figure = draw_scores(summarise(scores_of(["small"], {"t": ("pearson",)}, n=1)))
    assert np.isnan(figure.data[0].error_x.array[0]) and np.isfinite(figure.data[0].x[0])


def test_undefined_scores_are_named_and_not_drawn():
    summary = summarise(scores_of(["small", "large"], {"t": ("pearson",)}))
    summary.loc[1, ["mean", "low", "high"]] = np.nan
    figure = draw_scores(summary)
    assert "Undefined, and not drawn: large, t, pearson" in figure.layout.annotations[-1].text
    assert "interval is unknown" not in figure.layout.annotations[-1].text
    assert json.loads(figure.to_json())["data"][1]["x"] == [None]
    summary.loc[0, ["mean", "low", "high"]] = np.nan
    assert np.isfinite(draw_scores(summary).layout.xaxis.range).all()


def test_one_representation_is_enough():
    figure = draw_scores(summarise(scores_of(["small"], {"t": ("pearson",)})))
    assert len(figure.data) == 1 and list(figure.layout.yaxis.ticktext) == ["small"]


def test_chance_is_marked_where_it_is_in_sight():
    summary = summarise(scores_of(["a"], {"t": ("auroc",)}))
    summary[["mean", "low", "high"]] = [0.55, 0.45, 0.65]
    assert [shape.x0 for shape in draw_scores(summary).layout.shapes] == [0.5]
    summary[["mean", "low", "high"]] = [0.85, 0.8, 0.9]
    assert not draw_scores(summary).layout.shapes


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("n_names", [2, 12])
def test_panels_neither_overlap_nor_shrink(n_tasks, n_names):
    tasks = {f"a task with a name that is rather long, {i}": ("pearson",) for i in range(n_tasks)}
    figure = draw_scores(summarise(scores_of([f"representation {i} of a long name" for i in range(n_names)], tasks, n=2)))
    layout = figure.layout
    inner = np.array([layout.width - layout.margin.l - layout.margin.r, layout.height - layout.margin.t - layout.margin.b])
    boxes = np.array([[layout[axis_of(t, "x")].domain, layout[axis_of(t, "y")].domain] for t in figure.data[::1] if t.name == "representation 0 of a long name"])
    pixels = boxes * inner[:, None]
    assert len(pixels) == n_tasks
    np.testing.assert_allclose(np.ptp(pixels[:, 0], axis=1), 260, atol=1)
    assert (np.ptp(pixels[:, 1], axis=1) >= 20 * n_names).all()
    for i in range(n_tasks):
        for j in range(i):
            apart = np.maximum(pixels[i, :, 0] - pixels[j, :, 1], pixels[j, :, 0] - pixels[i, :, 1])
            assert apart[0] >= 30 or apart[1] >= 80  # room for ticks, axis title and heading
    assert layout.margin.l > 6 * len("representation 0 of a long name")


# ---- published values

def test_published_values_are_open_diamonds_in_rows_of_their_own():
    other = PAPER._replace(label="b <net>", task="localisation", metric="auroc", value=0.9)
    figure = draw_scores(whole(), published=[PAPER, other])
    rows = list(figure.layout.yaxis.ticktext)
    assert rows == ["small", "large", "k-mer", "features", "published: a net", "published: b &lt;net&gt;"]
    found = [trace for trace in figure.data if trace.name.startswith("published")]
    assert [(panel_of(figure, t), t.x[0], t.y[0], t.marker.symbol) for t in found] == [
        (("half-life", "Pearson r"), 0.7, 4, PUBLISHED_SYMBOL), (("localisation", "AUROC"), 0.9, 5, PUBLISHED_SYMBOL)]
    for trace, one in zip(found, [PAPER, other]):
        assert one.protocol in trace.hovertext[0] and one.citation in trace.hovertext[0]
    note = figure.layout.annotations[-1].text
    assert "published: a net: made up: 10-fold by gene; Nobody (2000)." in note and "published: b &lt;net&gt;" in note
    assert not any(t.marker.symbol == PUBLISHED_SYMBOL for t in draw_scores(whole()).data)


@pytest.mark.parametrize("change, words", [
    ({"metric": "spearman"}, "one axis has one metric"), ({"metric": "r2"}, "one axis has one metric"), ({"task": "half-live"}, "not drawn.*half-life"),
    ({"label": ""}, "no label"), ({"protocol": "  "}, "no protocol"), ({"citation": None}, "no citation"), ({"value": float("nan")}, "finite"),
    ({"parameters": -1.0}, "finite|positive"), ({"parameters": 0.0}, "positive"),
])  # fmt: skip
@pytest.mark.parametrize("draw", [lambda s, p: draw_scores(s, published=p), lambda s, p: draw_size(s, SIZES, published=p)], ids=["scores", "size"])
def test_published_values_are_refused(change, words, draw):
    summary = whole()
    draw(summary, [PAPER])
    with pytest.raises(InputError, match=words):
        draw(summary, [PAPER._replace(**change)])


def test_two_published_values_of_one_name_are_refused():
    with pytest.raises(InputError, match="labels that say how they differ"):
        draw_scores(whole(), published=[PAPER, PAPER._replace(value=0.1)])


# ---- draw_size

def test_encoders_stand_at_their_size_and_baselines_are_lines():
    summary = whole()
    figure = draw_size(summary, SIZES, metric="pearson")
    own = summary[summary["metric"] == "pearson"].set_index("representation")
    dots = drawn(figure, "y", "x")
    assert dots["name"].tolist() == ["small", "large"] and dots["place"].tolist() == [1e6, 2e7]
    np.testing.assert_array_equal(dots["value"], own.loc[["small", "large"], "mean"])
    np.testing.assert_allclose(dots[["low", "high"]], own.loc[["small", "large"], ["low", "high"]], atol=1e-12)
    lines = {trace.name: trace for trace in figure.data if trace.line.dash == "dash"}
    assert list(lines) == ["k-mer", "features"]
    for name, line in lines.items():
        assert list(line.y) == [own.loc[name, "mean"]] * 2
        assert np.log10(line.x).tolist() == pytest.approx(figure.layout.xaxis.range)
        assert [a.text for a in figure.layout.annotations].count(name) == 1
        assert f"[{own.loc[name, 'low']:.3g}" in line.hovertext[0]
    assert figure.layout.xaxis.type == "log" and set(dots["metric"]) == {"Pearson r"}
    assert {t.name: t.marker.color for t in figure.data if t.showlegend} == {"small": PALETTE[0], "large": PALETTE[1]}


def test_reference_says_what_is_a_line():
    figure = draw_size(whole(), {**SIZES, "k-mer": 4096, "another": 5}, "pearson", reference=["features"])
    assert drawn(figure, "y", "x")["name"].tolist() == ["small", "large", "k-mer"]
    assert [t.name for t in figure.data if t.line.dash == "dash"] == ["features"]


def test_more_encoders_than_colours_are_told_apart():
    names = [f"encoder {i}" for i in range(12)]
    figure = draw_size(summarise(scores_of(names, {"t": ("pearson",)})), {name: 10.0 ** (4 + i / 3) for i, name in enumerate(names)})
    looks = [(t.marker.color, t.marker.symbol) for t in figure.data if t.showlegend]
    assert len(set(looks)) == 12
    assert looks == [(t.marker.color, t.marker.symbol[0]) for t in figure.data if not t.showlegend]
    assert figure.layout.height - figure.layout.margin.t >= figure.layout.legend.maxheight >= 12 * 20


def test_published_sizes():
    summary = whole()
    figure = draw_size(summary, SIZES, "pearson", published=[PAPER, PAPER._replace(label="unsized", value=0.8, parameters=None)])
    sized, line = [t for t in figure.data if t.name.startswith("published")][::-1]
    assert (sized.name, sized.x[0], sized.y[0], sized.marker.symbol) == ("published: a net", 3e6, 0.7, PUBLISHED_SYMBOL)
    assert (line.name, line.line.dash, list(line.y), line.marker.symbol) == ("published: unsized", "dot", [0.8, 0.8], PUBLISHED_SYMBOL)
    texts = [a.text for a in figure.layout.annotations]
    assert "published: a net" in texts and "published: unsized" in texts


@pytest.mark.parametrize("sizes, words", [({"small": 1}, "no size of 'large'"), ({"small": 1, "Large": 2}, "Large"), ({"small": 0, "large": 1}, "positive"), ({"small": np.nan, "large": 1}, "positive")])
def test_sizes_are_checked(sizes, words):
    with pytest.raises(InputError, match=words):
        draw_size(whole(), sizes)


def test_baselines_alone_have_no_sizes():
    with pytest.raises(InputError, match="draw_scores"):
        draw_size(summarise(scores_of(["k-mer"])), SIZES)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=6), st.floats(0.01, 0.5))
def test_names_of_lines_keep_apart(values, gap):
    placed = _apart(values, gap)
    order = np.argsort(values, kind="stable")
    assert len(placed) == len(values) and (np.diff(placed[order]) >= gap - 1e-9).all()
    if len(values) > 1 and (np.diff(np.sort(values)) >= gap).all():
        np.testing.assert_allclose(placed, values, atol=1e-9)
    if values:
        assert np.mean(placed) == pytest.approx(np.mean(values), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.floats(1.6, 1e11), st.floats(2.6, 1e5))
def test_ticks_of_sizes_are_in_sight(low, ratio):
    ticks = _size_ticks(low, low * ratio)
    assert ticks["tickvals"] and all(low <= value <= low * ratio for value in ticks["tickvals"])
    unit = {"k": 1e3, "M": 1e6, "B": 1e9}
    back = [float(text[:-1]) * unit[text[-1]] if text[-1] in unit else float(text) for text in ticks["ticktext"]]
    assert back == pytest.approx(ticks["tickvals"])


def test_ranges():
    assert axis_range([1.0, np.nan], [2.0]) == pytest.approx([0.92, 2.08])
    for values in ([], [np.nan], [0.0], [0.5], [-3.0]):
        low, high = axis_range(values)
        assert low < high and all(low < value < high for value in values if np.isfinite(value))


# ---- draw_differences

def test_differences_are_those_of_the_table():
    comparison = compare(scores_of(n=8), "small", "large")
    figure = draw_differences(comparison, "small", "large")
    names = {"Pearson r": "pearson", "R²": "r2", "RMSE (lower is better)": "rmse", "AUROC": "auroc", "accuracy": "accuracy", "AUROC, macro": "auroc_macro"}
    seen = []
    for trace in [t for t in figure.data if t.error_x.array]:
        title, axis = panel_of(figure, trace)
        assert axis == "small − large"
        part = comparison[comparison["metric"] == names[title]].reset_index(drop=True)
        ticks = list(figure.layout[axis_of(trace, "y")].ticktext)
        assert ticks == [task.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for task in pd.unique(part["task"])]
        for x, y, up, down, text in zip(trace.x, trace.y, trace.error_x.array, trace.error_x.arrayminus, trace.hovertext):
            row = part.iloc[int(y)]
            assert (x, x - down, x + up) == pytest.approx((row["difference"], row["low"], row["high"]))
            assert f"p: {row['p']:.3g}" in text
            seen.append((row["task"], row["metric"]))
    assert sorted(seen) == sorted(zip(comparison["task"], comparison["metric"])) and len({metric for _, metric in seen}) == 6
    axes = [figure.layout[name] for name in figure.layout if name.startswith("xaxis")]
    assert len(axes) == 6 and all(axis.zeroline and axis.range[0] < 0 < axis.range[1] for axis in axes)


@pytest.mark.parametrize("metric, low, high, favoured", [
    ("pearson", 0.1, 0.3, "favours A"), ("pearson", -0.3, -0.1, "favours B"), ("pearson", -0.1, 0.3, "undecided"), ("pearson", 0.0, 0.3, "undecided"),
    ("pearson", np.nan, np.nan, "undecided"), ("rmse", 0.1, 0.3, "favours B"), ("rmse", -0.3, -0.1, "favours A"),
])  # fmt: skip
def test_colours_say_what_a_difference_favours(metric, low, high, favoured):
    comparison = compare(scores_of(tasks={"t": (metric,)}), "small", "large").assign(difference=np.nan_to_num((low + high) / 2), low=low, high=high)
    figure = draw_differences(comparison, "A", "B")
    assert [trace.name for trace in figure.data] == [favoured] * 2  # the dot, and its entry in the legend
    assert ("interval is unknown" in figure.layout.annotations[-1].text) == np.isnan(low)


def test_differences_by_method():
    comparison = compare(scores_of(methods=("linear", "knn"), tasks={"t": ("pearson",)}), "small", "large").assign(low=-1, high=1)
    trace = draw_differences(comparison).data[0]
    assert list(trace.marker.symbol) == list(SYMBOLS[:2]) and trace.y[0] < 0 < trace.y[1]
    with pytest.raises(InputError, match="name them apart"):
        draw_differences(comparison, "a", "a")


# ---- tables that cannot be drawn

@pytest.mark.parametrize("draw", [draw_scores, lambda s: draw_size(s, SIZES)], ids=["scores", "size"])
def test_tables_that_are_refused(draw):
    summary = whole()
    with pytest.raises(InputError, match="no rows"):
        draw(pd.DataFrame(columns=SUMMARY_COLUMNS))
    with pytest.raises(InputError, match="no column 'mean'"):
        draw(summary.drop(columns="mean"))
    with pytest.raises(InputError, match="no column"):
        draw(scores_of())
    with pytest.raises(InputError, match="Several rows"):
        draw(pd.concat([summary, summary]))
    by = summarise(pd.concat([scores_of(n=2).assign(fraction=f) for f in (0.1, 1.0)]), by=["fraction"])
    with pytest.raises(InputError, match="further columns"):
        draw(by)
    draw(by[by["fraction"] == 1.0])


def test_empty_comparisons_are_refused():
    comparison = compare(scores_of(), "small", "large")
    with pytest.raises(InputError, match="no rows"):
        draw_differences(comparison[:0])
    with pytest.raises(InputError, match="no column"):
        draw_differences(whole())


def test_unknown_metrics_are_refused():
    summary = whole()
    with pytest.raises(InputError, match="no metric 'pearsn'.*pearson"):
        draw_scores(summary, "pearsn")
    with pytest.raises(InputError, match="Name a metric"):
        draw_scores(summary, [])


def test_tables_are_left_as_they_were():
    summary, comparison = whole(), compare(scores_of(), "small", "large")
    before = summary.copy(), comparison.copy()
    draw_scores(summary), draw_size(summary, SIZES), draw_differences(comparison)
    pd.testing.assert_frame_equal(summary, before[0])
    pd.testing.assert_frame_equal(comparison, before[1])


def test_a_table_from_disk_draws_the_same(tmp_path):
    summary = summarise(scores_of(n=2))
    summary.to_csv(tmp_path / "summary.csv", index=False)
    read = pd.read_csv(tmp_path / "summary.csv", float_precision="round_trip")
    assert draw_scores(read).to_json() == draw_scores(summary).to_json()
