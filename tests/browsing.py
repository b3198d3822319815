"""A notebook in JupyterLab on this machine, in a headless Chromium, with a line to its kernel: for the browser tests and benchmarks."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def chromium() -> str | None:
    "Where the browser is."
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def lacking() -> str:
    "Why no browser test can run here; empty where it can."
    try:
        import jupyterlab
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    return "" if chromium() else "no Chromium on PATH (Debian: apt-get install chromium)"


def until(what, seconds: float, said: str):
    "The first true answer of a question, asked again and again."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"{said}: not within {seconds:.0f} s")


class Lab:
    "JupyterLab on loopback, with settings of its own."

    def __init__(self, folder: Path, theme: str = "JupyterLab Light"):
        self.folder, self.theme = folder, theme

    def __enter__(self) -> "Lab":
        home = self.folder / "jupyter"
        settings = home / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": self.theme}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.runtime = home / "runtime"
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
        environment = {**os.environ, **{name: str(home / place) for name, place in places.items()}, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip", "127.0.0.1", "--port", str(self.port), "--allow-root", "--ServerApp.token=", "--ServerApp.password=",
                   "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={self.folder}", "--ServerApp.iopub_data_rate_limit=1e10"]
        self.log = open(self.folder / "lab.log", "w")
        self.server = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        until(lambda: self.server.poll() is not None or self.api("status"), 120, "JupyterLab")
        if self.server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended:\n{(self.folder / 'lab.log').read_text()[-3000:]}")
        return self

    def __exit__(self, *_) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.server.pid, number)
                self.server.wait(15)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self.log.close()

    def api(self, path: str):
        "What the server says, or None."
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def write(self, name: str, *cells: str, title: str = "") -> None:
        "A notebook of some code cells, below a title where one is given."
        import nbformat

        kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
        made = [nbformat.v4.new_markdown_cell(f"# {title}")] * bool(title) + [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), self.folder / name)

    @contextmanager
    def kernel(self, notebook: str):
        "A function that gives the value of an expression in the kernel of a notebook (through JSON)."
        from jupyter_client import BlockingKernelClient

        session = next(one for one in self.api("sessions") if one["path"] == notebook)
        client = BlockingKernelClient(connection_file=str(self.runtime / f"kernel-{session['kernel']['id']}.json"))
        client.load_connection_file()
        client.start_channels()

        def ask(expression: str):
            reply = client.execute_interactive("import json as _json", user_expressions={"answer": f"_json.dumps({expression})"}, timeout=120, output_hook=lambda _: None, store_history=False)
            answer = reply["content"]["user_expressions"]["answer"]
            if answer["status"] != "ok":
                raise RuntimeError(f"{expression}: {answer['ename']}: {answer['evalue']}")
            return json.loads(eval(answer["data"]["text/plain"]))  # a repr of text

        try:
            yield ask
        finally:
            client.stop_channels()

    def run_all(self, page, notebook: str, seconds: float = 180) -> float:
        "Open a notebook and run its cells; seconds from the command to the last prompt."
        page.goto(f"http://127.0.0.1:{self.port}/doc/tree/{notebook}")
        page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-CodeCell')", timeout=120_000)
        until(lambda: any(one["path"] == notebook and one["kernel"]["execution_state"] == "idle" for one in self.api("sessions") or []), 120, "a kernel")
        time.sleep(1)
        prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(one => one.textContent)"
        for _ in range(5):
            begin = time.monotonic()
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
            try:
                page.wait_for_function(f"{prompts}.some(text => /\\d|\\*/.test(text))", timeout=5000)
                break
            except Exception:  # the command came too early and did nothing
                continue
        page.wait_for_function(f"{prompts}.every(text => /\\d/.test(text))", timeout=seconds * 1000, polling=20)
        return time.monotonic() - begin


@contextmanager
def browser_page(width: int = 1500, height: int = 1150):
    "A page of a headless Chromium; `page.complaints` collects what the console and the page report as errors."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.set_default_timeout(60_000)
        try:
            yield page
        finally:
            browser.close()
