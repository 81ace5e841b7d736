"""The asyncio face of an embedded store: the same objects, awaited.

Invariants:
    1. One wake a loop and round: whatever the number of waiting consumers and deliveries, a publication posts one
       callback to a loop. No thread is made for a call; nothing polls.
    2. Cancelling an await loses nothing: a delivery goes on and can be awaited again, a consumer's position is behind
       the last record that was handed out.
    3. What may block for the disk's time (open, close, topics, flush, a full buffer) runs in the store's small pool;
       send, reads and wake-ups run on the loop: they cost memory, at worst one write into the page cache.
An object belongs to the loop in which it was first awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mqcore.client.batches import Batch
from mqcore.client.consumer import WRITER_CHECK_S, Consumer, OnOutOfRange, Partition, Start
from mqcore.client.delivery import BulkDelivery
from mqcore.client.embedded import Store
from mqcore.client.open import open as open_store
from mqcore.client.producer import Producer
from mqcore.errors import StoreClosedError, TimeoutExceededError
from mqcore.log.reader import Record
from mqcore.types import IsolationLevel, OffsetRange, RecordMetadata, TopicPartition

if TYPE_CHECKING:
    from mqcore.client.aio_group import AsyncGroupConsumer
    from mqcore.client.aio_transaction import AsyncTransaction
    from mqcore.config.keys import ConfigValue
    from mqcore.log.marks import Marks
    from mqcore.log.topics import TopicInfo

_POOL_THREADS = 4
Result = TypeVar("Result")
Name = str | re.Pattern[str]


class _Loop:
    """Everything of one store that one event loop waits for. `post` and the marks' waker may come from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[Callable[[], None]] = deque()  # what to run on the loop; deque: appended from any thread
        self._scheduled = False
        self._published: asyncio.Future[None] | None = None

    def post(self, callback: Callable[[], None]) -> None:
        """Run callback on the loop; many posts before it wakes are one wake."""
        self._done.append(callback)
        if not self._scheduled:
            self._scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._scheduled = False  # before the work: a post from here on schedules anew
        while self._done:
            self._done.popleft()()

    def next_publication(self, marks: Marks) -> asyncio.Future[None]:
        """Done after the next publication; take it before looking, await it after."""
        if self._published is None or self._published.done():
            self._published = self._loop.create_future()
            marks.add_waker(self._on_publish)
        return self._published

    def _on_publish(self) -> None:
        self.post(self._resolve)

    def _resolve(self) -> None:
        if self._published is not None and not self._published.done():
            self._published.set_result(None)


_loops: weakref.WeakKeyDictionary[Store, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop]]
_loops = weakref.WeakKeyDictionary()


def _here(store: Store) -> _Loop:
    """The running loop's part of a store."""
    loop = asyncio.get_running_loop()
    of_store = _loops.setdefault(store, weakref.WeakKeyDictionary())
    found = of_store.get(loop)
    if found is None:
        found = of_store[loop] = _Loop(loop)
    return found


class AsyncDelivery:
    """The outcome of one send: await it, or its result(), for the RecordMetadata. Cancelling the await leaves the
    record on its way."""

    __slots__ = ("_delivery", "_store")

    def __init__(self, delivery: Any, store: Store) -> None:
        self._delivery, self._store = delivery, store

    def done(self) -> bool:
        """True once the record is acknowledged, or failed."""
        return bool(self._delivery.done())

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until the record is acknowledged; its batch is closed first. timeout: seconds. Errors as Delivery's."""
        await _settled(self._delivery, self._store, timeout)
        found: RecordMetadata = self._delivery.result(0)
        return found


class AsyncBulkDelivery:
    """The outcome of one send_many: await it, or its result(), for the offset ranges."""

    __slots__ = ("_delivery", "_store")

    def __init__(self, delivery: BulkDelivery, store: Store) -> None:
        self._delivery, self._store = delivery, store

    def __len__(self) -> int:
        return len(self._delivery)

    def done(self) -> bool:
        """True once every record is acknowledged, or failed."""
        return self._delivery.done()

    @property
    def ranges(self) -> list[OffsetRange]:
        """Where the records acknowledged so far lie."""
        return self._delivery.ranges

    def __await__(self) -> Generator[Any, None, list[OffsetRange]]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> list[OffsetRange]:
        """Wait until all records are acknowledged. timeout: seconds. Errors as BulkDelivery's."""
        await _settled(self._delivery, self._store, timeout)
        return self._delivery.result(0)


