"""`mqcore bench engine`: every figure of the engine in one run, each as a ratio to its base.

The rows stand in the order of the table in docs/performance.md. JSON is one object a line: name, ratio, goal, base,
rate_per_s, ns_per_msg, and what else the row has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mqcore.bench import append, harness, memory, primitives, processes, read, versus
from mqcore.bench.harness import Case, Row

MODULES = (append, read, primitives, versus, processes, memory)  # importing them registers their cases


def select(only: str = "") -> list[Case]:
    """The cases whose name matches the regular expression `only` (all of them if empty)."""
    return harness.select(MODULES, only)


def run(only: str = "", *, rounds: int = 15, directory: Path | None = None) -> Iterator[Row]:
    """Run the selected cases one after the other and yield each row as it is there. directory: where the files go."""
    return harness.run(select(only), rounds=rounds, directory=directory)
