"""The segments of one partition: an ordered set with floor lookup, and the decision when to roll.

Invariants:
    1. Base offsets rise strictly, and each segment's next offset is at most the base of the one after it.
    2. Only the last segment may be appended to, and only while it is not sealed.
    3. The tuple of entries is replaced, never changed: a reader that took it walks it without a lock.
    4. What is lazy is only the native handle: sizes and offsets of every segment are known without opening a file.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mqcore.errors import CorruptBatchError, InvariantError
from mqcore.log.checkpoints import Damage, SegmentState

if TYPE_CHECKING:
    from mqcore._native.segment import Segment
    from mqcore.config.topic import TopicConfig

OFFSET_DELTA_MAX = (1 << 31) - 1  # relative offsets in indexes are int32
SEGMENT_BYTES_MAX = (1 << 31) - 1  # so are positions
UNKNOWN = -2  # a timestamp that only the open segment can tell


class SegmentEntry:
    """One segment: its numbers, and its native handle once somebody needed it."""

    __slots__ = (
        "_lock",
        "_opener",
        "_segment",
        "_state",
        "checked",
        "compacted",
        "created_ms",
        "damage",
        "inode",
        "retired",
        "sealed",
    )

    def __init__(
        self,
        state: SegmentState,
        opener: Callable[[SegmentState], Segment],
        *,
        sealed: bool,
        segment: Segment | None = None,
        damage: Damage | None = None,
        created_ms: int = 0,
    ) -> None:
        self._state, self._opener, self._segment = state, opener, segment
        self.sealed = sealed  # synced, trimmed, indexes final
        self.damage = damage  # what lies between this segment's valid end and the next segment
        self.created_ms = created_ms  # for time-based roll of records without timestamps
        self.compacted = False
        self.checked = False  # its digest was compared, where offsets may have gaps and only that vouches for them
        self.inode = 0  # of the .log file, where a reader noted it
        self.retired = False  # another segment has its place: its files are gone, or another's
        self._lock = threading.Lock()

    @property
    def base_offset(self) -> int:
        return self._state.base_offset

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self._state.size if self._segment is None else self._segment.size

    @property
    def next_offset(self) -> int:
        return self._state.next_offset if self._segment is None else self._segment.next_offset

    @property
    def max_timestamp(self) -> int:
        """Largest timestamp in it (ms), -1 if none is known."""
        known = self._state.max_timestamp
        return known if self._segment is None and known != UNKNOWN else self.segment().max_timestamp

    @property
    def first_timestamp(self) -> int:
        """max_timestamp of the first batch (ms), -1 if none is known."""
        known = self._state.first_timestamp
        return known if self._segment is None and known != UNKNOWN else self.segment().first_timestamp

    @property
    def is_open(self) -> bool:
        return self._segment is not None

    def segment(self) -> Segment:
        """The native handle, opened now if need be. Raises StorageError, FileNotFoundError (retired too)."""
        segment = self._segment
        if segment is None:
            with self._lock:
                if self.retired:
                    raise FileNotFoundError(f"segment {self.base_offset} was replaced")
                segment = self._segment
                if segment is None:
                    segment = self._segment = self._opener(self._state)
        return segment

    def full_for(self, incoming: int, last_offset: int, timestamp: int, config: TopicConfig, now_ms: int) -> str:
        """Why it must not take the next `incoming` bytes, up to last_offset and of this largest timestamp (ms): see
        roll_reason."""
        segment, age_max = self.segment(), config.segment_ms_effective
        if segment.roomy(incoming, last_offset, timestamp, config.segment_bytes, age_max):
            return ""  # nearly always: one native call
        return roll_reason(
            size=segment.size,
            incoming=incoming,
            base_offset=self.base_offset,
            last_offset=last_offset,
            first_timestamp=segment.first_timestamp,
            incoming_timestamp=timestamp,
            created_ms=self.created_ms,
            now_ms=now_ms,
            index_full=segment.index_full,
            segment_bytes=config.segment_bytes,
            segment_ms=age_max,
        )

    def grow(self, size: int) -> None:
        """A reader's: the file of the writer's segment is as long as this now, whether anybody opened it yet or not."""
        with self._lock:
            if size > self.size:
                if self._segment is None:
                    self._state = self._state._replace(size=size)
                else:
                    self._segment.refresh(size, self._segment.next_offset)

    def state(self) -> SegmentState:
        """The numbers as they are now."""
        segment = self._segment
        if segment is None:
            return self._state
        return _state_of(segment)

    def retire(self) -> None:
        """Close the handle for good: whoever still holds it gets StoreClosedError, never another segment's bytes."""
        with self._lock:
            self.retired = True
            segment, self._segment = self._segment, None
            if segment is not None:
                self._state = SegmentState(segment.base_offset, segment.size, segment.next_offset, UNKNOWN, UNKNOWN)
                segment.close()

    def close(self, *, keep_state: bool = True) -> None:
        """Close the handle; views that readers hold stay valid (they own their mapping).

        keep_state: for whoever writes it down. A reader has no use for it: its timestamps may cost a scan of the
        segment, and that may meet damage.
        """
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                try:
                    if keep_state:
                        self._state = self._last_state(segment)
                finally:
                    segment.close()

    def _last_state(self, segment: Segment) -> SegmentState:
        """What to note of an open segment. Damage in it is told to whoever reads it, and keeps no store from closing."""
        known = self._state
        unchanged = (known.size, known.next_offset) == (segment.size, segment.next_offset)
        if unchanged and UNKNOWN not in (known.max_timestamp, known.first_timestamp):
            return known
        try:
            return _state_of(segment)
        except CorruptBatchError:
            return SegmentState(segment.base_offset, segment.size, segment.next_offset, UNKNOWN, UNKNOWN)


