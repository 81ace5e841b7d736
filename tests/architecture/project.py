"""Where things are in this checkout, and the architecture's rules as pyproject.toml has them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "python"
PACKAGE = PYTHON / "mqcore"


def rules() -> dict[str, Any]:
    """The table [tool.mqcore.architecture]."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    result: dict[str, Any] = table["tool"]["mqcore"]["architecture"]
    return result


def module_name(path: Path) -> str:
    """The dotted name of a Python file of the package."""
    parts = path.relative_to(PYTHON).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    """All files of ours that a person reads as code: C, Cython, Python, tests included."""
    patterns = ("mqcore/**/*.[ch]", "bindings/*.p[yx]*", "python/**/*.py", "python/**/*.pyi", "tests/**/*.py")
    patterns += ("bench/**/*.py", "bench/**/*.c", "tools/*.py", "tools/*.sh")
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})
