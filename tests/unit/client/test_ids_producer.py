"""A record with an id is stored once within the topic's window, whatever is retried, killed, rebuilt or raced."""

from __future__ import annotations

import random
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mqcore
from mqcore.clock import ManualClock
from mqcore.errors import DiskFullError, InvalidRecordError, MQError, RecordTooLargeError, WindowFullError
from mqcore.log.id_window import IdWindow
from mqcore.log.partition_log import PartitionLog
from mqcore.types import OffsetRange

HOUR = {"mqcore.dedup.window.ms": 3_600_000}
Make = Callable[[int], Any]


GENERATOR = mqcore.Snowflake(7)


def numbers(count: int) -> Any:
    return GENERATOR.batch(count)


def uuids(count: int) -> Any:
    return [uuid.uuid4() for _ in range(count)]


def stored(store: mqcore.Store, topic: str = "t") -> list[bytes]:
    with store.consumer(topic, follow=False) as consumer:
        return [record.value for record in consumer]


@pytest.fixture(params=["os", "fsync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with mqcore.open(tmp_path / "s", durability=request.param) as store:
        store.create_topic("t", partitions=3, config=HOUR)
        yield store


@pytest.mark.parametrize("make", [numbers, uuids])
def test_a_retry_gets_the_offsets_of_the_first(store: mqcore.Store, make: Make) -> None:
    ids, values = make(500), [b"v%d" % i for i in range(500)]
    with store.producer() as producer:
        first = producer.send_many("t", values, ids=ids)
        ranges = first.result()
        assert sum(span.count for span in ranges) == 500
        assert not first.duplicates.any()
        again = producer.send_many("t", values, ids=ids)
        assert again.result() == ranges
        assert again.duplicates.all()
        assert (again.offsets == first.offsets).all()
        assert (again.partitions == first.partitions).all()
        more = make(300)
        mixed = list(ids[200:]) + list(more)
        third = producer.send_many("t", [b"w%d" % i for i in range(600)], ids=mixed)
        third.result()
        assert third.duplicates.tolist() == [True] * 300 + [False] * 300
        assert third.offsets[:300].tolist() == first.offsets[200:].tolist()
    assert sorted(stored(store)) == sorted(values + [b"w%d" % i for i in range(300, 600)])


@pytest.mark.parametrize("make", [numbers, uuids])
def test_an_id_twice_in_one_call_is_stored_once(store: mqcore.Store, make: Make) -> None:
    a, b = make(2)
    with store.producer() as producer:
        sent = producer.send_many("t", [b"1", b"2", b"3", b"4"], ids=[a, b, a, b], partition=1)
        assert sent.result() == [OffsetRange(1, 0, 2)]
        assert sent.offsets.tolist() == [0, 1, 0, 1]
        assert sent.duplicates.tolist() == [False, False, True, True]
        sent = producer.send_many("t", [b"5", b"6"], ids=[a, a], partition=1)
        assert (sent.offsets.tolist(), sent.duplicates.tolist()) == ([0, 0], [True, True])
    assert stored(store) == [b"1", b"2"]


def test_one_record_at_a_time(store: mqcore.Store) -> None:
    with store.producer() as producer:
        ids = mqcore.Snowflake(1)
        one = ids.next()
        first = producer.send("t", b"v", key=b"k", id=one)
        again = producer.send("t", b"v", key=b"k", id=one)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert first.result().offset == again.result().offset
        assert again.done()
        assert again.exception() is None
        with pytest.raises(ValueError, match="headers"):
            producer.send("t", b"v", headers=[("a", b"b")], id=one)
    assert stored(store) == [b"v"]


def test_keys_timestamps_and_order(store: mqcore.Store) -> None:
    """Keyed records lie where the same keys lie without ids, after what the producer had open."""
    keys = [b"k%d" % (i % 7) for i in range(100)] + [None]
    with store.producer(linger_ms=10_000) as producer:
        producer.send_many("t", [b"before"] * 101, keys=[*keys[:100], b"k1"])
        sent = producer.send_many("t", [b"after"] * 101, keys=keys, timestamps=np.arange(101) + 5, ids=numbers(101))
        sent.result()
    with store.consumer("t", follow=False) as consumer:
        records = list(consumer)
    places: dict[bytes, set[int]] = {}
    for record in records:
        if record.key is not None:
            places.setdefault(record.key, set()).add(record.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
    for partition in range(3):
        values = [record.value for record in records if record.partition == partition]
        assert values == sorted(values, reverse=True)
    assert sorted(record.timestamp for record in records if record.value == b"after") == list(range(5, 106))
    assert all(len(record.headers) == 1 for record in records if record.value == b"after")


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("make", [numbers, uuids])
def test_a_kill_and_a_reopen_keep_the_window(tmp_path: Path, make: Make, durability: str) -> None:
    ids, values = make(400), [b"%d" % i for i in range(400)]
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", partitions=3, config=HOUR)
        producer = store.producer()
        offsets = producer.send_many("t", values[:300], ids=ids[:300]).offsets
        producer.flush()
        shutil.copytree(tmp_path / "s", tmp_path / "killed")
        producer.send_many("t", [b"no ids"] * 10).result()
        producer.close()
    for path in (tmp_path / "killed", tmp_path / "s"):
        with mqcore.open(path, durability=durability) as store, store.producer() as producer:
            again = producer.send_many("t", values, ids=ids)
            again.result()
            assert again.offsets[:300].tolist() == offsets.tolist()
            assert again.duplicates.tolist() == [True] * 300 + [False] * 100
            assert sorted(value for value in stored(store) if value != b"no ids") == sorted(values)


def test_a_failed_append_leaves_the_id_unseen(store: mqcore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5. The planted bug of the next test is caught by this check."""
    _check_failed_append(store, monkeypatch)


def _check_failed_append(store: mqcore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = numbers(5)
    with store.producer() as producer:
        producer.send_many("t", [b"x"] * 5, ids=numbers(5), partition=0).result()
        with monkeypatch.context() as patch:

            def fail(*_: Any, **__: Any) -> None:
                raise DiskFullError("no space")

            patch.setattr(PartitionLog, "append", fail)
            with pytest.raises(DiskFullError):
                producer.send_many("t", [b"v"] * 5, ids=ids, partition=0)
        again = producer.send_many("t", [b"v"] * 5, ids=ids, partition=0)
        again.result()
        assert not again.duplicates.any()
    assert stored(store) == [b"x"] * 5 + [b"v"] * 5


def test_noting_ids_before_the_append_is_caught(store: mqcore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker is checked (R14): a window that notes first, and trusts its notes, loses the retry."""
    known = IdWindow._known

    def noting_first(self: IdWindow, ids: Any, width: int, holder: Any) -> Any:
        result = known(self, ids, width, holder)
        self._seen.add(ids, width, 0, 0)
        return result

    monkeypatch.setattr(IdWindow, "_known", noting_first)
    monkeypatch.setattr(IdWindow, "_confirmed", lambda self, items, low, high, width: low)
    with pytest.raises(AssertionError):
        _check_failed_append(store, monkeypatch)


def test_threads_that_send_the_same_ids_store_them_once(store: mqcore.Store) -> None:
    ids = numbers(2000)
    offsets: list[Any] = []

    def send(seed: int) -> None:
        order = random.Random(seed).sample(range(0, 2000, 50), 40)
        mine = np.full(2000, -1)
        with store.producer() as producer:
            for start in order:
                part = slice(start, start + 50)
                sent = producer.send_many("t", [b"%d" % i for i in range(2000)][part], ids=ids[part], partition=2)
                sent.result()
                mine[part] = sent.offsets
        offsets.append(mine)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found == offsets[0]).all() for found in offsets)
    assert sorted(stored(store)) == sorted(b"%d" % i for i in range(2000))


def test_an_id_leaves_with_its_time(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=mqcore.Snowflake(1).last_timestamp_ms + 10**9)
    with mqcore.open(tmp_path / "s", durability="os", clock=clock) as store:
        store.create_topic("t", config={"mqcore.dedup.window.ms": 60_000})
        for make in (lambda: [mqcore.Snowflake(1, wall_ms=clock.wall_ms).next()], lambda: uuids(1)):
            ids = make()
            with store.producer() as producer:
                assert not producer.send_many("t", [b"v"], ids=ids).duplicates[0]
                clock.advance(50)
                assert producer.send_many("t", [b"v"], ids=ids).duplicates[0]
                clock.advance(30)
                assert not producer.send_many("t", [b"v"], ids=ids).duplicates[0]


def test_a_window_by_count_keeps_about_so_many(store: mqcore.Store) -> None:
    store.alter_topic("t", {"mqcore.dedup.window.count": 1000})
    with store.producer() as producer:
        batches = []
        for _ in range(50):
            batches.append(uuids(100))
            producer.send_many("t", [b"v"] * 100, ids=batches[-1], partition=0)
        window = store.log.partitions.id_windows.of(store.log.partition("t", 0))
        assert window is not None
        assert len(window._seen.of(16)) <= 2000
        assert producer.send_many("t", [b"v"] * 100, ids=batches[-1], partition=0).duplicates.all()


def test_at_its_cap_a_window_refuses_and_nothing_is_stored(store: mqcore.Store) -> None:
    store.alter_topic("t", {"mqcore.dedup.max.bytes": 1 << 16})
    with store.producer() as producer:
        sent = 0
        error: MQError | None = None
        while error is None:
            try:
                producer.send_many("t", [b"v"] * 100, ids=uuids(100), partition=0)
                sent += 100
            except WindowFullError as caught:
                error = caught
        assert error.retriable
    assert len(stored(store)) == sent > 0


def test_a_topic_without_a_window_only_carries_the_ids(store: mqcore.Store) -> None:
    store.create_topic("plain")
    ids = numbers(3)
    with store.producer() as producer:
        for _ in range(2):
            sent = producer.send_many("plain", [b"v"] * 3, ids=ids)
            assert not sent.duplicates.any()
    with store.consumer("plain", follow=False) as consumer:
        found = [int.from_bytes(dict(record.headers)["mqcore.id"] or b"", "big") for record in consumer]
    assert found == [int(i) for i in ids] * 2


def test_an_original_that_retention_took_is_still_a_duplicate(store: mqcore.Store) -> None:
    for ids in (numbers(3), uuids(3)):
        with store.producer() as producer:
            end = producer.send_many("t", [b"v"] * 3, ids=ids, partition=0).result()[0]
            store.delete_before("t", {0: end.base_offset + 3})
            again = producer.send_many("t", [b"v"] * 3, ids=ids, partition=0)
            assert (again.result(), again.duplicates.all(), again.offsets.tolist()) == ([], True, [-1] * 3)


def test_bad_arguments(store: mqcore.Store) -> None:
    store.create_topic("compacted", config={**HOUR, "cleanup.policy": "compact"})
    with store.producer() as producer:
        for ids, error in (
            ([1], ValueError),
            ([-1, 2], TypeError),
            ([1.5, 2.5], TypeError),
            ([b"short", b"ids"], ValueError),
            (["a", "b"], TypeError),
        ):
            with pytest.raises(error):
                producer.send_many("t", [b"a", b"b"], ids=ids)
        with pytest.raises(InvalidRecordError):
            producer.send_many("compacted", [b"a", b"b"], ids=[1, 2])
        with pytest.raises(RecordTooLargeError):
            producer.send_many("t", [b"a", bytes(2 << 20)], ids=[1, 2], partition=0)
        assert producer.send_many("t", [], ids=[]).result() == []
    assert stored(store) == []