def _state_of(segment: Segment) -> SegmentState:
    return SegmentState(
        segment.base_offset, segment.size, segment.next_offset, segment.max_timestamp, segment.first_timestamp
    )


class SegmentSet:
    """All segments of a partition, ascending. Changed under the partition's lock, read without."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[SegmentEntry]) -> None:
        self.entries: tuple[SegmentEntry, ...] = ()
        self.replace(entries)

    def replace(self, entries: list[SegmentEntry] | tuple[SegmentEntry, ...]) -> None:
        """Make these the segments. InvariantError if they do not rise."""
        bases = [entry.base_offset for entry in entries]
        if any(a >= b for a, b in pairwise(bases)):
            raise InvariantError("segments do not rise", bases=bases[:20])
        self.entries = tuple(entries)

    def add(self, entry: SegmentEntry) -> None:
        """Append the new active segment."""
        self.replace((*self.entries, entry))

    @property
    def last(self) -> SegmentEntry | None:
        return self.entries[-1] if self.entries else None

    @property
    def size(self) -> int:
        """Bytes of data in all segments."""
        return sum(entry.size for entry in self.entries)

    def holds(self, some: Sequence[SegmentEntry]) -> bool:
        """Whether these entries are here, side by side."""
        at = self.entries.index(some[0]) if some[0] in self.entries else -1
        return at >= 0 and self.entries[at : at + len(some)] == tuple(some)

    def from_offset(self, offset: int) -> tuple[SegmentEntry, ...]:
        """The segment that may hold `offset` (the floor by base offset) and all after it. Without a lock: works on
        one tuple whatever happens meanwhile."""
        entries = self.entries
        index = bisect_right(entries, offset, key=lambda entry: entry.base_offset)
        return entries[max(0, index - 1) :]


class Exchange:
    """One segment takes the place of others. Under the partition's lock."""

    __slots__ = ("_new", "_old", "_segments", "_swap")

    def __init__(
        self, segments: SegmentSet, old: Sequence[SegmentEntry], new: SegmentEntry, swap: Callable[[], None]
    ) -> None:
        self._segments, self._old, self._new, self._swap = segments, tuple(old), new, swap

    def finish(self) -> None:
        """Swap the files, then the entries. After an error it can be called again."""
        self._swap()
        self._new.compacted = True
        # By offset: after an interrupted exchange retention may have taken some of the old ones.
        kept = [entry for entry in self._segments.entries if entry not in self._old]
        self._segments.replace(sorted([*kept, self._new], key=lambda entry: entry.base_offset))


def roll_reason(
    *,
    size: int,
    incoming: int,
    base_offset: int,
    last_offset: int,
    first_timestamp: int,
    incoming_timestamp: int,
    created_ms: int,
    now_ms: int,
    index_full: bool,
    segment_bytes: int,
    segment_ms: int,
) -> str:
    """Why the active segment must not take the next chunk: "size", "offset", "index", "time", or "" if it may.

    size, incoming: bytes in it and in the chunk. last_offset: of the chunk. first_timestamp: of the segment's first
    batch, -1 if it has none (then its age counts from created_ms). Pure. An empty segment takes any chunk, or a chunk
    larger than segment_bytes would roll for ever. Source: Kafka's LogSegment.shouldRoll.
    """
    if last_offset - base_offset > OFFSET_DELTA_MAX:
        return "offset"
    if size == 0:
        return ""
    if size + incoming > min(segment_bytes, SEGMENT_BYTES_MAX):
        return "size"
    if index_full:
        return "index"
    # By record time where both have one, so that a replayed history rolls as it did then.
    if first_timestamp >= 0 and incoming_timestamp >= 0:
        age = incoming_timestamp - first_timestamp
    else:
        age = now_ms - created_ms
    return "time" if age > segment_ms else ""
