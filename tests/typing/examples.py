"""The public API as its users write it, in full types. Read by mypy --strict in test_types.py; and it runs.

`assert_type` fixes what an editor shows: a change that turns one of them into Any fails the test.
"""

from __future__ import annotations

import asyncio
import re
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import mqcore
from mqcore import aio
from mqcore.client.batches import Batch, Values
from mqcore.client.consumer import Consumer
from mqcore.client.delivery import BulkDelivery
from mqcore.client.producer import Producer
from mqcore.log.topics import TopicInfo
from mqcore.types import OffsetRange


def topics(store: mqcore.Store) -> None:
    assert_type(
        store.create_topic("t", partitions=3, config={"retention.ms": -1, "cleanup.policy": "delete"}), TopicInfo
    )
    assert_type(store.topics(), dict[str, TopicInfo])
    assert_type(store.alter_topic("t", {"retention.ms": None}).partitions, int)
    assert_type(store.end_offsets("t"), dict[int, int])
    assert_type(store.durability, mqcore.Durability)
    assert_type(store.partitions("t"), list[int])


def produce(store: mqcore.Store) -> None:
    with store.producer(linger_ms=1, compression="zstd") as producer:
        assert_type(producer, Producer)
        delivery = producer.send(
            "t", b"value", key=b"key", headers=[("h", b"x"), ("n", None)], timestamp=1, partition=0
        )
        assert_type(delivery.result(timeout=5), mqcore.RecordMetadata)
        assert_type(delivery.done(), bool)
        assert_type(delivery.result().offset, int)
        many = producer.send_many("t", [b"a", None, memoryview(b"c")], keys=[b"1", None, b"3"], timestamps=1)
        assert_type(many, BulkDelivery)
        assert_type(many.result(), list[OffsetRange])
        rows: NDArray[np.uint8] = np.zeros((10, 8), np.uint8)
        producer.send_many("t", rows, timestamps=np.arange(10, dtype=np.int64))
        producer.flush(timeout=5)


def consume(store: mqcore.Store) -> int:
    seen = 0
    with store.consumer("t", re.compile("t.*"), start="earliest", follow=False) as consumer:
        assert_type(consumer, Consumer)
        assert_type(consumer.assignment, tuple[mqcore.TopicPartition, ...])
        for record in consumer:
            assert_type(record.offset, int)
            assert_type(record.timestamp, int)
            assert_type(record.value, bytes | None)
            assert_type(record.key, bytes | None)
            assert_type(record.headers, list[tuple[str, bytes | None]])
            seen += 1
        consumer.seek_to_beginning()
        consumer.seek(("t", 0), 0)
        assert_type(consumer.position(mqcore.TopicPartition("t", 0)), int)
        assert_type(consumer.poll(timeout_s=0, max_records=10), list[Batch])
    return seen


def batches(store: mqcore.Store) -> int:
    seen = 0
    for batch in store.consumer("t", follow=False).batches(max_records=1000):
        assert_type(batch, Batch)
        assert_type(batch.offsets, NDArray[np.int64])
        assert_type(batch.timestamps, NDArray[np.int64])
        assert_type(batch.values, Values)
        buffer, _, lengths = batch.values.to_numpy()
        assert_type(batch[1:].copy(), Batch)
        assert len(buffer) >= int(lengths.clip(0).sum())
        seen += len(batch)
    return seen


async def asynchronous() -> int:
    async with await aio.open(":memory:") as store:
        await store.create_topic("t")
        async with store.producer() as producer:
            delivery = await producer.send("t", b"1")
            assert_type(await delivery, mqcore.RecordMetadata)
            many = await producer.send_many("t", [b"2", b"3"])
            assert_type(await many, list[OffsetRange])
        seen = 0
        async with store.consumer("t", follow=False) as consumer:
            async for record in consumer:
                assert_type(record.value, bytes | None)
                seen += 1
            async for batch in consumer.batches():
                assert_type(batch, Batch)
        return seen


def errors(store: mqcore.Store) -> bool:
    try:
        store.topic("none")
    except mqcore.errors.UnknownTopicError as error:
        assert_type(error.hint, str)
        assert_type(error.retriable, bool)
        return True
    except mqcore.MQError:
        raise
    return False


def main() -> None:
    with mqcore.memory() as store:
        topics(store)
        produce(store)
        assert consume(store) == batches(store) == 14
        assert errors(store)
    assert asyncio.run(asynchronous()) == 3
    assert_type(mqcore.__version__, str)


if __name__ == "__main__":
    main()
