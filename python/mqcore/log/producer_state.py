"""Producer state of a partition: what callers get of it, and the snapshots that spare a walk through the log.

Invariants:
    1. The log is the truth (R4): a snapshot that is damaged, lies past the log's end, or was made before a crash cut the
       log and it went on otherwise (its leader epoch tells) is dropped, and the state walked out of the batches' headers.
    2. A snapshot at offset n holds the batches below n, no more: it is written under the partition's lock.
    3. Of each partition two snapshots are kept, and one that lies at or below the segment that a recovery begins with.

Files: `<offset, 20 digits>.snapshot`, Kafka's format (mqcore/include/mqcore/producer_snapshot.h); not synced: a power
loss costs a walk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mqcore._native.producer_state import Producers
from mqcore.errors import (
    CorruptBatchError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTransactionStateError,
    MQError,
    OutOfOrderSequenceError,
)
from mqcore.log import layout
from mqcore.log.partition_ports import Appended

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore._native.producer_state import _Answer as Answer
    from mqcore.log.checkpoints import SegmentState

logger = logging.getLogger("mqcore.store")

PRODUCERS_MAX = 100_000
SNAPSHOTS_KEPT = 2
_SNAPSHOT_BYTES_MAX = 1 << 30


class OpenTransaction(NamedTuple):
    """A transaction without a marker in a partition. last_timestamp_ms: of the producer's last batch there."""

    producer_id: int
    epoch: int
    first_offset: int
    last_timestamp_ms: int


class ProducerInfo(NamedTuple):
    """A producer that a partition remembers. last_sequence -1: no batch in this epoch. open_since_offset -1: no open
    transaction; else its first offset here."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp_ms: int
    open_since_offset: int


def open_transactions(producers: Producers) -> dict[int, OpenTransaction]:
    return {
        producer_id: OpenTransaction(producer_id, epoch, first_offset, timestamp)
        for producer_id, epoch, _, _, timestamp, _, first_offset in producers.entries(open_only=True)
    }


def producer_infos(producers: Producers) -> list[ProducerInfo]:
    return [
        ProducerInfo(producer_id, epoch, sequence, timestamp, first_offset)
        for producer_id, epoch, sequence, _, timestamp, _, first_offset in producers.entries()
    ]


def stored(answer: Answer, append_time: int, topic: str, partition: int) -> Appended:
    """What an append returns that `Producers.check` did not let through: the offsets of a repetition.

    append_time: -1 under create time. Raises OutOfOrderSequenceError, DuplicateSequenceError, InvalidProducerEpochError,
    InvalidTransactionStateError, InvalidRecordError: nothing was written.
    """
    verdict, producer_id, epoch, known_epoch, sequence, expected, base_offset, next_offset, timestamp = answer
    if verdict == "duplicate":
        return Appended(base_offset, next_offset, timestamp if append_time >= 0 else -1, duplicate=True)
    where: dict[str, Any] = {"topic": topic, "partition": partition, "producer_id": producer_id, "epoch": epoch}
    if verdict == "stale":
        raise InvalidProducerEpochError("the producer's epoch is over", current_epoch=known_epoch, **where)
    if verdict == "gap":
        raise OutOfOrderSequenceError(
            "a batch does not follow the producer's last one", sequence=sequence, expected=expected, **where
        )
    if verdict == "old":
        raise DuplicateSequenceError(
            "the batch is stored already, longer ago than is remembered", sequence=sequence, expected=expected, **where
        )
    if verdict == "in_transaction":
        raise InvalidTransactionStateError("a batch outside of the transaction that its producer has open", **where)
    raise InvalidRecordError("batches of too many producers in one chunk", topic=topic, partition=partition)


class Snapshots:
    """The snapshot files of one partition directory. Not thread-safe: under the partition's lock, or before it is one."""

    __slots__ = ("_directory", "_io", "_offsets")

    def __init__(self, io: Io, directory: str) -> None:
        self._io, self._directory = io, directory
        self._offsets: list[int] | None = None  # ascending; None: not looked yet

    @property
    def offsets(self) -> list[int]:
        """Of those that are there, ascending."""
        if self._offsets is None:
            self._offsets = list_snapshots(self._directory)
        return self._offsets

    def newest(self, below: int, epoch_of: Callable[[int], int], limit: int) -> Producers | None:
        """The state of the newest snapshot at or below an offset that can be believed; those that cannot go. epoch_of:
        the leader epoch of an offset, as the log has it now."""
        for offset in reversed(self.offsets):
            if offset > below:
                continue
            try:
                producers, epoch = Producers.decode(self._read(offset), offset, limit)
            except MQError as error:
                logger.warning("%s: producer snapshot dropped: %s", self.path(offset), error)
            else:
                if epoch < 0 or epoch == epoch_of(offset - 1):
                    return producers
            self._drop([offset])
        return None

    def write(self, offset: int, producers: Producers, epoch: int, keep_from: int) -> None:
        """Write the state at `offset`, in the leader epoch of the record before it, and let go of old ones. keep_from:
        the base offset of the segment that a recovery would begin with. A disk that fails costs a walk, no more."""
        try:
            self._io.write_atomic(self.path(offset), producers.encode(max(epoch, 0)), durable=False)
            if offset not in self.offsets:
                self.offsets.append(offset)
                self.offsets.sort()
            needed = max((one for one in self.offsets if one <= keep_from), default=-1)
            self._drop([one for one in self.offsets[:-SNAPSHOTS_KEPT] if one < needed])
        except (MQError, OSError) as error:
            logger.warning("%s: no producer snapshot: %s", self.path(offset), error)

    def drop_above(self, log_end: int) -> None:
        """Remove what is ahead of the log."""
        self._drop([offset for offset in self.offsets if offset > log_end])

    def path(self, offset: int) -> str:
        return os.path.join(self._directory, layout.segment_name(offset, layout.SNAPSHOT))

    def _read(self, offset: int) -> bytes:
        layout.require_kind(self.path(offset), "file")
        return self._io.read_file(self.path(offset), _SNAPSHOT_BYTES_MAX)

    def _drop(self, gone: list[int]) -> None:
        for offset in gone:
            if layout.lstat_kind(self.path(offset)) == "file":
                self._io.unlink(self.path(offset))
            self.offsets.remove(offset)


def list_snapshots(directory: str) -> list[int]:
    """Offsets of the snapshots in a partition directory, ascending; of a missing one none."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    parsed = (layout.parse_segment_file(name) for name in names)
    return sorted(one.base_offset for one in parsed if one and one.suffix == layout.SNAPSHOT and not one.state)


def walk(io: Io, directory: str, producers: Producers, segments: Iterable[SegmentState]) -> None:
    """Add what segments hold past `producers.next_offset`. Damage costs the rest of its segment."""
    for segment in segments:
        if segment.next_offset > producers.next_offset and segment.size:
            path = os.path.join(directory, layout.segment_name(segment.base_offset))
            try:
                producers.walk(io, path, 0, segment.size)
            except CorruptBatchError as error:
                logger.warning("producer state lacks what is behind the damage: %s", error)
            producers.moved(max(producers.next_offset, segment.next_offset))


def load(
    io: Io, directory: str, segments: Iterable[SegmentState], log_end: int, epoch_of: Callable[[int], int]
) -> Producers:
    """The state at the log end of a partition that was closed cleanly: as a rule its newest snapshot."""
    found = Snapshots(io, directory).newest(log_end, epoch_of, PRODUCERS_MAX)
    producers = found if found is not None else Producers(PRODUCERS_MAX)
    walk(io, directory, producers, segments)
    producers.moved(log_end)
    return producers
