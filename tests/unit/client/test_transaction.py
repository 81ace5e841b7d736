"""A transaction is seen whole or not at all, in every partition, by its own id's successor and by every reader; who comes
too late is told why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mqcore
from mqcore.clock import ManualClock
from mqcore.errors import (
    ConcurrentTransactionsError,
    DiskFullError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
    ProducerFencedError,
    RecordTooLargeError,
    StateConflictError,
    StoreClosedError,
    TransactionAbortedError,
    TransactionTimedOutError,
)


@pytest.fixture(params=["memory", "os", "fsync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mqcore.Store]:
    with mqcore.open(tmp_path / "store", durability=request.param, clock=ManualClock()) as opened:
        opened.create_topic("t", partitions=3)
        yield opened


def values(store: mqcore.Store, isolation: str = "read_committed", topic: str = "t") -> list[tuple[int, bytes]]:
    """(partition, value) of all that is visible, by partition and offset."""
    found = []
    with store.consumer(topic, start="earliest", isolation=isolation) as consumer:
        ends = {
            part: store.log.partition(topic, part).visible_end(mqcore.IsolationLevel(isolation)) for part in range(3)
        }
        while any(consumer.position(part) < end for part, end in ends.items()):
            for batch in consumer.poll(timeout_s=0):
                found += [(batch.partition, record.offset, bytes(record.value)) for record in batch.records()]
    return [(partition, value) for partition, _, value in sorted(found)]


def appended(tx: mqcore.Transaction, value: bytes, partition: int) -> None:
    """Send and have the log take it, though the transaction goes on."""
    tx.send("t", value, partition=partition)
    assert tx._sender is not None
    tx._sender.append_all()


def raise_inside(store: mqcore.Store, work: Callable[[mqcore.Transaction], object]) -> None:
    """A transaction whose block ends with RuntimeError."""
    with store.transaction("a") as tx:
        work(tx)
        raise RuntimeError


def test_a_committed_transaction_is_seen_in_all_partitions(store: mqcore.Store) -> None:
    with store.transaction("a") as tx:
        delivery = tx.send("t", b"one", partition=0)
        bulk = tx.send_many("t", [b"two", b"three"], partition=2)
        assert values(store) == []
    assert values(store) == [(0, b"one"), (2, b"two"), (2, b"three")]
    assert delivery.result().offset == 0
    assert [tuple(part) for part in bulk.ranges] == [(2, 0, 2)]


def test_what_is_open_holds_readers_of_committed_records_back(store: mqcore.Store) -> None:
    tx = store.transaction("a")
    appended(tx, b"open", 0)
    with store.producer() as producer:
        producer.send("t", b"plain", partition=0)
    log = store.log.partition("t", 0)
    assert (log.last_stable_offset, log.high_watermark) == (0, 2)
    assert values(store) == []
    assert values(store, "read_uncommitted") == [(0, b"open"), (0, b"plain")]
    tx.commit()
    assert log.last_stable_offset == 3
    assert values(store) == [(0, b"open"), (0, b"plain")]


def test_an_aborted_transaction_is_never_seen(store: mqcore.Store) -> None:
    with pytest.raises(RuntimeError):
        raise_inside(store, lambda tx: [appended(tx, b"gone", partition) for partition in range(3)])
    with store.transaction("a") as tx:
        tx.send("t", b"kept", partition=1)
    assert values(store) == [(1, b"kept")]
    assert (1, b"gone") in values(store, "read_uncommitted")


def test_what_was_not_appended_fails_with_the_transaction(store: mqcore.Store) -> None:
    tx = store.transaction("a")
    delivery = tx.send("t", b"never")
    tx.abort()
    with pytest.raises(InvalidTransactionStateError):
        delivery.result()
    assert store.end_offsets("t") == {0: 0, 1: 0, 2: 0}


def test_an_ended_transaction_takes_nothing(store: mqcore.Store) -> None:
    tx = store.transaction("a")
    tx.send("t", b"x")
    tx.commit()
    tx.commit()  # again: nothing
    with pytest.raises(InvalidTransactionStateError):
        tx.send("t", b"late")
    with pytest.raises(InvalidTransactionStateError):
        tx.abort()
    tx = store.transaction("a")
    tx.abort()
    tx.abort()
    for call in (tx.commit, lambda: tx.send_many("t", [b"late"]), lambda: tx.state("s")):
        with pytest.raises(InvalidTransactionStateError):
            call()
    assert len(values(store)) == 1


def test_ending_by_hand_inside_the_with_is_no_error(store: mqcore.Store) -> None:
    with store.transaction("a") as tx:
        tx.send("t", b"x")
        tx.abort()
    with store.transaction("a") as tx:
        tx.send("t", b"y")
        tx.commit()
    assert [value for _, value in values(store)] == [b"y"]


def test_an_empty_transaction_writes_nothing(store: mqcore.Store) -> None:
    for _ in range(3):
        with store.transaction("a") as tx:
            pass
    assert tx.epoch == 0
    assert sum(log.log_end_offset for log in store.log.partitions.logs() if log.topic == "__transaction_state") == 0


def test_a_new_handle_fences_the_old_one(store: mqcore.Store) -> None:
    old = store.transaction("a")
    appended(old, b"old", 0)
    new = store.transaction("a")
    for call in (lambda: old.send("t", b"zombie", partition=0), old.commit, lambda: old.state("s")):
        with pytest.raises(ProducerFencedError) as raised:
            call()
        assert raised.value.where["transactional_id"] == "a"
    old.abort()
    new.send("t", b"new", partition=0)
    new.commit()
    assert values(store) == [(0, b"new")]
    assert new.epoch == old.epoch + 1  # the epoch that the end of the old one began


class NoGate:
    lock = threading.Lock()

    def admit(self, log: object) -> None: ...


def test_a_late_batch_of_a_zombie_is_refused(store: mqcore.Store) -> None:
    """Even past the gate: the marker's epoch fences it in the partition itself."""
    old = store.transaction("a")
    appended(old, b"old", 0)
    old.send("t", b"late", partition=0)
    assert old._sender is not None
    old._sender.transaction = NoGate()  # type: ignore[assignment]
    store.transaction("a").abort()
    with pytest.raises(InvalidProducerEpochError):
        old._sender.append_all()
    assert values(store) == []


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_threads_that_race_for_one_id_never_share_a_transaction(tmp_path: Path, durability: str) -> None:
    """I14, I16: each committed transaction is whole, each fenced one has left nothing."""
    with mqcore.open(tmp_path / "store", durability=durability) as store:
        store.create_topic("t", partitions=3)
        outcomes: dict[int, list[bytes]] = {}
        committed, lost, lock = set(), set(), threading.Lock()
        start = threading.Barrier(4)

        def race(name: int) -> None:
            start.wait()
            for number in range(40):
                value = b"%d-%d" % (name, number)
                try:
                    with store.transaction("one") as tx:
                        for partition in range(3):
                            appended(tx, value, partition)
                except (ProducerFencedError, TransactionAbortedError):
                    with lock:
                        lost.add(value)
                else:
                    with lock:
                        committed.add(value)

        threads = [threading.Thread(target=race, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(committed) + len(lost) == 160
        for partition, value in values(store):
            outcomes.setdefault(partition, []).append(value)
        assert all(sorted(seen) == sorted(committed) for seen in outcomes.values())


def test_a_transaction_that_takes_too_long_is_aborted(store: mqcore.Store) -> None:
    clock = store.log.clock
    assert isinstance(clock, ManualClock)
    tx = store.transaction("a", timeout_s=5)
    appended(tx, b"slow", 0)
    log = store.log.partition("t", 0)
    clock.advance(4.9)
    store.broker.transactions.tend()
    assert log.last_stable_offset == 0
    clock.advance(0.2)
    store.broker.transactions.tend()
    log.wait_durable(log.log_end_offset)
    assert log.last_stable_offset == log.log_end_offset == 2
    with pytest.raises(TransactionTimedOutError):
        tx.send("t", b"more")
    with pytest.raises(TransactionTimedOutError):
        tx.commit()
    assert values(store) == []


def test_a_commit_after_the_time_out_is_refused_though_nobody_looked(store: mqcore.Store) -> None:
    clock = store.log.clock
    assert isinstance(clock, ManualClock)
    tx = store.transaction("a", timeout_s=5)
    tx.send("t", b"slow")
    clock.advance(6)
    with pytest.raises(TransactionTimedOutError):
        tx.commit()
    assert values(store) == []


def test_the_timer_aborts_by_itself(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "store", durability="os") as store:
        store.create_topic("t", partitions=3)
        tx = store.transaction("a", timeout_s=0.05)
        appended(tx, b"slow", 0)
        log = store.log.partition("t", 0)
        with store.consumer("t", start="latest") as consumer:  # wakes when the marker is published
            while log.last_stable_offset < 2:
                consumer.poll(timeout_s=0.05)
        assert not [thread for thread in threading.enumerate() if thread.name == "mqcore-transactions"][1:]
    assert not [thread for thread in threading.enumerate() if thread.name == "mqcore-transactions"]


def test_a_record_that_fails_takes_the_transaction_with_it(store: mqcore.Store) -> None:
    store.alter_topic("t", {"max.message.bytes": 2000})
    with store.transaction("a") as tx, pytest.raises(RecordTooLargeError):
        tx.send("t", b"x" * 3000)  # refused at once: nothing was sent, and the rest goes on
    tx = store.transaction("a")
    tx.send("t", b"with", partition=0)
    delivery = tx.send("t", b"x" * 1500, partition=1)
    store.alter_topic("t", {"max.message.bytes": 1000})
    with pytest.raises(TransactionAbortedError, match="not stored"):
        tx.commit()
    with pytest.raises(RecordTooLargeError):
        delivery.result()
    assert values(store) == []


def test_closing_the_store_aborts_what_is_open(tmp_path: Path) -> None:
    store = mqcore.open(tmp_path / "store", durability="os")
    store.create_topic("t", partitions=3)
    tx = store.transaction("a")
    appended(tx, b"open", 0)
    store.close()
    with pytest.raises(StoreClosedError):
        tx.commit()
    with mqcore.open(tmp_path / "store", durability="os") as again:
        assert again.recovery.clean
        assert values(again) == []
        assert again.log.partition("t", 0).last_stable_offset == 2


def test_state_and_records_are_committed_together(store: mqcore.Store) -> None:
    with store.transaction("a") as tx:
        tx.state("totals")[b"k"] = b"1"
        tx.send("t", b"x")
        assert tx.state("totals")[b"k"] == b"1"
        assert dict(store.state("totals").items()) == {}
    assert dict(store.state("totals").items()) == {b"k": b"1"}
    with pytest.raises(RuntimeError):
        raise_inside(store, lambda tx: tx.state("totals").update({b"k": b"2"}))
    assert store.state("totals")[b"k"] == b"1"


def test_of_two_that_change_a_key_one_loses_wholly(store: mqcore.Store) -> None:
    first, second = store.transaction("a"), store.transaction("b")
    for tx in (first, second):
        tx.state("s")[b"k"] = tx.state("s").get(b"k", b"") + tx.transactional_id.encode()
        tx.send("t", tx.transactional_id.encode(), partition=0)
    first.commit()
    with pytest.raises(StateConflictError):
        second.commit()
    assert store.state("s")[b"k"] == b"a"
    assert values(store) == [(0, b"a")]
    with pytest.raises(StateConflictError):
        second.send("t", b"more")


def test_offsets_are_committed_with_the_transaction(store: mqcore.Store) -> None:
    with store.producer() as producer:
        producer.send_many("t", [b"in"] * 5, partition=0)
    store.create_topic("out")
    with store.consumer("t", group="g", start="earliest") as consumer:
        while not consumer.poll(timeout_s=1):
            pass
        with pytest.raises(RuntimeError):
            raise_inside(store, lambda tx: tx.commit_offsets(consumer))
        assert consumer.committed(0) == {mqcore.TopicPartition("t", 0): None}
        with store.transaction("a") as tx:
            tx.send("out", b"x")
            tx.commit_offsets(consumer)
        assert consumer.committed(0) == {mqcore.TopicPartition("t", 0): 5}


def test_many_ids_used_once_stay_within_the_bound(tmp_path: Path) -> None:
    config = {"transactional.ids.cached.max": 50}
    with mqcore.open(tmp_path / "store", durability="os", config=config) as store:
        store.create_topic("t", partitions=3)
        for number in range(300):
            with store.transaction(f"id-{number}") as tx:
                tx.send("t", b"%d" % number, partition=0)
        assert len(store.broker.transactions._ids) <= 51
        with store.transaction("id-0") as tx:  # forgotten meanwhile: another producer id, and all goes well
            tx.send("t", b"again", partition=0)
            assert tx.epoch == 0
        assert len(values(store)) == 301


def test_epochs_that_are_used_up_bring_another_producer_id(store: mqcore.Store) -> None:
    with store.transaction("a") as tx:
        tx.send("t", b"x")
    entry = store.broker.transactions._ids["a"]
    entry.state = entry.state._replace(epoch=32765)
    before = tx.producer_id
    for _ in range(3):
        with store.transaction("a") as tx:
            tx.send("t", b"x")
    assert tx.producer_id != before
    assert len(values(store)) == 4


def test_a_full_disk_after_the_decision_leaves_it_decided(store: mqcore.Store) -> None:
    tx = store.transaction("a")
    for partition in range(3):
        appended(tx, b"x", partition)
    log, room = store.log.partition("t", 1), []
    append_marker = log.append_marker

    def full(*args: object, **options: object) -> object:
        if not room:
            raise DiskFullError("no space")
        return append_marker(*args, **options)  # type: ignore[arg-type]

    log.append_marker = full  # type: ignore[method-assign]
    with pytest.raises(DiskFullError):
        tx.commit()
    with store.transaction("b") as other:  # nobody else has to wait
        other.send("t", b"other", partition=2)
    with pytest.raises(InvalidTransactionStateError):
        tx.send("t", b"late")
    with pytest.raises(ConcurrentTransactionsError):
        store.transaction("a")
    room.append(True)
    tx.commit()
    assert values(store) == [(0, b"x"), (1, b"x"), (2, b"x"), (2, b"other")]


def test_bad_arguments(store: mqcore.Store) -> None:
    for name in ("", None, 7):
        with pytest.raises(ValueError, match="transactional id"):
            store.transaction(name)  # type: ignore[arg-type]
    for timeout_s in (0, -1, 1e9):
        with pytest.raises(ValueError, match="timeout_s"):
            store.transaction("a", timeout_s=timeout_s)
