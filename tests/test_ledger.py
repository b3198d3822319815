"""The ledger of runs in every state a disk can leave them in; its figure against a loop; its page in a browser; and what `clean` never removes."""
import base64
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from browsing import browser_page, lacking, until
from isoclr import ledger as module
from isoclr.config import ConfigError, InputError
from isoclr.ledger import COLUMNS, STATUSES, clean, compare, gallery, ledger

PLOTLY = "application/vnd.plotly.v1+json"
HOSTILE = """</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>"""


def write_run(folder: Path, parameters=None, results=None, outputs=(), **status) -> Path:
    "A run as isoclr.runs leaves it; results=None: not finished."
    folder.mkdir(parents=True)
    config = {"experiment": folder.parent.name, "parameters": parameters or {}, "started": "2026-01-31T12:00:00+00:00", "versions": {"isoclr": "0.1.0", "torch": "2.13.0+cpu"}}
    recorded = {"status": "finished" if results is not None else "failed", "attempt": 1, "started": "2026-01-31T13:00:00+01:00", "duration_s": 61.5, "error": None, **status}
    notebook = {"cells": [{"cell_type": "markdown", "source": ""}, {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": data} for data in outputs]}]}
    for name, content in {"config.json": config, "status.json": recorded, "results.json": results, f"{folder.parent.name}.ipynb": notebook}.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def spoil(name: str, content: bytes | None, results=None):
    "A run with one file damaged, or missing."

    def make(folder: Path):
        path = write_run(folder, {"steps": 1}, results) / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return make


def empty_folder(folder: Path):
    folder.mkdir(parents=True)


def foreign_folder(folder: Path):
    empty_folder(folder)
    (folder / "thesis.tex").write_text("")


def foreign_config(folder: Path):
    empty_folder(folder)
    (folder / "config.json").write_text('{"hidden_size": 768}')


def link(folder: Path):
    folder.symlink_to(write_run(folder.parents[2] / "elsewhere" / "x", results={}), target_is_directory=True)


def config_is_a_folder(folder: Path):
    (write_run(folder) / "config.json").unlink()
    (folder / "config.json").mkdir()


def by_hand(folder: Path):
    empty_folder(folder)
    (folder / "results.json").write_text('{"loss": 1}')


def before_status(folder: Path):
    (write_run(folder) / "status.json").unlink()


ENTRIES = {
    "config cut off": (spoil("config.json", b'{"experiment": "pret'), "broken", "config.json cannot be read"),
    "config missing": (spoil("config.json", None), "broken", "config.json is missing"),
    "config not text": (spoil("config.json", b"\xff\xfe\x00"), "broken", "config.json cannot be read"),
    "config too deep": (spoil("config.json", b'{"a":' * 100_000), "broken", "config.json cannot be read"),
    "config a list": (spoil("config.json", b"[]"), "broken", "config.json is no JSON object"),
    "config a folder": (config_is_a_folder, "broken", "config.json cannot be read"),
    "config of a finished run missing": (spoil("config.json", None, {"loss": 1}), "finished", "config.json is missing"),
    "results cut off": (spoil("results.json", b'{"loss": 1', {}), "broken", "results.json cannot be read"),
    "results empty": (spoil("results.json", b"", {}), "broken", "results.json cannot be read"),
    "results a list": (spoil("results.json", b"[1]", {}), "broken", "results.json is no JSON object"),
    "status cut off": (spoil("status.json", b'{"status": "fai'), "broken", "status.json cannot be read"),
    "status a list": (spoil("status.json", b"[1]"), "broken", "status.json is no JSON object"),
    "status a list, results there": (spoil("status.json", b"[1]", {}), "finished", "status.json is no JSON object"),
    "status unknown": (spoil("status.json", b'{"status": "napping"}'), "broken", "status.json says 'napping'"),
    "status no word": (spoil("status.json", b'{"status": ["failed"], "error": {"a": 1}}'), "broken", "status"),
    "empty folder": (empty_folder, "broken", "the folder is empty"),
    "foreign folder": (foreign_folder, "not a run", "thesis.tex"),
    "foreign config": (foreign_config, "not a run", "not written by isoclr"),
    "file": (lambda path: path.write_text(""), "not a run", "a file among the run folders"),
    "link": (link, "not a run", "a link to"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "not a run", "a link to nowhere"),
    ".0123.1.deadbeef.partial": (write_run, "leftover", "clean removes"),
    "by_hand": (by_hand, "finished", "config.json is missing"),
    "before there was a status": (before_status, "killed", ""),
    "killed": (lambda folder: write_run(folder, status="running"), "killed", ""),
    "timed out": (lambda folder: write_run(folder, status="timed out", error="after 10 s"), "timed out", "after 10 s"),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> pd.DataFrame:
    "The ledger of one folder with all of these, and a good run beside them."
    runs = tmp_path_factory.mktemp("zoo") / "runs"
    write_run(runs / "pretrain" / "good", {"steps": 7}, {"loss": 0.5})
    for name, (make, _, _) in ENTRIES.items():
        make(runs / "pretrain" / name)
    (runs / "notes.txt").write_text("")
    write_run(runs / "a run too high up")
    (runs / "empty experiment").mkdir()
    (runs / ".hidden").mkdir()
    return ledger(runs).set_index("run_id")


@pytest.mark.parametrize("name", ENTRIES)
def test_whatever_lies_there_is_a_row_that_says_what_is_wrong(zoo, name):
    _, status, error = ENTRIES[name]
    assert zoo.status[name] == status
    assert error in zoo.error[name] if error else pd.isna(zoo.error[name])


def test_the_good_run_beside_them_and_what_lies_one_level_too_high(zoo):
    assert zoo.loc["good", ["status", "parameters.steps", "results.loss"]].tolist() == ["finished", 7, 0.5] and pd.isna(zoo.error["good"])
    assert "a file where" in zoo.error["notes.txt"] and "folder above" in zoo.error["a run too high up"]
    assert len(zoo) == len(ENTRIES) + 3 and set(zoo.status) <= set(STATUSES)


def test_a_reader_that_fails_is_a_row_too(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_run(tmp_path / "pretrain" / name, results={})
    read, fails = module._read_run, lambda folder: (_ for _ in ()).throw(PermissionError("no entry"))
    monkeypatch.setattr(module, "_read_run", lambda folder: (fails if folder.name == "a" else read)(folder))
    assert ledger(tmp_path)[["status", "error"]].fillna("").values.tolist() == [["broken", "cannot be read: no entry"], ["finished", ""]]


def test_no_runs_is_an_empty_ledger_and_no_folder_an_error(tmp_path):
    assert not len(ledger(tmp_path)) and list(ledger(tmp_path)) == list(COLUMNS)
    assert not len(clean(tmp_path))
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is not a folder"):
            ledger(path)


def test_values_are_as_they_were_written(tmp_path):
    scores = [{"representation": "new", "task": "half_life", "method": "linear", "split": "homology", "metric": m, "mean": v, "seeds": "0,1"} for m, v in (("r2", 0.5), ("rmse", None))]
    nearest = [{"representation": "new", "task": "isoform@1", "method": "", "fraction": 0.5, "metric": "share", "mean": 1}]
    results = {"loss": float("nan"), "by": {"a.b": 1, "ok": True}, "scores": scores, "others": nearest, "groups": [1, 2], "hash": "f" * 500, "word": "umap", "none": None}
    write_run(tmp_path / "probe" / "x", {"store": "s", "seeds": [0, 1], "stratify": False, "named": {}}, results, attempt=3)
    write_run(tmp_path / "probe" / "y", {"store": "t"}, {}, attempt="many", duration_s="long", started=5)
    x, y = (row for _, row in ledger(tmp_path).iterrows())
    assert {name: x[name] for name in x.index if name.startswith("parameters.")} == {
        "parameters.store": "s", "parameters.seeds": "[0, 1]", "parameters.stratify": False, "parameters.named": "{}"}
    known = {name: x[name] for name in x.index if name.startswith("results.") and not pd.isna(x[name])}
    assert known == {"results.by.a.b": 1, "results.by.ok": True, "results.scores.new.half_life.linear.r2": 0.5, "results.others.new.isoform@1.0.5.share": 1, "results.word": "umap"}
    assert {"results.loss", "results.none", "results.scores.new.half_life.linear.rmse"} <= set(x.index) and "results.hash" not in x.index
    assert x.started == pd.Timestamp("2026-01-31T12:00Z") and x.attempt == 3 and x.duration_s == 61.5 and x["versions.torch"] == "2.13.0+cpu"
    assert pd.isna(y.attempt) and pd.isna(y.duration_s) and pd.isna(y.started), "what cannot be is left out"


def test_a_run_at_work_is_running_and_stays(tmp_path):
    folder = write_run(tmp_path / "pretrain" / "x", status="running")
    with FileLock(folder / ".lock"):
        assert ledger(tmp_path).status.tolist() == ["running"]
        assert not len(clean(tmp_path, dry_run=False)) and folder.exists()
    assert ledger(tmp_path).status.tolist() == ["killed"], "nobody works on it now"
    assert clean(tmp_path, dry_run=False).removed.tolist() == [True] and not folder.exists()


def sweep(folder: Path) -> list[dict]:
    "Runs over width × rate × seed, some with one seed alone."
    rng, made = np.random.default_rng(0), []
    for width in (16, 32, 64, 2048):
        for rate in (0.1, 0.01):
            for seed in range(1 if width == 64 else 4):
                made.append({"width": width, "rate": rate, "seed": seed, "kind": "wide" if width > 40 else "narrow", "loss": float(rng.normal())})
    for place, run in enumerate(made):
        write_run(folder / "pretrain" / f"{place:012d}", {k: v for k, v in run.items() if k != "loss"}, {"loss": run["loss"], "by_seed": {str(run["seed"]): 1.0}})
    return made


def by_hand_bars(runs: list[dict], color: str | None) -> set[tuple]:
    "The slow way: for each run, the runs like it."
    found = set()
    for run in runs:
        like = [other["loss"] for other in runs if all(other[key] == run[key] for key in ("width", "rate", "kind")) and (color is None or other[color] == run[color])]
        if len(like) > 1:
            found.add((run["width"], sum(like) / len(like), min(like), max(like)))
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[list[dict], pd.DataFrame]:
    folder = tmp_path_factory.mktemp("swept")
    made = sweep(folder)
    for name, status in (("f" * 12, "failed"), ("e" * 12, "timed out")):
        write_run(folder / "pretrain" / name, {"width": 16, "rate": 0.1, "seed": 9, "kind": "narrow"}, status=status, error="<b>")
    write_run(folder / "build" / "dddd", {"families": 3}, {"genes": 5})
    return made, ledger(folder)


@pytest.mark.parametrize("color", [None, "rate", "seed", "kind"])
def test_points_and_bars_are_those_of_a_loop(swept, color):
    made, frame = swept
    figure = compare("loss", "width", color, frame)
    points, bars = [t for t in figure.data if t.error_y.array is None], [t for t in figure.data if t.error_y.array is not None]
    assert sorted((x, y) for t in points for x, y in zip(t.x, t.y)) == sorted((run["width"], run["loss"]) for run in made)
    drawn = {(x, m, m - low, m + high) for t in bars for x, m, low, high in zip(t.x, t.y, t.error_y.arrayminus, t.error_y.array)}
    expected = by_hand_bars(made, color)
    assert len(drawn) == len(expected) == (0 if color == "seed" else 6)
    np.testing.assert_allclose(sorted(drawn), sorted(expected))
    if color:
        assert sorted(t.name for t in points) == sorted({f"{run[color]:g}" if color != "kind" else run[color] for run in made})
    assert figure.layout.xaxis.type == "log" and "left out: " in figure.layout.title.text and "1 failed" in figure.layout.title.text and "genes" not in figure.layout.title.text


def test_axes_of_numbers_words_and_many_colours(swept):
    _, frame = swept
    assert compare("loss", "kind", runs_folder=frame).layout.xaxis.type == "category"
    assert compare("loss", "rate", runs_folder=frame).layout.xaxis.type is None
    many = compare("loss", "width", "results.loss", frame).data[0]
    assert list(many.marker.color) == list(many.y) and many.marker.colorbar.title.text == "results.loss"
    part = compare("loss", "width", runs_folder=frame[["run_id", "folder"]].assign(width=1))  # as a sweep returns it
    assert len(part.data[0].x) == len(compare("loss", "width", runs_folder=frame).data[0].x)
    twice = pd.concat([frame, frame[frame.status == "failed"]])  # an index that repeats itself
    assert "2 failed" in compare("loss", "width", runs_folder=twice).layout.title.text


@pytest.mark.parametrize("arguments, message", [
    (("los", "width"), "no column 'los'. Did you mean 'loss'"), (("loss", "widht"), "Did you mean 'width'"), (("loss", "width", "sede"), "Did you mean 'seed'"),
    (("results.los", "width"), "Did you mean 'results.loss'"), (("kind", "width"), "No finished run has a number in 'parameters.kind'"), (("loss", "families"), "No finished run"),
    (("genes", "width"), "No finished run has a number in 'results.genes' and a value in 'parameters.width'"),
])
def test_a_name_that_is_not_there_names_the_nearest(swept, arguments, message):
    with pytest.raises(InputError) as raised:
        compare(*arguments, **({"color": None} if len(arguments) < 3 else {}), runs_folder=swept[1])
    assert message in str(raised.value)


def test_an_ending_names_a_column_when_it_is_the_only_one(swept):
    frame = swept[1]
    both = frame.assign(**{"results.a.deep": 1.0, "results.b.deep": 2.0, "results.a.deeper": 3.0})
    assert compare("deeper", "width", runs_folder=both).layout.yaxis.title.text == "a.deeper"
    with pytest.raises(InputError, match="2 columns end in 'deep': results.a.deep, results.b.deep"):
        compare("deep", "width", runs_folder=both)
    with pytest.raises(InputError, match="no column 'folder'"):
        compare("loss", "width", runs_folder=frame.drop(columns="folder"))


def test_texts_from_runs_are_no_markup_in_a_figure(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "pretrain" / f"<b>{seed}", {"<i>x": "<a href='javascript:1'>", "seed": seed}, {"<u>y": 1.0 + seed})
    figure = compare("<u>y", "<i>x", "<i>x", tmp_path)
    texts = [t.name for t in figure.data] + [*figure.data[0].hovertext, figure.layout.title.text, figure.layout.xaxis.title.text, figure.layout.yaxis.title.text, figure.layout.legend.title.text]
    assert not [text for text in texts if "<" in text.replace("<br>", "")]


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one grey point


def scatter(title: str) -> dict:
    return {"data": [{"type": "scatter", "mode": "markers", "x": [1, 2], "y": [1, None]}], "layout": {"title": {"text": title}}}


class Page(HTMLParser):
    "Tags and attributes of a page, as a browser takes them."

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    "The page of many runs, whose texts and figures try everything."
    runs = tmp_path_factory.mktemp("hostile") / "runs"
    for place in range(30):
        write_run(runs / "pretrain" / f"{place:012d}", {"steps": place, "same": 1}, {}, [{PLOTLY: scatter("an earlier one")}, {PLOTLY: scatter(f"run {place} {HOSTILE}"), "image/png": PIXEL}])
    write_run(runs / "pretrain" / "<b onclick=alert(1)>", {HOSTILE: HOSTILE}, outputs=[{"image/png": f"{PIXEL[:4]}\n{PIXEL[4:]}\n"}, {"image/png": f'{PIXEL}" onload="window.hacked=1'}], error=HOSTILE)
    write_run(runs / "pretrain" / "svg", {}, {}, [{"image/svg+xml": ["<svg xmlns='http://www.w3.org/2000/svg' onload='window.hacked=1'>", "<script>window.hacked = 1</script></svg>"]}])
    write_run(runs / "pretrain" / "text", {}, {}, [{"text/plain": "no figure"}, {PLOTLY: "not a figure"}])
    (write_run(runs / "pretrain" / "torn", {}, {}) / "pretrain.ipynb").write_text('{"cells": [')
    (write_run(runs / "pretrain" / "without", {}, {}) / "pretrain.ipynb").unlink()
    write_run(runs / "build" / "one", {"families": 3}, {}, [{PLOTLY: {**scatter("NaN"), "data": [{"type": "scattergl", "y": [float("nan"), 1]}]}}])
    (runs / "notes.txt").write_text("")
    return gallery(runs, runs.parent / "gallery.html")


def test_the_page_holds_each_figure_once_and_only_texts_from_outside(hostile):
    page = Page(hostile)
    scripts = page.all("script")
    assert len(scripts) == 31 + 2 and not [s for s in scripts if "src" in s], "31 figures, plotly.js, and the page's own"
    assert hostile.read_text().count("* plotly.js v") == 1
    assert not [(tag, name) for tag, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not page.all("link") and not page.all("iframe") and not page.all("a") and not page.all("svg")
    png, svg = (image["src"] for image in page.all("img"))
    assert png == f"data:image/png;base64,{PIXEL}" and b"<script>" in base64.b64decode(svg.removeprefix("data:image/svg+xml;base64,"))
    assert all(image["loading"] == "lazy" for image in page.all("img"))
    texts = "".join(page.texts)
    assert "an earlier one" not in texts and HOSTILE in page.texts, "the last figure; the hostile text is shown as it is"
    assert texts.count("no figure in the notebook") == 1 and "the notebook cannot be read" in texts and "there is no executed notebook" in texts
    assert "steps" in page.texts and "same" in page.texts and "families" not in page.texts and "notes.txt" not in texts


def test_a_page_without_plotly_figures_is_small(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "runs" / "build" / f"x{seed}", {"same": 7, "seed": seed}, {}, [{"image/png": PIXEL}], duration_s=7200)
    page = gallery(ledger(tmp_path / "runs"), tmp_path / "page.html")
    texts = Page(page).texts
    assert page.stat().st_size < 10_000 and "same" not in texts and texts.count("seed") == 2 and "finished · 2.0 h" in texts
    with pytest.raises(InputError, match="no runs to show"):
        gallery(ledger(tmp_path / "runs").iloc[:0], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


@pytest.mark.skipif(bool(lacking()) and os.environ.get("CI") != "true", reason=lacking())
def test_the_page_in_a_browser_draws_what_is_in_view_and_runs_nothing_else(hostile):
    with browser_page(height=900) as page:
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.context.set_offline(True)
        page.goto(hostile.as_uri())
        page.wait_for_selector(".drawn .gl-canvas", state="attached")
        drawn = "() => [...document.querySelectorAll('.drawn')].flatMap((place, i) => place.querySelector('.main-svg') ? [i] : [])"
        until(lambda: page.evaluate(drawn)[:2] == [0, 1], 60, "the first figures")
        assert len(page.evaluate(drawn)) < 20, "only what is in view"
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        until(lambda: page.evaluate(drawn)[-1:] == [30] and 0 not in page.evaluate(drawn), 60, "the last figure, and the first put away")
        assert page.evaluate("window.hacked") is None and not page.complaints
        assert not errors
        assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_clean_says_what_it_would_remove_and_then_removes_just_that(tmp_path):
    runs, outside = tmp_path / "runs", tmp_path / "outside"
    outside.mkdir()
    (outside / "genome.fa").write_text("ACGT")
    folders = {status: write_run(runs / "pretrain" / status.replace(" ", "-"), results={} if status == "finished" else None, status=status)
               for status in ("finished", "failed", "timed out", "interrupted")}
    folders["killed"] = write_run(runs / "pretrain" / "killed", status="running")
    empty_folder(runs / "pretrain" / "empty")
    foreign_folder(runs / "pretrain" / "foreign")
    (folders["failed"] / "data").symlink_to(outside, target_is_directory=True)
    (folders["failed"] / "checkpoint").write_bytes(bytes(3_000_000))
    would = clean(runs)
    assert set(would.status) == {"failed", "timed out", "interrupted", "killed"} and not would.removed.any() and all(folder.exists() for folder in folders.values())
    assert would.set_index("status").size_mb["failed"] == pytest.approx(3, abs=0.01)
    assert clean(runs, "failed", dry_run=False).run_id.tolist() == ["failed"]
    assert not folders["failed"].exists() and folders["killed"].exists() and (outside / "genome.fa").exists()
    done = clean(runs, ["killed", "broken"], dry_run=False)
    assert done.removed.all() and sorted(done.run_id) == ["empty", "killed"]
    assert sorted(p.name for p in (runs / "pretrain").iterdir()) == ["finished", "foreign", "interrupted", "timed-out"]


@pytest.mark.parametrize("status, message", [("faild", "Did you mean 'failed'"), ("running", "cannot be removed"), (["failed", "not a run"], "'not a run' cannot be removed")])
def test_clean_knows_what_it_may_remove(tmp_path, status, message):
    with pytest.raises(ConfigError, match=message):
        clean(tmp_path, status)


@pytest.mark.parametrize("make", [foreign_folder, foreign_config, by_hand, spoil("config.json", None)], ids=["files", "models", "results", "status"])
def test_clean_refuses_a_folder_that_holds_no_run(tmp_path, make):
    make(tmp_path / "Documents" / "x")
    with pytest.raises(InputError, match="holds no run of isoclr"):
        clean(tmp_path, module.REMOVABLE, dry_run=False)
    with pytest.raises(InputError, match="is not a folder"):
        clean(tmp_path / "nowhere", dry_run=False)
    assert (tmp_path / "Documents" / "x").exists()


def test_a_run_that_goes_on_between_look_and_removal_stays(tmp_path, monkeypatch):
    folder, row = write_run(tmp_path / "pretrain" / "x"), module._row

    def look(folder):
        found = row(folder)
        (folder / "results.json").write_text("{}")
        return found

    monkeypatch.setattr(module, "_remove", lambda folder, wanted, remove=module._remove: (monkeypatch.setattr(module, "_row", look), remove(folder, wanted))[1])
    done = clean(tmp_path, dry_run=False)
    assert done[["removed", "reason"]].values.tolist() == [[False, "was run again in between"]] and folder.exists()
    monkeypatch.setattr(module, "_row", row)
    assert module._remove(folder, {"failed"}) == "is finished now"
    with FileLock(folder / ".lock"):
        assert module._remove(folder, {"finished"}) == "is running" and folder.exists()


def test_a_removal_that_is_killed_leaves_no_run_and_is_taken_up_again(tmp_path, monkeypatch):
    folder, remove = write_run(tmp_path / "pretrain" / "x"), shutil.rmtree
    write_run(tmp_path / "pretrain" / "good", results={})

    def full(path, **_):
        (path / "config.json").unlink()
        raise PermissionError("read-only")

    monkeypatch.setattr(shutil, "rmtree", full)
    done = clean(tmp_path, dry_run=False)
    assert not done.removed.any() and "was moved to" in done.reason[0] and "read-only" in done.reason[0] and not folder.exists()
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert sorted(ledger(tmp_path).status) == ["finished", "leftover"]
    assert clean(tmp_path).status.tolist() == ["leftover"]
    assert clean(tmp_path, dry_run=False).removed.tolist() == [True]
    assert [p.name for p in (tmp_path / "pretrain").iterdir()] == ["good"]
