"""The synchronous client's promises hold when it is awaited: no thread a call, no poll, nothing lost by a cancel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import mqcore
import mqcore.aio
from mqcore.aio import AsyncStore
from mqcore.errors import TimeoutExceededError, UnknownTopicError

Test = Callable[[AsyncStore], Awaitable[None]]


def in_store(path: Path, test: Test, **options: object) -> None:
    async def main() -> None:
        async with await mqcore.aio.open(path, **options) as store:
            await store.create_topic("t", partitions=2)
            await test(store)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_what_is_sent_is_acknowledged_and_read_back(tmp_path: Path, durability: str) -> None:
    async def test(store: AsyncStore) -> None:
        async with store.producer() as producer:
            first = await producer.send("t", b"one", key=b"k", partition=1)
            assert (await first).offset == 0
            assert (await first.result()).partition == 1
            bulk = await producer.send_many("t", [b"two", b"three"], partition=1)
            assert [tuple(span) for span in await bulk] == [(1, 1, 2)]
            await producer.flush()
        async with store.consumer("t", follow=False) as consumer:
            assert [record.value async for record in consumer] == [b"one", b"two", b"three"]
            consumer.seek_to_beginning()
            assert sum([len(batch) async for batch in consumer.batches()]) == 3
            assert await consumer.poll(timeout_s=0) == []
        assert await store.end_offsets("t") == {0: 0, 1: 3}

    in_store(tmp_path / "s", test, durability=durability)


def test_many_deliveries_and_consumers_share_one_wake_and_make_no_thread_each(tmp_path: Path) -> None:
    async def test(store: AsyncStore) -> None:
        consumers = [store.consumer("t") for _ in range(50)]
        waiting = [asyncio.create_task(consumer.poll(timeout_s=30)) for consumer in consumers]
        await asyncio.sleep(0.05)
        threads = threading.active_count()
        async with store.producer() as producer:
            deliveries = [await producer.send("t", b"%d" % n) for n in range(500)]
            await asyncio.gather(*deliveries)
            assert threading.active_count() <= threads + 3  # the store's own: linger, flusher, maintenance
        assert all(await asyncio.gather(*waiting))

    in_store(tmp_path / "s", test)


def test_a_waiting_reader_wakes_when_a_record_becomes_visible(tmp_path: Path) -> None:
    async def test(store: AsyncStore) -> None:
        seen: list[bytes] = []

        async def follow() -> None:
            async for record in store.consumer("t"):
                seen.append(record.value)
                if record.value == b"end":
                    return

        reader = asyncio.create_task(follow())
        async with store.producer(linger_ms=0) as producer:
            for value in (b"a", b"b", b"end"):
                await asyncio.sleep(0.02)
                await (await producer.send("t", value, partition=0))
            await asyncio.wait_for(reader, 10)
        assert seen == [b"a", b"b", b"end"]

    in_store(tmp_path / "s", test)


def test_a_cancelled_await_loses_neither_the_record_nor_the_position(tmp_path: Path) -> None:
    async def test(store: AsyncStore) -> None:
        consumer = store.consumer("t")
        waiting = asyncio.create_task(consumer.poll(timeout_s=None))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with store.producer() as producer:
            delivery = await producer.send("t", b"kept", partition=0)
            task = asyncio.create_task(delivery.result())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await delivery).offset == 0
        (batch,) = await consumer.poll(timeout_s=10)
        assert list(batch.values) == [b"kept"]
        count = 0
        async for _ in store.consumer("t"):  # left in the middle
            count += 1
            break
        assert count == 1

    in_store(tmp_path / "s", test)


def test_errors_and_timeouts_are_those_of_the_synchronous_client(tmp_path: Path) -> None:
    async def test(store: AsyncStore) -> None:
        with pytest.raises(UnknownTopicError):
            store.consumer("missing")
        producer = store.producer()
        with pytest.raises(UnknownTopicError):
            await producer.send("missing", b"v")
        began = time.monotonic()
        assert await store.consumer("t").poll(timeout_s=0.05) == []
        assert time.monotonic() - began >= 0.04
        await producer.close()

    in_store(tmp_path / "s", test)


def test_closing_a_consumer_ends_the_tasks_that_wait_in_it(tmp_path: Path) -> None:
    async def test(store: AsyncStore) -> None:
        consumer = store.consumer("t")
        tasks = [asyncio.create_task(consumer.poll(timeout_s=None)) for _ in range(3)]
        await asyncio.sleep(0.01)
        await consumer.close()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [[], [], []]

    in_store(tmp_path / "s", test)


_WRITER = """
import sys, time, mqcore
with mqcore.open(sys.argv[1], durability="os") as store:
    store.create_topic("t")
    with store.producer(linger_ms=0) as producer:
        producer.send("t", b"first").result()
        print("ready", flush=True)
        sys.stdin.readline()
        producer.send("t", b"second").result()
        sys.stdin.readline()
"""


def test_another_process_is_followed_without_polling(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = subprocess.Popen(
        [sys.executable, "-P", "-c", _WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"

    async def main() -> None:
        assert writer.stdin is not None
        async with await mqcore.aio.open(path, read_only=True) as store:
            consumer = store.consumer("t")
            assert [list(batch.values) for batch in await consumer.poll()] == [[b"first"]]
            waiting = asyncio.create_task(consumer.poll(timeout_s=30))
            await asyncio.sleep(0.05)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            assert [list(batch.values) for batch in await waiting] == [[b"second"]]

    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        writer.communicate("\n", timeout=30)
    assert writer.returncode == 0


def test_a_delivery_times_out_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: AsyncStore) -> None:
        group = store.sync.log.partition("t", 0)._group
        real = group.wait

        def slow(target: object, next_offset: int, timeout_s: float | None = None) -> None:
            if timeout_s is not None and timeout_s < 0.3:
                raise TimeoutExceededError("a slow disk")
            time.sleep(0.3)
            real(target, next_offset, timeout_s)

        monkeypatch.setattr(group, "wait", slow)
        async with store.producer() as producer:
            delivery = await producer.send("t", b"slow", partition=0)
            with pytest.raises(TimeoutExceededError):
                await delivery.result(timeout=0.02)
            assert (await delivery).offset == 0

    in_store(tmp_path / "s", test)
