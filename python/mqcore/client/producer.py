"""The producer of an embedded store: `send`, `send_many`, and what is promised about them.

Invariants:
    1. A record is acknowledged when its Delivery is done: then it survives what the topic's durability names.
    2. No error is swallowed: it is raised by result(), or else by the next flush() or close().
    3. Records of one thread to one partition keep the order in which they were sent.
    4. Input is copied before a call returns; memory for records under way is bounded by buffer_bytes (then sends wait).
    5. After a fork the child's copy of a producer is dead: it raises ForkedStoreError and writes nothing.

`send` itself is native (mqcore._native.builder.Accumulator): one dict look-up, one encode in place, one Delivery.
"""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from mqcore._native.chunks import Topic
from mqcore._native.inputs import Column
from mqcore.client import id_sends
from mqcore.client.delivery import BulkDelivery
from mqcore.client.dispatch import Dispatcher, Log
from mqcore.client.id_sends import IdDelivery, IdRecordDelivery
from mqcore.client.linger import Linger
from mqcore.clock import SystemClock
from mqcore.codecs import Codec, codec_of
from mqcore.errors import ForkedStoreError, InvalidRecordError, MQError, StoreClosedError, UnknownTopicError

if TYPE_CHECKING:
    from mqcore._native.encode import _Headers as Headers
    from mqcore.clock import Clock
    from mqcore.log.partition_ports import Appended
    from mqcore.log.pending_ids import IdHolder

Partitioner = Callable[[bytes, int], int]


class Ids(Protocol):
    """mqcore.log.producer_ids.ProducerIds."""

    def allocate(self) -> int: ...


class Store(Protocol):
    """What a producer needs of a store (mqcore.log.manager.LogStore)."""

    @property
    def clock(self) -> Clock: ...
    @property
    def producer_ids(self) -> Ids: ...
    def topic(self, name: str) -> Any: ...  # TopicInfo
    def partition(self, topic: str, partition: int) -> Log: ...


