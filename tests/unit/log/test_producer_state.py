"""A retry gets the offsets of the original, a gap and an old epoch are refused and change nothing, and an open transaction
holds read_committed back: over rolls, kills, clean closes, damaged snapshots and compaction (I6 to I9, R4, R5)."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqcore._native.io import FaultyIo, Io
from mqcore._native.producer_state import Producers
from mqcore.clock import ManualClock
from mqcore.errors import (
    DiskFullError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTransactionStateError,
    MQError,
    OutOfOrderSequenceError,
)
from mqcore.log import producer_state
from mqcore.log.maintenance import Maintenance
from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog
from mqcore.log.partition_ports import Appended
from mqcore.log.reader import PartitionReader
from mqcore.types import IsolationLevel
from tests.support.batches import TRANSACTIONAL, Plain, encode
from tests.support.stores import TOPIC, flip

SMALL = {"segment.bytes": 1000}


@pytest.fixture(autouse=True, scope="module")
def _no_maintenance_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Maintenance, "start", lambda self: None)
        yield


def open_store(path: Path, durability: str = "os", config: dict[str, Any] | None = None, **options: Any) -> LogStore:
    """An open store; with config it is new, and its topic is made."""
    store = LogStore.open(path, durability=durability, **options)
    if config is not None:
        store.create_topic(TOPIC, config=config)
    return store


def batch(
    sequence: int, count: int = 1, *, producer: int = 7, epoch: int = 0, transactional: bool = False, size: int = 10
) -> bytearray:
    attributes = TRANSACTIONAL if transactional else 0
    return bytearray(
        encode(
            [Plain(b"%d." % (sequence + i) + b"x" * size, b"k%d" % i) for i in range(count)],
            producer_id=producer,
            producer_epoch=epoch,
            base_sequence=sequence,
            attributes=attributes,
        )
    )


def fill(log: PartitionLog, batches: int, *, producer: int = 7, count: int = 3) -> list[Appended]:
    done = [log.append(batch(i * count, count, producer=producer, size=60)) for i in range(batches)]
    log.wait_durable(done[-1].next_offset)
    return done


def values(log: PartitionLog, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> list[bytes | None]:
    reader, found = PartitionReader(log, log.log_start_offset, isolation=isolation), []
    while (columns := reader.read()) is not None:
        found += [record.value for record in columns.iter_records()]
    return found


def state(log: PartitionLog) -> tuple[object, ...]:
    return tuple(log.offsets), log.producers(), log.open_transactions(), values(log)


@pytest.mark.parametrize("durability", ["os", "fsync", "memory"])
def test_a_retry_gets_the_original_offsets_and_refusals_change_nothing(tmp_path: Path, durability: str) -> None:
    with open_store(tmp_path / "s", durability, {}) as store:
        log = store.partition(TOPIC, 0)
        done = fill(log, 7)
        for i, original in enumerate(done):
            if i >= 2:
                again = log.append(batch(3 * i, 3, size=60))
                assert again == original._replace(duplicate=True)
            else:
                with pytest.raises(DuplicateSequenceError):
                    log.append(batch(3 * i, 3, size=60))
        before = state(log)
        for wrong, error in [
            (batch(22), OutOfOrderSequenceError),
            (batch(20, 2), OutOfOrderSequenceError),  # half of it stored
            (batch(1, epoch=1), OutOfOrderSequenceError),
            (batch(21) + batch(23), OutOfOrderSequenceError),
            (batch(21) + batch(0, producer=8) + batch(5, producer=8), OutOfOrderSequenceError),
            (b"".join(batch(0, producer=100 + i) for i in range(65)), InvalidRecordError),
        ]:
            with pytest.raises(error):
                log.append(bytearray(wrong))
            assert state(log) == before
        assert log.append(batch(0, epoch=1)).base_offset == 21
        with pytest.raises(InvalidProducerEpochError) as caught:
            log.append(batch(21))
        assert caught.value.where["current_epoch"] == 1
        assert log.append(batch(1, epoch=1)).base_offset == 22  # after errors the right one is taken


def test_a_failed_append_leaves_the_sequence_free(tmp_path: Path) -> None:
    io = FaultyIo()
    with open_store(tmp_path / "s", config={}, io=io) as store:
        log = store.partition(TOPIC, 0)
        log.append(batch(0, 3))
        before = state(log)
        io.arm(1, errno.ENOSPC, short=20, only="pwritev")
        with pytest.raises(DiskFullError):
            log.append(batch(3, 2))
        assert state(log) == before
        assert log.append(batch(3, 2)).base_offset == 3


def test_an_abort_that_cannot_be_indexed_is_not_seen_before_it_is(tmp_path: Path) -> None:
    io = FaultyIo()
    with open_store(tmp_path / "s", config={}, io=io, clock=ManualClock()) as store:
        log = store.partition(TOPIC, 0)
        log.append(batch(0, 2, producer=1, transactional=True))
        io.arm(2, errno.ENOSPC, only="pwritev")  # the second write is the .txnindex
        with pytest.raises(DiskFullError):
            log.append_marker(1, 1, commit=False)
        assert log.offsets == (0, 0, 2, 2)
        assert values(log, IsolationLevel.READ_COMMITTED) == []
        assert log.append(batch(0, producer=2)).base_offset == 3  # there is room again
        assert log.aborted(0, 4) == [(1, 0, 2, 3)]
        assert values(log, IsolationLevel.READ_COMMITTED) == [b"0." + b"x" * 10]


def test_log_append_time_is_told_again(tmp_path: Path) -> None:
    clock = ManualClock()
    with LogStore.open(tmp_path / "s", durability="os", clock=clock) as store:
        store.create_topic(TOPIC, config={"message.timestamp.type": "LogAppendTime"})
        log = store.partition(TOPIC, 0)
        first = log.append(batch(0))
        clock.advance(5)
        assert log.append(batch(0)) == first._replace(duplicate=True)


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("how", ["kill", "close"])
@pytest.mark.parametrize("damage", ["none", "newest", "all", "gone"])
def test_the_state_survives_its_process(tmp_path: Path, durability: str, how: str, damage: str) -> None:
    path = tmp_path / "s"
    store = open_store(path, durability, SMALL)
    log = store.partition(TOPIC, 0)
    done = fill(log, 9)
    fill(log, 2, producer=8)
    log.append(batch(0, 2, producer=9, transactional=True))
    done.append(log.append(batch(27, 3, size=60)))
    log.wait_durable(log.log_end_offset)
    producers, transactions = log.producers(), log.open_transactions()
    assert len(log.segments) > 3
    if how == "kill":
        store.abandon()
    else:
        store.close()
    snapshots = sorted((path / "topics" / f"{TOPIC}-0").glob("*.snapshot"))
    assert 2 <= len(snapshots) <= 3
    for file in {"none": [], "newest": snapshots[-1:], "all": snapshots, "gone": []}[damage]:
        flip(file, 30)
    if damage == "gone":
        for file in snapshots:
            file.unlink()
    store = open_store(path, durability)
    log = store.partition(TOPIC, 0)
    assert sorted(log.producers()) == sorted(producers)
    assert log.open_transactions() == transactions
    assert log.last_stable_offset == transactions[9].first_offset
    for i in range(5, 10):
        assert log.append(batch(3 * i, 3, size=60))[:2] == done[i][:2]
    with pytest.raises(OutOfOrderSequenceError):
        log.append(batch(31))
    assert log.append(batch(30)).base_offset == log.log_end_offset - 1
    store.close()


def test_a_snapshot_that_is_ahead_of_the_log_is_not_believed(tmp_path: Path) -> None:
    """After a crash the log was cut, and went on with other records past the snapshot's offset."""
    path = tmp_path / "s"
    store = open_store(path, config=SMALL)
    log = store.partition(TOPIC, 0)
    fill(log, 2)
    store.abandon()
    saved = tmp_path / "saved"
    shutil.copytree(path, saved)
    store = open_store(path)
    log = store.partition(TOPIC, 0)
    for i in range(2, 9):
        log.append(batch(3 * i, 3, size=60))
    store.abandon()
    ahead = [f for f in (path / "topics" / f"{TOPIC}-0").glob("*.snapshot") if int(f.stem) > 6]
    assert ahead
    store = open_store(saved)  # what a power loss left
    log = store.partition(TOPIC, 0)
    assert {info.producer_id: info.last_sequence for info in log.producers()} == {7: 5}
    fill(log, 8, producer=11)
    store.abandon()
    for file in ahead:  # its removal was lost with the power
        target = saved / "topics" / f"{TOPIC}-0" / file.name
        for newer in target.parent.glob("*.snapshot"):
            newer.unlink()
        shutil.copy(file, target)
    store = open_store(saved)
    log = store.partition(TOPIC, 0)
    assert {info.producer_id: info.last_sequence for info in log.producers()} == {7: 5, 11: 23}
    store.close()


