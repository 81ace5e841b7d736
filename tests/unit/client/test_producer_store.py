"""Producer and store together: every acknowledged record is read back at the offset that its delivery named."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mqcore
from mqcore.clock import ManualClock
from mqcore.errors import DiskFullError, StoreClosedError, UnknownTopicError

DURABILITIES = ["fsync", "os", "memory"]


def read_all(store: Any, topic: str, count: int) -> dict[tuple[int, int], Any]:
    """{(partition, offset): record} of the first `count` records."""
    with store.consumer(topic) as consumer:
        return {(r.partition, r.offset): r for r in itertools.islice(consumer, count)}


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("compression", ["producer", "zstd"])
def test_what_deliveries_name_is_what_consumers_read(tmp_path: Path, durability: str, compression: str) -> None:
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", partitions=5, config={"compression.type": compression})
        with store.producer(batch_bytes=4096, chunk_bytes=16384) as producer:
            values = [b"%d" % i * (i % 50) for i in range(3000)]
            sent = [producer.send("t", v, key=b"k%d" % (i % 40), headers=[("n", b"x")]) for i, v in enumerate(values)]
            rows = np.arange(40_000, dtype=np.uint8).reshape(4000, 10)
            bulk = producer.send_many("t", rows, partition=3)
            producer.send_many("t", [b"v"] * 100, keys=[b"%d" % i for i in range(100)], timestamps=list(range(100)))
        records = read_all(store, "t", 7100)
        assert len(records) == 7100
        for i, (value, delivery) in enumerate(zip(values, sent, strict=True)):
            metadata = delivery.result()
            record = records[metadata.partition, metadata.offset]
            assert (record.value, record.key, record.timestamp) == (value, b"k%d" % (i % 40), metadata.timestamp_ms)
        at = [(3, offset) for span in bulk.ranges for offset in range(span.base_offset, span.base_offset + span.count)]
        assert [records[place].value for place in at] == [row.tobytes() for row in rows]
        assert sorted(r.timestamp for r in records.values())[:100] == list(range(100))


@pytest.mark.parametrize("durability", DURABILITIES)
def test_many_threads_wait_for_their_own_records(tmp_path: Path, durability: str) -> None:
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", partitions=3)
        found: dict[tuple[int, int], bytes] = {}

        def work(number: int) -> None:
            for i in range(30):
                value = b"%d-%d" % (number, i)
                metadata = producer.send("t", value, partition=i % 3).result()
                assert (metadata.partition, metadata.offset) not in found
                found[metadata.partition, metadata.offset] = value

        with store.producer(linger_ms=1) as producer:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        records = read_all(store, "t", 240)
        assert {place: record.value for place, record in records.items()} == found


@pytest.mark.parametrize("durability", DURABILITIES)
def test_callbacks_come_though_nobody_waits(tmp_path: Path, durability: str) -> None:
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t")
        done = threading.Event()
        store.producer(linger_ms=1).send("t", b"v").add_done_callback(lambda delivery: done.set())
        assert done.wait(20)


def test_closing_the_store_flushes_its_producers_and_a_deleted_topic_is_an_error(tmp_path: Path) -> None:
    store = mqcore.open(tmp_path / "s", durability="os")
    store.create_topic("t")
    store.create_topic("gone")
    producer = store.producer(linger_ms=60_000)
    kept = producer.send("t", b"kept")
    lost = producer.send("gone", b"lost")
    store.delete_topic("gone")
    assert lost.exception() is not None
    with pytest.raises(UnknownTopicError):
        producer.send("gone", b"more")
    store.close()
    assert kept.result().offset == 0
    with pytest.raises(StoreClosedError):
        producer.send("t", b"late")
    with mqcore.open(tmp_path / "s", durability="os") as again:
        assert [r.value for r in read_all(again, "t", 1).values()] == [b"kept"]


def test_a_wall_clock_set_back_between_a_send_and_its_append_refuses_nothing(store_path: Path) -> None:
    clock = ManualClock()
    with mqcore.open(store_path, durability="os", clock=clock) as store:
        store.create_topic("t")
        sent = clock.wall_ms()
        with store.producer(linger_ms=60_000) as producer:
            delivery = producer.send("t", b"v")
            clock.jump(-365 * 86_400_000)
        assert delivery.result().timestamp_ms == sent


def sequences(store: Any, topic: str) -> list[tuple[int, int, int]]:
    """(producer id, first sequence, records) of each batch of a topic's only partition."""
    from mqcore._native.batch import scan

    log = store.log.partition(topic, 0)
    rows = [row for entry in log.segments for row in scan(entry.segment().view(entry.size))[0]]
    return [(int(row["producer_id"]), int(row["base_sequence"]), int(row["record_count"])) for row in rows]


