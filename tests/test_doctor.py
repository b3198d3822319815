"""The doctor on installations that lack something, or hold something broken: each is a row with a command, and the others are still there."""
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from isoclr import doctor as module
from isoclr.doctor import CHECKS, _guarded, doctor

PIP = f"{sys.executable} -m pip install"


def rows(check) -> dict:
    "The findings of one check by name."
    return {finding.check: finding for finding in _guarded(check)}


def without(monkeypatch, *names: str) -> None:
    "Let distributions be missing."
    version = importlib.metadata.version

    def hidden(name):
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", hidden)


def test_this_installation():
    table = doctor()
    assert list(table) == ["check", "found", "ok", "what_to_do"] and table["check"].is_unique
    assert all(ok is None or type(ok) is bool for ok in table["ok"])
    assert all(bool(todo) for ok, todo in zip(table["ok"], table["what_to_do"]) if ok is False) and not any(todo for ok, todo in zip(table["ok"], table["what_to_do"]) if ok is True)
    here = table.set_index("check")
    assert here.ok[["Python", "isoclr", "needs torch>=2.4", "needs plotly>=6", "torch build", "experiments", "data manifests", "widgets in Python"]].all()
    assert sys.executable in here.found["Python"] and "build" in here.found["experiments"]
    assert not table["found"].str.contains("could not be checked").any()


@pytest.mark.parametrize("error", [RuntimeError("no\nluck"), SystemExit(3), OSError("undefined symbol: ncclCommInit"), KeyError("version")], ids=lambda error: type(error).__name__)
def test_a_check_that_fails_is_a_row_and_the_others_stand(monkeypatch, error):
    def _sick():
        yield module.Finding("before", "", True)
        raise error

    monkeypatch.setattr(module, "CHECKS", (module._python, _sick, module._optional))
    table = doctor().set_index("check")
    assert table.ok["sick"] is False and type(error).__name__ in table.found["sick"] and "\n" not in table.found["sick"] and table.what_to_do["sick"].startswith(PIP)
    assert "before" in table.index and table.index[0] == "Python" and table.index[-1].startswith("tensorboard")


def test_requirements_that_are_missing_old_or_damaged(monkeypatch):
    version = importlib.metadata.version
    old = {"plotly": "5.24.1", "anywidget": None, "numpy": "not a version"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: old[name] if name in old else version(name))
    found = rows(module._requirements)
    assert (found["needs plotly>=6"].found, found["needs plotly>=6"].ok, found["needs plotly>=6"].what_to_do) == ("5.24.1", False, f"{PIP} 'plotly>=6'")
    assert found["needs anywidget>=0.9"].found == "not installed" and not found["needs anywidget>=0.9"].ok
    assert found["needs numpy>=1.26"].ok is False and found["needs scipy>=1.11"].ok
    assert not [check for check in found if "pytest" in check], "what only developers need is not asked for"


def test_isoclr_that_is_not_installed(monkeypatch):
    without(monkeypatch, "isoclr")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError(name)))
    assert rows(module._isoclr)["isoclr"].what_to_do == f"{PIP} -e {Path(module.__file__).parents[1]}"
    assert not rows(module._requirements)["requirements"].ok


def test_a_wheel_is_installed_again_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "isoclr", SimpleNamespace(__file__=str(tmp_path / "isoclr" / "__init__.py"), __version__="0.0.0"))
    found = rows(module._isoclr)["isoclr"]
    assert found.ok is False and "installed as" in found.found and found.what_to_do == f"{PIP} --force-reinstall isoclr"


def test_without_packaging_versions_are_shown_but_not_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    found = rows(module._requirements)
    assert found["needs torch>=2.4"].ok
    without(monkeypatch, "torch")
    assert rows(module._requirements)["needs torch>=2.4"].ok is False


