"""Sends whose records carry message ids: a retry of one that is stored already is not stored again.

Invariants:
    1. Records with ids are appended before the call returns; what the producer had open for their partition goes first,
       so the order of a thread's calls is the order of the log.
    2. Without a key and a partition the id decides the partition: a retry goes where its original went.
    3. A duplicate is acknowledged when its original is durable, with the original's offset.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mqcore._native import id_batches
from mqcore._native.inputs import Column
from mqcore.errors import InvalidRecordError
from mqcore.types import OffsetRange, RecordMetadata

if TYPE_CHECKING:
    from mqcore._native.chunks import Topic
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.partition_ports import Appended
    from mqcore.log.pending_ids import IdHolder

    Write = Callable[[Topic, int, Any, Callable[..., bytearray]], Appended]
    """(topic, partition, its log, `build`) -> what the append says. build(identity=): see id_batches.build."""


class IdDelivery:
    """The outcome of a send with ids. Any thread may use it.

    topic: its name. partitions (int32), offsets (int64), duplicates (bool): of each record, shape (n,). The offset is
    that of the first record with this id, -1 if retention took that away; duplicates: it was stored before.
    """

    def __init__(
        self,
        topic: str,
        partitions: NDArray[np.int32],
        offsets: NDArray[np.int64],
        duplicates: NDArray[np.bool_],
        ends: Sequence[tuple[PartitionLog, int]],
    ) -> None:
        """ends: below which offset each log must be durable."""
        self.topic, self.partitions, self.offsets, self.duplicates = topic, partitions, offsets, duplicates
        self._ends = ends
        self._callbacks: list[Callable[[IdDelivery], Any]] = []

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"<IdDelivery {self.topic}: {len(self)} records, {int(self.duplicates.sum())} duplicates>"

    def done(self) -> bool:
        """True once every record, or the one that it repeats, is acknowledged; never blocks."""
        return all(log.high_watermark >= end for log, end in self._ends)

    @property
    def ranges(self) -> list[OffsetRange]:
        """Where the records lie, duplicates too: (partition, base_offset, count), sorted, as few as possible."""
        known = self.offsets >= 0
        partitions, offsets = self.partitions[known], self.offsets[known]
        order = np.lexsort((offsets, partitions))
        partitions, offsets = partitions[order], offsets[order]
        breaks = np.flatnonzero((np.diff(partitions) != 0) | (np.diff(offsets) > 1)) + 1
        begins, ends = np.append(0, breaks), np.append(breaks, len(offsets))
        return [
            OffsetRange(int(partitions[begin]), int(offsets[begin]), int(offsets[end - 1] - offsets[begin]) + 1)
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
            if end > begin
        ]

    def result(self, timeout: float | None = None) -> list[OffsetRange]:
        """Wait until all records are acknowledged and return `ranges`. timeout: seconds, None waits without end.
        Raises TimeoutExceededError, StorageError."""
        deadline = None if timeout is None else monotonic() + timeout
        for log, end in self._ends:
            log.wait_durable(end, None if deadline is None else max(0.0, deadline - monotonic()))
        callbacks, self._callbacks = self._callbacks, []
        for fn in callbacks:
            fn(self)
        return self.ranges

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as result does; return the error that it would raise, None if there is none."""
        try:
            self.result(timeout)
        except Exception as error:
            return error
        return None

    def add_done_callback(self, fn: Callable[[IdDelivery], Any]) -> None:
        """Have fn(self) called once all is acknowledged: at once if it is, else by who waits for it (result, flush)."""
        if self.done():
            fn(self)
        else:
            self._callbacks.append(fn)


class IdRecordDelivery:
    """The outcome of one record with an id. Any thread may use it.

    duplicate: it was stored before; the result is then the original's place.
    """

    def __init__(self, sent: IdDelivery, timestamp_ms: int) -> None:
        self._sent, self._timestamp_ms = sent, timestamp_ms
        self.duplicate = bool(sent.duplicates[0])

    def done(self) -> bool:
        """True once it, or the record that it repeats, is acknowledged; never blocks."""
        return self._sent.done()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until it is acknowledged. timestamp_ms: this send's; offset: -1 where retention took
        the original. Raises TimeoutExceededError, StorageError."""
        self._sent.result(timeout)
        return RecordMetadata(
            self._sent.topic, int(self._sent.partitions[0]), int(self._sent.offsets[0]), self._timestamp_ms
        )

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as result does; return the error that it would raise, None if there is none."""
        return self._sent.exception(timeout)

    def add_done_callback(self, fn: Callable[[IdRecordDelivery], Any]) -> None:
        """See IdDelivery.add_done_callback."""
        self._sent.add_done_callback(lambda _: fn(self))


