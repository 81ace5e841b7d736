"""A consumer without a group: reads partitions of topics in order, and waits for what is not there yet.

Invariants:
    1. Positions move by what was handed out, and by seek or reset; never back otherwise (I10). Of a record iteration
       the position is behind the record that was handed out last, whatever was decoded ahead (I11, I12).
    2. Nothing polls: a wait reads the marks' sequence first, then looks for records, then sleeps until the sequence
       differs from the one read; a publication between look and sleep ends the sleep at once.
    3. A partition with much to read delays no other by more than one slice: partitions take turns.
    4. A timeout returns what there is, an empty list at worst; it raises nothing.
Threads: `_lock` guards positions and readers; it is held while records are collected, never while waiting. Calls from
several threads take turns; `close` may come from any thread. It is taken before the store's own locks.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

from mqcore.client.batches import Batch
from mqcore.client.dedup_reader import DEFAULT_WINDOW_MS, DedupReader
from mqcore.client.subscription import Subscription
from mqcore.errors import MQError, OffsetOutOfRangeError, StoreClosedError, UnknownTopicError
from mqcore.log.reader import Columns, PartitionReader, ReadableLog, Record, RecordIterator
from mqcore.types import IsolationLevel, TopicPartition

if TYPE_CHECKING:
    import uuid

    from mqcore.log.topics import TopicInfo

Start = Literal["earliest", "latest"] | int
OnOutOfRange = Literal["error", "earliest", "latest"]
Partition = int | tuple[str, int] | TopicPartition

SLICE_BYTES = 1 << 20
# A sleeper looks up this often although nothing was published: only then does it see that the consumer was closed.
CLOSE_CHECK_S = 0.5
# How often a reader of a store that nobody writes looks for a new writer.
WRITER_CHECK_S = 0.05


class MarksLike(Protocol):
    def sequence(self, slot: int = -1) -> int: ...
    def wait(self, seen: int, timeout_s: float | None, slot: int = -1) -> bool: ...
    def closed(self) -> bool: ...


class LogLike(ReadableLog, Protocol):
    """What a consumer needs of a partition, beside reading."""

    @property
    def topic_id(self) -> uuid.UUID: ...
    @property
    def deleted(self) -> bool: ...
    @property
    def log_start_offset(self) -> int: ...
    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None: ...


class StoreLike(Protocol):
    """What a consumer needs of the store (`LogStore`)."""

    @property
    def marks(self) -> MarksLike: ...
    def topics(self) -> Mapping[str, TopicInfo]: ...
    def topic(self, name: str) -> TopicInfo: ...
    def partition(self, topic: str, partition: int) -> LogLike: ...


class _InFlight(NamedTuple):
    """A batch whose records are being handed out one by one, to one iterator at a time."""

    key: TopicPartition
    records: RecordIterator


class Consumer:
    """Made by `store.consumer(...)`; a context manager that closes; iterating it gives records.

    topics: names, lists of names, compiled patterns, or strings that begin with "^" (regular expressions, matched at
        the start of the name); topics that appear later and match are read from their beginning.
    start: "earliest", "latest" (only what comes from now on), or ms since 1970: the first record at or after it.
    isolation: "read_committed" (up to the last stable offset, aborted transactions left out) or "read_uncommitted".
    on_out_of_range: what to do when retention removed the position: "error" (OffsetOutOfRangeError), or go on at the
        "earliest" or "latest" offset.
    follow: iterations wait for more records for ever; False: they end where the log ends.
    copy: batches in private memory: they pin no segment, and no bad sector or truncation can reach them later.
    dedup: leave out records whose message id (Producer.send_many, ids=) an earlier record of the partition has: True
        within the topic's mqcore.dedup.window.ms (an hour if it has none), a number within so many ms.
    """

    def __init__(
        self,
        store: StoreLike,
        *topics: str | re.Pattern[str] | Iterable[str | re.Pattern[str]],
        start: Start = "earliest",
        isolation: IsolationLevel | str = IsolationLevel.READ_COMMITTED,
        on_out_of_range: OnOutOfRange = "error",
        follow: bool = True,
        copy: bool = False,
        dedup: bool | int = False,
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        """Raises UnknownTopicError, ValueError (an option that is none)."""
        if start not in ("earliest", "latest") and (not isinstance(start, int) or isinstance(start, bool)):
            raise ValueError('start must be "earliest", "latest" or milliseconds since 1970')
        if on_out_of_range not in ("error", "earliest", "latest"):
            raise ValueError('on_out_of_range must be "error", "earliest" or "latest"')
        if dedup is not True and dedup < 0:
            raise ValueError("dedup must be True, False or a number of milliseconds")
        self._store, self._start, self._on_out_of_range = store, start, on_out_of_range
        self._isolation = IsolationLevel(isolation)
        self._follow, self._copy, self._slice_bytes, self._dedup = follow, copy, slice_bytes, dedup
        self._subscription = Subscription(topics)
        self._lock = threading.RLock()
        self._readers: dict[TopicPartition, PartitionReader[LogLike]] = {}  # the assignment, in turn order
        self._paused: set[TopicPartition] = set()
        self._in_flight: _InFlight | None = None
        self._taken: TopicPartition  # which the last columns came from
        self._assigned = False  # by hand: the subscription no longer decides
        self._closed = False
        _living.add(self)
        self._subscription.require(store)
        self._follow_subscription(start)

    # -- which partitions -------------------------------------------------------------------------------------------

    @property
    def assignment(self) -> tuple[TopicPartition, ...]:
        """The partitions that are read, sorted."""
        with self._lock:
            return tuple(sorted(self._readers))

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Read these partitions only: numbers where one topic is subscribed, (topic, partition) otherwise.

        New ones begin where `start` says, others keep their position. Raises UnknownTopicError.
        """
        with self._lock:
            self._check_open()
            keys = [self._key(partition, assigned=False) for partition in partitions]
            new = {key: self._readers.get(key) or self._reader(key, self._start) for key in keys}
            self._give_back()
            self._readers, self._assigned = new, True
            self._paused &= new.keys()

    def pause(self, *partitions: Partition) -> None:
        """Hand out nothing from these partitions (none named: from all) until resume; positions stay."""
        with self._lock:
            self._give_back()
            self._paused |= self._keys(partitions)

    def resume(self, *partitions: Partition) -> None:
        """Undo pause; none named: for all."""
        with self._lock:
            self._paused -= self._keys(partitions)

    @property
    def paused(self) -> tuple[TopicPartition, ...]:
        return tuple(sorted(self._paused))

    def _keys(self, partitions: Iterable[Partition]) -> set[TopicPartition]:
        return {self._key(partition) for partition in partitions} or set(self._readers)

    def _key(self, partition: Partition, *, assigned: bool = True) -> TopicPartition:
        """The partition meant. UnknownTopicError: not there, or (assigned=True) not read by this consumer."""
        if isinstance(partition, int):
            topics = self._subscription.topics
            if len(topics) != 1:
                raise ValueError("name the topic too: this consumer reads several (or none yet)")
            key = TopicPartition(next(iter(topics)), partition)
        else:
            key = partition if isinstance(partition, TopicPartition) else TopicPartition(*partition)
        if assigned and key not in self._readers:
            raise UnknownTopicError("partition not assigned", topic=key.topic, partition=key.partition)
        return key

    def _reader(self, key: TopicPartition, start: Start) -> PartitionReader[LogLike]:
        log = self._store.partition(key.topic, key.partition)
        return self._reader_at(key, log, self._offset_of(log, start))

    def _reader_at(self, key: TopicPartition, log: LogLike, offset: int) -> PartitionReader[LogLike]:
        options: dict[str, Any] = {"isolation": self._isolation, "max_bytes": self._slice_bytes, "copy": self._copy}
        if self._dedup is False:
            return PartitionReader(log, offset, **options)
        config = self._store.topic(key.topic).config
        window_ms = self._dedup if self._dedup is not True else config.dedup_window_ms or DEFAULT_WINDOW_MS
        return DedupReader(log, offset, window_ms=window_ms, memory_bytes=config.dedup_max_bytes, **options)

    def _offset_of(self, log: LogLike, start: Start) -> int:
        if start == "earliest":
            return log.log_start_offset
        found = None if start == "latest" else log.offset_for_time(int(start))
        return found[0] if found is not None else log.visible_end(self._isolation)

    def _follow_subscription(self, start: Start) -> None:
        """Take in partitions that the subscription names and we do not read yet; drop those of deleted topics."""
        if self._assigned:
            return
        wanted = self._subscription.partitions()
        for key, reader in list(self._readers.items()):
            if wanted.get(key) != reader.log.topic_id:  # deleted, perhaps made anew
                del self._readers[key]
                self._paused.discard(key)
        for key in sorted(wanted.keys() - self._readers.keys()):
            self._readers[key] = self._reader(key, start)

    # -- where ------------------------------------------------------------------------------------------------------

    def position(self, partition: Partition) -> int:
        """Offset of the next record that this consumer hands out from the partition."""
        with self._lock:
            key = self._key(partition)
            if self._in_flight is not None and self._in_flight.key == key:
                return self._in_flight.records.next_offset
            return self._readers[key].position

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at an offset. One that is out of range shows at the next read (see on_out_of_range)."""
        if offset < 0:
            raise ValueError("offset must be 0 or more")
        with self._lock:
            self._check_open()
            reader = self._readers[self._key(partition)]
            self._give_back()
            reader.seek(offset)

    def seek_to_beginning(self, *partitions: Partition) -> None:
        """Go to the log start; no partition named: in all."""
        self._seek_all(partitions, "earliest")

    def seek_to_end(self, *partitions: Partition) -> None:
        """Go to the visible end; no partition named: in all."""
        self._seek_all(partitions, "latest")

    def seek_to_timestamp(self, timestamp_ms: int, *partitions: Partition) -> None:
        """Go to the first record at or after timestamp_ms (to the end if there is none); none named: in all."""
        self._seek_all(partitions, timestamp_ms)

    def _seek_all(self, partitions: Iterable[Partition], start: Start) -> None:
        with self._lock:
            self._check_open()
            keys = self._keys(partitions)
            self._give_back()
            for key in keys:
                reader = self._readers[key]
                reader.seek(self._offset_of(reader.log, start))

    # -- reading ----------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float | None = 1.0, max_records: int = 1000) -> list[Batch]:
        """Batches with at most max_records records together, from as many partitions as have any.

        Waits up to timeout_s seconds (None: for ever, 0: not at all) for the first one. An empty list: nothing came in
        time, or the consumer was closed meanwhile. Raises OffsetOutOfRangeError (see on_out_of_range),
        CorruptBatchError (names the place; the position stays), StorageError, StoreClosedError.
        """
        if max_records < 1:
            raise ValueError("max_records must be 1 or more")
        self._check_open()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            marks = self._store.marks  # the same for look and sleep: a reader may find a new writer meanwhile
            seen = marks.sequence()  # before the look: invariant 2
            with self._lock:
                if self._closed:
                    return []
                self._give_back()
                found = self._collect(max_records, one=False)
            if found or not self._sleep(marks, seen, deadline):
                return [Batch(columns) for columns in found]

    def batches(self, max_records: int = 10_000, timeout_s: float | None = None) -> Iterator[Batch]:
        """One batch after the other, each of one partition and of at most max_records records; partitions take turns.

        timeout_s: end when nothing came for so long; None: wait for ever (with follow=False: end at the log's end).
        Ends when the consumer is closed. Errors as poll.
        """
        if max_records < 1:
            raise ValueError("max_records must be 1 or more")
        self._check_open()
        wait_s = 0.0 if timeout_s is None and not self._follow else timeout_s
        while (found := self._next(max_records, wait_s)) is not None:
            yield Batch(found)

    def __iter__(self) -> Iterator[Record]:
        """Records, one at a time, for ever (with follow=False: until the log's end). Leaving the loop loses nothing:
        the position is behind the last record that was handed out."""
        self._check_open()
        wait_s = None if self._follow else 0.0
        # One native iterator over all batches: no Python frame for a record, one for a refill.
        return RecordIterator(lambda records: self._next(10_000, wait_s, records) is not None)

    def _next(self, max_records: int, wait_s: float | None, records: RecordIterator | None = None) -> Columns | None:
        """The next batch of some partition; None: none in time, or closed. records: the iterator to load it into."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while True:
            marks = self._store.marks
            seen = marks.sequence()
            with self._lock:
                if self._closed:
                    return None
                self._give_back()
                found = self._collect(max_records, one=True)
                if found and records is not None:
                    records.load(found[0])
                    self._in_flight = _InFlight(self._taken, records)
            if found:
                return found[0]
            if not self._sleep(marks, seen, deadline):
                return None

    def _collect(self, max_records: int, *, one: bool) -> list[Columns]:
        """What is there now: one run, or one a partition, up to max_records in all. Who was asked goes to the end.

        An error is raised only where nothing was collected: else those records would be lost. It comes again.
        """
        found: list[Columns] = []
        for key in list(self._readers):
            if max_records <= 0 or (one and found):
                break
            if self._paused and key in self._paused:
                continue
            reader = self._readers[key]
            if len(self._readers) > 1:
                self._readers[key] = self._readers.pop(key)  # dicts keep insertion order: this is the turn
            try:
                columns = self._read(key, reader, max_records)
            except MQError:
                if found:
                    break
                if self._assigned or not self._subscription.refresh(self._store, at_once=True):
                    raise
                self._follow_subscription("earliest")
                if key in self._readers:
                    raise
                continue  # the topic was deleted: that is what went wrong
            if columns is not None:
                found.append(columns)
                self._taken = key
                max_records -= len(columns)
        if not found and self._subscription.refresh(self._store):
            self._follow_subscription("earliest")
            return self._collect(max_records, one=one)
        return found

    def _read(self, key: TopicPartition, reader: PartitionReader[LogLike], max_records: int) -> Columns | None:
        if reader.log.deleted:
            if self._assigned:
                raise UnknownTopicError("the topic was deleted", topic=key.topic, partition=key.partition)
            return None  # the next look at the topics drops it
        try:
            return reader.read(max_records)
        except OffsetOutOfRangeError:
            if self._on_out_of_range == "error":
                raise
            reader.seek(self._offset_of(reader.log, self._on_out_of_range))
            return reader.read(max_records)

    def _give_back(self) -> None:
        """End a record iteration: what it decoded but did not hand out comes again. The caller holds the lock."""
        flight, self._in_flight = self._in_flight, None
        if flight is not None:
            rest = flight.records.take_rest()
            if len(rest) and flight.key in self._readers:
                self._readers[flight.key].unread(rest)

    def _sleep(self, marks: MarksLike, seen: int, deadline: float | None) -> bool:
        """Wait for a publication after `seen`; False: the deadline passed."""
        left = CLOSE_CHECK_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        if marks.wait(seen, min(left, CLOSE_CHECK_S)) and marks.sequence() == seen and marks.closed():
            # The writer is gone, so waits end at once and nothing can be published: look now and then for a new one.
            time.sleep(min(left, WRITER_CHECK_S))
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let go of all slices; a poll that waits returns within half a second. Batches handed out stay valid."""
        with self._lock:
            self._closed = True
            self._give_back()
            self._readers.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the consumer is closed")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_living: weakref.WeakSet[Consumer] = weakref.WeakSet()


def _after_fork() -> None:
    # The parent's thread that held a lock at the fork is not here to give it back: a close would wait for ever.
    for consumer in list(_living):
        consumer._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