async def _settled(delivery: Any, store: Store, timeout: float | None) -> None:
    """Return once a delivery is done; its open chunk is closed and appended first, on the loop."""
    with contextlib.suppress(TimeoutExceededError):
        delivery.exception(0)  # closes the chunk and appends it; whether it is durable is another matter
    if delivery.done():
        return
    here = _here(store)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish() -> None:
        if not future.done():  # cancelled, or timed out
            future.set_result(None)

    delivery.add_done_callback(lambda _: here.post(finish))
    try:
        await asyncio.wait_for(future, timeout)
    except TimeoutError:
        raise TimeoutExceededError("not acknowledged in time", timeout_s=timeout) from None


class AsyncProducer:
    """A producer to be awaited; `async with` flushes and closes it. Made by `AsyncStore.producer`."""

    def __init__(self, store: AsyncStore, producer: Producer) -> None:
        self._store, self._producer = store, producer

    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Any = None,
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> AsyncDelivery:
        """Add a record to its batch; the delivery that is returned can be awaited. Waits only while buffers are full.

        Arguments and errors as Producer.send. For many records send_many costs less: an await is dearer than a record.
        """
        await self._room()
        return AsyncDelivery(self._producer.send(topic, value, key, headers, timestamp, partition), self._store.sync)

    async def send_many(self, topic: str, values: Any, **options: Any) -> AsyncBulkDelivery:
        """Send many records with one call; arguments and errors as Producer.send_many."""
        await self._room()
        return AsyncBulkDelivery(self._producer.send_many(topic, values, **options), self._store.sync)

    async def _room(self) -> None:
        while self._producer.buffered >= self._producer.buffer_bytes // 2:
            await self._store.run(self._producer._make_room)

    async def flush(self, timeout: float | None = None) -> None:
        """Return once every record sent before is acknowledged. Errors as Producer.flush."""
        await self._store.run(self._producer.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Flush, then refuse further sends."""
        await self._store.run(self._producer.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncConsumer:
    """A consumer to be awaited: `async for record in consumer`, `async for batch in consumer.batches()`, or poll.

    Made by `AsyncStore.consumer`; options, positions and errors are Consumer's. Several tasks may share one; each
    record goes to one of them.
    """

    def __init__(self, store: AsyncStore, consumer: Consumer, *, follow: bool) -> None:
        self._store, self._consumer, self._follow = store, consumer, follow

    @property
    def assignment(self) -> tuple[TopicPartition, ...]:
        return self._consumer.assignment

    def assign(self, partitions: Iterable[Partition]) -> None:
        """See Consumer.assign, as for all that follow: they only change positions in memory."""
        self._consumer.assign(partitions)

    def pause(self, *partitions: Partition) -> None:
        self._consumer.pause(*partitions)

    def resume(self, *partitions: Partition) -> None:
        self._consumer.resume(*partitions)

    def position(self, partition: Partition) -> int:
        return self._consumer.position(partition)

    def seek(self, partition: Partition, offset: int) -> None:
        self._consumer.seek(partition, offset)

    def seek_to_beginning(self, *partitions: Partition) -> None:
        self._consumer.seek_to_beginning(*partitions)

    def seek_to_end(self, *partitions: Partition) -> None:
        self._consumer.seek_to_end(*partitions)

    def seek_to_timestamp(self, timestamp_ms: int, *partitions: Partition) -> None:
        self._consumer.seek_to_timestamp(timestamp_ms, *partitions)

    async def poll(self, timeout_s: float | None = 1.0, max_records: int = 1000) -> list[Batch]:
        """Batches with at most max_records records together; waits up to timeout_s seconds for the first (None: for
        ever). An empty list: nothing came in time, or the consumer was closed meanwhile."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            published = self._publication()
            found = self._consumer.poll(0, max_records)
            if found or not await self._wait(published, deadline) or self._consumer.closed:
                return found

    async def batches(self, max_records: int = 10_000, timeout_s: float | None = None) -> AsyncIterator[Batch]:
        """One batch after the other, as Consumer.batches."""
        while True:
            published, found = self._publication(), False
            for batch in self._consumer.batches(max_records):
                found = True
                yield batch
                await asyncio.sleep(0)  # a topic full of records must not starve the loop
            if found:
                continue
            if timeout_s is None and not self._follow:
                return
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if not await self._wait(published, deadline) or self._consumer.closed:
                return

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            published, found = self._publication(), 0
            for record in self._consumer:
                yield record
                found += 1
                if found % 1000 == 0:
                    await asyncio.sleep(0)
            if found:
                continue
            if not self._follow:
                return
            if not await self._wait(published, None) or self._consumer.closed:
                return

    def _publication(self) -> asyncio.Future[None]:
        return _here(self._store.sync).next_publication(self._store.sync.log.marks)

    async def _wait(self, published: asyncio.Future[None], deadline: float | None) -> bool:
        """Wait for a publication that came after `published` was taken; False: the deadline passed."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        if published.done() and self._store.sync.log.marks.closed():
            # A reader's writer is gone: its page ends every wait at once. Look now and then for a new one.
            await asyncio.sleep(WRITER_CHECK_S if left is None else min(left, WRITER_CHECK_S))
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(published), left)
        return True

    async def close(self) -> None:
        """Let go of all slices; batches handed out stay valid. Tasks that wait in this consumer return."""
        self._consumer.close()
        _here(self._store.sync)._on_publish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncStore:
    """An open store for asyncio; `async with` closes it. `sync` is the store itself, for everything else."""

    def __init__(self, store: Store) -> None:
        self.sync = store
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="mqcore-aio")  # threads come with the work

    async def run(self, call: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Run a blocking call of the store in its pool."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments, **options))
        except RuntimeError:
            raise StoreClosedError("the store is closed", path=self.sync.path) from None
        return await future

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, ConfigValue] | None = None
    ) -> Awaitable[TopicInfo]:
        """See Store.create_topic, as for all that follow."""
        return self.run(self.sync.create_topic, name, partitions, config)

    def delete_topic(self, name: str) -> Awaitable[None]:
        return self.run(self.sync.delete_topic, name)

    def alter_topic(self, name: str, config: Mapping[str, ConfigValue | None]) -> Awaitable[TopicInfo]:
        return self.run(self.sync.alter_topic, name, config)

    def add_partitions(self, name: str, total: int) -> Awaitable[TopicInfo]:
        return self.run(self.sync.add_partitions, name, total)

    def delete_before(self, topic: str, offsets: Mapping[int, int]) -> Awaitable[None]:
        return self.run(self.sync.delete_before, topic, offsets)

    async def topics(self) -> dict[str, TopicInfo]:
        return self.sync.topics()

    async def topic(self, name: str) -> TopicInfo:
        return self.sync.topic(name)

    async def partitions(self, topic: str) -> list[int]:
        return self.sync.partitions(topic)

    async def begin_offsets(self, topic: str) -> dict[int, int]:
        return self.sync.begin_offsets(topic)

    async def end_offsets(self, topic: str) -> dict[int, int]:
        return self.sync.end_offsets(topic)

    def producer(self, **options: Any) -> AsyncProducer:
        """A producer; options as Producer's."""
        return AsyncProducer(self, self.sync.producer(**options))

    def consumer(
        self,
        *topics: Name | Iterable[Name],
        start: Start = "earliest",
        isolation: IsolationLevel | str = IsolationLevel.READ_COMMITTED,
        on_out_of_range: OnOutOfRange = "error",
        follow: bool = True,
        copy: bool = False,
    ) -> AsyncConsumer:
        """A consumer; topics and options as Consumer's. For one in a group: `group_consumer`."""
        consumer = self.sync.consumer(
            *topics, start=start, isolation=isolation, on_out_of_range=on_out_of_range, follow=False, copy=copy
        )
        return AsyncConsumer(self, consumer, follow=follow)

    def group_consumer(
        self, *topics: Name | Iterable[Name], group: str, follow: bool = True, **options: Any
    ) -> AsyncGroupConsumer:
        """A consumer in a group; options as GroupConsumer's. Its callbacks are plain functions, called on the loop."""
        from mqcore.client.aio_group import AsyncGroupConsumer

        consumer = self.sync.consumer(*topics, group=group, follow=False, **options)
        return AsyncGroupConsumer(self, consumer, follow=follow)

    def transaction(self, transactional_id: str, *, timeout_s: float = 60.0) -> AsyncTransaction:
        """A transaction, begun by `async with`; see Store.transaction."""
        from mqcore.client.aio_transaction import AsyncTransaction

        return AsyncTransaction(self, transactional_id, timeout_s)

    async def close(self) -> None:
        """Close producers and consumers, sync, and leave nothing to recover."""
        try:
            await self.run(self.sync.close)
        finally:
            self._pool.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def open(path: str | os.PathLike[str], **options: Any) -> AsyncStore:
    """Open, or make, a store; path, options and errors as `mqcore.open`."""
    store = await asyncio.get_running_loop().run_in_executor(None, partial(open_store, path, **options))
    return AsyncStore(store)
