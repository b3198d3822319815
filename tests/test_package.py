"""The package as it is installed: sdist, a wheel made from the sdist, and the command run from it, away from the checkout."""
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.name for path in (ROOT / "nbs" / "experiments").glob("*.ipynb"))
MANIFESTS = sorted(path.name for path in (ROOT / "data_manifests").glob("*.yaml"))
BUILD = "from setuptools import build_meta; import sys; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def hook(name: str, project: Path, folder: Path) -> None:
    "What pip calls in a project to build it (PEP 517), with the setuptools that is installed here."
    done = subprocess.run([sys.executable, "-c", BUILD, name, str(folder)], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    "Made from a copy, since building leaves files behind."
    folder = tmp_path_factory.mktemp("sdist")
    ignored = shutil.ignore_patterns(".*", "_*cs", "_proc", "build", "dist", "runs", "*.egg-info", "__pycache__", "data")
    shutil.copytree(ROOT, folder / "checkout", ignore=lambda at, names: ignored(at, names) if Path(at) == ROOT else shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")(at, names))
    hook("build_sdist", folder / "checkout", folder)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    "Made from the sdist: what the sdist lacks, the wheel lacks."
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    hook("build_wheel", next(folder.glob("isoclr-*")), folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    "The wheel alone, in a folder that comes before the checkout on the path."
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


def away(installed: Path, at: Path, *command: str) -> str:
    "What a command says that knows the installed package only."
    environment = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_what_it_should(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(name.split("/")[-1] for name in names if name.startswith("isoclr/experiments/")) == EXPERIMENTS
    assert sorted(name.split("/")[-1] for name in names if name.startswith("isoclr/manifests/")) == MANIFESTS
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "isoclr").rglob("*.py")}
    assert modules <= set(names), "modules are missing"
    others = {name for name in names if not name.startswith(("isoclr/", "isoclr-"))}
    assert not others and any(name.endswith("licenses/LICENSE") for name in names)


def test_what_the_wheel_says_of_itself(wheel):
    archive = zipfile.ZipFile(wheel)
    about = message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))))
    version = (ROOT / "isoclr" / "__init__.py").read_text().split('"')[1]
    assert (about["Name"], about["Version"], about["License"] or about["License-Expression"], about["Requires-Python"]) == ("isoclr", version, "Apache-2.0", ">=3.11")
    assert {f"Programming Language :: Python :: {python}" for python in ("3.11", "3.12", "3.13")} <= set(about.get_all("Classifier"))
    assert {"lab", "images", "cluster", "docs", "dev"} == set(about.get_all("Provides-Extra"))
    assert about["Description-Content-Type"] == "text/markdown" and {"Documentation", "Source"} <= {url.split(",")[0] for url in about.get_all("Project-URL")}
    assert "](nbs/" not in about.get_payload() and "](https://github.com/isoclr/isoclr/blob/main/nbs/" in about.get_payload()
    assert not [need for need in about.get_all("Requires-Dist") if "extra ==" not in need and "nbdev" in need], "nbdev is for developers"


def test_the_versions_are_one():
    version = (ROOT / "isoclr" / "__init__.py").read_text().split('"')[1]
    assert f"version = {version}\n" in (ROOT / "settings.ini").read_text() and f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_environment_file_asks_for_the_same():
    "environment.yml under the names of conda-forge, settings.ini the source."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = {"torch": "pytorch", "igraph": "python-igraph"}
    needs = [re.fullmatch(r"([\w.-]+)(.*)", need).groups() for key in ("requirements", "lab_requirements") for need in settings["DEFAULT"][key].split()]
    asked = [need for need in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(need, str)]
    assert {f"{names.get(name, name)} {version}" for name, version in needs} == set(asked) - {"pip", "python >=3.11,<3.14"}


def test_it_works_away_from_the_checkout(installed, tmp_path):
    "Experiments and manifests are those inside the package, and a run comes to its end."
    code = "import isoclr, isoclr.runs, isoclr.parameters, isoclr.data.manifest as m; print(isoclr.__file__, *isoclr.parameters.experiments().values(), *m.manifests().values(), sep='\\n')"
    file, *found = map(Path, away(installed, tmp_path, sys.executable, "-c", code).split("\n")[:-1])
    assert file == installed / "isoclr" / "__init__.py", "the checkout came first"
    inside = installed / "isoclr"
    assert found == [*(inside / "experiments" / name for name in EXPERIMENTS), *(inside / "manifests" / name for name in MANIFESTS)]

    command = str(installed / "bin" / "isoclr")
    assert away(installed, tmp_path, command, "--version").strip().endswith(file.read_text().split('"')[1])
    assert "yeast" in away(installed, tmp_path, command, "data", "list", "--cache", "cache")
    said = away(installed, tmp_path, command, "run", "build", "simulate_families=8")
    (run,) = (tmp_path / "runs" / "build").iterdir()
    assert run.name in said and (run / "results.json").is_file() and (run / "store" / "store.json").is_file()
