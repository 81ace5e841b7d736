"""`mqcore bench eos`: exactly once and what belongs to it, each figure as a ratio to its base or its goal.

The rows stand in the order of the table "Exactly once" in docs/performance.md; JSON as in `mqcore bench engine`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mqcore.bench import harness, keeping, pipelines, transactions
from mqcore.bench.harness import Case, Row

MODULES = (transactions, pipelines, keeping)


def select(only: str = "") -> list[Case]:
    """The cases whose name matches the regular expression `only` (all of them if empty)."""
    return harness.select(MODULES, only)


def run(only: str = "", *, rounds: int = 15, directory: Path | None = None) -> Iterator[Row]:
    """Run the selected cases one after the other and yield each row as it is there. directory: where the files go."""
    return harness.run(select(only), rounds=rounds, directory=directory)
