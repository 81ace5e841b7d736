"""Retention: which segments go because of their age or the partition's size, and what may be believed about "now".

Invariants:
    1. Only whole segments go, oldest first, each wholly below the last stable offset; the log start moves first and is
       durable before a file goes (PartitionLog.delete_before): a crash leaves litter, never a hole.
    2. A topic whose cleanup.policy lacks `delete` loses nothing here.
    3. Nothing is deleted because the wall clock jumped forward (T9): ages count from `RetentionClock.now_ms`, which
       never runs faster than monotonic time from what the store's last writer believed, until the wall clock has kept
       step with monotonic time for GRACE_S. A clock that is behind only deletes less. That a record was stamped, or the
       store opened, while the clock was wrong proves nothing.

The rule of age is Kafka's: a segment goes once now - largest timestamp in it > retention.ms, so one record of tomorrow
keeps its segment (message.timestamp.after.max.ms bounds that). Without timestamps the file's modification time counts.
Source: apache/kafka UnifiedLog.scala, deletableSegments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mqcore.log import layout
from mqcore.log.checkpoints import ClockState

if TYPE_CHECKING:
    from mqcore.clock import Clock
    from mqcore.config.topic import TopicConfig

GRACE_S = 3600.0  # NTP, an operator or a resumed VM have put a wrong clock right by then, or it is not wrong
STEP_MS = 2_000  # two readings this far apart are still "in step": slewing, and the time between two calls
SAVE_S = 600.0  # how much of its time a restart of the machine may cost
_SLEW = 0.001  # NTP slews at most 0.05 %; twice that on both clocks, rounded up


class SegmentFacts(NamedTuple):
    """What the rules look at. size: bytes of data. max_timestamp: ms, of records or else of the file."""

    base_offset: int
    next_offset: int
    size: int
    max_timestamp: int


class Removal(NamedTuple):
    """What goes: offsets below new_start. reason: "time" or "size"."""

    new_start: int
    segments: int
    size: int
    reason: str


def removal_by_time(segments: Sequence[SegmentFacts], retention_ms: int, now_ms: int, limit: int) -> Removal | None:
    """Return what is older than retention_ms (negative: nothing ever is). limit: the last stable offset. Pure."""
    if retention_ms < 0:
        return None
    return _prefix(segments, limit, "time", lambda segment, _: now_ms - segment.max_timestamp > retention_ms)


def removal_by_size(segments: Sequence[SegmentFacts], retention_bytes: int, limit: int) -> Removal | None:
    """Return what is more than retention_bytes (negative: no bound), so that at least that much stays. Pure."""
    if retention_bytes < 0:
        return None
    spare = sum(segment.size for segment in segments) - retention_bytes
    return _prefix(segments, limit, "size", lambda segment, gone: gone + segment.size <= spare)


def _prefix(
    segments: Sequence[SegmentFacts], limit: int, reason: str, goes: Callable[[SegmentFacts, int], bool]
) -> Removal | None:
    """The longest run of segments from the oldest on that go. An empty active segment is nothing to remove."""
    count = size = 0
    new_start = -1
    for segment in segments:
        if segment.next_offset > limit or not segment.size or not goes(segment, size):
            break
        count, size, new_start = count + 1, size + segment.size, segment.next_offset
    # The next segment may begin later than this one ends: after compaction, or behind damage.
    if count < len(segments):
        new_start = min(max(new_start, segments[count].base_offset), limit) if count else new_start
    return Removal(new_start, count, size, reason) if count else None


def removal(segments: Sequence[SegmentFacts], config: TopicConfig, now_ms: int, limit: int) -> Removal | None:
    """Return what a topic's settings let go now, the further of both rules. Pure."""
    if not config.deletes:
        return None
    found = [
        removal_by_size(segments, config.retention_bytes, limit),
        removal_by_time(segments, config.retention_ms, now_ms, limit),
    ]
    return max((r for r in found if r is not None), key=lambda r: r.new_start, default=None)


