"""The form of the house: imports run left to right, nothing heavy is imported early, notebooks and package agree."""
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "isoclr"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def place(path: Path) -> tuple[int, str]:
    "Number of the notebook that a module comes from, as nbdev writes it at the top: 16a → (16, 'a')."
    number, letter = re.search(r"File to edit: [./\w]*/(\d\d)([a-z]?)_\w+\.ipynb", path.read_text()).groups()
    return int(number), letter


def imported(path: Path) -> set[str]:
    "Modules of isoclr that a module imports, anywhere in its text."
    package, found = name_of(path).split(".")[:-1], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join(base + ([node.module] if node.module else []))
            found |= {full} | {f"{full}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("isoclr.")} & {name_of(p) for p in MODULES}


def test_there_are_modules():
    assert len(MODULES) > 10


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_left_to_right(path):
    places = {name_of(p): place(p) for p in MODULES}
    wrong = [name for name in imported(path) if places[name] >= place(path)]
    assert not wrong, f"{name_of(path)} ({place(path)}) imports from its right: {wrong}"


@pytest.mark.parametrize("wing, never", [("models", "data"), ("latent", "pretrain")])
def test_wings_that_never_meet(wing, never):
    for path in (PACKAGE / wing).glob("*.py"):
        assert not [name for name in imported(path) if name.startswith(f"isoclr.{never}.")], f"{path} imports isoclr.{never}"


def test_import_direction_sees_what_it_should(tmp_path):
    "The walker understands absolute, relative and late imports: a test of the test."
    source = "from .genome import Genome\ndef f():\n    import isoclr.files\n    from ..config import Config\n"
    module = PACKAGE / "data" / "tracks.py"
    path = tmp_path / "isoclr" / "data" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    globals_root = imported.__globals__
    saved, globals_root["ROOT"] = globals_root["ROOT"], tmp_path
    saved_modules, globals_root["MODULES"] = globals_root["MODULES"], [tmp_path / "isoclr" / n for n in ("data/genome.py", "files.py", "config.py")]
    try:
        assert imported(path) == {"isoclr.data.genome", "isoclr.files", "isoclr.config"}
    finally:
        globals_root["ROOT"], globals_root["MODULES"] = saved, saved_modules
    assert module.exists()


HEAVY = ("umap", "numba", "plotly", "anndata", "lightning", "papermill", "sklearn", "nbformat", "IPython", "ipywidgets", "nbdev", "fastcore", "jupyterlab")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


def test_importing_isoclr_loads_nothing_heavy():
    assert not loaded_by("import isoclr") & {*HEAVY, "torch", "pandas"}


def test_importing_every_module_loads_nothing_heavy():
    loaded = loaded_by("\n".join(f"import {name_of(path)}" for path in MODULES))
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_export_and_clean_change_nothing(tmp_path):
    "`nbdev_export` and `nbdev_clean` leave the tree as it is: package and notebooks agree, outputs are clean."
    for folder in ("nbs", "isoclr"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for file in ("settings.ini", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / file, tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for call in ("from nbdev.doclinks import nbdev_export as f", "from nbdev.clean import nbdev_clean as f"):
        subprocess.run([sys.executable, "-c", f"{call}\nf.__wrapped__()"], cwd=tmp_path, check=True, env=environment)
    made = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".py", ".ipynb", ".toml")}
    kept = {p.relative_to(ROOT) for d in ("nbs", "isoclr") for p in (ROOT / d).rglob("*")
            if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts}
    orphans = sorted(str(p) for p in kept - made)
    changed = sorted(str(p) for p in made if not (ROOT / p).exists() or (ROOT / p).read_bytes() != (tmp_path / p).read_bytes())
    assert not orphans and not changed, f"run nbdev_export and nbdev_clean, then commit: {changed}"


def test_every_module_comes_from_a_notebook():
    for path in MODULES:
        source = re.search(r"File to edit: ([./\w]+\.ipynb)", path.read_text()).group(1)
        assert (path.parent / source).resolve().exists(), f"{path} has no notebook {source}: delete it"


def test_readme_is_the_index_notebook(tmp_path):
    "README.md is what `make readme` writes."
    command = [sys.executable, "-m", "nbconvert", "--to", "markdown", "--output-dir", str(tmp_path), "--output", "README", str(ROOT / "nbs" / "index.ipynb")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), "run make readme"