@pytest.mark.parametrize("first, last, ok", [((3, 11), (3, 99), True), ((3, 98), (3, 99), False), ((3, 1), (3, 2), False)])
def test_python(monkeypatch, first, last, ok):
    monkeypatch.setattr(module, "SUPPORTED", (first, last))
    found = rows(module._python)["Python"]
    assert found.ok is ok and bool(found.what_to_do) is not ok and (ok or f"supported are {first[0]}.{first[1]} to" in found.found)


@pytest.mark.parametrize("name, check, row", [("torch", "_torch", "torch"), ("psutil", "_cpu", "cpu"), ("jupyter_client.kernelspec", "_kernel", "kernel"), ("jupyter_core.paths", "_widgets", "widgets")])
def test_a_module_that_cannot_be_imported_is_named(monkeypatch, name, check, row):
    monkeypatch.setattr(module, "_version", lambda name: "8.1.0")
    monkeypatch.setitem(sys.modules, name, None)
    found = rows(getattr(module, check))[row]
    assert found.ok is False and found.what_to_do == f"{PIP} --force-reinstall --no-deps {name.split('.')[0]}"


@pytest.mark.parametrize("cuda, hidden, todo", [(None, "0", f"{PIP} --force-reinstall torch"), ("12.6", "0", "nvidia-smi"), ("12.6", "-1", "unset CUDA_VISIBLE_DEVICES")])
def test_a_card_that_torch_does_not_use(monkeypatch, cuda, hidden, todo):
    import torch

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = rows(module._torch)["GPU"]
    assert (found.ok, found.what_to_do) == (False, todo)


def test_cards_that_are_there_or_not(monkeypatch):
    import torch

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rows(module._torch)["GPU"].ok is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(name="H100", total_memory=80 * 2**30))
    found = rows(module._torch)
    assert "GPU" not in found and found["GPU cuda:1"].found == "H100, 80 GiB" and found["GPU cuda:1"].ok


@pytest.fixture
def lab(tmp_path, monkeypatch):
    "A JupyterLab in an environment of its own, which the shell finds first."
    for folder in ("bin", "share/jupyter/labextensions"):
        (tmp_path / folder).mkdir(parents=True)
    for command in ("jupyter-lab", "python"):
        (tmp_path / "bin" / command).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "nobody"))
    monkeypatch.setenv("JUPYTER_PATH", "")
    return tmp_path


MANAGER, ANYWIDGET = (f"JupyterLab extension {name}" for name in module.EXTENSIONS)


def extension(lab: Path, name: str, content: str) -> None:
    folder = lab / "share" / "jupyter" / "labextensions" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(content)


def test_a_lab_elsewhere_needs_the_extensions_there(lab):
    found = rows(module._widgets)
    assert f"{lab}: another environment" in found["JupyterLab"].found and found["JupyterLab"].ok
    assert found[MANAGER].ok is False and found[ANYWIDGET].ok is False and "missing" in found[MANAGER].found
    assert found[MANAGER].what_to_do == f"{lab}/bin/python -m pip install --force-reinstall --no-deps jupyterlab_widgets"
    half = importlib.metadata.version("anywidget")
    for manager, browser_half, fits in (("5.0.1", half, (True, True)), ("3.1.9", half, (False, True)), ("50.0.1", "0.1.0", (False, False))):
        extension(lab, "@jupyter-widgets/jupyterlab-manager", json.dumps({"version": manager}))
        extension(lab, "anywidget", json.dumps({"version": browser_half}))
        found = rows(module._widgets)
        assert (found[MANAGER].ok, found[ANYWIDGET].ok) == fits


def test_a_damaged_extension_is_a_row(lab):
    extension(lab, "@jupyter-widgets/jupyterlab-manager", '{"version"')
    found = rows(module._widgets)
    assert found["JupyterLab"].ok and found["widgets"].ok is False and "JSONDecodeError" in found["widgets"].found


