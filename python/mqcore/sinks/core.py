"""What the sinks of all databases share: the table of offsets, and the rule by which it moves.

The offset behind each batch is stored in the same database transaction as what was made of the batch. Whatever dies,
and whenever: both are there or neither, and reading goes on at the stored offset.

Invariants:
    1. A row moves from the value that this process saw last (compare and set), before anything of the batch is written:
       of two processes with one sink name one gets SinkFencedError and has written nothing.
    2. After a transaction that failed nothing is believed: the outcome of its commit may be unknown. Its partitions take
       no batch until `resume` has read the table again and the consumer stands where it says.
    3. Offsets belong to a topic id: a topic that was deleted and made again begins at its beginning.
A sink belongs to one thread.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, Self, TypeVar

from mqcore.client.batches import Batch
from mqcore.client.consumer import Consumer
from mqcore.client.embedded import Store
from mqcore.errors import (
    ConcurrentTransactionsError,
    InvalidTransactionStateError,
    OffsetOutOfRangeError,
    SinkFencedError,
    UnknownTopicError,
)
from mqcore.processing.retry import Backoff
from mqcore.processing.signals import stopping_on_signals
from mqcore.types import TopicPartition

log = logging.getLogger("mqcore.sinks")

Db = TypeVar("Db")
T = TypeVar("T")
Until = Literal["stopped", "caught_up"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_POLL_S = 0.25  # how soon a run without records sees that it should stop
_LOOK_S = 1.0  # how often a run looks for new partitions


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table as it was seen last."""

    topic_id: str
    next_offset: int


@dataclass(slots=True)
class _Cursor:
    """Where a partition stands. next_offset: -1 after a failure. row: None if the table has none yet. began: where this
    process found the partition, which is where it goes back to without a row."""

    topic_id: str
    next_offset: int
    row: _Row | None
    began: int


