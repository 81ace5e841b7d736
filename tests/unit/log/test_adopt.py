"""A partition directory that Kafka wrote is taken in with every record at its offset, or refused, and never changed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo, Io
from mqcore.errors import (
    CorruptBatchError,
    InvalidTopicError,
    MQError,
    StorageError,
    StoreFormatError,
    TopicExistsError,
    UnsupportedFormatError,
)
from mqcore.log import checkpoints, layout
from mqcore.log.leader_epochs import EpochStart, LeaderEpochs
from mqcore.log.manager import LogStore
from mqcore.log.reader import PartitionReader
from mqcore.log.removal import remove_tree
from mqcore.log.verify import verify
from mqcore.types import Durability
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker
from tests.unit.log.test_verify import snapshot

TOPIC_ID = uuid.UUID("11111111-2222-4333-8444-555555555555")


def record(offset: int) -> Plain:
    return Plain(b"value %d" % offset, b"key %d" % offset, (("h", b"x"),), 1_600_000_000_000 + offset, offset)


def kafka_directory(
    path: Path, segments: dict[int, Sequence[Sequence[int]]], *, codec: int = 0, epoch: int = 0
) -> Path:
    """A partition directory: base offset -> batches, each the offsets of its records."""
    path.mkdir(parents=True)
    for base, batches in segments.items():
        data = b"".join(
            encode([record(offset) for offset in offsets], offsets[0], codec=codec, leader_epoch=epoch)
            for offsets in batches
        )
        (path / layout.segment_name(base)).write_bytes(data)
        (path / layout.segment_name(base, layout.INDEX)).write_bytes(b"\xff" * 24)  # not to be believed
        (path / layout.segment_name(base, layout.TIME_INDEX)).write_bytes(bytes(1200))
    checkpoints.write_topic_id(Io(), str(path / layout.PARTITION_METADATA), TOPIC_ID)
    if epoch:
        epochs = LeaderEpochs([EpochStart(epoch, min(segments))])
        checkpoints.write_leader_epochs(Io(), str(path / layout.LEADER_EPOCHS), epochs)
    (path / f"{min(segments):020d}.snapshot").write_bytes(b"producer state")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    with LogStore.open(tmp_path / "store", durability=Durability.OS) as store:
        yield store


def read(store: LogStore, topic: str, partition: int = 0) -> list[int]:
    """Offsets of all records, each checked against what `record` makes."""
    log = store.partition(topic, partition)
    reader = PartitionReader(log, log.log_start_offset)
    offsets = []
    while columns := reader.read(10_000):
        for got in columns.iter_records():
            wanted = record(got.offset)
            assert (got.key, got.value, got.timestamp) == (wanted.key, wanted.value, wanted.timestamp)
            offsets.append(got.offset)
    return offsets


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_every_record_is_there_now_and_after_a_reopen(tmp_path: Path, codec: int) -> None:
    source = kafka_directory(
        tmp_path / "kafka" / "orders-2", {7: [[7, 8], [9]], 10: [[10, 11, 12]]}, codec=codec, epoch=4
    )
    before = snapshot(source)
    with LogStore.open(tmp_path / "store", durability=Durability.OS) as store:
        adopted = store.adopt(str(source))
        assert (adopted.topic, adopted.partition, adopted.topic_id) == ("orders", 2, TOPIC_ID)
        assert (adopted.segments, adopted.batches, adopted.records, adopted.notes) == (2, 3, 6, [])
        assert (adopted.log_start_offset, adopted.log_end_offset) == (7, 13)
        assert read(store, "orders", 2) == [*range(7, 13)]
        assert store.topic("orders").config.retention_ms == -1
        log = store.partition("orders", 2)
        assert log.epochs.latest == 4
        assert log.offset_for_time(1_600_000_000_011) == (11, 1_600_000_000_011)
    with LogStore.open(tmp_path / "store", durability=Durability.OS) as store:
        assert store.recovery.findings == []
        assert read(store, "orders", 2) == [*range(7, 13)]
    assert snapshot(source) == before
    assert verify(tmp_path / "store").ok


def test_gaps_of_compaction_are_filled_and_offsets_stay(store: LogStore, tmp_path: Path) -> None:
    source = kafka_directory(tmp_path / "c-0", {0: [[0, 3], [9]], 20: [[25], [26, 40]]})
    adopted = store.adopt(str(source), topic="other", partition=1)
    assert (adopted.topic, adopted.partition) == ("other", 1)
    assert read(store, "other", 1) == [0, 3, 9, 25, 26, 40]
    assert store.bounds("other", 1) == (0, 41)
    assert len(adopted.notes) == 2
    store.close()
    assert verify(store.path).ok


def test_a_torn_tail_and_kafkas_zeros_are_left_behind(store: LogStore, tmp_path: Path) -> None:
    for name, tail in (("torn-0", encode([record(2)], 2)[:-1]), ("zeros-0", bytes(5000))):
        source = kafka_directory(tmp_path / name, {0: [[0, 1]]})
        with open(source / layout.segment_name(0), "ab") as file:
            file.write(tail)
        adopted = store.adopt(str(source))
        assert len(adopted.notes) == 1
        assert read(store, adopted.topic) == [0, 1]


def test_the_topic_id_is_kept_only_where_it_is_free(store: LogStore, tmp_path: Path) -> None:
    first = kafka_directory(tmp_path / "a" / "t-0", {0: [[0]]})
    second = kafka_directory(tmp_path / "b" / "t-3", {0: [[0, 1]]})
    third = kafka_directory(tmp_path / "c" / "u-0", {0: [[0]]})
    assert store.adopt(str(first)).topic_id == TOPIC_ID
    assert store.adopt(str(second)).topic_id == TOPIC_ID
    assert store.topic("t").partitions == 4
    assert store.adopt(str(third)).topic_id != TOPIC_ID
    with pytest.raises(TopicExistsError):
        store.adopt(str(first))
    store.create_topic("held", 1)
    assert store.adopt(str(third), topic="held", partition=0).topic_id == store.topic("held").topic_id


def damaged(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda p: (p / layout.segment_name(0)).write_bytes(damaged((p / layout.segment_name(0)).read_bytes())),
            CorruptBatchError,
        ),
        (
            lambda p: (p / layout.segment_name(0)).write_bytes(b"\0" * 8 + b"\0\0\0\x1e" + b"\1" * 30),
            UnsupportedFormatError,
        ),
        (lambda p: (p / (layout.segment_name(9) + ".swap")).write_bytes(b""), StoreFormatError),
        (lambda p: remove_tree(Io(), str(p)), StoreFormatError),
        (lambda p: (p / layout.segment_name(0)).unlink(), StoreFormatError),
        (lambda p: (p / layout.segment_name(0, layout.TXN_INDEX)).write_bytes(b"x" * 5), CorruptBatchError),
        (
            lambda p: (p / layout.segment_name(1)).write_bytes((p / layout.segment_name(0)).read_bytes()),
            CorruptBatchError,
        ),
    ],
)
def test_what_cannot_be_taken_in_leaves_no_topic(store: LogStore, tmp_path: Path, change: object, error: type) -> None:
    source = kafka_directory(tmp_path / "bad-0", {0: [[0, 1]]})
    change(source)  # type: ignore[operator]
    with pytest.raises(error):
        store.adopt(str(source))
    assert store.topics() == {}


def test_names(store: LogStore, tmp_path: Path) -> None:
    source = kafka_directory(tmp_path / "no number", {0: [[0]]})
    with pytest.raises(StoreFormatError):
        store.adopt(str(source))
    with pytest.raises(InvalidTopicError):
        store.adopt(str(source), topic="__metadata", partition=0)
    with pytest.raises(InvalidTopicError):
        store.adopt(str(source), topic="../x", partition=0)
    assert store.adopt(str(source), topic="x", partition=0).records == 1


def test_it_goes_on_behind_what_was_adopted(store: LogStore, tmp_path: Path) -> None:
    store.adopt(str(kafka_directory(tmp_path / "t-0", {0: [[0, 1]]}, epoch=9)))
    log = store.partition("t", 0)
    appended = log.append(bytearray(encode([record(2)], 2)))
    log.wait_durable(appended.next_offset)
    assert appended.base_offset == 2
    assert read(store, "t") == [0, 1, 2]


def test_a_failure_at_any_call_leaves_a_store_that_opens(tmp_path: Path) -> None:
    """T4 for adopt: the n-th write fails, n = 1, 2, …; then nothing or all of it is there, and a second try works."""
    source = kafka_directory(tmp_path / "t-0", {0: [[0, 1]], 2: [[2, 5]]})
    at, failures = 0, 0
    while True:
        at += 1
        path = tmp_path / f"store{at}"
        io = FaultyIo()
        store = LogStore.open(path, durability=Durability.OS, io=io)
        io.arm(at, 5)
        try:
            store.adopt(str(source))
        except (MQError, OSError):
            failures += 1
        fired, _ = io.fired, io.disarm()
        try:
            store.close()
        except MQError:
            store.abandon()
        with LogStore.open(path, durability=Durability.OS) as again:
            if "t" not in again.topics() or again.bounds("t", 0)[1] == 0:
                again.adopt(str(source))
            assert read(again, "t") == [0, 1, 2, 5]
        assert verify(path).problems == []
        if not fired:
            break
    assert failures > 15


def test_an_unreadable_source_is_an_error(store: LogStore, tmp_path: Path) -> None:
    source = kafka_directory(tmp_path / "t-0", {0: [[0]]})
    (source / layout.segment_name(0)).unlink()
    (source / layout.segment_name(0)).symlink_to("/etc/passwd")
    with pytest.raises((StorageError, StoreFormatError)):
        store.adopt(str(source))


def test_aborted_transactions_are_known_without_kafkas_index(store: LogStore, tmp_path: Path) -> None:
    """One that began in the segment before its marker's too; read_committed leaves their records out."""
    source = kafka_directory(tmp_path / "t-0", {0: [[0]], 3: [[5]]})
    first = encode([record(1)], 1, attributes=TRANSACTIONAL, producer_id=77)
    second = encode([record(2)], 2, attributes=TRANSACTIONAL, producer_id=78)
    with open(source / layout.segment_name(0), "ab") as file:
        file.write(first + second)
    after = (source / layout.segment_name(3)).read_bytes()
    markers = marker(3, 77, commit=False) + marker(4, 78, commit=True)
    (source / layout.segment_name(3)).write_bytes(markers + after)
    store.adopt(str(source))
    assert store.partition("t", 0).aborted(0, 6) == [(77, 1, 3, 2)]
    assert read(store, "t") == [0, 2, 5]
    store.close()
    assert verify(store.path).ok