class Producer(Dispatcher):
    """Writes records to the topics of one store. Any number of threads may use one producer.

    linger_ms: how long a record may wait for company (0: each send is appended at once). batch_bytes: size of a batch
    before compression, at most the topic's max.message.bytes. chunk_bytes: how much is appended with one call.
    buffer_bytes: memory for records that are not acknowledged yet. compression: codec for topics whose
    compression.type is "producer"; None: none. partitioner: (key, partitions) -> partition for keyed records, instead
    of the topic's. idempotence: batches have a producer id and sequences, so that an append that is repeated (after an
    interrupt, say) stores nothing twice. linger: the store's thread for lingering records; None: one of its own.
    Raises ValueError, InvalidConfigError for settings out of range.
    """

    def __init__(
        self,
        store: Store,
        *,
        linger_ms: float = 5,
        batch_bytes: int = 64 << 10,
        chunk_bytes: int = 1 << 20,
        buffer_bytes: int = 32 << 20,
        compression: str | None = None,
        partitioner: Partitioner | None = None,
        idempotence: bool = True,
        linger: Linger | None = None,
    ) -> None:
        if not 0 <= linger_ms <= 3_600_000:
            raise ValueError(f"linger_ms must be 0 .. 3600000, not {linger_ms}")
        clock = store.clock
        super().__init__(
            store.partition,
            Linger() if linger is None else linger,
            linger_s=linger_ms / 1000,
            batch_bytes=batch_bytes,
            chunk_bytes=max(chunk_bytes, batch_bytes),
            buffer_bytes=max(buffer_bytes, chunk_bytes, batch_bytes),
            wall_ms=None if isinstance(clock, SystemClock) else clock.wall_ms,
        )
        self._store = store
        self._owns_linger = linger is None
        self._codec = codec_of(compression)
        self._partitioner = partitioner
        self._with_ids: deque[IdDelivery] = deque()  # not known to be durable
        self._nameless = idempotence  # it has no producer id yet
        self._name_lock = threading.Lock()
        _living.add(self)

    # ---- topics ------------------------------------------------------------------------------------------------------

    def _open_topic(self, name: str) -> Topic:
        """Called by the first send to a topic. Raises UnknownTopicError."""
        if self._forked:
            raise ForkedStoreError("this producer belongs to the parent process", hint="Open a store of your own")
        if not isinstance(name, str):
            raise TypeError(f"a topic's name is a str, not {type(name).__name__}")
        if self._nameless:
            self._take_id()
        topic = Topic(name, sticky=random.randrange(1 << 30))  # keyless records of many producers start anywhere
        self._configure(topic, self._store.topic(name))
        return topic

    def _take_id(self) -> None:
        """Have a producer id before the first chunk is opened."""
        with self._name_lock:
            if self._nameless:
                self.set_identity(self._store.producer_ids.allocate(), 0)
                self._nameless = False

    def _configure(self, topic: Topic, info: Any) -> None:
        config = info.config
        codec = self._codec
        level = None
        if config.compression_type != "producer":
            codec = codec_of(config.compression_type)
        if f"compression.{codec.name.lower()}.level" in config.to_dict():
            level = getattr(config, f"compression_{codec.name.lower()}_level")
        stamped_by_log = config.message_timestamp_type == "LogAppendTime"
        topic.configure(
            info,
            info.partitions,
            max_message_bytes=config.max_message_bytes,
            needs_key="compact" in config.cleanup_policy,
            partitioner=self._partitioner or config.partitioner,
            codec=codec,
            level=None if level == -1 and codec == Codec.GZIP else level,
            before_max_ms=-1 if stamped_by_log else config.message_timestamp_before_max_ms,
            after_max_ms=-1 if stamped_by_log else config.message_timestamp_after_max_ms,
        )

    def _check_topic(self, topic: Topic) -> None:
        """Take over changed settings; a topic that was deleted (and made again) is looked up by the next send.

        What was sent before keeps its place: its chunk goes to the log that the topic had.
        """
        try:
            info = self._store.topic(topic.name)
        except MQError:
            self.forget(topic.name)
            return
        if info is topic.info:
            return
        if info.topic_id == topic.info.topic_id:
            self._configure(topic, info)
        else:
            self.forget(topic.name)

    # ---- sending -----------------------------------------------------------------------------------------------------

    @overload
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        partition: int | None = None,
        ids: None = None,
    ) -> BulkDelivery: ...
    @overload
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: None = None,
        partition: int | None = None,
        ids: Any,
    ) -> IdDelivery: ...
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        partition: int | None = None,
        ids: Any = None,
    ) -> BulkDelivery | IdDelivery:
        """Send many records with one call; return one delivery for all of them.

        values: list of bytes-like and None (a tombstone), 2-D uint8 array (a row a value), or Arrow array of binary,
        large_binary, fixed-size binary or string, chunked too, or what a consumer read (batch.values); copied before the
            call returns, and never twice.
        keys: the same shapes, as many; None: no keys. timestamps: ms since 1970, one for all or an array of int64;
        None: now. headers: for each record its headers or None. partition: for all records; None: by key, or the
        sticky partition, which changes whenever a chunk is full.
        ids: of each record, so that a retry is not stored twice (mqcore.dedup.window.ms of the topic): 64-bit ids as
        mqcore.Snowflake makes them (a uint64 array), or 128-bit ones (UUIDs, 16 bytes each, a (n, 16) uint8 array). They
        travel as the header "mqcore.id", the records are appended at once, and the delivery says of each where its
        first copy lies. Without a key and a partition the id decides the partition.
        Raises as send does; `where["sent"]` of the error says how many records before the refused one were sent.
        """
        target = self.find(topic)
        if ids is not None:
            if headers is not None:
                raise ValueError("records with ids have no other headers")
            return self._send_ids(target, ids, values, keys, timestamps, partition)
        spans: list[tuple[Any, int, int]] = []
        if keys is None and timestamps is None and headers is None and partition is None and type(values) is list:
            self.fill(target, Column(values), None, None, self.now(), -1, spans)  # nothing to prepare
            return self._sent(topic, spans)
        place = -1 if partition is None else _checked(target, partition)
        times, now = None, self.now()
        if timestamps is not None:
            times, now = _times(target, timestamps, now)
        if headers is not None or (keys is not None and partition is None and self._partitioner is not None):
            when = None if timestamps is None else now if times is None else times.tolist()
            return self._send_each(topic, values, keys, when, headers, partition)
        for piece, piece_keys, piece_times in _pieces(values, keys, times):
            column = None if piece_keys is None else Column(piece_keys)
            self.fill(target, Column(piece), column, piece_times, now, place, spans)
        return self._sent(topic, spans)

    def _send_ids(
        self, target: Topic, ids: Any, values: Any, keys: Any, timestamps: Any, partition: int | None
    ) -> IdDelivery:
        times, now = (None, self.now()) if timestamps is None else _times(target, timestamps, self.now())
        if self.closed:
            raise StoreClosedError("the producer is closed")

        def before(number: int) -> None:
            for sink in target.made_sinks():
                if sink.partition == number:
                    self._hand_off(sink)

        delivery = id_sends.send(
            self._store,
            target,
            ids,
            _joined(values),
            _joined(keys),
            times,
            now,
            partition=-1 if partition is None else _checked(target, partition),
            batch_bytes=self.batch_bytes,
            place=self._partitioner,
            before=before,
            write=self._write_ids,
            holder=self._holder,
        )
        if not delivery.done():
            self._with_ids.append(delivery)
        return delivery

    _holder: IdHolder | None = None  # the transaction that records with ids belong to

    def _write_ids(self, target: Topic, partition: int, log: Any, build: Callable[..., bytearray]) -> Appended:
        """See id_sends.Write."""
        appended: Appended = log.append(build())
        return appended

    def _send_id(
        self, topic: str, value: Any, key: Any, headers: Any, timestamp: int | None, partition: int | None, id: Any
    ) -> IdRecordDelivery:
        """`send` with an id: `send_many` of one."""
        if headers is not None:
            raise ValueError("records with ids have no other headers")
        values, keys = [value], None if key is None else [key]
        when = self.now() if timestamp is None else timestamp
        return IdRecordDelivery(self._send_ids(self.find(topic), [id], values, keys, when, partition), when)

    def _wait_for_ids(self, timeout: float | None) -> None:
        """Return once what was sent with ids is acknowledged."""
        while self._with_ids:
            self._with_ids[0].result(timeout)
            self._with_ids.popleft()

    def _sent(self, topic: str, spans: list[tuple[Any, int, int]]) -> BulkDelivery:
        if self._linger_s == 0:
            for sink in {span[0].sink for span in spans}:
                self._hand_off(sink)
        return BulkDelivery(topic, spans)

    def _send_each(
        self, topic: str, values: Any, keys: Any, timestamps: Any, headers: Any, partition: int | None
    ) -> BulkDelivery:
        """send_many where each record needs Python anyway: headers, or a partitioner of the user's."""
        columns = [_plain(values), *(None if c is None else _plain(c) for c in (keys, headers))]
        columns.append(timestamps if isinstance(timestamps, list) else None)
        count = len(columns[0] or ())
        if any(column is not None and len(column) != count for column in columns):
            raise ValueError("values, keys, headers and timestamps must be as many")
        rows = [[timestamps if i == 3 else None] * count if c is None else c for i, c in enumerate(columns)]
        spans: list[tuple[Any, int, int]] = []
        for index, (value, key, own, when) in enumerate(zip(*rows, strict=True)):
            try:
                spans.append(self.send(topic, value, key, own, when, partition).span())
            except InvalidRecordError as error:
                error.where.update(index=index, sent=index)
                raise
        return BulkDelivery(topic, spans)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Return once every record sent before is acknowledged.

        timeout: seconds; None waits without end. Raises the first error of a record sent before that no result() has
        raised, TimeoutExceededError, StoreClosedError after close.
        """
        if self.closed:
            raise StoreClosedError("the producer is closed")
        if self._forked:
            raise ForkedStoreError("this producer belongs to the parent process", hint="Open a store of your own")
        self._flush(timeout)
        self._wait_for_ids(timeout)
        self._raise_failures()

    def close(self, timeout: float | None = None) -> None:
        """Flush, then refuse further sends. Raises as flush does; the producer is closed all the same. Idempotent."""
        if self.closed or self._forked:
            return
        self.closed = True  # no chunk is opened from here on
        try:
            self._flush(timeout)
            self._wait_for_ids(timeout)
        finally:
            self.forget()
            self._linger.remove(self)
            if self._owns_linger:
                self._linger.close()
        self._raise_failures()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _die_in_child(self) -> None:
        """Called in a forked child, whose copies of locks and buffers are nobody's."""
        self._forked = True  # the next send asks _open_topic, which says why
        self.abandon(ForkedStoreError("these records belong to the parent process"))