class RetentionClock:
    """The time that ages are counted to. One per open store; used by maintenance alone (not thread-safe).

    `believed` moves with monotonic time. A wall clock ahead of it is a candidate: it is believed once it kept step for
    GRACE_S; one behind it is believed at once. Both are kept in the session file: while the machine runs they go on
    from process to process, and after a restart from what was believed last. So after a week's pause old segments stay
    an hour longer.
    """

    def __init__(self, clock: Clock, newest_ms: int = -1, left: ClockState | None = None) -> None:
        """left: what the last writer knew. newest_ms: without that, the newest timestamp of a record in the store at
        open, -1 if there is none (a new store believes the clock)."""
        self._clock = clock
        wall, monotonic = clock.wall_ms(), clock.monotonic_s()
        self._candidate = (wall, monotonic)
        if left is None:  # a record of the future proves nothing about now
            self._believed = (wall if newest_ms < 0 else min(newest_ms, wall), monotonic)
        elif left.boot_id and left.boot_id == clock.boot_id():
            self._believed = (left.believed_ms, left.believed_at_s)
            self._candidate = (left.candidate_ms, left.candidate_at_s)
        else:
            self._believed = (left.believed_ms, monotonic)
        self._saved_at, self._changed = monotonic, False

    def state(self) -> ClockState:
        """What the next writer should know."""
        return ClockState(self._clock.boot_id(), *self._believed, *self._candidate)

    def take_unsaved(self) -> ClockState | None:
        """`state` if it is time to save it: a restart of the machine forgets what was not."""
        monotonic = self._clock.monotonic_s()
        if monotonic - self._saved_at < SAVE_S and not self._changed:
            return None
        self._saved_at, self._changed = monotonic, False
        self._believed = (_moved(self._believed, monotonic), monotonic)
        return self.state()

    def now_ms(self) -> int:
        """Return the time to count ages to: ms since 1970, at most the wall clock's."""
        wall, monotonic = self._clock.wall_ms(), self._clock.monotonic_s()
        believed = _moved(self._believed, monotonic)
        if wall <= believed + STEP_MS:
            # In step, or behind: what the wall says is no more than what we know anyway.
            if abs(wall - _moved(self._candidate, monotonic)) > STEP_MS:
                self._changed = True
                self._candidate = (wall, monotonic)
            if wall < believed:
                self._changed |= wall < believed - STEP_MS
                self._believed = (wall, monotonic)
            return min(wall, believed)
        since = monotonic - self._candidate[1]
        if abs(wall - _moved(self._candidate, monotonic)) > STEP_MS + since * 1000 * _SLEW:
            self._candidate, self._changed = (wall, monotonic), True  # it jumped again: the hour begins anew
        elif since >= GRACE_S:
            self._believed, self._changed = (wall, monotonic), True
            return wall
        return believed


def _moved(reading: tuple[int, float], monotonic: float) -> int:
    """A reading (wall ms, monotonic s), moved on by the monotonic time since."""
    return reading[0] + int((monotonic - reading[1]) * 1000)


class SegmentEntry(Protocol):
    """What is needed of a segment of an open partition (log/segments.py)."""

    @property
    def base_offset(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...


class RetainedLog(Protocol):
    """What is needed of an open partition (PartitionLog)."""

    config: TopicConfig
    directory: str

    @property
    def segments(self) -> Sequence[SegmentEntry]: ...
    @property
    def last_stable_offset(self) -> int: ...
    def delete_before(self, offset: int) -> None: ...


def facts_of(log: RetainedLog) -> list[SegmentFacts]:
    """Return what the rules look at, oldest segment first. Raises StorageError."""
    return [_facts(log.directory, entry) for entry in log.segments]


def _facts(directory: str, entry: SegmentEntry) -> SegmentFacts:
    timestamp = entry.max_timestamp
    if timestamp < 0:
        try:
            path = os.path.join(directory, layout.segment_name(entry.base_offset))
            timestamp = os.stat(path).st_mtime_ns // 1_000_000
        except OSError:
            timestamp = 1 << 62  # no time known: it never goes by time
    return SegmentFacts(entry.base_offset, entry.next_offset, entry.size, timestamp)


def newest_timestamp(logs: Iterable[RetainedLog]) -> int:
    """Return the newest record's timestamp in any of the logs, -1 without one: for RetentionClock at open."""
    return max((log.segments[-1].max_timestamp for log in logs if log.segments), default=-1)


def apply(log: RetainedLog, clock: RetentionClock) -> Removal | None:
    """Remove what a partition's settings let go; return what went. Runs beside appends and reads.

    Raises StorageError: what was to go may stay as litter, which the next open removes (it lies below the log start).
    """
    config = log.config
    if not config.deletes or (config.retention_ms < 0 and config.retention_bytes < 0):
        return None
    # The stable offset first: segments that appear after it are no candidates.
    limit = log.last_stable_offset
    found = removal(facts_of(log), config, clock.now_ms(), limit)
    if found is not None:
        log.delete_before(found.new_start)
    return found
