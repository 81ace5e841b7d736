"""How a figure is taken: base and ours in the same rounds, the median of the rounds' ratios.

Invariants:
    1. Every round runs the base once and ours once, in alternating order: what else the machine does falls on both.
    2. Preparing (opening stores, making values) and cleaning up are off the clock; the garbage collector is off on it.
    3. A row that cannot run yields ratio 0 and says why: never a missing row, never a remembered figure.

A ratio is base time / our time for the same work: above 1 we are faster than the base.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

Timed = Callable[[], object]


@dataclass(slots=True)
class Side:
    """One side of a comparison. run(prepared) is timed; prepare and clean_up are not. A run may return seconds that it
    measured itself (work in other processes); anything else is ignored."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None
    clean_up: Callable[[Any], object] = lambda _: None

    def time(self) -> float:
        prepared = self.prepare()
        gc.collect()
        gc.disable()
        try:
            began = time.perf_counter()
            own = self.run(prepared)
            took = time.perf_counter() - began
        finally:
            gc.enable()
            self.clean_up(prepared)
        return own if isinstance(own, float) else took


@dataclass(slots=True)
class Comparison:
    """What a case yields: two sides that do the same work on `messages` messages. lower_is_base: the figure itself is a
    size or a latency, see Row.extra."""

    base: Side
    ours: Side
    messages: int
    rounds: int = 0  # 0: the runner's choice
    extra: dict[str, float] = field(default_factory=dict)
    close: Callable[[], object] = lambda: None  # what both sides used in every round, before its files go


@dataclass(slots=True)
class Row:
    """One line of the report. ratio: median of the rounds; spread: lowest and highest round; rate_per_s and ns_per_msg
    are ours, from the median time."""

    name: str
    ratio: float
    goal: float
    base: str
    rate_per_s: float = 0.0
    ns_per_msg: float = 0.0
    base_ns_per_msg: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    why: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.ratio >= self.goal

    @property
    def figure(self) -> str:
        """The absolute figure, for people: a rate, a latency or a size."""
        if "added_ns" in self.extra:
            return f"{self.extra['added_ns']:.0f} ns added"
        if self.name.startswith(("follow_", "commit_", "offset_")):
            return f"{self.ns_per_msg / 1000:.3g} µs"
        if self.rate_per_s >= 1e6:
            return f"{self.rate_per_s / 1e6:.3g} M/s"
        if self.rate_per_s:
            return f"{self.rate_per_s / 1e3:.3g} k/s"
        units = (("resident_mib", "MiB"), ("bytes_per_id", "B an id"), ("bytes_per_producer", "B a producer"))
        for name, unit in units:
            if name in self.extra:
                return f"{self.extra[name]:.3g} {unit}"
        return "-"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reached": self.reached, "figure": self.figure}


@dataclass(frozen=True, slots=True)
class Case:
    """A named row: `build(directory)` makes its comparison, or a finished Row for what is no race of two sides."""

    name: str
    goal: float
    base: str
    build: Callable[[Path], Comparison | Row]
    doc: str = ""


CASES: dict[str, Case] = {}


def case(
    name: str, *, goal: float, base: str
) -> Callable[[Callable[[Path], Comparison | Row]], Callable[[Path], Comparison | Row]]:
    """Register a case under its name; its docstring is the sketch: what binds, and what ratio to expect."""

    def register(build: Callable[[Path], Comparison | Row]) -> Callable[[Path], Comparison | Row]:
        CASES[name] = Case(name, goal, base, build, (build.__doc__ or "").strip())
        return build

    return register


def select(modules: Sequence[ModuleType], only: str) -> list[Case]:
    """A suite's cases, those of its modules, in their order, whose name matches the regular expression `only`."""
    order = [module.__name__ for module in modules]  # imports are sorted, the table is not
    cases = [one for one in CASES.values() if one.build.__module__ in order and re.search(only, one.name)]
    return sorted(cases, key=lambda one: order.index(one.build.__module__))


def run(cases: Iterable[Case], *, rounds: int, directory: Path | None) -> Iterator[Row]:
    """Measure one case after the other, each in a directory of its own."""
    for one in cases:
        with scratch(directory) as place:
            yield run_case(one, place, rounds)


def run_case(one: Case, directory: Path, rounds: int) -> Row:
    """Measure one case; errors become a row with ratio 0 and the reason (invariant 3)."""
    try:
        comparison = one.build(directory)
        if isinstance(comparison, Row):
            return comparison
        try:
            return _race(one, comparison, comparison.rounds or rounds)
        finally:
            comparison.close()
    except Exception as error:
        return Row(one.name, 0.0, one.goal, one.base, why=f"{type(error).__name__}: {error}")


def _race(one: Case, comparison: Comparison, rounds: int) -> Row:
    base_s, ours_s = [], []
    comparison.base.time()  # warm-up, not counted
    comparison.ours.time()
    for number in range(rounds):
        if number % 2:
            ours_s.append(comparison.ours.time())
            base_s.append(comparison.base.time())
        else:
            base_s.append(comparison.base.time())
            ours_s.append(comparison.ours.time())
    ratios = [base / ours for base, ours in zip(base_s, ours_s, strict=True)]
    ours = statistics.median(ours_s)
    return Row(
        one.name,
        statistics.median(ratios),
        one.goal,
        one.base,
        rate_per_s=comparison.messages / ours,
        ns_per_msg=ours / comparison.messages * 1e9,
        base_ns_per_msg=statistics.median(base_s) / comparison.messages * 1e9,
        spread=(min(ratios), max(ratios)),
        extra=comparison.extra,
    )


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new directory for the files of a run, removed afterwards; on the disk of `parent` or of the working directory
    (a tmpfs /tmp would measure memory)."""
    path = Path(tempfile.mkdtemp(prefix="mqcore-bench-", dir=parent or Path.cwd()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def machine() -> dict[str, Any]:
    """What a reader must know to compare runs."""
    return {
        "cpus": os.cpu_count(),
        "load_1m": os.getloadavg()[0],
        "machine": os.uname().machine,
        "kernel": os.uname().release,
    }
