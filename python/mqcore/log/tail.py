"""The short way for a reader that is at the end: what was appended since lies behind what it read, in the same file.

Invariants:
    1. Nothing is served here that `PartitionLog.read` would not serve: same bounds, same errors. Whatever is out of the
       ordinary (a roll, retention, compaction, a cut file, an error) is LOST, and `read` takes the whole look.
    2. Nothing is held between calls but a weak reference to the segment: a removed file's space is not kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from mqcore.errors import MQError
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from mqcore._native.segment import Mapping, Segment
    from mqcore.log.offsets import Offsets
    from mqcore.log.readable import ReadablePartition

LOST: Final = False
Tail = tuple["Mapping", int] | Literal[False] | None


def tail_of(
    log: ReadablePartition,
    offsets: Offsets,
    segment: Segment,
    start: int,
    offset: int,
    max_bytes: int,
    isolation: IsolationLevel,
) -> Tail:
    """(mapping, end) of whole batches from `start` on, the first of which begins with `offset`; None: nothing there
    yet; LOST: ask `log.read`."""
    log.host.check_usable()
    if log.deleted:
        return LOST
    end = offsets.last_stable if isolation == IsolationLevel.READ_COMMITTED else offsets.high_watermark
    if offset >= end or offset < offsets.log_start:
        return None if offsets.log_start <= offset <= offsets.log_end else LOST
    try:
        log.host.open_segments.touch(segment)
        return segment.tail(start, max_bytes, end) or LOST
    except (MQError, OSError):
        return LOST
