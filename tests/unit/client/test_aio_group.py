"""Consumers of a group in one event loop share partitions, take turns and commit, and nothing blocks the loop."""

from __future__ import annotations

import asyncio

from mqcore import aio


def test_tasks_of_one_loop_share_a_group() -> None:
    asyncio.run(asyncio.wait_for(share(), 60))


async def share() -> None:
    async with await aio.open(":memory:") as store:
        await store.create_topic("t", 4)
        seen: list[tuple[str, int]] = []
        done = asyncio.Event()

        async def read(name: str) -> None:
            async with store.group_consumer("t", group="g", assignor="cooperative-sticky") as consumer:
                async for record in consumer:
                    seen.append((name, int(record.value)))
                    if len(seen) % 10 == 0:
                        await consumer.commit()
                    if len(seen) == 400:
                        done.set()

        tasks = [asyncio.create_task(read(name)) for name in "ab"]
        async with store.producer() as producer:
            for number in range(400):
                await producer.send("t", b"%d" % number, partition=number % 4)
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
        await asyncio.wait_for(done.wait(), 30)
        assert sorted(number for _, number in seen) == list(range(400))
        assert {name for name, _ in seen} == {"a", "b"}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_offsets_and_lag_are_awaited() -> None:
    asyncio.run(asyncio.wait_for(offsets_and_lag(), 60))


async def offsets_and_lag() -> None:
    async with await aio.open(":memory:") as store:
        await store.create_topic("t", 1)
        async with store.producer() as producer:
            await producer.send_many("t", [b"x"] * 10)
        async with store.group_consumer("t", group="g") as consumer:
            read = 0
            while read < 4:
                read += sum(len(batch) for batch in await consumer.poll(5, max_records=4 - read))
            await consumer.commit()
            assert list((await consumer.committed()).values()) == [4]
            assert list((await consumer.lag()).values()) == [6]
            assert consumer.group_metadata().generation == 1
        assert store.sync.groups.fetch_offsets("g")
