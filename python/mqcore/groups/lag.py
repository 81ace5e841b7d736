"""Lag: how many records a group has still to read in a partition, and how old the next one is.

Invariants:
    1. Only what a reader of the given isolation will be handed counts: no control markers, no records of aborted
       transactions, nothing above the visible end, nothing that retention or compaction took.
    2. The cost is bounded: above EXACT_BYTES of log the rest is taken as dense, and `exact` is False.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.errors import OffsetOutOfRangeError
from mqcore.log.reader import PartitionReader, ReadableLog
from mqcore.types import IsolationLevel

EXACT_BYTES = 64 << 20


class Lag(NamedTuple):
    """records: to read. oldest_ms: timestamp of the next one, -1 for none. end: the visible end. exact: counted to the
    end."""

    records: int
    oldest_ms: int
    end: int
    exact: bool = True


def count_readable(log: ReadableLog, offset: int, isolation: IsolationLevel, *, exact_bytes: int = EXACT_BYTES) -> Lag:
    """The lag of a reader at `offset`. Raises CorruptBatchError, StorageError; a partition that is gone has none."""
    end = log.visible_end(isolation)
    start = max(offset, getattr(log, "log_start_offset", 0))  # below it there is nothing
    reader = PartitionReader(log, start, isolation=isolation, check_crc=False)
    records, oldest_ms, read_bytes = 0, -1, 0
    while reader.position < end:
        if read_bytes >= exact_bytes:
            return Lag(records + end - reader.position, oldest_ms, end, exact=False)
        try:
            columns = reader.read(1 << 30)
        except OffsetOutOfRangeError:  # retention took it meanwhile
            if reader.position >= end:
                break
            reader.seek(max(reader.position, getattr(log, "log_start_offset", end)))
            continue
        if columns is None:
            break
        if oldest_ms < 0:
            oldest_ms = int(columns.timestamps[0])
        records += len(columns)
        read_bytes += columns.end_position - columns.start_position
    return Lag(records, oldest_ms, end)
