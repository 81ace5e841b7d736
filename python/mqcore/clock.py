"""Time as the store sees it: one seam, so that tests can move it.

Invariants:
    1. No module of the store calls `time` itself: durations come from `monotonic_s`, stamps from `wall_ms`.
    2. A decision that destroys data never rests on `wall_ms` alone (it may jump): see log/retention.py.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z; may jump either way."""

    def monotonic_s(self) -> float:
        """Seconds since some start; never goes back, and counts the time that the machine slept."""

    def boot_id(self) -> str:
        """Which start `monotonic_s` counts from: readings of two processes compare if they have the same one. "" if
        that is not known."""


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        # BOOTTIME: time.monotonic stands still while a laptop or VM is suspended, and a lease would outlive its time.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""


class ManualClock:
    """A clock of tests: stands still until it is moved."""

    def __init__(self, wall_ms: int = 1_700_000_000_000, monotonic_s: float = 1000.0, boot_id: str = "manual") -> None:
        self._wall_ms, self._monotonic_s, self._boot_id = wall_ms, monotonic_s, boot_id

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def boot_id(self) -> str:
        return self._boot_id

    def advance(self, seconds: float) -> None:
        """Let time pass: both clocks move."""
        self._wall_ms += int(seconds * 1000)
        self._monotonic_s += seconds

    def reboot(self) -> None:
        """Start the machine anew: monotonic time begins at 0, and nothing compares with readings from before."""
        self._monotonic_s, self._boot_id = 0.0, self._boot_id + "+"

    def jump(self, milliseconds: int) -> None:
        """Set the wall clock forward or back, as NTP or an operator does: no time passes."""
        self._wall_ms += milliseconds
