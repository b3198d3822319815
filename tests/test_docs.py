"""The documentation: every public name says what it takes and gives, and the site is whole, offline, and shows what readers should see."""
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from browsing import browser_page, lacking

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import api  # noqa: E402

MODULES = api.modules()
ARRAYS = re.compile(r"\b(ndarray|NDArray|Tensor|DataFrame|AnnData)\b")

# ---------------------------------------------------------------- docstrings, types, shapes


def above(made: api.Class, method: str, classes: dict[str, api.Class]) -> api.Function | None:
    "The method of a class of the package that this one's method replaces, where that says what it does."
    for base in filter(None, (classes.get(base.split(".")[-1]) for base in made.bases)):
        found = next((one for one in base.methods if one.name == method and one.doc), None) or above(base, method, classes)
        if found:
            return found
    return None


def offenders(modules: list[api.Module]) -> list[str]:
    "What is not said where it should be, as `file:line name what`."
    classes, found = {name: made for module in modules for name, made in module.classes.items()}, []
    for module in modules:

        def say(line: int, name: str, what: str) -> None:
            found.append(f"{module.path.relative_to(ROOT) if module.path.is_relative_to(ROOT) else module.path.name}:{line} {name} {what}")

        for name in module.public:
            made = module.classes.get(name)
            if made and not made.doc:
                say(made.line, name, "has no docstring")
            for field in made.fields if made else []:
                if ARRAYS.search(field.annotation) and not field.comment:
                    say(field.line, f"{name}.{field.name}", f"is {field.annotation}: no comment on shape, unit or columns")
        for name, function in api.public_functions(module):
            owner, method = classes.get(name.split(".")[0]), name.split(".")[-1]
            replaced = above(owner, method, classes) if owner and method != "__init__" else None
            commented = {one.name for one in replaced.parameters if one.comment} if replaced else set()
            if not function.doc and method != "__init__" and not replaced:
                say(function.line, name, "has no docstring")
            for parameter in function.parameters:
                if parameter.name in ("*", "/"):
                    continue
                if not parameter.annotation:
                    say(parameter.line, f"{name}({parameter.name})", "has no type")
                elif ARRAYS.search(parameter.annotation) and not parameter.comment and parameter.name not in commented:
                    say(parameter.line, f"{name}({parameter.name})", f"is {parameter.annotation}: no comment on shape, unit or columns")
            if function.returns_a_value and not function.returns:
                say(function.line, name, "returns something of no stated type")
            if ARRAYS.search(function.returns) and not function.returns_comment and not (replaced and replaced.returns_comment):
                say(function.line, name, f"returns {function.returns}: no comment on shape, unit or columns")
    return found


def test_every_public_name_says_what_it_takes_and_gives():
    found = offenders(MODULES)
    assert not found, f"{len(found)} places:\n" + "\n".join(found)


def test_there_is_something_to_check():
    names = [name for module in MODULES for name, _ in api.public_functions(module)]
    assert len(names) > 300 and {"embed", "TranscriptStore.to_frame", "Run.finish"} <= set(names)