def test_every_flipped_bit_of_a_snapshot_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = open_store(path, config=SMALL)
    log = store.partition(TOPIC, 0)
    fill(log, 9)
    log.append(batch(0, 2, producer=9, transactional=True))
    expected = sorted(log.producers())
    end = log.log_end_offset
    segments = [entry.state() for entry in log.segments]
    store.close()
    directory = path / "topics" / f"{TOPIC}-0"
    snapshot = sorted(directory.glob("*.snapshot"))[-1]
    data = snapshot.read_bytes()
    for i in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(MQError):
            Producers.decode(damaged, end, 100)
    for position in range(0, len(data), 17):
        snapshot.write_bytes(data)
        flip(snapshot, position)
        found = producer_state.load(Io(), str(directory), segments, end, lambda _: 0)
        assert sorted(producer_state.producer_infos(found)) == expected
        assert not snapshot.exists()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_markers_end_transactions_and_the_stable_end_follows(tmp_path: Path, durability: str) -> None:
    with open_store(tmp_path / "s", durability, {}) as store:
        log = store.partition(TOPIC, 0)
        log.append(batch(0, 2, producer=1, transactional=True))
        log.append(batch(0, 2, producer=2, transactional=True))
        end = log.append(batch(0, 1, producer=3)).next_offset
        log.wait_durable(end)
        assert log.offsets == (0, 0, 5, 5)
        assert list(log.open_transactions()) == [1, 2]
        assert log.open_transactions()[2].first_offset == 2
        with pytest.raises(InvalidTransactionStateError):
            log.append(batch(2, producer=1))
        with pytest.raises(InvalidProducerEpochError):
            log.append_marker(1, -1, commit=True)
        aborted = log.append_marker(1, 1, commit=False, coordinator_epoch=4)
        assert aborted is not None
        log.wait_durable(aborted.next_offset)
        assert log.last_stable_offset == 2
        assert log.aborted(0, 6) == [(1, 0, 5, 2)]
        assert log.append_marker(1, 1, commit=False) is None  # again: nothing to end
        committed = log.append_marker(2, 1, commit=True)
        assert committed is not None
        log.wait_durable(committed.next_offset)
        assert log.offsets == (0, 7, 7, 7)
        assert log.open_transactions() == {}
        assert values(log, IsolationLevel.READ_COMMITTED) == [b"0." + b"x" * 10, b"1." + b"x" * 10, b"0." + b"x" * 10]
        with pytest.raises(InvalidProducerEpochError):  # a late batch of the ended transaction
            log.append(batch(2, producer=1, transactional=True))
        assert log.append_marker(40, 3, commit=True) is None  # fences one that never wrote here
        with pytest.raises(InvalidProducerEpochError):
            log.append(batch(0, producer=40, epoch=2, transactional=True))
        with pytest.raises(OutOfOrderSequenceError):  # the next transaction begins anew
            log.append(batch(2, producer=2, epoch=1, transactional=True))
        assert log.append(batch(0, producer=2, epoch=1, transactional=True)).base_offset == 7


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_transaction_over_segments_keeps_its_abort(tmp_path: Path, how: str) -> None:
    """The .txnindex of the marker's segment is made anew; where the transaction began, only producer state knows."""
    path = tmp_path / "s"
    store = open_store(path, config=SMALL)
    log = store.partition(TOPIC, 0)
    log.append(batch(0, 2, producer=1, transactional=True))
    fill(log, 9)
    log.append_marker(1, 1, commit=False)
    expected = log.aborted(0, 100)
    assert expected == [(1, 0, 29, 30)]
    store.abandon() if how == "kill" else store.close()
    for index in (path / "topics" / f"{TOPIC}-0").glob("*.txnindex"):
        if how == "kill":
            index.unlink()
    store = open_store(path)
    log = store.partition(TOPIC, 0)
    assert log.aborted(0, 100) == expected
    assert log.last_stable_offset == log.log_end_offset
    store.close()


