"""What the pages for contributors point at is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "adr").glob("*.md"))
PAGES = [DOCS / "ARCHITECTURE.md", DOCS / "PROMISES.md", *DECISIONS]
SECTIONS = "listen|admin|discovery|balance|health|session|dial|log"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page):
    for path in re.findall(r"`((?:proxy|tests|docs|config|deploy|benchmarks)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page):
    known = set(re.findall(r"^\| `([\w.]+)` \|", (DOCS / "CONFIGURATION.md").read_text(), re.MULTILINE))
    named = set(re.findall(rf"`((?:{SECTIONS})\.[a-z_]+)`", page.read_text()))
    assert {name for name in named if not name.endswith(".py")} - known == set()


def test_settings_are_named_in_full_but_on_the_pages_of_their_section():
    known = re.findall(r"^\| `((?:\w+\.)+\w+)` \|", (DOCS / "CONFIGURATION.md").read_text(), re.MULTILINE)
    at_home = {"BALANCING.md": ("balance.", "health."), "DISCOVERY.md": ("discovery.",), "CONFIGURATION.md": ("",)}
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("*.yaml")]
    for page in pages:
        homes = at_home.get(page.name, ())
        last = {key.rpartition(".")[2] for key in known if not key.startswith(homes)}
        last -= {key.rpartition(".")[2] for key in known if homes and key.startswith(homes)}
        names = "|".join(name for name in last if "_" in name)
        text = re.sub(r"```.*?```|`cause` is `\w+`", "", page.read_text(), flags=re.DOTALL)
        assert not names or re.findall(rf"(?<![\w.])(?:{names})(?!\w|: )", text) == [], page


def test_names_of_code_that_are_named_exist():
    """In ARCHITECTURE.md, `Word.word` is a class and what it has."""
    found = set()
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                inner = [
                    each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                found |= {f"{node.name}.{name}" for name in inner} | {node.name}
    text = (DOCS / "ARCHITECTURE.md").read_text()
    assert set(re.findall(r"`([A-Z]\w+\.\w+)`", text)) - found == set()


def test_decisions_are_numbered_short_and_whole():
    assert [page.name[:4] for page in DECISIONS] == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]
    for page in DECISIONS:
        lines = page.read_text().splitlines()
        assert len(lines) <= 30, page.name
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]


def test_every_file_of_the_engine_is_on_the_map():
    text = (DOCS / "ARCHITECTURE.md").read_text()
    files = {path.name for path in (ROOT / "proxy/session").glob("*.py")} - {"__init__.py"}
    assert {file for file in files if f"`{file}`" not in text} == set()
