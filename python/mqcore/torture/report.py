"""The report of one run of a suite, in the one form that all suites share.

Invariants:
    1. A run with no fault injected, nothing acknowledged (where the suite sends) or a skipped part is a failure, not a pass.
    2. `lost` and its neighbours count by the client's own record of acknowledgements, kept outside the process under test.
    3. Violations are counted by the id of the broken invariant (I1 .. I5, …); the first few come with a sentence each.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mqcore._version import __version__

_EXAMPLES = 20


@dataclass(slots=True)
class Report:
    """What a suite saw. faults_injected: kind -> count; recovery_s: seconds of each open after a fault."""

    suite: str
    seed: int
    durability: str = "fsync"
    usual_durability: str = "fsync"  # the suite's, without `--durability`
    version: str = __version__
    faults_injected: Counter[str] = field(default_factory=Counter)
    faults_wanted: int = 0
    acked: int = 0
    read: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    offset_reused: int = 0
    wrong_bytes: int = 0
    recovery_s: list[float] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    mutants: int = 0
    mutants_caught: int = 0
    sends: bool = True
    notes: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def violate(self, invariant: str, sentence: str) -> None:
        """Count a violation and keep the first sentences."""
        self.violations[invariant] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{invariant}: {sentence}")

    def absorb(self, found: Iterable[tuple[str, str]]) -> None:
        for invariant, sentence in found:
            self.violate(invariant, sentence)

    def add_counts(self, other: Report) -> None:
        """Take over what another process counted; not its violations."""
        for name in ("read", "lost", "duplicated", "reordered", "offset_reused", "wrong_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.recovery_s += other.recovery_s

    @property
    def passed(self) -> bool:
        """Invariant 1, and no violation, and every mutant caught."""
        injected = sum(self.faults_injected.values())
        return (
            not self.violations
            and injected > 0
            and injected >= self.faults_wanted
            and (self.acked > 0 or not self.sends)
            and self.mutants_caught == self.mutants
        )

    def to_json(self) -> dict[str, Any]:
        recovery = sorted(1000 * seconds for seconds in self.recovery_s)
        return {
            "suite": self.suite,
            "seed": self.seed,
            "version": self.version,
            "durability": self.durability,
            "faults_injected": dict(self.faults_injected),
            "acked": self.acked,
            "read": self.read,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "offset_reused": self.offset_reused,
            "wrong_bytes": self.wrong_bytes,
            "recovery_ms": {
                "p50": round(statistics.median(recovery), 2) if recovery else None,
                "p99": round(recovery[min(len(recovery) - 1, int(len(recovery) * 0.99))], 2) if recovery else None,
            },
            "violations": dict(self.violations),
            "examples": self.examples,
            "mutants": self.mutants,
            "mutants_caught": self.mutants_caught,
            "notes": self.notes,
            "passed": self.passed,
            "wall_s": round(time.monotonic() - self._began, 1),
            "replay": f"mqcore torture {self.suite} --seed {self.seed} --faults {self.faults_wanted}"
            + ("" if self.durability == self.usual_durability else f" --durability {self.durability}"),
        }