@pytest.mark.parametrize("source, said", [
    ('def f(x: int) -> int:\n    "Doc."\n    return x', []),
    ('def f(x: int):\n    "Doc."', []),
    ("def f(x: int) -> int:\n    return x", ["f has no docstring"]),
    ('def f(x):\n    "Doc."', ["f(x) has no type"]),
    ('def f(*a, **k):\n    "Doc."', ["f(*a) has no type", "f(**k) has no type"]),
    ('def f(x: int):\n    "Doc."\n    return x', ["f returns something of no stated type"]),
    ('def f(x: int):\n    "Doc."\n    def g():\n        return 1\n    g()', []),
    ('def f(\n    x: np.ndarray,  # (n,) nt\n) -> Tensor:  # (n, d)\n    "Doc."', []),
    ('def f(\n    x: np.ndarray,\n) -> Tensor:\n    "Doc."', ["f(x) is np.ndarray", "f returns Tensor"]),
    ('def f(x: Tensor) -> Tensor:  # (n,)\n    "Doc."', ["f(x) is Tensor"]),
    ('class f:\n    "Doc."\n    def g(self):\n        pass\n    def _h(self, x):\n        pass', ["f.g has no docstring"]),
    ('class f:\n    def __init__(self, x):\n        pass', ["f has no docstring", "f.__init__(x) has no type"]),
    ('class g:\n    def h(self):\n        "Doc."\nclass f(g):\n    "Doc."\n    def h(self):\n        pass', []),
    ('class g:\n    def h(\n        self,\n        x: Tensor,  # (n,)\n    ) -> None:\n        "Doc."\nclass f(g):\n    "Doc."\n    def h(self, x: Tensor, y: Tensor) -> None:\n        pass', ["f.h(y) is Tensor"]),
    ('class f:\n    "Doc."\n    @property\n    def g(self) -> pd.DataFrame:\n        "Doc."', ["f.g returns pd.DataFrame"]),
    ('@dataclass\nclass f:\n    "Doc."\n    x: Tensor\n    y: Tensor  # (n,)', ["f.x is Tensor"]),
])
def test_the_checker_sees_what_it_should(source, said, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(f"__all__ = ['f']\n{source}\n")
    found = [line.split(" ", 1)[1] for line in offenders([api.read_module(path)])]
    assert [line.split(":")[0] for line in found] == said


# ---------------------------------------------------------------- the site


class Page(HTMLParser):
    "What a page names, loads and links to."

    def __init__(self, path: Path):
        super().__init__()
        self.names, self.loads, self.links = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if given.get("src"):
            self.loads.append(given["src"])
        if given.get("href"):
            (self.loads if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect", "modulepreload") else self.links).append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "The site, built as `make docs` builds it; warnings are errors."
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py"), str(folder)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_notebook_has_a_page(site):
    notebooks = {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "nbs").rglob("*.ipynb") if path.name != "index.ipynb" and ".ipynb_checkpoints" not in path.parts}
    assert not [str(name) for name in notebooks if not (site / name).is_file()]
    assert all((site / name).is_file() for name in ("index.html", "CHANGELOG.html", "CONTRIBUTING.html", "search.html"))


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site, pages):
    wrong = []
    for path, page in pages.items():
        for link in [*page.loads, *page.links]:
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file.split("?")[0])).resolve() if file else path
            if not target.is_file() or (anchor and target in pages and unquote(anchor) not in pages[target].names):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert not wrong, wrong[:20]


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site, pages):
    assert not [(path.name, load) for path, page in pages.items() for load in page.loads if re.match(r"(https?:)?//", load)]
    for path in [*site.rglob("*.css"), *site.rglob("*.html")]:
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"]|from\s+['\"]|import\(['\"]|fetch\(['\"])(https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.slow
def test_directives_do_not_show(site):
    assert not [path.name for path in (site / "nbs").rglob("*.html") if re.search(r'<span class="c1">#\s?\|', path.read_text(encoding="utf-8"))]
    assert "def read_manifest" in re.sub(r"<[^>]+>", "", (site / "nbs" / "data" / "10_manifest.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(pages):
    named = set().union(*(page.names for path, page in pages.items() if path.parent.name == "api"))
    functions_and_classes = [f"{module.name}.{name}" for module in MODULES for name in module.public if name in module.functions or name in module.classes]
    assert len(functions_and_classes) > 200 and not [name for name in functions_and_classes if name not in named]


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_the_site_works_from_a_folder_without_a_network(site):
    with browser_page() as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "nbs/tutorials/walk.html", "nbs/pretrain/31_losses.html", "api/isoclr.data.html"):
            page.goto((site / name).as_uri())
            assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), name
        page.goto(f"{(site / 'search.html').as_uri()}?q=homology")
        page.wait_for_selector("#search-results li a")
        assert not [url for url in asked if not url.startswith(("file:", "data:"))] and not page.complaints
