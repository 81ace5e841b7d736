"""The store as its user sees it: topics, producers, consumers. Everything else is the log's.

Invariants:
    1. Nothing here decides about records, durability or files: it translates.
    2. close() closes what was made here first (producers flush; their errors surface), then the store.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from mqcore.broker.broker import Broker
from mqcore.client.linger import Linger
from mqcore.config.keys import ConfigValue
from mqcore.errors import MQError
from mqcore.log.manager import LogStore
from mqcore.log.open_report import OpenReport
from mqcore.log.topics import TopicInfo
from mqcore.state.reading import Live
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore.client.consumer import Consumer
    from mqcore.client.group_consumer import GroupConsumer
    from mqcore.client.heartbeats import Heartbeats
    from mqcore.client.producer import Producer
    from mqcore.client.transaction import Senders, Transaction
    from mqcore.groups.coordinator import Coordinator
    from mqcore.log.adopt import Adopted
    from mqcore.processing.processor import Processor
    from mqcore.processing.progress import Progress
    from mqcore.processing.run import Until


Child = TypeVar("Child")
Topics = str | re.Pattern[str] | Iterable[str | re.Pattern[str]]


class Store:
    """An open store. Made by `mqcore.open`. Safe to share between threads; a context manager that closes."""

    def __init__(self, log: LogStore, *, private_directory: str = "") -> None:
        """log: the open storage, owned from now on. private_directory: removed at close."""
        self.log = log
        self._private_directory = private_directory
        self._lock = threading.Lock()
        self._children: weakref.WeakSet[Any] = weakref.WeakSet()
        self.broker = Broker(log)  # transactions, groups, state
        self._senders: Senders | None = None
        self._heartbeats: Heartbeats | None = None
        self._linger = Linger()  # one thread for the lingering records of all producers

    def __repr__(self) -> str:
        return f"<mqcore.Store {self.path} {self.durability}{' read-only' if self.read_only else ''}>"

    def __enter__(self) -> Self:
        self.log.check_usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self.log.path

    @property
    def durability(self) -> Durability:
        """What an acknowledgement survives, for topics that do not set their own."""
        return self.log.durability

    @property
    def read_only(self) -> bool:
        return self.log.read_only

    @property
    def recovery(self) -> OpenReport:
        """What the open found and did."""
        return self.log.recovery

    @property
    def closed(self) -> bool:
        return self.log.closed

    # -- topics -----------------------------------------------------------------------------------------------------

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, ConfigValue] | None = None
    ) -> TopicInfo:
        """Make a topic; durable on return. config: Kafka's topic settings.

        Raises TopicExistsError, InvalidTopicError, InvalidConfigError, StoreReadOnlyError.
        """
        return self.log.create_topic(name, partitions, config)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its records; durable on return, files go in the background. UnknownTopicError."""
        self.log.delete_topic(name)

    def alter_topic(self, name: str, config: Mapping[str, ConfigValue | None]) -> TopicInfo:
        """Change settings of a topic; None takes one back to its default. UnknownTopicError, InvalidConfigError."""
        return self.log.alter_topic(name, config)

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """Raise a topic's partition count to `total`. Keys may move to other partitions."""
        return self.log.add_partitions(name, total)

    def topics(self) -> dict[str, TopicInfo]:
        """The topics by name, sorted; the store's own are not among them."""
        return self.log.topics()

    def topic(self, name: str) -> TopicInfo:
        """A topic's id, partition count and settings. UnknownTopicError names the nearest ones."""
        return self.log.topic(name)

    def partitions(self, topic: str) -> list[int]:
        """The partition numbers of a topic: 0 up."""
        return list(range(self.log.topic(topic).partitions))

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """{partition: first offset that can be read}."""
        return {number: self.log.bounds(topic, number)[0] for number in self.partitions(topic)}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """{partition: the offset after the last record that can be read}."""
        return {number: self.log.bounds(topic, number)[1] for number in self.partitions(topic)}

    def delete_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Remove the records below the given offset of each partition. OffsetOutOfRangeError: past the end."""
        for number, offset in offsets.items():
            self.log.partition(topic, number).delete_before(offset)

    def adopt(self, directory: str, topic: str | None = None, partition: int | None = None) -> Adopted:
        """Take in a copy of a partition directory that Apache Kafka (stopped) wrote; offsets stay. Durable on return.

        topic, partition: their names here; by default those in the directory's name. A topic that is made for it
        keeps its records for ever until `alter_topic` says otherwise.
        Raises StoreFormatError, UnsupportedFormatError, CorruptBatchError, TopicExistsError, StorageError.
        """
        return self.log.adopt(directory, topic, partition)

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self, name: str) -> Live:
        """What transactions have committed to a state (`tx.state(name)`): an ordered map of bytes to bytes, read-only.
        One that no transaction has opened yet is empty. Raises InvalidTopicError (the name)."""
        return self.broker.states.state(name)

    def table(self, topic: str) -> Live:
        """A compacted topic as the same kind of map: the latest value of each key, following what is committed.
        UnknownTopicError; InvalidConfigError: the topic is not compacted."""
        return self.broker.states.table(topic)

    @property
    def groups(self) -> Coordinator:
        """The coordinator of consumer groups: what `mqcore group` asks. Made at the first need."""
        self.log.check_usable()
        return self.broker.groups

    # -- clients ----------------------------------------------------------------------------------------------------

    def producer(self, **options: Any) -> Producer:
        """A producer; close it, or use it in a `with`. options: see mqcore.client.producer.Producer."""
        from mqcore.client.producer import Producer

        self.log.check_writable()
        return self._keep(Producer(self.log, **{"linger": self._linger, **options}))

    @overload
    def consumer(self, *topics: Topics, group: None = None, **options: Any) -> Consumer: ...
    @overload
    def consumer(self, *topics: Topics, group: str, **options: Any) -> GroupConsumer: ...
    def consumer(self, *topics: Topics, group: str | None = None, **options: Any) -> Consumer:
        """A consumer of topics (names, lists of names, regular expressions compiled or as strings that begin with "^").
        group: share their partitions with the group's other consumers, and go on where the group is.
        options: see mqcore.client.consumer.Consumer and mqcore.client.group_consumer.GroupConsumer."""
        if group is not None:
            return self._group_consumer(topics, group, options)
        from mqcore.client.consumer import Consumer

        self.log.check_usable()
        return self._keep(Consumer(self.log, *topics, **options))

    def _group_consumer(self, topics: tuple[Topics, ...], group: str, options: dict[str, Any]) -> GroupConsumer:
        from mqcore.client.group_consumer import GroupConsumer
        from mqcore.client.heartbeats import Heartbeats

        coordinator = self.groups
        with self._lock:
            if self._heartbeats is None:
                self._heartbeats = Heartbeats(coordinator)
            heartbeats = self._heartbeats
        made = GroupConsumer(self.log, *topics, group=group, coordinator=coordinator, heartbeats=heartbeats, **options)
        return self._keep(made)

    def transaction(self, transactional_id: str, *, timeout_s: float = 60.0) -> Transaction:
        """A transaction; use it in a `with`: it commits at the end, and aborts on an exception.

        transactional_id: a lasting name, one for each thing that runs: a transaction of the same id that is open is aborted,
        and its handle fenced. timeout_s: then it is aborted by the store; at most transaction.max.timeout.ms.
        Raises ConcurrentTransactionsError (the last one cannot be completed yet), StoreReadOnlyError, ValueError.
        """
        from mqcore.client.transaction import Senders, Transaction

        self.log.check_writable()
        longest = self.log.config.transaction_max_timeout_ms
        if not isinstance(transactional_id, str) or not transactional_id:
            raise ValueError("a transactional id is a str, and not empty")
        if not 0 < timeout_s * 1000 <= longest:
            raise ValueError(f"timeout_s must be above 0 and at most {longest / 1000}, not {timeout_s}")
        if self._senders is None:
            with self._lock:
                self._senders = self._senders or Senders(self.log)
        return Transaction(self.broker, self._senders, transactional_id, max(1, int(timeout_s * 1000)))

    def run(
        self,
        *processors: Processor,
        workers: int = 1,
        until: Until = "stopped",
        on_progress: Callable[[Progress], Any] | None = None,
        progress_s: float = 1.0,
        grace_s: float = 60.0,
    ) -> Progress:
        """Run processors (functions under `@mqcore.processor`) until told to stop; figures of the run.

        workers: threads of each processor; partitions are spread over them by the group, so more than there are
            partitions help nobody.
        until: "stopped": by SIGTERM or Ctrl-C (in the main thread), each worker first commits the batch at hand;
            "caught_up": when nothing is left to process.
        on_progress: called with a Progress every progress_s seconds, and at the end.
        grace_s: how long a stop waits for a function that does not come back.
        Raises the first error that ended a worker: the store's, ProducerFencedError (another run with this group and
        function took over), or the function's own after its attempts (without dead letters); TimeoutExceededError: a
        function hangs; UnknownTopicError; ValueError.
        """
        from mqcore.processing.run import run

        self.log.check_writable()
        return run(
            self,
            *processors,
            clock=self.log.clock,
            workers=workers,
            until=until,
            on_progress=on_progress,
            progress_s=progress_s,
            grace_s=grace_s,
        )

    def _keep(self, child: Child) -> Child:
        with self._lock:
            self._children.add(child)
        return child

    # -- time ---------------------------------------------------------------------------------------------------------

    def tend(self, *, heartbeats: bool = True) -> None:
        """End what is past its time by the store's clock, as the background does by itself: transactions, sessions,
        rebalances. heartbeats: those of this store's members come first. For tests that move the clock."""
        self.log.check_usable()
        with self._lock:
            beating = self._heartbeats if heartbeats else None
        if beating is not None:
            beating.look()
        self.broker.tend()

    @property
    def tending_interval_s(self) -> float:
        """The longest step of a clock that a living group member survives; inf without members."""
        with self._lock:
            return math.inf if self._heartbeats is None else self._heartbeats.interval_s

    # -- the end ----------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Let go of everything without a word to the disk, as kill -9 does: for tests. No thread stays."""
        parts = [self._heartbeats, self._linger]
        self.broker.abandon()
        self.log.abandon()
        for part in parts:
            if part is not None:
                with contextlib.suppress(MQError):
                    part.close()
        if self._private_directory:
            shutil.rmtree(self._private_directory, ignore_errors=True)

    def close(self) -> None:
        """Close producers and consumers, sync, and leave nothing to recover. Again: nothing. Views stay valid.

        Raises the first error that was met; the store is closed all the same.
        """
        if self.log.is_forked:
            return  # all of it is the parent's, and the locks are nobody's
        with self._lock:
            children = list(self._children)
            self._children.clear()
        first: MQError | None = None
        parts = [self._heartbeats, self.broker, self._senders, self._linger, self.log]
        for close in [part.close for part in [*children, *parts] if part is not None]:
            try:
                close()
            except MQError as error:
                first = first or error
        if self._private_directory:
            shutil.rmtree(self._private_directory, ignore_errors=True)
        if first is not None:
            raise first
