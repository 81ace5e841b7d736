"""A file is one concern of at most 500 lines, a function fits a screen (70 lines). Exceptions only ever get fewer and
shorter: an entry of the allow-list that is no longer needed, or longer than needed, fails too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.project import ROOT, rules, sources


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(qualified name, lines) of each function of a Python file, decorators and docstring included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                yield name, (child.end_lineno or child.lineno) - child.lineno + 1
                yield from walk(child, name + ".")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "")


def compare(actual: dict[str, int], allowed: dict[str, int], limit: int, what: str) -> list[str]:
    """Sentences for what is over its bound, and for entries of the allow-list that can shrink."""
    problems = [
        f"{name}: {size} lines, the limit is {max(limit, allowed.get(name, 0))}"
        for name, size in actual.items()
        if size > max(limit, allowed.get(name, 0))
    ]
    for name, size in allowed.items():
        if actual.get(name, 0) <= limit:
            problems.append(f"{name}: no longer too long; take it off {what} in pyproject.toml")
        elif actual[name] < size:
            problems.append(f"{name}: shrank to {actual[name]}; put that into {what} in pyproject.toml")
    return problems


def test_files_are_short() -> None:
    sizes = {str(path.relative_to(ROOT)): line_count(path) for path in sources()}
    problems = compare(sizes, rules()["long_files"], rules()["file_lines"], "long_files")
    assert not problems, "\n".join(problems)


def test_functions_fit_a_screen() -> None:
    sizes = {
        f"{path.relative_to(ROOT)}::{name}": size
        for path in sources()
        if path.suffix == ".py"
        for name, size in functions(path)
    }
    problems = compare(sizes, rules()["long_functions"], rules()["function_lines"], "long_functions")
    assert not problems, "\n".join(problems)


def test_the_check_itself_fails_where_it_should(tmp_path: Path) -> None:
    """A checker that has never failed is not one."""
    path = tmp_path / "long.py"
    path.write_text("class A:\n    def b(self):\n" + "        x = 1\n" * 80, encoding="utf-8")
    assert dict(functions(path)) == {"A.b": 81}
    assert compare({"f": 81}, {}, 70, "x") == ["f: 81 lines, the limit is 70"]
    assert compare({"f": 60}, {"f": 90}, 70, "x")
    assert compare({"f": 80}, {"f": 90}, 70, "x")
    assert not compare({"f": 80}, {"f": 80}, 70, "x")
