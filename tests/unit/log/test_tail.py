"""A reader at the end goes on where it was, and sees just what a reader that looks at everything sees: over rolls,
removals and a restart of the writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqcore.client.open import open as open_store
from mqcore.errors import OffsetOutOfRangeError, StoreClosedError, UnknownTopicError
from mqcore.log.partition_log import PartitionLog
from mqcore.log.reader import PartitionReader
from mqcore.log.segments import OFFSET_DELTA_MAX, SegmentEntry, roll_reason
from tests.support.stores import TOPIC, LogStore, opened, put

STEPS = st.lists(st.sampled_from(["one", "many", "roll", "remove", "read"]), max_size=30)


@contextmanager
def reading(path: Path, *, same: bool) -> Iterator[tuple[PartitionLog, PartitionLog]]:
    """The writer's partition, and the one that is read: the same, or a read-only store's."""
    with opened(path) as store:
        if TOPIC not in store.topics():
            store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        if same:
            yield log, log
        else:
            with LogStore.open(path, read_only=True) as other:
                yield log, other.partition(TOPIC, 0)


def taken(reader: PartitionReader[PartitionLog]) -> list[bytes | None]:
    found: list[bytes | None] = []
    while (columns := reader.read()) is not None:
        found += columns.values.to_list()
    return found


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("same", [True, False])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_going_on_is_reading_on(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], same: bool, copy: bool
) -> None:
    with reading(tmp_path_factory.mktemp("s") / "s", same=same) as (log, seen):
        reader, count = PartitionReader(seen, copy=copy), 0
        expected: list[bytes] = []
        found: list[bytes | None] = []
        for step in [*steps, "read"]:
            if step == "roll":
                log.roll()
            elif step == "remove":
                log.delete_before(reader.position)
            elif step == "read":
                found += taken(reader)
            else:
                for _ in range(1 if step == "one" else 20):
                    put(log, b"%d" % count)
                    expected.append(b"%d" % count)
                    count += 1
        assert found == expected


@pytest.mark.parametrize("same", [True, False])
def test_what_was_removed_is_out_of_range(tmp_path: Path, same: bool) -> None:
    with reading(tmp_path / "s", same=same) as (log, seen):
        reader = PartitionReader(seen)
        put(log, b"a")
        assert taken(reader) == [b"a"]
        put(log, b"b")
        put(log, b"c")
        log.delete_before(2)
        with pytest.raises(OffsetOutOfRangeError):
            reader.read()
        reader.seek(2)
        assert taken(reader) == [b"c"]


def test_a_deleted_topic_and_a_closed_store_say_so(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        for name in ("one", "two"):
            store.create_topic(name)
        readers = [PartitionReader(store.partition(name, 0)) for name in ("one", "two")]
        for name, reader in zip(("one", "two"), readers, strict=True):
            put(store.partition(name, 0), b"a")
            assert taken(reader) == [b"a"]
        store.delete_topic("one")
        with pytest.raises(UnknownTopicError):
            readers[0].read()
    with pytest.raises(StoreClosedError):
        readers[1].read()


def test_a_follower_that_is_at_the_end_keeps_no_removed_file(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store._maintenance.stop()  # it holds a segment for as long as it seals it
        store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        reader = PartitionReader(log)
        put(log, b"a")
        assert taken(reader) == [b"a"]
        assert reader._segment is not None
        assert reader._segment() is not None
        log.delete_before(1)
        assert reader._segment() is None
        put(log, b"b")
        assert taken(reader) == [b"b"]


def test_what_was_read_there_stays_when_the_writer_is_gone(tmp_path: Path) -> None:
    """The marks that it was read by are remembered: nothing is taken back."""
    with opened(tmp_path) as store:
        store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        put(log, b"first")
        with LogStore.open(tmp_path, read_only=True) as other:
            followed = other.partition(TOPIC, 0)
            reader = PartitionReader(followed, 0)
            assert taken(reader) == [b"first"]
            put(log, b"second")
            assert taken(reader) == [b"second"]
            store.abandon()
            assert taken(PartitionReader(followed, 0)) == [b"first", b"second"]
            assert followed.high_watermark == 2


def test_the_next_writer_is_followed(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("t")
        put(store.log.partition("t", 0), b"a")
    with open_store(tmp_path / "s", read_only=True) as other:
        consumer = other.consumer("t")
        assert [r.value for b in consumer.poll(10) for r in b] == [b"a"]
        for value in (b"b", b"c"):
            with open_store(tmp_path / "s") as store:
                put(store.log.partition("t", 0), value)
                assert [r.value for b in consumer.poll(30) for r in b] == [value]


def test_room_is_said_to_be_only_where_nothing_asks_for_a_roll(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        put(log, b"a" * 100)
        entry: SegmentEntry = log.segments[-1]
        segment = entry.segment()
        first = segment.first_timestamp
        plain = {"incoming": 100, "last_offset": 5, "timestamp": first, "segment_bytes": 1 << 20, "segment_ms": 1000}
        assert segment.roomy(**plain)
        assert segment.roomy(**(plain | {"segment_ms": (1 << 63) - 1}))
        for change in (
            {"incoming": 1 << 20},
            {"incoming": (1 << 64) - 1},
            {"last_offset": OFFSET_DELTA_MAX + 1},
            {"timestamp": -1},
            {"timestamp": first + 1001},
            {"segment_bytes": segment.size + 99},
            {"segment_ms": -1},
        ):
            assert not segment.roomy(**(plain | change)), change
        assert roll_reason(
            size=segment.size, incoming=100, base_offset=0, last_offset=5, first_timestamp=first,
            incoming_timestamp=first, created_ms=0, now_ms=first, index_full=False, segment_bytes=1 << 20, segment_ms=1000,
        ) == ""  # fmt: skip