@pytest.mark.parametrize("compression", ["producer", "zstd"])
def test_batches_are_numbered_without_gaps_though_chunks_fail(tmp_path: Path, compression: str) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t", config={"compression.type": compression})
        log = store.log.partition("t", 0)
        append, fails = log.append, {1, 3, 4, 8}
        calls = itertools.count()

        def sometimes(batches: Any) -> Any:
            if next(calls) in fails:
                raise DiskFullError("no room")
            return append(batches)

        log.append = sometimes
        producer = store.producer(linger_ms=3_600_000, batch_bytes=1024, chunk_bytes=2048)
        deliveries = [producer.send("t", b"%d" % i + b"x" * 100) for i in range(200)]
        with pytest.raises(DiskFullError):
            producer.close()
        stored = sequences(store, "t")
        assert len({id for id, _, _ in stored}) == 1
        expected = 0
        for _, first, count in stored:
            assert first == expected
            expected += count
        assert 0 < expected < 200
        kept = [i for i, delivery in enumerate(deliveries) if delivery.exception() is None]
        assert [r.value for r in read_all(store, "t", expected).values()] == [b"%d" % i + b"x" * 100 for i in kept]


def test_an_append_that_failed_after_it_was_stored_takes_nothing_from_the_next(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t")
        log = store.log.partition("t", 0)
        append = log.append

        def stored_and_failed(batches: Any) -> Any:
            append(batches)
            log.append = append
            raise MemoryError

        log.append = stored_and_failed
        with store.producer() as producer:
            with pytest.raises(MemoryError):
                producer.send("t", b"a").result()
            assert producer.send("t", b"b").result().offset == 1
        assert [first for _, first, _ in sequences(store, "t")] == [0, 1]


def test_an_interrupt_after_the_write_stores_nothing_twice(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t")
        log = store.log.partition("t", 0)
        append = log.append

        def interrupted(batches: Any) -> Any:
            append(batches)
            log.append = append
            raise KeyboardInterrupt

        log.append = interrupted
        with store.producer() as producer:
            delivery = producer.send("t", b"a")
            with pytest.raises(KeyboardInterrupt):
                producer.flush()
            assert producer.send("t", b"b").result().offset == 1
            assert delivery.result().offset == 0
        assert [r.value for r in read_all(store, "t", 2).values()] == [b"a", b"b"]


def test_another_identity_begins_at_sequence_0(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t")
        with store.producer(linger_ms=3_600_000) as producer:
            producer.send_many("t", [b"a"] * 3)
            with pytest.raises(ValueError, match="not appended"):
                producer.set_identity(77, 1)
            producer.flush()
            producer.set_identity(77, 1, transactional=True)
            producer.send_many("t", [b"b"] * 2).result()
            producer.send("t", b"c").result()
        assert sequences(store, "t")[1:] == [(77, 0, 2), (77, 2, 1)]
        log = store.log.partition("t", 0)
        assert log.open_transactions()[77][:3] == (77, 1, 3)
        assert log.last_stable_offset == 3
