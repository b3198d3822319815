"""Links in README, CONTRIBUTING, CHANGELOG and the notebooks lead to something that is there. Addresses elsewhere are not asked for."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:href|src)=\"([^\"]+)\"", flags=re.M)


def prose(path: Path) -> str:
    "The Markdown of a page, without code."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def links(path: Path) -> list[str]:
    "Links of a page to what lies beside it."
    found = ["".join(groups) for groups in LINK.findall(prose(path))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(path: Path) -> set[str]:
    "Names of the headings of a page, as GitHub and the documentation site make them."
    headings = re.findall(r"^#{1,6} (.+)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(path: Path, at: Path) -> list[str]:
    "Links of a page that lead nowhere, seen from a folder."
    wrong = []
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (at / file).resolve() if file else path
        if not target.exists() or (anchor and target.suffix in (".md", ".ipynb") and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    at = ROOT if path == ROOT / "nbs" / "index.ipynb" else path.parent  # README.md is written from the index
    assert not broken(path, at)


def test_links_are_found_at_all():
    assert sum(len(links(path)) for path in PAGES) > 60


@pytest.mark.parametrize("text, wrong", [
    ("[x](other.md)", []), ("[x](other.md#a-heading-here)", []), ("[x](#own)\n\n## Own", []), ("[x](https://nowhere.invalid)", []), ("`[x](nowhere)`", []),
    ("[x](nowhere.ipynb)", ["nowhere.ipynb"]), ("![x](nowhere.png \"title\")", ["nowhere.png"]), ("[x](other.md#another)", ["other.md#another"]), ("[x](#other)", ["#other"]),
    ("[x]\n\n[x]: nowhere.md", ["nowhere.md"]), ('<img src="nowhere.png">', ["nowhere.png"]), ("```\n[x](nowhere)\n```\n[x](gone)", ["gone"]),
])
def test_a_broken_link_is_seen(text, wrong, tmp_path):
    (tmp_path / "other.md").write_text("# Other\n\n## A heading, *here*\n")
    (tmp_path / "page.md").write_text(text)
    assert broken(tmp_path / "page.md", tmp_path) == wrong
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": text.splitlines(keepends=True)}]}))
    assert broken(tmp_path / "page.ipynb", tmp_path) == wrong
