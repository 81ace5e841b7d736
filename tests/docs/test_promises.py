"""docs/how-it-is-tested.md names only what is there: each test, each suite, and a row for each rule, invariant and fault
of the engine."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from mqcore.cli.torture import SUITES
from tests.architecture.project import ROOT

PAGE = ROOT / "docs" / "how-it-is-tested.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
IDS = {
    *(f"R{number}" for number in (1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14)),
    *(f"I{number}" for number in (1, 2, 3, 4, 5, 10, 11, 12, 16, 21, 22)),
    *(f"T{number}" for number in (1, 3, 4, 5, 6, 8, 9, 15, 17, 22)),
}
_NAMED = re.compile(r"`([\w/.]+\.(?:py|c))::(\w+)`")
_SUITE = re.compile(r"`mqcore torture ([a-z][a-z-]*)`")


def rows(text: str) -> list[str]:
    """The rows of the page's tables, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| ---", "| id |", "| promise |"))]


def missing(text: str) -> list[str]:
    """What a page names and the project does not have."""
    found = []
    for file, name in _NAMED.findall(text):
        path = ROOT / file
        if not path.is_file():
            found.append(file)
        elif name not in names_in(file):
            found.append(f"{file}::{name}")
    for suite in _SUITE.findall(text):
        module = f"mqcore.torture.{suite.replace('-', '_')}"
        if suite not in SUITES or importlib.util.find_spec(module) is None:
            found.append(f"torture {suite}")
    return found


def names_in(file: str) -> set[str]:
    """The tests at the top of a file: functions and classes of Python, `RUN(...)` of C."""
    text = (ROOT / file).read_text()
    if file.endswith(".c"):
        return set(re.findall(r"RUN\((\w+)\)", text))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if name.startswith(("test_", "Test"))}


@pytest.mark.parametrize("page", [PAGE, GUARANTEES], ids=lambda page: page.stem)
def test_every_named_test_and_suite_exists(page: Path) -> None:
    assert missing(page.read_text()) == []


def test_every_row_names_a_test() -> None:
    assert [row for row in rows(PAGE.read_text()) if not _NAMED.search(row)] == []


def test_every_guarantee_names_its_proof() -> None:
    text = GUARANTEES.read_text()
    promises = rows(text[: text.index("## Choosing")])
    assert len(promises) > 20
    assert [row for row in promises if not _NAMED.search(row)] == []


def test_every_promise_has_a_row() -> None:
    cells = {row.split("|")[1].strip() for row in rows(PAGE.read_text())}
    assert cells >= IDS, IDS - cells


@pytest.mark.parametrize(
    ("text", "lack"),
    [
        ("`tests/docs/test_promises.py::test_no_such`", "tests/docs/test_promises.py::test_no_such"),
        ("`tests/nowhere.py::test_x`", "tests/nowhere.py"),
        ("`mqcore/tests/test_dedup.c::nothing`", "mqcore/tests/test_dedup.c::nothing"),
        ("`mqcore torture nothing`", "torture nothing"),
    ],
)
def test_the_check_itself_fails_where_it_should(text: str, lack: str) -> None:
    assert missing(text) == [lack]
