"""Offsets in a transaction count with it or not at all, only as the current generation, and who takes over waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import mqcore
from mqcore import errors
from mqcore.groups.participant import OffsetsInTransaction
from mqcore.types import TopicPartition
from tests.support.fake_transactions import FakeTransaction, FakeTransactions

T0 = TopicPartition("t", 0)


@pytest.fixture
def store() -> Iterator[mqcore.Store]:
    with mqcore.open(":memory:") as store:
        store.create_topic("t", 1)
        store.producer().send_many("t", [b"x"] * 10).result()
        yield store


def begin(store: mqcore.Store) -> tuple[FakeTransaction, OffsetsInTransaction]:
    tx = FakeTransactions(store.log).begin()
    part = OffsetsInTransaction(store.groups)
    tx.enlist("offsets", part)
    return tx, part


def committed(store: mqcore.Store) -> int | None:
    found = store.groups.fetch_offsets("g").get(T0)
    return None if found is None else found.offset


def test_committed_with_the_transaction_or_not_at_all(store: mqcore.Store) -> None:
    with store.consumer("t", group="g") as consumer:
        consumer.poll(5, max_records=4)
        offsets, who = consumer.progress()
        for aborts in (True, False):
            tx, part = begin(store)
            part.add("g", offsets, member_id=who.member_id, generation=who.generation)
            tx.prepare()
            assert committed(store) is None
            if aborts:
                tx.abort()
                assert committed(store) is None
            else:
                tx.finish()
        assert committed(store) == 4
        consumer.poll(5)
        consumer.seek_to_committed()
        assert consumer.position(0) == 4


def test_a_member_that_lost_its_partitions_has_its_transaction_refused(store: mqcore.Store) -> None:
    """I16: the documented trap of other clients is that a revoked member still commits its offsets."""
    with store.consumer("t", group="g") as first:
        first.poll(5)
        offsets, who = first.progress()
        tx, part = begin(store)
        part.add("g", offsets, member_id=who.member_id, generation=who.generation)
        with store.consumer("t", group="g") as second:
            while not (first.assignment or second.assignment) or first.group_metadata().generation == who.generation:
                second.poll(0)
                first.poll(0)
            with pytest.raises(errors.IllegalGenerationError):
                tx.prepare()
        assert committed(store) is None


def test_who_takes_over_waits_for_a_commit_that_is_on_its_way(store: mqcore.Store) -> None:
    with store.consumer("t", group="g") as first:
        first.poll(5, max_records=4)
        offsets, who = first.progress()
        tx, part = begin(store)
        part.add("g", offsets, member_id=who.member_id, generation=who.generation)
        tx.prepare()
    second = store.consumer("t", group="g")
    read: list[int] = []
    thread = threading.Thread(target=lambda: read.extend(len(batch) for batch in second.poll(30)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()  # it would begin at 0, and do again what the transaction has done
    tx.finish()
    thread.join(30)
    assert read == [6]


def test_what_cannot_be_meant_is_refused_at_once(store: mqcore.Store) -> None:
    _, part = begin(store)
    with pytest.raises(errors.UnknownTopicError):
        part.add("g", {TopicPartition("nowhere", 0): 1})
    with pytest.raises(errors.InvalidGroupError):
        part.add("g", {T0: -1})
