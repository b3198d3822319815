"""What a Python file offers, read from its text: names, signatures, docstrings, and the comment beside each parameter."""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"File to edit: [./\w]*/((\d\d[a-z]?)_\w+)\.ipynb")


@dataclass
class Parameter:
    name: str  # with its stars
    line: int
    annotation: str = ""
    default: str | None = None
    comment: str = ""

    def __str__(self) -> str:
        text = self.name + (f": {self.annotation}" if self.annotation else "")
        return text if self.default is None else f"{text} = {self.default}" if self.annotation else f"{text}={self.default}"


@dataclass
class Function:
    name: str
    line: int
    doc: str
    parameters: list[Parameter]  # self and cls left out; the bare star and slash are parameters without a comment
    returns: str = ""
    returns_comment: str = ""
    returns_a_value: bool = False  # whether a return or yield with a value stands in it
    decorators: tuple[str, ...] = ()

    @property
    def is_property(self) -> bool:
        return any(name.split(".")[-1] in ("property", "cached_property") for name in self.decorators)

    @property
    def signature(self) -> str:
        return f"({', '.join(map(str, self.parameters))})" + (f" -> {self.returns}" if self.returns else "")


@dataclass
class Class:
    name: str
    line: int
    doc: str
    bases: tuple[str, ...]
    fields: list[Parameter]  # of a dataclass or named tuple
    methods: list[Function]

    @property
    def made_with(self) -> list[Parameter]:
        "What a call of it takes."
        return next((method.parameters for method in self.methods if method.name == "__init__"), self.fields)


@dataclass
class Module:
    path: Path
    doc: str
    public: list[str]
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    values: dict[str, Parameter] = field(default_factory=dict)  # constants

    @property
    def name(self) -> str:
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts)

    @property
    def notebook(self) -> Path | None:
        "The notebook that it comes from."
        found = re.search(r"File to edit: ([./\w]+\.ipynb)", self.path.read_text(encoding="utf-8"))
        return (self.path.parent / found[1]).resolve() if found else None


def comments(source: str) -> dict[int, str]:  # line → comment
    "Comments that stand behind code, together with lines of comment below that go on with them."
    found, alone = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own = not token.line[: token.start[1]].strip()
            (alone if own else found)[token.start[0]] = token.string.lstrip("# ").strip()
    for line in sorted(found):
        below = line + 1
        while below in alone:
            found[line] += " " + alone[below]
            below += 1
    return found


def _kind(node: ast.AST | None) -> str:
    "A type annotation as text; one in quotes without them."
    return "" if node is None else str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, said: dict[int, str], method: bool) -> Function:
    "One definition."
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    listed = [(arg.arg, arg, default) for arg, default in zip(plain, defaults)]
    decorators = tuple(ast.unparse(one) for one in node.decorator_list)
    if method and "staticmethod" not in decorators:
        listed = listed[1:]
    if given.posonlyargs and listed:
        listed.insert(len(given.posonlyargs) - (method and "staticmethod" not in decorators), ("/", None, None))
    if given.vararg:
        listed.append((f"*{given.vararg.arg}", given.vararg, None))
    elif given.kwonlyargs:
        listed.append(("*", None, None))
    listed += [(arg.arg, arg, default) for arg, default in zip(given.kwonlyargs, given.kw_defaults)]
    if given.kwarg:
        listed.append((f"**{given.kwarg.arg}", given.kwarg, None))

    returns = _kind(node.returns)
    last = node.returns.end_lineno if returns not in ("", "None") else 0  # its line speaks of what is returned
    parameters = []
    for name, arg, default in listed:
        if arg is None:
            parameters.append(Parameter(name, node.lineno))
            continue
        line = max(part.end_lineno for part in (arg, default) if part is not None)
        parameters.append(Parameter(name, arg.lineno, _kind(arg.annotation), ast.unparse(default) if default is not None else None,
                                    said.get(line, "") if line != last else ""))
    return Function(node.name, node.lineno, ast.get_docstring(node) or "", parameters, returns, said.get(last, ""), _returns_a_value(node), decorators)


def _returns_a_value(node: ast.AST) -> bool:
    "Whether a function gives something back, functions inside it left out."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(child, (ast.Yield, ast.YieldFrom)) or (isinstance(child, ast.Return) and child.value is not None) or _returns_a_value(child):
            return True
    return False


def _class(node: ast.ClassDef, said: dict[int, str]) -> Class:
    "One class; its fields are the annotated lines of a dataclass or named tuple."
    bases = tuple(ast.unparse(base) for base in node.bases)
    holds_fields = any("dataclass" in ast.unparse(one) for one in node.decorator_list) or "NamedTuple" in bases or "Config" in bases
    fields = [Parameter(line.target.id, line.lineno, _kind(line.annotation), ast.unparse(line.value) if line.value else None, said.get(line.end_lineno, ""))
              for line in node.body if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation)] if holds_fields else []
    methods = [_function(line, said, method=True) for line in node.body if isinstance(line, (ast.FunctionDef, ast.AsyncFunctionDef))]
    methods = [method for method in methods if not any(name.endswith((".setter", ".deleter")) for name in method.decorators)]
    return Class(node.name, node.lineno, ast.get_docstring(node) or "", bases, fields, methods)


