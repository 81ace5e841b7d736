"""Passes of maintenance compact what is due, the store's own topic too, and no clock that jumps makes them hurry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqcore.clock import ManualClock
from mqcore.errors import StoreClosedError
from mqcore.log.checkpoints import PartitionKey
from mqcore.log.maintenance import Maintenance
from mqcore.log.manager import LogStore
from mqcore.log.retention import GRACE_S
from mqcore.log.topics import METADATA_TOPIC
from mqcore.log.verify import verify
from tests.support.batches import Plain, encode
from tests.support.stores import TOPIC, kill, opened, put, values_of

YEAR_MS = 365 * 86_400_000


@pytest.fixture(autouse=True, scope="module")
def _no_maintenance_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Maintenance, "start", lambda self: None)
        yield


def test_a_jump_of_the_clock_takes_no_tombstone(tmp_path: Path) -> None:
    clock = ManualClock()
    config = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0, "delete.retention.ms": 60_000}
    with LogStore.open(tmp_path / "s", durability="os", clock=clock) as store:
        store.create_topic(TOPIC, config=config)
        log = store.partition(TOPIC, 0)

        def pass_(key: bytes, value: bytes | None) -> None:
            log.append(bytearray(encode([Plain(value, key, timestamp=clock.wall_ms())])))
            log.roll()
            store.maintain()

        pass_(b"key", b"soon gone")
        pass_(b"key", None)
        for _ in range(3):
            clock.jump(YEAR_MS)
            pass_(b"other", b"y")
        assert values_of(log) == [None, b"y"]
        clock.advance(GRACE_S + 61)  # it keeps step: it is believed
        pass_(b"other", b"z")
        assert values_of(log) == [b"z"]


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_the_topic_of_topics_does_not_grow_for_ever(tmp_path: Path, durability: str) -> None:
    clock = ManualClock()
    sizes = []
    with LogStore.open(tmp_path / "s", durability=durability, clock=clock) as store:
        store.create_topic("stays", partitions=3, config={"retention.ms": 5})
        log = store.partition(METADATA_TOPIC.name, 0)
        for turn in range(8):
            for number in range(20):
                store.create_topic(f"t{number}")
                store.alter_topic("stays", {"retention.ms": turn * 100 + number})
                store.delete_topic(f"t{number}")
            log.roll()
            clock.advance(3 * 86_400)
            store.maintain()
            sizes.append(log.size)
        assert max(sizes[2:]) <= sizes[1] * 1.2
        image = kill(store, tmp_path / "image")
    for path in (image, tmp_path / "s"):
        with LogStore.open(path, read_only=True) as reader:
            assert list(reader.topics()) == ["stays"]
        with opened(path, durability=durability) as again:
            assert again.topic("stays").config.retention_ms == 719
            assert again.topic("stays").partitions == 3
        assert verify(path).ok


def busy(path: Path) -> LogStore:
    """A store with a topic of which a round is due."""
    store = LogStore.open(path, durability="os")
    store.create_topic(TOPIC, config={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0})
    log = store.partition(TOPIC, 0)
    for _ in range(3):
        log.append(bytearray(encode([Plain(b"v", b"key", timestamp=1)])))
        log.roll()
    return store


def during_a_round(store: LogStore, call: Callable[[], object], until: Callable[[], bool]) -> threading.Thread:
    """Have `call` run in a thread of its own from the first step of the next round on, which waits for `until`."""
    thread = threading.Thread(target=call)

    def pace(_: int) -> None:
        if thread.ident is None:
            thread.start()
        while not until():
            time.sleep(0.001)

    store.housekeeper._pace = pace  # type: ignore[assignment]
    return thread


def test_a_round_keeps_no_change_of_topics_waiting(tmp_path: Path) -> None:
    store = busy(tmp_path / "s")
    thread = during_a_round(store, lambda: store.create_topic("new"), lambda: "new" in store.registry)
    assert store.maintain().compacted == 1
    thread.join()
    store.close()


def test_a_round_gives_up_a_topic_that_is_deleted_and_made_again(tmp_path: Path) -> None:
    store = busy(tmp_path / "s")
    old = store.partition(TOPIC, 0)

    def again() -> None:
        store.delete_topic(TOPIC)
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"new")

    thread = during_a_round(store, again, lambda: old.deleted)
    assert store.maintain().compacted == 0
    thread.join()
    store.maintain()
    assert values_of(store.partition(TOPIC, 0)) == [b"new"]
    assert store.cleaned.get(PartitionKey(TOPIC, 0)) is None
    assert sorted(path.name for path in (tmp_path / "s" / "topics").iterdir()) == ["__metadata-0", f"{TOPIC}-0"]
    store.close()
    assert verify(tmp_path / "s").ok


def test_a_close_does_not_wait_for_a_round(tmp_path: Path) -> None:
    store = busy(tmp_path / "s")
    thread = during_a_round(store, store.close, lambda: store.housekeeper._stopping)
    with pytest.raises(StoreClosedError):
        store.maintain()
    thread.join()
    with opened(tmp_path / "s", durability="os") as store:
        assert store.recovery.clean
        assert values_of(store.partition(TOPIC, 0)) == [b"v"] * 3
    assert not list((tmp_path / "s").rglob("*.cleaned"))
