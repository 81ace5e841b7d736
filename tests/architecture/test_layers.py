"""Imports go one way: core < log < client < tools, and few modules may touch the native ones."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.project import PACKAGE, ROOT, module_name, rules

NATIVE = "mqcore._native"


def test_import_contracts_hold() -> None:
    """The contracts of pyproject.toml; also part of `make lint`."""
    program = shutil.which("lint-imports") or str(Path(sys.executable).parent / "lint-imports")
    if not Path(program).exists():
        pytest.skip("import-linter is not installed (pip install --group lint)")
    result = subprocess.run([program, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_only_the_named_modules_import_the_native_ones() -> None:
    """grimp sees .py files only, so this rule is checked here: see native_importers in pyproject.toml."""
    allowed = rules()["native_importers"]
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not within(module_name(path), allowed)
        for line, name in imported_names(path)
        if within(name, [NATIVE])
    ]
    assert not offences, "\n".join(offences)


def test_no_relative_imports() -> None:
    """An absolute import can be found with grep, and says which layer it crosses."""
    offences = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert not offences, "\n".join(offences)


def test_the_core_knows_no_python_and_keeps_no_state() -> None:
    """No Python.h in the C core; it is linked into several extensions, each with a copy of its globals."""
    for path in sorted((ROOT / "mqcore").rglob("*.[ch]")):
        assert "Python.h" not in path.read_text(encoding="utf-8"), path