class _Patience:
    """How long failures in a row are borne."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._failures, self._since = seconds, 0, 0.0

    def worked(self) -> None:
        self._failures = 0

    def failed(self) -> float | None:
        """Seconds to wait before the next try; None: it was the last."""
        now = time.monotonic()
        if self._failures == 0:
            self._since = now
        self._failures += 1
        return Backoff(0.05, 2.0).wait_s(self._failures) if now - self._since < self._seconds else None


class Sink(ABC, Generic[Db]):
    """Base of `SqliteSink` and `PostgresSink`; `Db` is what their transactions hand out."""

    def __init__(self, name: str, *, table: str) -> None:
        """name: of this sink in the table; processes that use one name go on where the other ended, one at a time.
        table: of offsets, made if it is missing."""
        if not name or len(name) > 249:
            raise ValueError("a sink needs a name of 1 to 249 characters")
        if not _IDENTIFIER.fullmatch(table):
            raise ValueError(f"not a table name: {table!r}")
        self.name, self._table = name, table
        self._cursors: dict[TopicPartition, _Cursor] = {}
        self._stop = threading.Event()

    # -- what a database adds ----------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> AbstractContextManager[Db]:
        """A transaction: committed at the end of the `with`, rolled back by an exception."""

    @abstractmethod
    def _execute(self, sql: str, values: Sequence[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        """Run a statement with ? for its values; rows that it changed, rows that it gave."""

    @abstractmethod
    def _is_passing(self, error: Exception) -> bool:
        """Whether the database may be well again in a moment."""

    def _reconnect(self) -> None:
        """Make a connection that was lost anew, where it is the sink's own."""

    def _make_table(self) -> None:
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (sink TEXT NOT NULL, topic TEXT NOT NULL, "
            "topic_id TEXT NOT NULL, partition INTEGER NOT NULL, next_offset BIGINT NOT NULL, "
            "PRIMARY KEY (sink, topic, partition))",
            (),
        )

    # -- where reading goes on ---------------------------------------------------------------------------------------

    def positions(self) -> dict[TopicPartition, int]:
        """The stored offset of each partition: of the first record that is not in the database."""
        return {key: row.next_offset for key, row in self._rows().items()}

    def reset(self, topic: str, partition: int, next_offset: int | None) -> None:
        """Overwrite a stored offset by hand (None: forget it, so that reading begins at the log's start). What is in
        the database is not touched: it is for you to say that it fits."""
        self._cursors.pop(TopicPartition(topic, partition), None)
        where = "sink = ? AND topic = ? AND partition = ?"
        if next_offset is None:
            self._execute(f"DELETE FROM {self._table} WHERE {where}", (self.name, topic, partition))
        elif next_offset < 0:
            raise ValueError("an offset must be 0 or more")
        else:
            sql = f"UPDATE {self._table} SET next_offset = ? WHERE {where}"
            if self._execute(sql, (next_offset, self.name, topic, partition))[0] != 1:
                raise UnknownTopicError(
                    "the sink has no offset of it", sink=self.name, topic=topic, partition=partition
                )

    def consumer(
        self, store: Store, topics: str | Iterable[str], *, partitions: Iterable[int] | None = None, **options: Any
    ) -> Consumer:
        """A consumer of topics (by name) that stands where the database says. Give every batch that it hands out to
        `transaction`, in order.

        partitions: these only (several processes may share the work, each with its own partitions).
        options: of `store.consumer`, but for a group, and `start`: that is where partitions without an offset begin.
        Raises UnknownTopicError, OffsetOutOfRangeError: the database is ahead of the log.
        """
        names = [topics] if isinstance(topics, str) else list(topics)
        numbers = None if partitions is None else set(partitions)
        for _ in range(100):
            ids = {name: str(store.topic(name).topic_id) for name in names}
            consumer: Consumer = store.consumer(*names, **options)
            try:
                keys = [TopicPartition(name, number) for name in names for number in store.partitions(name)]
                consumer.assign(key for key in keys if numbers is None or key.partition in numbers)
                if {name: str(store.topic(name).topic_id) for name in names} == ids:  # so it reads these, no later ones
                    self._place(store, consumer, ids)
                    return consumer
            except BaseException:
                consumer.close()
                raise
            consumer.close()
        raise ConcurrentTransactionsError("the topics are being deleted and made again all the time", topics=names)

    def resume(self, store: Store, consumer: Consumer) -> None:
        """Put a consumer of this sink back to what the database says: after a transaction that failed."""
        self._reconnect()
        ids = {key.topic: self._cursors[key].topic_id for key in consumer.assignment}
        self._place(store, consumer, ids, again=True)

    def _place(self, store: Store, consumer: Consumer, ids: dict[str, str], *, again: bool = False) -> None:
        rows = self._rows()
        ends = {topic: store.end_offsets(topic) for topic in ids}
        for key in consumer.assignment:
            row, topic_id = rows.get(key), ids[key.topic]
            if row is not None and row.topic_id == topic_id:
                end = ends[key.topic][key.partition]
                if row.next_offset > end:
                    raise OffsetOutOfRangeError(
                        "the database is ahead of the log: its offset lies past the log's end",
                        hint="The log lost its end, or is an older copy; bring both from one time, or use reset()",
                        sink=self.name,
                        topic=key.topic,
                        partition=key.partition,
                        offset=row.next_offset,
                        log_end_offset=end,
                    )
                consumer.seek(key, row.next_offset)
            elif row is not None:
                log.info("sink %s: %s is another topic of that name now, read from its beginning", self.name, key)
                consumer.seek_to_beginning(key)
            elif again:
                consumer.seek(key, self._cursors[key].began)
            position = consumer.position(key)
            began = self._cursors[key].began if again else position
            self._cursors[key] = _Cursor(topic_id, position, row, began)

    def _rows(self) -> dict[TopicPartition, _Row]:
        sql = f"SELECT topic, partition, topic_id, next_offset FROM {self._table} WHERE sink = ?"
        found = self._execute(sql, (self.name,))[1]
        return {TopicPartition(topic, number): _Row(topic_id, offset) for topic, number, topic_id, offset in found}

    # -- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *batches: Batch) -> Iterator[Db]:
        """One database transaction for batches of `consumer`, and for all that is written through what it hands out:
        committed at the end of the `with` with the offsets behind the batches, rolled back by an exception.

        Do not commit or roll back inside. After an exception call `resume`, or end.
        Raises SinkFencedError: another process moved the offsets (nothing was written); InvalidTransactionStateError:
        the batch is not the next one; and the database's own errors.
        """
        moved = self._moves(batches)
        try:
            with self._begin() as db:
                for key, (cursor, next_offset) in sorted(moved.items()):  # one order for all: no deadlocks
                    self._move(key, cursor, next_offset)
                yield db
        except BaseException:
            for key in moved:
                self._cursors[key].next_offset = -1  # invariant 2
            raise
        for cursor, next_offset in moved.values():
            cursor.row, cursor.next_offset = _Row(cursor.topic_id, next_offset), next_offset

    def _moves(self, batches: Sequence[Batch]) -> dict[TopicPartition, tuple[_Cursor, int]]:
        """{partition: (where it stands, the offset behind its last batch)}."""
        moved: dict[TopicPartition, tuple[_Cursor, int]] = {}
        for batch in batches:
            key = TopicPartition(batch.topic, batch.partition)
            cursor = self._cursors.get(key)
            where: dict[str, Any] = {
                "sink": self.name,
                "topic": key.topic,
                "partition": key.partition,
                "offset": batch.first_offset,
            }
            if cursor is None or cursor.next_offset < 0:
                hint = "Read with sink.consumer(); after a transaction that failed, call sink.resume()"
                raise InvalidTransactionStateError(
                    "the sink does not know where this partition stands", hint=hint, **where
                )
            before = moved[key][1] if key in moved else cursor.next_offset
            if batch.first_offset < before:
                raise InvalidTransactionStateError("the batch is in the database already", next_offset=before, **where)
            moved[key] = cursor, batch.next_offset
        return moved

    def _move(self, key: TopicPartition, cursor: _Cursor, next_offset: int) -> None:
        """Invariant 1. In PostgreSQL the row stays locked until the commit: a rival waits for it, and loses then."""
        place = (self.name, key.topic, key.partition)
        if cursor.row is None:
            sql = (
                f"INSERT INTO {self._table} (sink, topic, partition, topic_id, next_offset) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING"
            )
            changed, _ = self._execute(sql, (*place, cursor.topic_id, next_offset))
        else:
            sql = (
                f"UPDATE {self._table} SET topic_id = ?, next_offset = ? "
                "WHERE sink = ? AND topic = ? AND partition = ? AND topic_id = ? AND next_offset = ?"
            )
            seen = cursor.row
            changed, _ = self._execute(sql, (cursor.topic_id, next_offset, *place, seen.topic_id, seen.next_offset))
        if changed != 1:
            raise SinkFencedError(
                "another process moved the offsets of this sink; nothing was written here",
                hint="Run one process a sink and partition, or start this one again: it goes on where the other is",
                sink=self.name,
                topic=key.topic,
                partition=key.partition,
                expected=None if cursor.row is None else cursor.row.next_offset,
            )

    # -- all of it ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End a run after the batch at hand. From any thread."""
        self._stop.set()

    def run(
        self,
        store: Store,
        topics: str | Iterable[str],
        write: Callable[[Db, Batch], Any],
        *,
        partitions: Iterable[int] | None = None,
        batch_records: int = 10_000,
        until: Until = "stopped",
        retry_s: float = 30.0,
        **options: Any,
    ) -> int:
        """Read, `write(db, batch)`, commit with the offsets, again. Returns how many records were committed.

        until: "stopped": by SIGTERM, SIGINT (in the main thread) or `stop`, after the batch at hand; "caught_up": when
            nothing more is there.
        retry_s: how long a database that is busy or away is tried again before its error is raised; 0: not at all.
        partitions, options: see `consumer`. A topic that is deleted and made again goes on from its new beginning.
        Errors of `write`, of `consumer` and of `transaction`.
        """
        if until not in ("stopped", "caught_up"):
            raise ValueError('until must be "stopped" or "caught_up"')
        names = [topics] if isinstance(topics, str) else list(topics)
        numbers = None if partitions is None else list(partitions)
        total, patience = 0, _Patience(retry_s)
        with stopping_on_signals(self.stop):
            try:
                done = False
                while not done:
                    opened = partial(self.consumer, store, names, partitions=numbers, **options)
                    with closing(self._until_well(opened, patience)) as consumer:
                        written, done = self._pump(store, consumer, names, write, batch_records, until, patience)
                    total += written
            finally:
                self._stop.clear()
        return total

    def _pump(
        self,
        store: Store,
        consumer: Consumer,
        names: list[str],
        write: Callable[[Db, Batch], Any],
        batch_records: int,
        until: Until,
        patience: _Patience,
    ) -> tuple[int, bool]:
        """Until the end of the run (True) or until the topics are other ones (False); records that were committed."""

        total, layout, looked = 0, _layout(store, names), time.monotonic()
        while not self._stop.is_set():
            try:
                batches = consumer.poll(timeout_s=_POLL_S if until == "stopped" else 0, max_records=batch_records)
            except UnknownTopicError:
                if _layout(store, names) == layout:
                    raise
                return total, False
            if batches:
                try:
                    total += self._write(batches, write)
                    patience.worked()
                except Exception as error:
                    self._bear(error, patience)
                    # Where the commit's outcome was unknown, the table says it. Such records are in nobody's count.
                    self._until_well(partial(self.resume, store, consumer), patience)
            elif until == "caught_up":
                return total, True
            if time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                if _layout(store, names) != layout:
                    return total, False
        return total, True

    def _write(self, batches: Sequence[Batch], write: Callable[[Db, Batch], Any]) -> int:
        with self.transaction(*batches) as db:
            for batch in batches:
                write(db, batch)
        return sum(map(len, batches))

    def _until_well(self, call: Callable[[], T], patience: _Patience) -> T:
        """call(), again and again while the database's errors are passing ones."""
        while True:
            try:
                self._reconnect()
                return call()
            except Exception as error:
                self._bear(error, patience)

    def _bear(self, error: Exception, patience: _Patience) -> None:
        """Wait for a database that failed; raise its error if it is no passing one, at a stop, or out of patience."""
        wait_s = patience.failed()
        if not self._is_passing(error) or wait_s is None:
            raise error
        log.warning("sink %s: the database failed, trying again: %s", self.name, error)
        if self._stop.wait(wait_s):
            raise error

    # -- the end -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Close the connection where it is the sink's own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _layout(store: Store, names: Iterable[str]) -> list[Any]:
    """What a change of would mean other partitions: topic ids and partition counts; a topic that is gone is a change."""
    there = store.topics()
    return [(name, there[name].topic_id, there[name].partitions) if name in there else (name,) for name in names]
