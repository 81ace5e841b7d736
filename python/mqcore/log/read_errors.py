"""The errors of a read: which of them mean "look again", and where the others happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.errors import CorruptBatchError, OffsetOutOfRangeError, StorageError
from mqcore.log import layout
from mqcore.log.checkpoints import Damage

if TYPE_CHECKING:
    from mqcore.log.offsets import Offsets
    from mqcore.log.readable import ReadablePartition
    from mqcore.log.segments import SegmentEntry


def is_gone(error: Exception) -> bool:
    """Whether a segment's handle or file is not there any more."""
    return not isinstance(error, StorageError) or error.where.get("errno") == "ENOENT"


def placed(error: CorruptBatchError, log: ReadablePartition, offset: int) -> CorruptBatchError:
    """The same error, with topic, partition and offset."""
    where = {"topic": log.topic, "partition": log.partition, "offset": offset} | {
        name: value for name, value in error.where.items() if value is not None
    }
    return CorruptBatchError(error.what, hint=error.hint or "Run `mqcore log verify`", **where)


def out_of_range(what: str, log: ReadablePartition, offset: int, offsets: Offsets) -> OffsetOutOfRangeError:
    return OffsetOutOfRangeError(
        what,
        topic=log.topic,
        partition=log.partition,
        offset=offset,
        log_start_offset=offsets.log_start,
        log_end_offset=offsets.log_end,
    )


def damaged(directory: str, damage: Damage) -> CorruptBatchError:
    return CorruptBatchError(
        "damaged range",
        hint="Seek to next_offset to go on behind it; `mqcore log repair` quarantines it",
        path=f"{directory}/{layout.segment_name(damage.base_offset)}",
        position=damage.position,
        offset=damage.offset,
        next_offset=damage.next_offset,
    )


def not_as_sealed(path: str, entry: SegmentEntry) -> CorruptBatchError:
    return CorruptBatchError(
        "the segment is not as it was sealed, though each batch is good: offsets may be wrong",
        hint="Seek to next_offset to go on behind it; `mqcore log verify`, then `mqcore log repair`",
        path=path,
        next_offset=entry.next_offset,
    )
