"""The documentation site, in `_docs/` or the folder given as argument: notebooks as readers should see them, through Sphinx. No network is needed."""
import json
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import api

ROOT = api.ROOT
TUTORIALS = ("quickstart", "your_genome", "pretraining", "probing", "walk", "cluster")
WINGS = {  # folder → title, one line
    "nbs/experiments": ("Experiments", "Notebooks with parameters, run by `isoclr run`."),
    "nbs": ("Foundations and runs", "What every part shares, and what runs them: settings, files, experiments, the command line."),
    "nbs/data": ("Data", "From genomes and annotation to a store of mature transcripts."),
    "nbs/models": ("Models", "Encoders that carry lengths."),
    "nbs/pretrain": ("Pretraining", "Pairs, losses and the training loop."),
    "nbs/probe": ("Probing", "What the embeddings know, beside what needs no training."),
    "nbs/latent": ("Latent space", "Maps, neighbours, the explorer and attribution."),
}
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def notebooks(folder: str) -> list[Path]:
    "Notebooks of a folder in the order to read."
    found = sorted(path for path in (ROOT / folder).glob("*.ipynb") if path.name != "index.ipynb")
    if folder == "nbs/tutorials":
        found.sort(key=lambda path: TUTORIALS.index(path.stem) if path.stem in TUTORIALS else len(TUTORIALS))
    return found


def shown(cell: dict) -> dict | None:
    "A cell as a reader sees it: without directives, or not at all."
    source = "".join(cell["source"])
    if cell["cell_type"] == "code":
        directives = re.findall(r"^#\|\s*(\w+)", source, flags=re.M)
        source = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")
        if "hide" in directives or not source.strip():
            return None
        outputs = [output for output in map(portable, cell["outputs"]) if output]
        tags = ["remove-input"] if "hide_input" in directives else []
        return {**cell, "source": source, "outputs": outputs, "metadata": {"tags": tags}}
    return {**cell, "source": source}


def portable(output: dict) -> dict | None:
    "An output without what only JupyterLab can show, and without notes to the person at the keyboard."
    if output.get("name") == "stderr":
        return None
    if "data" not in output:
        return output
    data = {kind: content for kind, content in output["data"].items() if not kind.startswith("application/vnd.")}
    return {**output, "data": data} if data else None


def relinked(text: str, at: Path, into: Path, settings: dict) -> str:
    "Links to what is not a page of the site become addresses of the repository; pictures are copied beside the pages."

    def target(match: re.Match) -> str:
        link, hash_, anchor = match[2].partition("#")
        if not link or re.match(r"\w+:", link):
            return match[0]
        path = (ROOT / at / link).resolve()
        name = path.relative_to(ROOT).as_posix()
        if name in WINGS:
            return f"{match[1]}{'../' * len(at.parts)}{name}/index.md{match[3]}"
        if name in PAGES or (path.suffix == ".ipynb" and path.is_file()):
            return match[0] if name != "README.md" else f"{match[1]}{'../' * len(at.parts)}index.md{hash_}{anchor}{match[3]}"
        if path.suffix in (".png", ".svg") and path.is_file():
            write(into / name, path.read_bytes())
            return match[0]
        return f"{match[1]}{settings['git_url']}/{'tree' if path.is_dir() else 'blob'}/{settings['branch']}/{name}{hash_}{anchor}{match[3]}"

    return LINK.sub(target, text)


def write(path: Path, content: str | bytes) -> None:
    "Write a file, and the folders above it."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def heading(path: Path) -> tuple[str, str]:
    "Title and subtitle of a notebook."
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    title = re.search(r"^# (.+)$", text, flags=re.M)
    subtitle = re.search(r"^> (.+)$", text, flags=re.M)
    return title[1] if title else path.stem, subtitle[1] if subtitle else ""


def toctree(entries: list[str], caption: str = "") -> str:
    "Pages below a page, for the side bar."
    return "\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", *[f":caption: {caption}"] * bool(caption), "", *entries, "```", ""])


def wing_page(folder: str) -> str:
    "The landing page of a folder: its notebooks, a line each."
    title, line = WINGS[folder]
    here = notebooks(folder)
    rows = [f"- [{heading(path)[0]}]({path.name}): {heading(path)[1]}" if heading(path)[1] else f"- [{heading(path)[0]}]({path.name})" for path in here]
    return "\n".join([f"# {title}", "", line, "", *rows, "", toctree([path.stem for path in here])])


def stage(into: Path, settings: dict) -> None:
    "Write what Sphinx reads."
    for path in [path for folder in ("nbs/tutorials", *WINGS) for path in notebooks(folder)]:
        write(into / path.relative_to(ROOT), json.dumps(readable(path, into, settings)))
    for folder in WINGS:
        write(into / folder / "index.md", wing_page(folder))
    modules: dict[str, list[api.Module]] = {}
    for module in api.modules():
        modules.setdefault(module.path.parent.relative_to(ROOT).as_posix().replace("/", "."), []).append(module)
    for wing, chosen in modules.items():
        write(into / "api" / f"{wing}.md", api.page(wing, chosen, Path("api")))
    for name in PAGES:
        text = relinked((ROOT / name).read_text(encoding="utf-8"), Path(), into, settings)
        write(into / name.replace("README", "index"), text + front_trees(list(modules)) if name == "README.md" else text)


def readable(path: Path, into: Path, settings: dict) -> dict:
    "A notebook as a reader should see it."
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in map(shown, content["cells"]) if cell]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(cell["source"], path.parent.relative_to(ROOT), into, settings)
    return {**content, "cells": cells, "metadata": {**content["metadata"], "language_info": {"name": "python", "pygments_lexer": "ipython3"}}}


def front_trees(wings: list[str]) -> str:
    "What the side bar lists."
    parts = {"Tutorials": [f"nbs/tutorials/{path.stem}" for path in notebooks("nbs/tutorials")], "How it works": [f"{folder}/index" for folder in WINGS],
             "Reference": [f"api/{wing}" for wing in wings], "Project": ["CHANGELOG", "CONTRIBUTING"]}
    return "\n" + "\n".join(toctree(entries, caption) for caption, entries in parts.items())


def main(site: Path) -> int:
    "Build the site."
    from sphinx.cmd.build import build_main

    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="isoclr-docs-") as folder:
        source, made = Path(folder) / "source", Path(folder) / "site"
        stage(source, dict(parser["DEFAULT"]))
        failed = build_main(["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", f"{folder}/doctrees", str(source), str(made)])
        if not failed:
            shutil.rmtree(site, ignore_errors=True)
            shutil.move(made, site)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs").resolve()))
