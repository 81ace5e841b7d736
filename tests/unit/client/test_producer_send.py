"""What `send` takes is what the logs get, field by field, in the partition and the order that are promised."""

from __future__ import annotations

import random
import threading
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore import partitioners
from mqcore.client.producer import Producer
from mqcore.clock import ManualClock
from mqcore.config.topic import TopicConfig
from mqcore.errors import InvalidRecordError, RecordTooLargeError, StoreClosedError, UnknownTopicError
from mqcore.types import RecordMetadata
from tests.support.producer_fakes import FakeInfo, FakeStore

NOW = ManualClock().wall_ms()
cell = st.none() | st.binary(max_size=300)
headers = st.none() | st.lists(st.tuples(st.text(max_size=10), cell), max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(cell, cell, headers, st.none() | st.integers(NOW - 10**9, NOW)), max_size=80),
    batch_bytes=st.sampled_from([1024, 2048, 65536]),
)
def test_aiokafka_reads_back_what_was_sent(records: list[tuple[Any, ...]], batch_bytes: int) -> None:
    store = FakeStore(ManualClock(), t=1)
    with Producer(store, batch_bytes=batch_bytes, chunk_bytes=2048, linger_ms=1000) as producer:
        deliveries = [producer.send("t", *record) for record in records]
    assert [(r.value, r.key, r.headers, r.timestamp) for r in store.partition("t", 0).records()] == [
        (v, k, h or [], NOW if ts is None else ts) for v, k, h, ts in records
    ]
    for offset, (record, delivery) in enumerate(zip(records, deliveries, strict=True)):
        assert delivery.result() == RecordMetadata("t", 0, offset, NOW if record[3] is None else record[3])
    assert all(len(raw) <= max(2048, batch_bytes) for raw in store.partition("t", 0).chunks)


def test_keys_go_where_kafkas_default_partitioner_puts_them() -> None:
    store = FakeStore(t=20, c=(20, {"mqcore.partitioner": "consistent"}))
    keys = [random.randbytes(random.randrange(30)) for _ in range(500)]
    with Producer(store) as producer:
        for topic, rule in (("t", partitioners.default), ("c", partitioners.consistent)):
            for key in keys:
                producer.send(topic, b"", key)
            producer.flush()
            for key in set(keys):
                assert any(record.key == key for record in store.partition(topic, rule(key, 20)).records())


def test_a_partitioner_of_the_users_and_an_explicit_partition() -> None:
    store = FakeStore(t=5)
    with Producer(store, partitioner=lambda key, partitions: len(key) % partitions) as producer:
        assert producer.send("t", b"v", b"abc").result().partition == 3
        assert producer.send("t", b"v", b"abc", partition=1).result().partition == 1
        assert producer.send("t", b"v", partition=4).result().partition == 4
        for partition in (-1, 5):
            with pytest.raises(UnknownTopicError, match="no such partition"):
                producer.send("t", b"v", partition=partition)
    with Producer(store, partitioner=lambda key, partitions: 99) as producer, pytest.raises(UnknownTopicError):
        producer.send("t", b"v", b"k")


def test_records_without_a_key_stick_to_a_partition_for_a_chunk_then_move_on() -> None:
    store = FakeStore(t=4)
    with Producer(store, batch_bytes=1024, chunk_bytes=4096, linger_ms=10_000) as producer:
        for _ in range(1000):
            producer.send("t", bytes(100))
    counts = [len(log.records()) for log in store.logs.values()]
    assert len(counts) == 4
    assert sum(counts) == 1000
    assert max(counts) - min(counts) <= 40


def test_limits_are_checked_before_anything_is_sent() -> None:
    store = FakeStore(ManualClock(), t=(1, {"max.message.bytes": "1000"}), c=(1, {"cleanup.policy": "compact"}))
    with Producer(store) as producer:
        with pytest.raises(RecordTooLargeError) as error:
            producer.send("t", bytes(1000))
        assert error.value.where["limit"] == 1000
        assert producer.send("t", bytes(900)).result().offset == 0
        with pytest.raises(InvalidRecordError, match="needs a key"):
            producer.send("c", b"v")
        with pytest.raises(InvalidRecordError, match="needs a key"):
            producer.send("c", b"v", partition=0)
        producer.send("c", None, b"k").result()
        for timestamp in (-1, NOW + 3_600_001):
            with pytest.raises(InvalidRecordError, match="timestamp"):
                producer.send("t", b"v", timestamp=timestamp)
        producer.send("t", b"v", timestamp=NOW + 3_600_000)
        with pytest.raises(UnknownTopicError):
            producer.send("none", b"v")
        for wrong in ("text", 5, [b"x"], np.zeros((2, 2))[:, 1]):
            with pytest.raises((TypeError, ValueError, BufferError)):
                producer.send("t", wrong)
        with pytest.raises(TypeError):
            producer.send("t", b"v", "key")
        with pytest.raises(TypeError):
            producer.send(b"t", b"v")  # type: ignore[arg-type]
    assert [len(value or b"") for value in store.values("t")] == [900, 1]