_living: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork() -> None:
    for producer in list(_living):
        producer._die_in_child()


os.register_at_fork(after_in_child=_after_fork)


def _checked(topic: Topic, partition: int) -> int:
    if not 0 <= partition < topic.partitions:
        raise UnknownTopicError("no such partition", topic=topic.name, partition=partition, partitions=topic.partitions)
    return partition


def _times(topic: Topic, timestamps: Any, now: int) -> tuple[Any, int]:
    """(int64 array or None, one timestamp for all), checked against the topic's bounds: before any record is sent."""
    if isinstance(timestamps, int | np.integer):
        topic.check(int(timestamps), int(timestamps), now)
        return None, int(timestamps)
    array = np.asarray(timestamps)
    if array.dtype.kind in "Of" and array.ndim == 1 and all(isinstance(one, int | np.integer) for one in timestamps):
        # Integers for which numpy has no one type: some lie past 64 bits, or beyond 2**63 beside a negative.
        topic.check(int(min(timestamps)), int(max(timestamps)), now)
        array = array.astype(np.int64)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[ms]").astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError("timestamps must be whole milliseconds: an int, or a 1-D array of integers or datetime64")
    if array.size:  # before the cast: an unsigned one must not wrap around
        topic.check(int(array.min()), int(array.max()), now)
    return np.ascontiguousarray(array.astype(np.int64, copy=False)), now


def _pieces(values: Any, keys: Any, times: Any) -> Iterable[tuple[Any, Any, Any]]:
    """(values, keys, timestamps) whose values are one array: an Arrow chunked array has several."""
    chunks = getattr(values, "chunks", None)
    if chunks is None or hasattr(values, "__arrow_c_array__"):
        yield values, _joined(keys), times
        return
    at = 0
    joined = _joined(keys)
    for chunk in chunks:
        end = at + len(chunk)
        yield chunk, None if joined is None else joined[at:end], None if times is None else times[at:end]
        at = end
    if (joined is not None and len(joined) != at) or (times is not None and len(times) != at):
        raise ValueError("values, keys and timestamps must be as many")


def _joined(keys: Any) -> Any:
    return keys.combine_chunks() if hasattr(keys, "combine_chunks") else keys


def _plain(column: Any) -> Sequence[Any]:
    """A column as Python values."""
    if hasattr(column, "to_pylist"):
        return column.to_pylist()  # type: ignore[no-any-return]
    if isinstance(column, np.ndarray):
        return [row.tobytes() for row in column]
    return column if isinstance(column, list | tuple) else list(column)