def read_module(path: Path) -> Module:
    "Read one file."
    source = path.read_text(encoding="utf-8")
    tree, said = ast.parse(source), comments(source)
    module = Module(path, ast.get_docstring(tree) or "", [])
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            module.functions[node.name] = _function(node, said, method=False)
        elif isinstance(node, ast.ClassDef):
            module.classes[node.name] = _class(node, said)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        module.values[name.id] = Parameter(name.id, node.lineno, kind, ast.unparse(node.value), said.get(node.end_lineno, ""))
            if "__all__" in module.values and not module.public:
                module.public = ast.literal_eval(node.value)
    return module


def modules() -> list[Module]:
    "Every module of the package in the order of its notebooks."
    paths = [path for path in (ROOT / "isoclr").rglob("*.py") if not path.name.startswith("_")]
    return sorted(map(read_module, paths), key=lambda module: (NUMBER.search(module.path.read_text(encoding="utf-8")) or ["", module.name])[1])


# ---------------------------------------------------------------- pages


def _prose(text: str) -> str:
    "Text of a docstring or comment as Markdown: what is between backticks is code, the rest is meant literally."
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(part if n % 2 else re.sub(r"([\\*_<>$|\[\]~#])", r"\\\1", part) for n, part in enumerate(parts))


def _fields(parameters: list[Parameter], returns: str = "") -> list[str]:
    "What is said beside parameters and result, as a field list."
    lines = [f":param {one.name.lstrip('*')}: {_prose(one.comment)}" for one in parameters if one.comment]
    return lines + ([f":returns: {_prose(returns)}"] if returns else [])


def _block(kind: str, signature: str, options: list[str], body: list[str], depth: int) -> list[str]:
    "A directive; `depth` backticks let others stand inside."
    fence = "`" * depth
    return [f"{fence}{{py:{kind}}} {signature}", *options, "", *body, fence, ""]


def _described(function: Function, kind: str, depth: int) -> list[str]:
    "A function or method."
    options = [":classmethod:"] if "classmethod" in function.decorators else [":staticmethod:"] if "staticmethod" in function.decorators else []
    body = [_prose(function.doc), "", *_fields(function.parameters, function.returns_comment)]
    if function.is_property:
        return _block("property", function.name, [f":type: {function.returns}"] if function.returns else [], body, depth)
    return _block(kind, function.name + function.signature, options, body, depth)


def _entry(module: Module, name: str) -> list[str]:
    "A public name of a module."
    if name in module.functions:
        return _described(module.functions[name], "function", 4)
    if name in module.classes:
        made = module.classes[name]
        methods = [method for method in made.methods if not method.name.startswith("_") and method.doc]
        body = [_prose(made.doc), "", *_fields(made.made_with), ""]
        for method in methods:
            body += _described(method, "method", 4)
        return _block("class", f"{name}({', '.join(map(str, made.made_with))})", [], body, 5)
    if name in module.values:
        value = module.values[name]
        short = value.default if len(value.default) <= 100 else ""
        options = [f":type: {value.annotation}"] * bool(value.annotation) + [f":value: {short}"] * bool(short)
        return _block("data", name, options, [_prose(value.comment)], 4)
    return []


def page(title: str, chosen: list[Module], at: Path) -> str:
    "The API page of some modules; `at` is the folder, below the root, where it will be."
    lines = [f"# {title}", ""]
    for module in chosen:
        if not module.public:
            continue
        lines += [f"## {module.name}", "", f"```{{py:module}} {module.name}", "```", ""]
        if module.notebook:
            up = "../" * len(at.parts)
            lines += [f"{_prose(module.doc)} ([notebook]({up}{module.notebook.relative_to(ROOT).as_posix()}))", ""]
        names = sorted(module.public, key=lambda name: _line(module, name))
        lines += [" · ".join(f"[`{name}`](#{module.name}.{name})" for name in names if _line(module, name)), ""]
        for name in names:
            lines += _entry(module, name)
    return "\n".join(lines) + "\n"


def _line(module: Module, name: str) -> int:
    "Where a name is defined."
    found = module.functions.get(name) or module.classes.get(name) or module.values.get(name)
    return found.line if found else 0


def public_functions(module: Module) -> Iterator[tuple[str, Function]]:
    "Every public function and method of public classes, `__init__` among them, under its full name."
    for name in module.public:
        if name in module.functions:
            yield name, module.functions[name]
        elif name in module.classes:
            yield from ((f"{name}.{method.name}", method) for method in module.classes[name].methods if not method.name.startswith("_") or method.name == "__init__")
