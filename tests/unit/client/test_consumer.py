"""A consumer hands out each record of its partitions once and in order, waits without polling, and keeps positions that
say exactly what was handed out."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from itertools import islice

import pytest

from mqcore.client.consumer import Consumer
from mqcore.errors import CorruptBatchError, OffsetOutOfRangeError, StoreClosedError, UnknownTopicError
from mqcore.types import TopicPartition
from tests.support.memory_store import FakeStore


def filled(partitions: int = 1, records: int = 20, batch: int = 5) -> FakeStore:
    store = FakeStore(t=partitions)
    for log in store.logs["t"]:
        for base in range(0, records, batch):
            log.append(*[b"%d-%d" % (log.partition, base + i) for i in range(batch)])
    return store


def soon(action: Callable[[], object], after_s: float = 0.05) -> threading.Timer:
    timer = threading.Timer(after_s, action)
    timer.start()
    return timer


def test_poll_hands_out_all_in_turns() -> None:
    consumer = Consumer(filled(partitions=3), "t")
    found: dict[int, list[bytes | None]] = {0: [], 1: [], 2: []}
    for _ in range(60):
        batches = consumer.poll(0, max_records=4)
        assert sum(len(b) for b in batches) <= 4
        for batch in batches:
            found[batch.partition] += batch.values.to_list()
    assert found == {p: [b"%d-%d" % (p, i) for i in range(20)] for p in range(3)}
    assert [consumer.position(p) for p in range(3)] == [20, 20, 20]


def test_no_partition_waits_for_a_longer_one() -> None:
    store = filled(partitions=3, records=1000, batch=100)
    batches = Consumer(store, "t").batches(max_records=100, timeout_s=0)
    assert [b.partition for b in islice(batches, 6)] == [0, 1, 2, 0, 1, 2]


def test_a_timeout_is_an_empty_list() -> None:
    consumer = Consumer(FakeStore(t=1), "t")
    assert consumer.poll(0) == []
    assert consumer.poll(0.01) == []
    assert list(consumer.batches(timeout_s=0.01)) == []


def test_a_wait_ends_with_the_record_and_does_not_poll() -> None:
    store = FakeStore(t=2)
    consumer = Consumer(store, "t")
    soon(lambda: store.logs["t"][1].append(b"new"))
    (batch,) = consumer.poll(None)
    assert (batch.partition, batch.values.to_list()) == (1, [b"new"])
    assert store.marks.waits == 1


def test_a_record_between_look_and_sleep_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(t=1)
    consumer = Consumer(store, "t")
    real = store.marks.wait

    def late(seen: int, timeout_s: float | None, slot: int = -1) -> bool:
        if store.logs["t"][0].end_offset == 0:
            store.logs["t"][0].append(b"late")
        return real(seen, 60, slot)

    monkeypatch.setattr(store.marks, "wait", late)
    assert [b.values.to_list() for b in consumer.poll(60)] == [[b"late"]]


def test_records_for_ever_until_closed() -> None:
    store = filled()
    consumer = Consumer(store, "t")
    soon(lambda: store.logs["t"][0].append(b"more"))
    found = []
    for record in consumer:
        found.append(record.value)
        if record.value == b"more":
            soon(consumer.close)
    assert found == [b"0-%d" % i for i in range(20)] + [b"more"]
    with pytest.raises(StoreClosedError):
        consumer.poll(0)
    with pytest.raises(StoreClosedError):
        next(iter(consumer))


def test_without_follow_iterations_end() -> None:
    consumer = Consumer(filled(), "t", follow=False)
    assert [r.offset for r in consumer] == list(range(20))
    assert list(consumer.batches()) == []


def test_leaving_an_iteration_loses_nothing_and_repeats_nothing() -> None:
    consumer = Consumer(filled(), "t", follow=False)
    first = []
    for record in consumer:
        first.append(record.offset)
        assert consumer.position(0) == record.offset + 1
        if len(first) == 3:
            break
    (batch,) = consumer.poll(0, max_records=4)
    assert batch.offsets.tolist() == [3, 4, 5, 6]
    assert [r.offset for r in islice(consumer, 2)] == [7, 8]
    one, two = iter(consumer), iter(consumer)
    seen = [next(it).offset for it in (one, two, one, one, two)] + [r.offset for r in one]
    assert seen == list(range(9, 20)), "several iterators share one position"
    assert list(two) == []


def test_a_seek_inside_an_iteration_counts_at_once() -> None:
    consumer = Consumer(filled(), "t", follow=False)
    offsets = []
    for record in consumer:
        offsets.append(record.offset)
        if record.offset == 2:
            consumer.seek(0, 17)
    assert offsets == [0, 1, 2, 17, 18, 19]


def test_seeks() -> None:
    store = FakeStore(t=1)
    for timestamp in (100, 200, 300):
        store.logs["t"][0].append(b"a", b"b", timestamp=timestamp)
    consumer = Consumer(store, "t", start=150)
    assert consumer.position(0) == 2
    consumer.seek_to_end()
    assert (consumer.position(0), consumer.poll(0)) == (6, [])
    consumer.seek_to_beginning(0)
    assert consumer.position(0) == 0
    consumer.seek_to_timestamp(201, 0)
    assert consumer.poll(0)[0].offsets.tolist() == [4, 5]
    consumer.seek_to_timestamp(999)
    assert consumer.position(0) == 6
    with pytest.raises(ValueError, match="offset"):
        consumer.seek(0, -1)
    assert Consumer(store, "t", start="latest").position(0) == 6


def test_assign_reads_these_only() -> None:
    store = filled(partitions=4)
    consumer = Consumer(store, "t")
    consumer.seek(3, 7)
    consumer.assign([0, 3])
    assert consumer.assignment == (TopicPartition("t", 0), TopicPartition("t", 3))
    assert consumer.position(3) == 7
    assert {b.partition for b in consumer.poll(0)} == {0, 3}
    with pytest.raises(UnknownTopicError):
        consumer.position(1)
    with pytest.raises(UnknownTopicError):
        consumer.assign([9])
    assert consumer.assignment == (TopicPartition("t", 0), TopicPartition("t", 3)), "an error changes nothing"


def test_pause_and_resume() -> None:
    consumer = Consumer(filled(partitions=2), "t")
    consumer.pause(0)
    assert consumer.paused == (TopicPartition("t", 0),)
    assert {b.partition for b in consumer.poll(0)} == {1}
    consumer.pause()
    assert consumer.poll(0) == []
    consumer.resume()
    assert {b.partition for b in consumer.poll(0)} == {0}


def test_several_topics_need_names() -> None:
    store = FakeStore(a=1, b=2)
    store.logs["b"][1].append(b"x")
    consumer = Consumer(store, ["a", "b"])
    with pytest.raises(ValueError, match="topic"):
        consumer.position(0)
    assert consumer.position(("b", 1)) == consumer.position(TopicPartition("b", 1)) == 0
    assert [b.topic for b in consumer.poll(0)] == ["b"]
    with pytest.raises(UnknownTopicError):
        Consumer(store, "c")


@pytest.mark.parametrize("pattern", ["^log\\.", re.compile("log\\.")])
def test_patterns_take_in_new_topics(pattern: str | re.Pattern[str]) -> None:
    store = FakeStore(**{"log.a": 1, "other": 1})
    consumer = Consumer(store, pattern, start="latest")
    assert consumer.assignment == (TopicPartition("log.a", 0),)

    def new_topic() -> None:
        store.create_topic("log.b", 2)
        store.logs["log.b"][1].append(b"first")

    timer = soon(new_topic, 0.1)
    (batch,) = consumer.poll(10)
    timer.join()
    assert (batch.topic, batch.partition, batch.values.to_list()) == ("log.b", 1, [b"first"])
    store.delete_topic("log.b")
    deadline = time.monotonic() + 10
    while len(consumer.assignment) > 1 and time.monotonic() < deadline:
        assert consumer.poll(0.01) == []
    assert consumer.assignment == (TopicPartition("log.a", 0),)


def test_a_topic_made_anew_is_another_topic() -> None:
    store = filled()
    consumer = Consumer(store, "t")
    assert len(consumer.poll(0)) == 1
    store.delete_topic("t")
    store.create_topic("t")
    store.logs["t"][0].append(b"new life")
    deadline = time.monotonic() + 10
    while not (batches := consumer.poll(0.01)) and time.monotonic() < deadline:
        pass
    assert [b.values.to_list() for b in batches] == [[b"new life"]]


def test_out_of_range_is_an_error_or_a_reset() -> None:
    store = filled()
    store.logs["t"][0].log_start_offset = 12
    consumer = Consumer(store, "t")
    consumer.seek(0, 3)
    with pytest.raises(OffsetOutOfRangeError):
        consumer.poll(0)
    assert consumer.position(0) == 3
    for reset, expected in (("earliest", 12), ("latest", None)):
        consumer = Consumer(store, "t", on_out_of_range=reset)  # type: ignore[arg-type]
        consumer.seek(0, 3)
        batches = consumer.poll(0)
        assert (batches[0].first_offset if batches else None) == expected


def test_an_error_in_one_partition_loses_no_record_of_another() -> None:
    store = filled(partitions=2, records=10, batch=10)
    damaged = store.logs["t"][1]
    damaged.data = damaged.data[:100] + bytes([damaged.data[100] ^ 1]) + damaged.data[101:]
    consumer = Consumer(store, "t")
    (batch,) = consumer.poll(0)
    assert (batch.partition, len(batch)) == (0, 10)
    with pytest.raises(CorruptBatchError) as caught:
        consumer.poll(0)
    assert caught.value.where["partition"] == 1
    assert consumer.position(1) == 0


def test_close_wakes_a_waiting_poll() -> None:
    consumer = Consumer(FakeStore(t=1), "t")
    soon(consumer.close)
    assert consumer.poll(None) == []


def test_options_are_checked() -> None:
    store = FakeStore(t=1)
    for options in ({"start": "now"}, {"start": True}, {"on_out_of_range": "skip"}, {"isolation": "dirty"}):
        with pytest.raises(ValueError):  # noqa: PT011
            Consumer(store, "t", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        Consumer(store)
    with pytest.raises(ValueError, match="max_records"):
        Consumer(store, "t").poll(0, max_records=0)


def test_threads_may_share_one() -> None:
    store = filled(partitions=4, records=500, batch=10)
    consumer, seen = Consumer(store, "t", follow=False), []

    def work() -> None:
        while batches := consumer.poll(0, max_records=7):
            seen.extend((b.partition, offset) for b in batches for offset in b.offsets.tolist())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(p, o) for p in range(4) for o in range(500)]
