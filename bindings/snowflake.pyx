"""The time and the sequence of one Snowflake generator. See snowflake.pyi.

Threads: each call is one step under the GIL (a critical section on free-threaded builds); no Python code runs within.
"""
cimport cython
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from mqcore.errors import ForkedStoreError

cdef enum:
    TIME_BITS = 41
    WORKER_BITS = 10
    SEQUENCE_BITS = 12
    SEQUENCES = 1 << SEQUENCE_BITS
    WAIT = -1


cdef inline int64_t ms_of(int clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1000 + t.tv_nsec // 1_000_000


cdef class Ticks:
    cdef readonly int64_t worker
    cdef readonly int64_t epoch_ms
    cdef int64_t _next  # a tick is the time and the sequence as one number: the next id is the next tick
    cdef int64_t _ahead, _anchor_wall, _anchor_monotonic
    cdef bint _system_clocks, _forked

    def __init__(self, worker: int, epoch_ms: int, ahead_ms: int, not_before_ms: int, wall_ms: int, monotonic_ms: int,
                 *, system_clocks: bool) -> None:
        self.worker, self.epoch_ms, self._ahead = worker, epoch_ms, ahead_ms
        self._next = max(0, not_before_ms - epoch_ms) * SEQUENCES
        self._anchor_wall, self._anchor_monotonic = wall_ms, monotonic_ms
        self._system_clocks = system_clocks

    cdef inline int64_t now_at(self, int64_t wall, int64_t monotonic) noexcept:
        cdef int64_t now = self._anchor_wall + monotonic - self._anchor_monotonic
        if wall > now:  # never the other way: a wall clock set back is waited out by the monotonic one
            self._anchor_wall, self._anchor_monotonic, now = wall, monotonic, wall
        return now - self.epoch_ms

    cdef int refuse(self, int64_t now) except -1:
        if self._forked:
            raise ForkedStoreError("a forked child would repeat its parent's ids",
                                   hint="Make a Snowflake with another worker")
        if now < 0:
            raise ValueError(f"the clock stands before the epoch {self.epoch_ms}")
        raise OverflowError("41 bits of milliseconds are used up: choose a later epoch")

    cdef inline int64_t take(self, int64_t count, int64_t now, int64_t *wait_ms) except? WAIT:
        cdef int64_t first = max(self._next, now * SEQUENCES)
        cdef int64_t start = first >> SEQUENCE_BITS, last = (first + count - 1) >> SEQUENCE_BITS
        if self._forked or now < 0 or last >> TIME_BITS != 0:
            self.refuse(now)
        if last - now > self._ahead and start > now:
            wait_ms[0] = min(last - self._ahead, start) - now
            return WAIT
        self._next = first + count
        return first

    def next(self) -> int:
        cdef int64_t tick = WAIT, wait_ms = 0
        if self._system_clocks:
            with cython.critical_section(self):
                tick = self.take(1, self.now_at(ms_of(CLOCK_REALTIME), ms_of(CLOCK_MONOTONIC)), &wait_ms)
        if tick == WAIT:
            tick = self._take(1)
        return <uint64_t>(tick >> SEQUENCE_BITS << (WORKER_BITS + SEQUENCE_BITS)
                          | self.worker << SEQUENCE_BITS | tick & (SEQUENCES - 1))

    @cython.critical_section
    def now(self, int64_t wall_ms, int64_t monotonic_ms, /) -> int:
        return self.now_at(wall_ms, monotonic_ms)

    @cython.critical_section
    def reserve(self, int64_t count, int64_t now, /) -> tuple:
        cdef int64_t wait_ms = 0
        cdef int64_t first = self.take(count, now, &wait_ms)
        return first, wait_ms

    @cython.critical_section
    def disown(self) -> None:
        self._forked = True

    @property
    def last_timestamp_ms(self) -> int:
        return ((self._next - 1) >> SEQUENCE_BITS) + self.epoch_ms
