"""On a real store: what was appended is read, across segments, restarts and retention; damage names its file; views
outlive topic and store."""

from __future__ import annotations

import glob
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mqcore.client.open import open as open_store
from mqcore.errors import CorruptBatchError, OffsetOutOfRangeError, StoreClosedError
from tests.support.batches import Plain, encode


def append(store: object, topic: str, values: list[bytes], *, partition: int = 0, codec: int = 0, ms: int = -1) -> None:
    log = store.log.partition(topic, partition)  # type: ignore[attr-defined]
    now = ms if ms >= 0 else int(time.time() * 1000)
    done = log.append(bytearray(encode([Plain(v, timestamp=now) for v in values], codec=codec)))
    log.wait_durable(done.next_offset)


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_read_back_across_segments_and_a_restart(tmp_path: Path, durability: str) -> None:
    values = [os.urandom(300) for _ in range(400)]
    with open_store(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", 1, {"segment.bytes": 20_000, "max.message.bytes": 10_000})
        for i in range(0, 400, 10):
            append(store, "t", values[i : i + 10], codec=(0, 4)[i % 20 // 10])
        assert len(store.log.partition("t", 0).segments) > 3
        assert [r.value for r in store.consumer("t", follow=False)] == values
    with open_store(tmp_path / "s", durability=durability) as store:
        consumer = store.consumer("t", follow=False)
        consumer.seek(0, 123)
        assert [r.value for r in consumer] == values[123:]
        batches = list(store.consumer("t").batches(max_records=7, timeout_s=0))
        assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(400))


def test_views_outlive_topic_and_store(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t")
        append(store, "t", [b"kept alive" * 10] * 100)
        consumer = store.consumer("t")
        (batch,) = consumer.poll(0)
        record, view = batch[3], batch.values[4]
        store.delete_topic("t")
        store.log.maintain()
    with pytest.raises(StoreClosedError):
        consumer.poll(0)
    assert record.value == view == b"kept alive" * 10
    assert set(batch.values.to_list()) == {b"kept alive" * 10}


def test_a_flipped_byte_names_file_position_and_offset(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t")
        for i in range(3):
            append(store, "t", [b"value %d" % i] * 5)
        consumer = store.consumer("t")
        (path,) = glob.glob(str(tmp_path / "s" / "topics" / "t-0" / "*.log"))
        size = store.log.partition("t", 0).size // 3
        with open(path, "r+b") as file:  # what a failing disk does
            file.seek(size + 80)
            byte = file.read(1)
            file.seek(size + 80)
            file.write(bytes([byte[0] ^ 4]))
        (batch,) = consumer.poll(0)
        assert len(batch) == 5
        with pytest.raises(CorruptBatchError) as caught:
            consumer.poll(0)
        where = caught.value.where
        assert (where["topic"], where["partition"], where["path"]) == ("t", 0, path)
        assert (where["position"], where["offset"]) == (size, 5)
        consumer.seek(0, 10)
        assert consumer.poll(0)[0].values.to_list() == [b"value 2"] * 5


def test_retention_under_a_consumer(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t", 1, {"segment.bytes": 20_000, "max.message.bytes": 10_000})
        for i in range(20):
            append(store, "t", [b"%d" % i * 2000])
        strict = store.consumer("t")
        reset = store.consumer("t", on_out_of_range="earliest")
        store.delete_before("t", {0: 15})
        with pytest.raises(OffsetOutOfRangeError):
            strict.poll(0)
        assert [b.first_offset for b in reset.poll(0)] == [15]


def test_start_at_a_time(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t")
        base = int(time.time() * 1000) - 10_000
        for i in range(10):
            append(store, "t", [b"%d" % i] * 3, ms=base + i * 1000)
        assert store.consumer("t", start=base + 4001).position(0) == 15
        assert store.consumer("t", start=base + 99_000).position(0) == 30


def test_a_waiting_consumer_wakes(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t", 3)
        consumer = store.consumer("t")
        timer = threading.Timer(0.05, lambda: append(store, "t", [b"x"], partition=2))
        timer.start()
        (batch,) = consumer.poll(30)
        assert batch.partition == 2
        timer.join()


@pytest.mark.parametrize("linger_ms", [0, 5])
def test_a_record_that_its_sender_does_not_wait_for_becomes_visible(tmp_path: Path, linger_ms: int) -> None:
    with open_store(tmp_path / "s", durability="fsync") as store:
        store.create_topic("t")
        producer = store.producer(linger_ms=linger_ms)
        delivery = producer.send("t", b"unwatched")
        (batch,) = store.consumer("t").poll(timeout_s=30)
        assert [record.value for record in batch.records()] == [b"unwatched"]
        assert delivery.done()
