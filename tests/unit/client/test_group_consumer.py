"""Consumers of a group share partitions, go on where the group is, and commit only as its current members."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore import errors
from mqcore.client.group_consumer import GroupConsumer
from mqcore.clock import ManualClock
from mqcore.types import TopicPartition

PARTITIONS = 4


@pytest.fixture
def store() -> Iterator[mqcore.Store]:
    with mqcore.open(":memory:") as store:
        store.create_topic("t", PARTITIONS)
        yield store


def send(store: mqcore.Store, count: int, *, first: int = 0, topic: str = "t") -> None:
    with store.producer() as producer:
        for number in range(first, first + count):
            producer.send(topic, b"%d" % number, partition=number % PARTITIONS)


def values(batches: list[Any]) -> list[int]:
    return sorted(int(record.value) for batch in batches for record in batch)


def numbers(consumer: GroupConsumer) -> list[int]:
    return [one.partition for one in consumer.assignment]


def settle(*consumers: GroupConsumer, count: int = PARTITIONS) -> list[Any]:
    """Poll in turn until all partitions have an owner and nothing moves any more; what was read meanwhile."""
    read: list[Any] = []
    quiet = 0
    deadline = time.monotonic() + 30
    while quiet < 3:
        before = [one.assignment for one in consumers]
        for consumer in consumers:
            read += consumer.poll(0)
        owned = [key for consumer in consumers for key in consumer.assignment]
        quiet = (
            quiet + 1 if len(set(owned)) == len(owned) == count and before == [c.assignment for c in consumers] else 0
        )
        assert time.monotonic() < deadline, before
    return read


def test_one_consumer_reads_all_and_commits(store: mqcore.Store) -> None:
    send(store, 40)
    with store.consumer("t", group="g") as consumer:
        assert values(consumer.poll(5)) == list(range(40))
        assert set(consumer.committed().values()) == {None}
        consumer.commit()
        assert set(consumer.committed().values()) == {10}
    send(store, 4, first=40)
    with store.consumer("t", group="g") as consumer:
        assert values(consumer.poll(5)) == [40, 41, 42, 43]
        assert store.groups.fetch_offsets("g")[TopicPartition("t", 0)].offset == 10


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "sticky", "cooperative-sticky"])
def test_partitions_are_shared_and_come_back(store: mqcore.Store, assignor: str) -> None:
    first = store.consumer("t", group="g", assignor=assignor)
    settle(first)
    second = store.consumer("t", group="g", assignor=assignor)
    settle(first, second)
    assert len(first.assignment) == len(second.assignment) == 2
    first.close()
    settle(second)
    assert len(second.assignment) == PARTITIONS


def test_a_loop_over_records_notices_a_rebalance_at_its_next_record(store: mqcore.Store) -> None:
    """Nothing decoded ahead of the revocation is handed out: the new owner gets it, once."""
    send(store, 4000)
    seen: list[int] = []
    began, go_on = threading.Event(), threading.Event()

    def loop(consumer: GroupConsumer) -> None:
        for record in consumer:
            seen.append(int(record.value))
            if len(seen) == 10:
                began.set()
                go_on.wait(30)

    first = store.consumer("t", group="g", follow=True, on_revoked=lambda consumer, _: consumer.commit())
    thread = threading.Thread(target=loop, args=(first,))
    thread.start()
    assert began.wait(30)
    second = store.consumer("t", group="g")
    second.poll(0)  # it joins; the first one must give up
    go_on.set()
    got: list[int] = []
    deadline = time.monotonic() + 30
    while len(seen) + len(got) < 4000 and time.monotonic() < deadline:
        got += values(second.poll(0.05))
    first.close()
    thread.join()
    assert sorted(seen + got) == list(range(4000))
    assert len(got) >= 1900


def test_callbacks_say_what_comes_and_goes(store: mqcore.Store) -> None:
    told: list[tuple[str, list[int]]] = []

    def tell(name: str) -> Any:
        return lambda consumer, partitions: told.append((name, [one.partition for one in partitions]))

    calls = {"on_assigned": tell("assigned"), "on_revoked": tell("revoked"), "on_lost": tell("lost")}
    first = store.consumer("t", group="g", assignor="cooperative-sticky", **calls)
    settle(first)
    assert told == [("assigned", [0, 1, 2, 3])]
    second = store.consumer("t", group="g", assignor="cooperative-sticky")
    settle(first, second)
    assert told[1:] == [("revoked", [2, 3])]  # the others stayed: KIP-429
    second.close()
    settle(first)
    first.close()
    assert told[2:] == [("assigned", [2, 3]), ("revoked", [0, 1, 2, 3])]


def test_a_callback_may_seek_and_commit(store: mqcore.Store) -> None:
    send(store, 40)
    consumer = store.consumer("t", group="g", on_assigned=lambda one, added: [one.seek(key, 9) for key in added])
    assert values(consumer.poll(5)) == [36, 37, 38, 39]


def test_an_error_of_a_callback_surfaces_and_the_group_goes_on(store: mqcore.Store) -> None:
    fail = [True]

    def revoked(consumer: GroupConsumer, partitions: list[TopicPartition]) -> None:
        if fail.pop() if fail else False:
            raise RuntimeError("the user's own")

    first = store.consumer("t", group="g", on_revoked=revoked)
    settle(first)
    second = store.consumer("t", group="g")
    second.poll(0)
    with pytest.raises(RuntimeError, match="the user's own"):
        first.poll(5)
    settle(first, second)


@pytest.mark.parametrize(("start", "expected"), [("earliest", 44), ("latest", 4)])
def test_start_decides_where_nothing_is_committed(store: mqcore.Store, start: Any, expected: int) -> None:
    send(store, 40)
    consumer = store.consumer("t", group="g", start=start)
    read = len(values(settle(consumer)))
    send(store, 4, first=40)
    while read < expected:
        read += len(values(consumer.poll(5)))
    assert read == expected


def test_partitions_that_come_later_begin_at_their_beginning(store: mqcore.Store) -> None:
    consumer = store.consumer("^t", group="g", start="latest")
    settle(consumer)
    store.create_topic("t2", 1)
    with store.producer() as producer:
        producer.send("t2", b"7").result()
    store.add_partitions("t", 5)
    with store.producer() as producer:
        producer.send("t", b"8", partition=4).result()
    read: list[int] = []
    deadline = time.monotonic() + 30
    while len(read) < 2 and time.monotonic() < deadline:
        read += values(consumer.poll(0.1))
    assert sorted(read) == [7, 8]


def test_a_deleted_topic_leaves_and_its_offsets_do_not_count_for_the_next_of_its_name(store: mqcore.Store) -> None:
    send(store, 40)
    consumer = store.consumer("t", group="g")
    consumer.poll(5)
    consumer.commit()
    store.delete_topic("t")
    deadline = time.monotonic() + 30
    while consumer.assignment and time.monotonic() < deadline:
        consumer.poll(0.06)
    store.create_topic("t", PARTITIONS)
    send(store, 8)
    read: list[int] = []
    while len(read) < 8 and time.monotonic() < deadline:
        read += values(consumer.poll(0.1))
    assert sorted(read) == list(range(8))


# -- who may commit ------------------------------------------------------------------------------------------------


def test_commit_of_an_old_generation_is_refused(store: mqcore.Store) -> None:
    """I16: the group went on to another generation, of which this commit is not."""
    send(store, 40)
    first = store.consumer("t", group="g")
    first.poll(5)
    old = first.group_metadata()
    second = store.consumer("t", group="g")
    settle(first, second)
    with pytest.raises(errors.IllegalGenerationError) as caught:
        store.groups.commit_offsets(
            "g", {TopicPartition("t", 0): 10}, member_id=old.member_id, generation=old.generation
        )
    assert caught.value.where["current_generation"] > old.generation
    assert caught.value.aborts_transaction
    assert store.groups.fetch_offsets("g") == {}


def test_commit_after_the_session_ran_out_is_refused() -> None:
    """The member did not poll for too long; the group goes on without it, and it comes back as another one."""
    clock = ManualClock()
    with mqcore.open(":memory:", clock=clock) as store:
        store.create_topic("t", PARTITIONS)
        send(store, 40)
        lost: list[int] = []
        consumer = store.consumer("t", group="g", on_lost=lambda _, gone: lost.append(len(gone)))
        consumer.poll(5)
        consumer._membership.suspended = True  # as if the store's thread stood still
        clock.advance(46)
        store.groups.tick()
        with pytest.raises(errors.UnknownMemberError):
            consumer.commit()
        consumer._membership.suspended = False
        assert values(consumer.poll(5)) == list(range(40))  # nothing was committed
        assert lost == [PARTITIONS]
        consumer.commit()


def test_who_does_not_poll_for_too_long_is_out_and_comes_back() -> None:
    clock = ManualClock()
    with mqcore.open(":memory:", clock=clock) as store:
        store.create_topic("t", PARTITIONS)
        stuck = store.consumer("t", group="g", max_poll_interval_s=60)
        settle(stuck)
        other = store.consumer("t", group="g", max_poll_interval_s=None)
        settle(stuck, other)
        clock.advance(61)
        stuck._membership.look_after()  # the heartbeat thread's look
        settle(other)
        assert len(other.assignment) == PARTITIONS
        with pytest.raises(errors.UnknownMemberError, match="does not know"):
            stuck.commit({("t", stuck.assignment[0].partition): 0})
        settle(stuck, other)
        causes = [cause.reason for cause in store.groups.in_memory("g").machine.causes]  # type: ignore[union-attr]
        assert "no poll for 60 s" in causes


def test_an_iteration_that_moves_is_no_stuck_one() -> None:
    clock = ManualClock()
    with mqcore.open(":memory:", clock=clock) as store:
        store.create_topic("t", PARTITIONS)
        send(store, 40)
        consumer = store.consumer("t", group="g", max_poll_interval_s=60)
        for count, _ in enumerate(consumer):
            clock.advance(40)
            consumer._membership.look_after()
            if count == 8:
                break
        assert len(consumer.assignment) == PARTITIONS


def test_offsets_that_cannot_be_meant_are_refused(store: mqcore.Store) -> None:
    consumer = store.consumer("t", group="g")
    consumer.commit()  # nothing to commit, not yet a member
    settle(consumer)
    with pytest.raises(errors.UnknownTopicError, match="not assigned"):
        consumer.commit({("t", 99): 1})
    with pytest.raises(errors.InvalidGroupError, match="0 or more"):
        consumer.commit({("t", 0): -1})
    with pytest.raises(errors.InvalidGroupError, match="too long"):
        consumer.commit({("t", 0): (1, "x" * 5000)})
    with pytest.raises(errors.UnknownTopicError, match="partition"):
        store.groups.commit_offsets("other", {TopicPartition("t", 99): 1})
    with pytest.raises(errors.UnknownTopicError):
        store.groups.commit_offsets("other", {TopicPartition("nowhere", 0): 1})
    with pytest.raises(errors.UnknownMemberError, match="has members"):
        store.groups.commit_offsets("g", {TopicPartition("t", 0): 1})
    with pytest.raises(errors.InvalidGroupError):
        consumer.assign([0])
    with pytest.raises(errors.InvalidGroupError):
        store.consumer("t", group="")
    with pytest.raises(errors.InvalidGroupError, match="cooperative-sticky"):
        store.consumer("t", group="g", assignor="cooperative")
    consumer.commit({("t", 0): (3, "checkpoint 7")})
    assert store.groups.fetch_offsets("g")[TopicPartition("t", 0)].metadata == "checkpoint 7"


def test_members_must_have_an_assignor_in_common(store: mqcore.Store) -> None:
    first = store.consumer("t", group="g")
    settle(first)
    with pytest.raises(errors.InvalidGroupError, match="range"):
        store.consumer("t", group="g", assignor="sticky").poll(0)
    settle(first)


# -- static members --------------------------------------------------------------------------------------------------


def test_a_static_member_comes_back_without_a_rebalance(store: mqcore.Store) -> None:
    first = store.consumer("t", group="g", group_instance_id="one")
    second = store.consumer("t", group="g", group_instance_id="two")
    first.poll(0)
    settle(first, second)
    generation, had = second.group_metadata().generation, first.assignment
    first.close()
    again = store.consumer("t", group="g", group_instance_id="one")
    again.poll(0)
    assert again.assignment == had
    assert second.group_metadata().generation == again.group_metadata().generation == generation


def test_a_second_consumer_of_an_instance_id_fences_the_first(store: mqcore.Store) -> None:
    first = store.consumer("t", group="g", group_instance_id="one")
    settle(first)
    second = store.consumer("t", group="g", group_instance_id="one")
    settle(second)
    with pytest.raises(errors.FencedInstanceError):
        first.commit({("t", 0): 1})
    first._membership.beat()
    with pytest.raises(errors.FencedInstanceError):
        first.poll(0)
    assert first.assignment == ()


# -- auto commit, lag, restarts ----------------------------------------------------------------------------------------


def test_auto_commit_at_revocation_and_close(store: mqcore.Store) -> None:
    send(store, 40)
    first = store.consumer("t", group="g", auto_commit=True)
    assert len(values(first.poll(5))) == 40
    second = store.consumer("t", group="g", auto_commit=True)
    assert values(settle(first, second)) == []
    send(store, 8, first=40)
    read: list[int] = []
    while len(read) < 8:
        read += values(first.poll(0.1)) + values(second.poll(0.1))
    first.close()
    second.close()
    assert sum(one.offset for one in store.groups.fetch_offsets("g").values()) == 48


def test_lag_counts_what_will_be_handed_out(store: mqcore.Store) -> None:
    send(store, 40)
    consumer = store.consumer("t", group="g", on_out_of_range="earliest")
    settle(consumer)
    consumer.seek(("t", 0), 0)
    assert consumer.lag(0)[TopicPartition("t", 0)] == 10
    store.delete_before("t", {0: 4})  # retention past the position
    assert consumer.lag(0)[TopicPartition("t", 0)] == 6


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_committed_offsets_survive_a_restart(tmp_path: Path, durability: str) -> None:
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", PARTITIONS)
        send(store, 40)
        with store.consumer("t", group="g") as consumer:
            consumer.poll(5)
            consumer.commit()
            generation = consumer.group_metadata().generation
    with mqcore.open(tmp_path / "s", durability=durability) as store, store.consumer("t", group="g") as consumer:
        settle(consumer)
        assert set(consumer.committed().values()) == {10}
        assert consumer.group_metadata().generation > generation


def test_a_consumer_that_nobody_holds_any_more_leaves(store: mqcore.Store) -> None:
    first = store.consumer("t", group="g")
    settle(first)
    membership = first._membership
    del first
    assert not membership.look_after()
    second = store.consumer("t", group="g")
    settle(second)
    assert len(second.assignment) == PARTITIONS


def test_a_group_needs_a_store_that_can_be_written(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t", 1)
    with mqcore.open(tmp_path / "s", read_only=True) as store, pytest.raises(errors.StoreReadOnlyError):
        store.consumer("t", group="g")


def test_an_iteration_to_the_end_waits_for_its_assignment(store: mqcore.Store) -> None:
    send(store, 40)
    with store.consumer("t", group="g", follow=False) as consumer:
        assert sorted(int(record.value) for record in consumer) == list(range(40))