@pytest.mark.parametrize("widgets, manager, ok", [("8.1.9", "3.0.17", True), ("7.7.5", "1.1.11", True), ("8.1.9", "1.1.11", False), ("8.1.9", "", False), ("", "3.0.17", False)])
def test_halves_that_belong_together(monkeypatch, widgets, manager, ok):
    monkeypatch.setattr(module, "_version", lambda name: {"ipywidgets": widgets, "jupyterlab_widgets": manager}.get(name, ""))
    monkeypatch.setattr(module, "_lab", lambda: ("", Path(sys.prefix)))
    found = rows(module._widgets)
    assert found["widgets in Python"].ok is ok and found["JupyterLab"].ok is None and MANAGER not in found, "without a JupyterLab its extensions are not asked for"


def test_a_lab_that_is_too_old(monkeypatch):
    version = module._version
    monkeypatch.setattr(module, "_version", lambda name: "3.6.8" if name == "jupyterlab" else version(name))
    monkeypatch.setattr(module, "_lab", lambda: ("3.6.8", Path(sys.prefix)))
    assert rows(module._widgets)["JupyterLab"].what_to_do == f"{PIP} --upgrade 'jupyterlab>=4.2'"


@pytest.mark.parametrize("command, ok", [("/opt/other/bin/python", False), ("/gone/bin/python", False), ("python", True), (sys.executable, True), (str(Path(sys.executable).with_name("nothing")), False)])
def test_the_kernel_named_python3_is_this_interpreter(tmp_path, monkeypatch, command, ok):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": [command, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = rows(module._kernel)["kernel python3"]
    assert found.ok is ok and str(folder) in found.found
    assert ok or found.what_to_do == f"{sys.executable} -m jupyter kernelspec remove -f python3 && {sys.executable} -m ipykernel install --sys-prefix"


def test_no_kernel(monkeypatch):
    from jupyter_client import kernelspec

    def none(*_):
        raise kernelspec.NoSuchKernel("python3")

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    found = rows(module._kernel)["kernel python3"]
    assert not found.ok and found.what_to_do.startswith(f"{PIP} ipykernel && ")


def test_disks_that_are_full_or_not_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5e9))
    found = rows(module._disk)
    assert found["data cache"].ok is False and "5.0 GB free: 10 are needed" in found["data cache"].found and found["data cache"].what_to_do.startswith("export ISOCLR_DATA=")
    assert found["current folder"].ok and not list(tmp_path.iterdir()), "looking makes no folder"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "not writable" in rows(module._disk)["current folder"].found


def test_experiments_and_manifests_that_were_left_behind(monkeypatch):
    from isoclr import parameters
    from isoclr.data import manifest

    monkeypatch.setattr(parameters, "experiments", dict)
    monkeypatch.setattr(manifest, "manifests", lambda: (_ for _ in ()).throw(FileNotFoundError("isoclr/manifests")))
    assert rows(module._shipped)["shipped"].ok is False
    monkeypatch.setattr(manifest, "manifests", list)
    found = rows(module._shipped)
    assert found["experiments"].found == found["data manifests"].found == "missing" and found["experiments"].what_to_do.startswith(PIP)


def test_what_one_can_do_without(monkeypatch, tmp_path):
    without(monkeypatch, *module.OPTIONAL)
    found = list(_guarded(module._optional))
    assert [finding.ok for finding in found] == [None] * len(module.OPTIONAL) and found[0].what_to_do == f"{PIP} igraph"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    (browser,) = _guarded(module._browser)
    assert browser.ok is None and browser.found == "not found" and "plotly_get_chrome" in browser.what_to_do
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "chrome"))
    (browser,) = _guarded(module._browser)
    assert (browser.ok, browser.what_to_do) == (False, "unset BROWSER_PATH")
    (tmp_path / "chrome").write_text("")
    assert next(iter(_guarded(module._browser))).ok


def test_nothing_but_the_standard_library_is_imported_before_it_is_asked():
    code = "import sys, isoclr.doctor\nprint([m for m in ('torch', 'pandas', 'numpy', 'packaging', 'jupyter_core', 'psutil') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert len(CHECKS) == len(set(CHECKS))
