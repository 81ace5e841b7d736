"""Figures of a run while it goes on, and at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """records: processed and committed; attempts that were undone count as retries. lag: records that were there and
    not processed when it was measured, -1 unknown. seconds: since the start."""

    records: int = 0
    commits: int = 0
    retries: int = 0
    dead_letters: int = 0
    rebalances: int = 0
    lag: int = -1
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.records / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "per_second": round(self.per_second, 1)}


class Counters:
    """Counts of all workers of a run. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._started = now, now()
        self._lock = threading.Lock()
        self._records = self._commits = self._retries = self._dead_letters = self._rebalances = 0

    def committed(self, records: int, dead_letters: int = 0) -> None:
        with self._lock:
            self._records += records
            self._commits += 1
            self._dead_letters += dead_letters

    def retried(self) -> None:
        with self._lock:
            self._retries += 1

    def rebalanced(self) -> None:
        with self._lock:
            self._rebalances += 1

    def read(self, lag: int = -1) -> Progress:
        with self._lock:
            return Progress(
                self._records,
                self._commits,
                self._retries,
                self._dead_letters,
                self._rebalances,
                lag,
                self._now() - self._started,
            )
