"""docs/PROMISES.md leaves out no method, and names for each row tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pika.spec
import pytest

from proxy.amqp.methods import codec

ROOT = Path(__file__).resolve().parents[2]
PROMISES = (ROOT / "docs/PROMISES.md").read_text()
TABLES, NOT_PROMISED = PROMISES.split("\n## How to read the tables\n")[1].split("\n## Not promised yet\n")
# method | way | in steady state | at the loss of a broker | the client can notice | test
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", TABLES, re.MULTILINE)]
CELLS = [cells for cells in ROWS if cells[0] != "method"]
METHOD = re.compile(r"`([a-z]+)\.([a-z-]+)` (\d+)\.(\d+)\b")
PROOF = re.compile(r"`(\S+\.py)::(test_\w+)`")


def told() -> dict[int, str]:
    """Every method of the tables: its number, its name as a class is called."""
    methods = (METHOD.match(cells[0]) for cells in CELLS)
    return {
        codec.ident(int(found[3]), int(found[4])): f"{found[1]}-{found[2]}".title().replace("-", "")
        for found in methods
        if found
    }


def names_in(path: Path) -> set[str]:
    """Tests that pytest finds in a file and runs: nothing marks them to be skipped or to fail."""
    assert path.name.startswith("test_")
    tree = ast.parse(path.read_text())
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    marks = {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in tests}
    marked = " ".join(
        ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
    )
    return {name for name, mark in marks.items() if not re.search(r"skip|xfail", mark + marked)}


def test_every_method_that_the_codec_knows_is_in_the_tables():
    constants = {value for name, value in vars(codec).items() if name.isupper() and isinstance(value, int)}
    replies = {number for answers in codec.REPLIES.values() for number in answers}
    assert (codec._LAYOUT.keys() | codec.REPLIES.keys() | replies | constants) - told().keys() == set()


def test_every_method_that_clients_know_is_in_the_tables_under_its_name():
    assert told() == {number: method.NAME.replace(".", "") for number, method in pika.spec.methods.items()}


def test_names_and_numbers_are_those_of_the_codec():
    names = told()
    assert {number: names[number] for number in codec._LAYOUT} == {
        number: cls.__name__ for number, (cls, _) in codec._LAYOUT.items()
    }


def test_no_way_is_told_twice():
    ways = [(cells[0], cells[1]) for cells in CELLS]
    assert len(set(ways)) == len(ways)
    assert {way for _, way in ways} == {"→ B", "→ C", "both"}


@pytest.mark.parametrize("cells", CELLS, ids=lambda cells: " ".join(cells[:2]))
def test_a_row_is_complete_and_proven_by_tests_that_exist(cells):
    assert len(cells) == 6
    assert all(cell.strip() for cell in cells)
    proofs = PROOF.findall(cells[5])
    assert proofs
    for file, name in proofs:
        assert name in names_in(ROOT / "tests" / file), f"{file} has no {name}"


def test_tests_that_the_text_names_exist():
    for file, name in PROOF.findall(PROMISES):
        assert name in names_in(ROOT / "tests" / file), f"{file} has no {name}"


def test_what_is_not_promised_is_said():
    assert len(re.findall(r"^- ", NOT_PROMISED, re.MULTILINE)) > 5
