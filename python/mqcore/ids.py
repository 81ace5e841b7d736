"""Snowflake ids: 64-bit numbers that are unique across workers and grow with time.

    41 bits: milliseconds since an epoch (2020-01-01 by default; enough until 2089)
    10 bits: worker, 0 .. 1,023: no two generators alive at one time may share it
    12 bits: sequence within the millisecond: 4,096 ids per ms and worker

Invariants:
    1. One generator never gives an id twice, whatever its clock does.
    2. Its ids rise strictly, in the order of the calls.
    3. The time in an id is at most `ahead_ms` ahead of the generator's time.

Time of a generator = the wall clock, but never backwards: where the wall clock is set back, it goes on from where it
was at the pace of the monotonic clock, until the wall clock has caught up. So a clock set back costs neither a repeat
nor a wait. Ids past 4,096 in one millisecond borrow from the next ones, up to `ahead_ms`; who asks for more sleeps,
so the lasting rate is the scheme's own limit, 4,096 a millisecond.

What no generator can know: a process that starts anew with the same worker while the clock stands before the last
id of the process before it. Keep `last_timestamp_ms` and pass it as `not_before_ms` where that can happen.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mqcore._native.snowflake import Ticks

EPOCH_MS = 1_577_836_800_000
"""2020-01-01T00:00:00Z in ms since 1970."""

WORKER_MAX = 1023
SEQUENCES = 4096
TIME_MS_MAX = (1 << 41) - 1
BATCH_MAX = 1 << 26
"""Ids in one call of `batch`: 16 s at the limit, 512 MiB."""


class SnowflakeParts(NamedTuple):
    timestamp_ms: int  # since 1970
    worker: int
    sequence: int


class SnowflakeArrays(NamedTuple):
    timestamp_ms: NDArray[np.int64]
    worker: NDArray[np.int64]
    sequence: NDArray[np.int64]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Snowflake(Ticks):
    """A generator of ids. Any thread may call; a forked child must make its own, with another worker.

    worker: 0 .. 1,023. epoch_ms: millisecond 0, ms since 1970. ahead_ms: how far ids may run ahead of the time, at
    least 1. not_before_ms: no id gets an earlier or the same time (ms since 1970). wall_ms, monotonic_ms, sleep (s):
    the clocks, for tests. ValueError for values out of range.
    """

    def __init__(
        self,
        worker: int,
        *,
        epoch_ms: int = EPOCH_MS,
        ahead_ms: int = 10,
        not_before_ms: int | None = None,
        wall_ms: Callable[[], int] = _wall_ms,
        monotonic_ms: Callable[[], int] = _monotonic_ms,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 <= worker <= WORKER_MAX:
            raise ValueError(f"worker must be 0 .. {WORKER_MAX}, not {worker}")
        if ahead_ms < 1:
            raise ValueError("ahead_ms must be at least 1")
        super().__init__(
            worker,
            epoch_ms,
            ahead_ms,
            epoch_ms if not_before_ms is None else not_before_ms + 1,
            wall_ms(),
            monotonic_ms(),
            system_clocks=wall_ms is _wall_ms and monotonic_ms is _monotonic_ms,
        )
        self._ahead = ahead_ms
        self._wall_ms, self._monotonic_ms, self._sleep = wall_ms, monotonic_ms, sleep
        _living.add(self)

    def _now(self) -> int:
        """Milliseconds since the epoch, never backwards."""
        return self.now(self._wall_ms(), self._monotonic_ms())

    def _take(self, count: int) -> int:
        """Reserve count ticks; the first, once it may be used."""
        while True:
            first, wait_ms = self.reserve(count, self._now())
            if first >= 0:
                # A batch longer than ahead_ms may start now; it is given out when the time has come near its end.
                self._sleep_until((first + count - 1) // SEQUENCES - self._ahead)
                return first
            self._sleep(wait_ms / 1000)

    def _sleep_until(self, ms: int) -> None:
        while (now := self._now()) < ms:
            self._sleep((ms - now) / 1000)

    def batch(self, count: int) -> NDArray[np.uint64]:
        """`count` ids as a uint64 array of shape (count,), rising. ValueError unless 0 <= count <= BATCH_MAX.
        Waits where the limit of 4,096 a ms demands it; other threads wait with it."""
        if not 0 <= count <= BATCH_MAX:
            raise ValueError(f"count must be 0 .. {BATCH_MAX}, not {count}")
        if count == 0:
            return np.empty(0, np.uint64)
        first = self._take(count)
        ticks = np.arange(first, first + count, dtype=np.uint64)
        ids = ticks & np.uint64(4095)
        ids |= np.uint64(self.worker << 12)
        ticks >>= np.uint64(12)
        ticks <<= np.uint64(22)
        ids |= ticks
        return ids

    @overload
    def decompose(self, ids: int) -> SnowflakeParts: ...
    @overload
    def decompose(self, ids: NDArray[np.uint64]) -> SnowflakeArrays: ...
    def decompose(self, ids: int | NDArray[np.uint64]) -> SnowflakeParts | SnowflakeArrays:
        """(timestamp_ms since 1970, worker, sequence) of an id of this epoch, or of each in a uint64 array."""
        return decompose(ids, epoch_ms=self.epoch_ms)


@overload
def decompose(ids: int, *, epoch_ms: int = EPOCH_MS) -> SnowflakeParts: ...
@overload
def decompose(ids: NDArray[np.uint64], *, epoch_ms: int = EPOCH_MS) -> SnowflakeArrays: ...
def decompose(ids: int | NDArray[np.uint64], *, epoch_ms: int = EPOCH_MS) -> SnowflakeParts | SnowflakeArrays:
    """The parts of an id, or of each id in a uint64 array."""
    if isinstance(ids, np.ndarray):
        return SnowflakeArrays(
            (ids >> np.uint64(22)).astype(np.int64) + epoch_ms,
            (ids >> np.uint64(12) & np.uint64(1023)).astype(np.int64),
            (ids & np.uint64(4095)).astype(np.int64),
        )
    return SnowflakeParts((ids >> 22) + epoch_ms, ids >> 12 & 1023, ids & 4095)


_living: weakref.WeakSet[Snowflake] = weakref.WeakSet()


def _after_fork() -> None:
    for generator in _living:
        generator.disown()


os.register_at_fork(after_in_child=_after_fork)
