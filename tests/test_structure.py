"""The shape of the code: what a linter has no rule for."""

from __future__ import annotations

import ast
import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from proxy.reports import EVENTS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "proxy").rglob("*.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# Words that name no idea. "process" as a noun, for an operating system's process, is one.
EMPTY_WORDS = {"manager", "helper", "helpers", "util", "utils", "common", "handle", "data2", "misc"}
EMPTY_VERBS = {"process", "do"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]


def words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def test_a_module_fits_in_a_head() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}


def test_a_function_fits_on_a_screen() -> None:
    lengths = {
        f"{relative(path)} {function.name}": function.end_lineno - function.lineno + 1
        for path in SOURCES
        for function in functions(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_names_say_something() -> None:
    empty = []
    for path in SOURCES:
        classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        # The name of a method that goes on to super() was chosen by somebody else.
        verbs = [f.name for f in functions(path) if f"super().{f.name}(" not in ast.unparse(f)]
        empty += [(relative(path), name) for name in [path.stem, *classes, *verbs] if EMPTY_WORDS & set(words(name))]
        empty += [(relative(path), name) for name in verbs if words(name)[:1] and words(name)[0] in EMPTY_VERBS]
    assert empty == []


def test_the_environment_is_read_in_one_place_only() -> None:
    reading = [relative(path) for path in SOURCES if re.search(r"\bos\.(environ|getenv)\b", path.read_text())]
    assert [path for path in reading if not path.startswith(("proxy/settings/", "proxy/ops/"))] == []


def test_nothing_is_left_to_do() -> None:
    assert [relative(path) for path in SOURCES if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text())] == []


def test_every_event_of_the_catalogue_is_reported() -> None:
    code = "".join(path.read_text() for path in SOURCES if path.name != "reports.py")
    assert [event for event in EVENTS if not re.search(rf"""["']{event}["']""", code)] == []


def test_every_event_of_the_catalogue_is_documented() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    assert [event for event in EVENTS if f"`{event}`" not in pages] == []


def test_what_is_compiled_is_not_older_than_its_source() -> None:
    """Python prefers the compiled file, so an old one would hide the source that is being read and tested."""
    products = [path for path in (ROOT / "proxy").rglob("*") if path.name.endswith(tuple(EXTENSION_SUFFIXES))]
    for product in products:
        stem = product.parent / product.name.split(".")[0]
        for suffix in (".py", ".pxd"):
            written = stem.with_suffix(suffix)
            if suffix == ".py" or written.exists():
                assert product.stat().st_mtime >= written.stat().st_mtime, f"{relative(product)}: run make install"


def test_nobody_imports_what_compiled_code_keeps_to_itself() -> None:
    # A C variable or function of a .pxd is no name of its module once that is compiled; uncompiled it would work.
    hidden: dict[str, set[str]] = {}
    for path in sorted((ROOT / "proxy").rglob("*.pxd")):
        lines = [line for line in path.read_text().splitlines() if re.match(r"cdef (?!inline|class)", line)]
        module = relative(path)[:-4].replace("/", ".")
        hidden[module] = {name for line in lines for name in re.findall(r"(\w+)(?=,|$|\()", line)}
    assert "BODY" in hidden["proxy.session.relay"]
    imported = [
        (relative(path), node.module, alias.name)
        for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in hidden
        for alias in node.names
        if alias.name in hidden[node.module]
    ]
    assert imported == []