def send(
    store: Any,
    target: Topic,
    ids: Any,
    values: Any,
    keys: Any,
    times: Any,
    timestamp: int,
    *,
    partition: int,
    batch_bytes: int,
    place: Callable[[bytes, int], int] | None,
    before: Callable[[int], None],
    write: Write,
    holder: IdHolder | None,
) -> IdDelivery:
    """Append records with ids.

    store: a LogStore. times: int64 array, ms, or None: `timestamp` for all. partition: -1: by key, or id.
    place: the producer's own partitioner. before: called with each partition before its append. write: appends.
    holder: the transaction that the records belong to.
    Raises as a send does; WindowFullError, ConcurrentTransactionsError (an id that another open transaction has).
    Partitions before the one that failed have their records: send all again.
    """
    column, key_column = Column(values), None if keys is None else Column(keys)
    count = len(column)
    if key_column is not None and len(key_column) != count:
        raise ValueError(f"{count} values and {len(key_column)} keys")
    raw, width = encoded(ids, count)
    config = target.info.config
    partitions = _partitions(target, raw, width, keys, key_column, partition, place)
    if "compact" in config.cleanup_policy and (
        key_column is None or (id_batches.places(key_column, 1, False) < 0).any()
    ):
        raise InvalidRecordError("a compacted topic needs a key in each record", topic=target.name)
    offsets, duplicates = np.full(count, -1, np.int64), np.zeros(count, np.bool_)
    ends = []
    rows_of = raw.reshape(count, width)
    for number in np.unique(partitions).tolist():
        rows = np.flatnonzero(partitions == number)
        log = store.partition(target.name, number)
        before(number)

        def append(new: NDArray[np.int64], log: Any = log, number: int = number, rows: Any = rows) -> Appended:
            build = partial(
                id_batches.build,
                column,
                key_column,
                raw.data,
                width,
                np.ascontiguousarray(rows[new]).data,
                times,
                timestamp,
                batch_bytes=batch_bytes,
                batch_max=config.max_message_bytes,
            )
            return write(target, number, log, build)

        window = store.partitions.id_windows.of(log)
        if window is None:
            appended = append(np.arange(len(rows)))
            offsets[rows] = np.arange(appended.base_offset, appended.base_offset + len(rows))
            ends.append((log, appended.next_offset))
        else:
            mine = (rows_of if len(rows) == count else rows_of[rows]).reshape(-1)
            words = mine.view(">u8").astype(np.uint64) if width == 8 else mine.copy().view(np.uint64)
            sent = window.send(words, width, append, holder)
            offsets[rows], duplicates[rows] = sent.offsets, sent.duplicates
            ends.append((log, sent.next_offset))
    return IdDelivery(target.name, partitions, offsets, duplicates, ends)


def _partitions(
    target: Topic,
    raw: NDArray[np.uint8],
    width: int,
    keys: Any,
    key_column: Column | None,
    partition: int,
    place: Callable[[bytes, int], int] | None,
) -> NDArray[np.int32]:
    total = target.partitions
    count = len(raw) // width
    if partition >= 0:
        return np.full(count, partition, np.int32)
    # The low bits of a Snowflake are its sequence: mostly 0 where ids are made one at a time. So all bits are mixed.
    words = raw.reshape(count, width)[:, -8:].copy().view(">u8").reshape(count).astype(np.uint64)
    by_id = ((words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)) % np.uint64(total)
    if key_column is None:
        return by_id.astype(np.int32)
    if place is not None:
        found = np.array([-1 if key is None else place(bytes(key), total) for key in keys], np.int32)
    else:
        consistent = target.info.config.partitioner == "consistent"
        found = id_batches.places(key_column, total, consistent)
    return np.where(found < 0, by_id, found).astype(np.int32)


def encoded(ids: Any, count: int) -> tuple[NDArray[np.uint8], int]:
    """(the bytes of all ids, big-endian, bytes of each: 8 or 16).

    ids: integers of 64 bits (a numpy array, or a sequence), or of 128: UUIDs, 16-byte strings, or a (n, 16) uint8 array.
    TypeError, ValueError (not as many as values; out of range).
    """
    if isinstance(ids, np.ndarray) and ids.ndim == 2 and ids.dtype == np.uint8 and ids.shape[1] == 16:
        raw, width = np.ascontiguousarray(ids).reshape(-1), 16
    else:
        first = ids[0] if len(ids) else 0
        if isinstance(first, uuid.UUID | bytes | bytearray | memoryview):
            parts = [one.bytes if isinstance(one, uuid.UUID) else bytes(one) for one in ids]
            if any(len(part) != 16 for part in parts):
                raise ValueError("a 128-bit id is 16 bytes")
            raw, width = np.frombuffer(b"".join(parts), np.uint8), 16
        else:
            numbers = np.asarray(ids)
            if numbers.size == 0:
                numbers = numbers.astype(np.uint64)
            if (
                numbers.ndim != 1
                or numbers.dtype.kind not in "ui"
                or (numbers.dtype.kind == "i" and (numbers < 0).any())
            ):
                raise TypeError("ids are 64-bit unsigned integers, UUIDs, or 16 bytes each")
            raw, width = numbers.astype(">u8").view(np.uint8), 8
    if len(raw) != count * width:
        raise ValueError(f"{count} values and {len(raw) // width} ids")
    return raw, width