def test_a_record_larger_than_a_chunk_gets_one_of_its_own() -> None:
    store = FakeStore(t=(1, {"max.message.bytes": str(200 << 20)}))
    with Producer(store, buffer_bytes=1 << 20) as producer:
        producer.send("t", b"before")
        big = producer.send("t", bytes(100_000_000))
        after = producer.send("t", b"")
        assert (big.result().offset, after.result().offset) == (1, 2)
        assert producer.buffered == 0
    assert [len(value or b"") for value in store.values("t")] == [6, 100_000_000, 0]


def test_log_append_time_is_what_the_metadata_says() -> None:
    store = FakeStore(t=(1, {"message.timestamp.type": "LogAppendTime"}))
    store.partition("t", 0).append_time_ms = 77
    with Producer(store) as producer:
        assert producer.send("t", b"v", timestamp=5).result().timestamp_ms == 77


def test_what_the_caller_changes_after_send_is_not_sent() -> None:
    store = FakeStore(t=1)
    value, key, name = bytearray(b"value"), bytearray(b"key"), bytearray(b"x")
    with Producer(store) as producer:
        producer.send("t", value, key, [("h", name)])
        value[:], key[:], name[:] = b"xxxxx", b"yyy", b"z"
        producer.send("t", memoryview(b"abcdef")[1:3])
    first, second = store.partition("t", 0).records()
    assert (first.value, first.key, first.headers) == (b"value", b"key", [("h", b"x")])
    assert second.value == b"bc"


def test_threads_share_one_producer_and_each_keeps_its_order() -> None:
    store = FakeStore(t=2)
    rounds, threads = 3000, 6
    rows = np.zeros((3000, 50), np.uint8)  # large enough to be encoded without the GIL

    def work(number: int) -> None:
        for i in range(rounds):
            producer.send("t", b"%d %d" % (number, i), partition=i % 2)
            if i % 500 == number:
                producer.send_many("t", rows, partition=i % 2)
            if i % 700 == number:
                producer.send_many("t", [b"many"] * 100, partition=0).result()

    with Producer(store, chunk_bytes=65536, linger_ms=1) as producer:
        pool = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
    for partition in (0, 1):
        values = [v for v in store.partition("t", partition).values() if v and v[0] and v != b"many"]
        for number in range(threads):
            own = [int(v.split()[1]) for v in values if v.startswith(b"%d " % number)]
            assert own == list(range(partition, rounds, 2))
    assert store.values("t").count(bytes(50)) == 6 * threads * 3000
    assert store.values("t").count(b"many") == 5 * threads * 100


def test_a_topic_that_changes_is_seen_after_an_append() -> None:
    store = FakeStore(t=1)
    with Producer(store) as producer:
        producer.send("t", b"1").result()
        store.infos["t"] = replace(
            store.infos["t"], partitions=8, config=TopicConfig.parse({"max.message.bytes": "100"})
        )
        producer.send("t", b"2").result()
        assert producer.send("t", b"3", partition=7).result().partition == 7
        with pytest.raises(RecordTooLargeError):
            producer.send("t", bytes(100))
        store.infos["t"] = FakeInfo("t", 2, TopicConfig(), uuid.uuid4())  # deleted and made again, smaller
        producer.send("t", b"4", partition=0).result()
        with pytest.raises(UnknownTopicError):
            producer.send("t", b"5", partition=7)


def test_a_closed_producer_refuses_everything() -> None:
    store = FakeStore(t=1)
    producer = Producer(store)
    producer.send("t", b"v")
    producer.close()
    producer.close()
    for call in (lambda: producer.send("t", b"v"), lambda: producer.send_many("t", [b"v"]), producer.flush):
        with pytest.raises(StoreClosedError):
            call()
    assert store.values("t") == [b"v"]


def test_settings_out_of_range() -> None:
    for wrong in ({"linger_ms": -1}, {"batch_bytes": 10}, {"chunk_bytes": 1 << 40}):
        with pytest.raises((ValueError, OverflowError)):
            Producer(FakeStore(), **wrong)
