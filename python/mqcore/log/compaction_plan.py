"""What a round of compaction takes on: pure decisions over plain numbers.

Invariants:
    1. Only sealed segments are compacted, wholly below the limit (last stable offset, durable mark), never the active
       one, none that is damaged and none behind one of those.
    2. A segment with a record younger than min.compaction.lag.ms ends the dirty part (by its newest timestamp).
    3. A group's segments are neighbours; what they become together stays below the limits of one segment.

Source: Kafka's LogCleanerManager.cleanableOffsets, Cleaner.groupSegmentsBySize, KIP-354 (max.compaction.lag.ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mqcore.log.segments import OFFSET_DELTA_MAX, SEGMENT_BYTES_MAX

if TYPE_CHECKING:
    from mqcore.config.topic import TopicConfig


class Candidate(NamedTuple):
    """One segment. ready: sealed and not damaged. Times are ms, -1 unknown."""

    base_offset: int
    next_offset: int
    size: int
    first_timestamp: int
    max_timestamp: int
    ready: bool


class Plan(NamedTuple):
    """A round. The segments that end at `end` or below are copied, the dirty ones are read into the key map first.

    By offset: segments may go between the plan and the round.
    """

    first_dirty: int  # offset: segments that end above it are dirty
    end: int  # offset
    clean_bytes: int
    dirty_bytes: int
    overdue: bool  # max.compaction.lag.ms passed for a record of it

    @property
    def ratio(self) -> float:
        """Share of dirty bytes."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    def is_due(self, config: TopicConfig) -> bool:
        return self.dirty_bytes > 0 and (self.overdue or self.ratio >= config.min_cleanable_dirty_ratio)


def plan(
    segments: Sequence[Candidate], config: TopicConfig, *, cleaned: int, log_start: int, limit: int, now_ms: int
) -> Plan | None:
    """The round that could be run; None if nothing can be compacted. segments: all, the active one last.

    cleaned: the offset up to which an earlier round came (0: none). One outside the log is not believed: all is dirty.
    limit: nothing at or past it may be compacted.
    """
    if not segments:
        return None
    first_dirty = cleaned if log_start <= cleaned <= segments[-1].next_offset else log_start
    lag, end, clean_bytes, dirty_bytes, oldest, any_dirty = config.min_compaction_lag_ms, 0, 0, 0, -1, False
    for segment in segments[:-1]:
        is_dirty = segment.next_offset > first_dirty
        too_young = is_dirty and lag > 0 and segment.max_timestamp > now_ms - lag
        if not segment.ready or segment.next_offset > limit or too_young:
            break
        end = segment.next_offset
        if not is_dirty:
            clean_bytes += segment.size
            continue
        any_dirty = True
        dirty_bytes += segment.size
        if segment.size and segment.first_timestamp >= 0:
            oldest = segment.first_timestamp if oldest < 0 else min(oldest, segment.first_timestamp)
    if not any_dirty:
        return None
    overdue = 0 <= oldest < now_ms - config.max_compaction_lag_ms
    return Plan(first_dirty, end, clean_bytes, dirty_bytes, overdue)


def groups(sizes: Sequence[tuple[int, int, int]], *, segment_bytes: int, index_bytes: int) -> list[tuple[int, int]]:
    """Ranges [first, end) of segments to merge into one. sizes: (base offset, next offset, bytes) of each.

    index_bytes: bound of an index file; one entry of 12 bytes for 4 KiB of log is reckoned, as the default has it.
    """
    limit = min(segment_bytes, SEGMENT_BYTES_MAX, index_bytes * 4096 // 12)
    result: list[tuple[int, int]] = []
    first, total = 0, 0
    for index, (_, next_offset, size) in enumerate(sizes):
        too_large = total + size > limit or next_offset - 1 - sizes[first][0] > OFFSET_DELTA_MAX
        if index > first and too_large:
            result.append((first, index))
            first, total = index, 0
        total += size
    if sizes:
        result.append((first, len(sizes)))
    return result