def test_a_hanging_transaction_holds_followers_back_too(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = open_store(path, config={})
    log = store.partition(TOPIC, 0)
    log.append(batch(0, 2, producer=3))
    log.append(batch(0, 2, producer=1, transactional=True))
    with LogStore.open(path, read_only=True) as reader:
        assert reader.partition(TOPIC, 0).offsets == (0, 2, 4, 4)
    store.close()
    with LogStore.open(path, read_only=True) as reader:  # nobody writes
        assert reader.partition(TOPIC, 0).offsets == (0, 2, 4, 4)
    store = open_store(path)
    with LogStore.open(path, read_only=True) as reader:  # the writer has not looked at the partition yet
        assert reader.partition(TOPIC, 0).offsets == (0, 2, 4, 4)
    assert store.partition(TOPIC, 0).offsets == (0, 2, 4, 4)
    store.abandon()
    with LogStore.open(path, read_only=True) as reader:  # after a crash
        assert reader.partition(TOPIC, 0).offsets == (0, 2, 4, 4)


def test_idle_producers_expire_and_open_transactions_do_not(tmp_path: Path) -> None:
    clock = ManualClock()
    store = LogStore.open(tmp_path / "s", durability="os", clock=clock, config={"producer.id.expiration.ms": 10_000})
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    log.append(batch(0, producer=1))
    log.append(batch(0, producer=2, transactional=True))
    clock.advance(8)
    log.append(batch(0, producer=3))
    assert store.maintain().expired == 0
    clock.advance(4)
    assert store.maintain().expired == 1
    assert sorted(info.producer_id for info in log.producers()) == [2, 3]
    clock.advance(100)
    assert store.maintain().expired == 1
    assert [info.producer_id for info in log.producers()] == [2]
    assert log.append(batch(17, producer=1)).base_offset == 3  # nothing is known of it any more
    store.close()


def test_ten_thousand_producers_take_256_bytes_each() -> None:
    producers = Producers(100_000)
    for i in range(10_000):
        producers.add(encode([Plain(b"v")], i, producer_id=i * 1000), 0)
    assert len(producers) == 10_000
    assert producers.bytes_used <= 10_000 * 256 + 1024


def test_an_adopted_transaction_that_hangs_holds_the_stable_end(tmp_path: Path) -> None:
    """Also after a clean reopen, and until somebody ends it; its producer's retries are known."""
    store = open_store(tmp_path / "from", config=SMALL)
    log = store.partition(TOPIC, 0)
    original = log.append(batch(0, 2, producer=1, transactional=True))
    fill(log, 6)
    store.close()
    path = tmp_path / "s"
    store = open_store(path)
    store.adopt(str(tmp_path / "from" / "topics" / f"{TOPIC}-0"))
    for _ in range(2):
        with LogStore.open(path, read_only=True) as reader:
            assert reader.partition(TOPIC, 0).last_stable_offset == 0
        store.close()
        store = open_store(path)
    log = store.partition(TOPIC, 0)
    assert log.open_transactions()[1].first_offset == 0
    assert log.append(batch(0, 2, producer=1, transactional=True))[:2] == original[:2]
    assert log.append_marker(1, 1, commit=False) is not None
    assert log.last_stable_offset == log.log_end_offset == 21
    assert log.aborted(0, 21) == [(1, 0, 20, 21)]
    store.close()
