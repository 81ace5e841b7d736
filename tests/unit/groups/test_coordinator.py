"""The coordinator's corners: interrupted commits, time-outs of phases, static members, the first rebalance's delay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import mqcore
from mqcore import errors
from mqcore.clock import ManualClock
from mqcore.groups.coordinator import Coordinator
from mqcore.groups.states import GroupState, Join, Joined
from mqcore.groups.waiter import Waiter
from mqcore.log.partition_log import PartitionLog
from mqcore.types import TopicPartition

T0 = TopicPartition("t", 0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def groups(clock: ManualClock) -> Iterator[Coordinator]:
    with mqcore.open(":memory:", clock=clock) as store:
        store.create_topic("t", 1)
        yield store.groups


def join(groups: Coordinator, member_id: str = "", instance_id: str | None = None, data: bytes = b"") -> Waiter[Joined]:
    protocols = {"range": data, "roundrobin": data}
    return groups.join("g", Join(protocols, member_id, instance_id=instance_id, rebalance_timeout_ms=60_000))


def state(groups: Coordinator) -> GroupState:
    group = groups.in_memory("g")
    assert group is not None
    return group.machine.state


def test_an_interrupted_commit_is_what_the_log_says(groups: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """^C while it waits for the disk: the record is in the log, so the offset counts, in memory too."""
    groups.commit_offsets("g", {T0: 1})

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(PartitionLog, "wait_durable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        groups.commit_offsets("g", {T0: 2})
    assert groups.fetch_offsets("g", settled=True)[T0].offset == 2
    groups.commit_offsets("g", {T0: 3})
    assert groups.fetch_offsets("g")[T0].offset == 3


def test_followers_wait_for_the_leaders_assignment(groups: Coordinator) -> None:
    first = join(groups)
    leader = first.result()
    second = join(groups)
    assert not second.done  # the first one has to join again
    again = join(groups, leader.member_id)
    one, two = again.result(), second.result()
    assert one.leads
    assert not two.leads
    assert {member.member_id for member in one.members} == {one.member_id, two.member_id}
    follows = groups.sync("g", two.member_id, two.generation, {})
    assert not follows.done
    groups.sync("g", one.member_id, one.generation, {two.member_id: b"yours"})
    assert follows.result().assignment == b"yours"
    assert state(groups) == GroupState.STABLE


def test_a_leader_that_never_assigns_is_put_out(groups: Coordinator, clock: ManualClock) -> None:
    leader = join(groups).result()
    second = join(groups)
    leader = join(groups, leader.member_id).result()
    two = second.result()
    follows = groups.sync("g", two.member_id, two.generation, {})
    for _ in range(3):
        clock.advance(21)
        for member in (leader, two):
            groups.heartbeat("g", member.member_id, two.generation)
        groups.tick()
        if follows.done:
            break
    with pytest.raises(errors.RebalanceInProgressError):
        follows.result()
    with pytest.raises(errors.UnknownMemberError):
        groups.sync("g", leader.member_id, leader.generation, {})
    assert join(groups, two.member_id).result().leads


def test_a_static_member_is_waited_for_until_its_session_ends(groups: Coordinator, clock: ManualClock) -> None:
    static = join(groups, instance_id="one").result()
    groups.sync("g", static.member_id, static.generation, {})
    second = join(groups)
    clock.advance(44)
    groups.tick()
    assert not second.done
    clock.advance(2)
    groups.tick()
    assert second.result().leads
    with pytest.raises(errors.UnknownMemberError):
        groups.heartbeat("g", static.member_id, static.generation)


def test_a_static_member_that_wants_something_else_rebalances(groups: Coordinator) -> None:
    old = join(groups, instance_id="one").result()
    groups.sync("g", old.member_id, old.generation, {})
    new = join(groups, instance_id="one", data=b"other").result()
    assert new.generation == old.generation + 1
    with pytest.raises(errors.FencedInstanceError):
        groups.heartbeat("g", old.member_id, old.generation, "one")


def test_the_protocol_is_what_most_prefer_and_all_speak(groups: Coordinator) -> None:
    first = groups.join("g", Join({"range": b"", "roundrobin": b""})).result()
    second = groups.join("g", Join({"roundrobin": b"", "sticky": b""}))
    groups.join("g", Join({"range": b"", "roundrobin": b""}, first.member_id))
    assert second.result().protocol == "roundrobin"
    with pytest.raises(errors.InvalidGroupError, match="in common"):
        groups.join("g", Join({"sticky": b""}))


def test_the_first_rebalance_waits_for_more_members_if_asked_to(clock: ManualClock) -> None:
    config = {"group.initial.rebalance.delay.ms": 3000}
    with mqcore.open(":memory:", clock=clock, config=config) as store:
        one, two = join(store.groups), join(store.groups)
        assert not one.done
        clock.advance(3.1)
        store.groups.tick()
        assert one.result().generation == two.result().generation == 1


def test_a_group_has_a_bound(clock: ManualClock) -> None:
    with mqcore.open(":memory:", clock=clock, config={"group.max.size": 2}) as store:
        join(store.groups)
        join(store.groups)
        with pytest.raises(errors.InvalidGroupError, match="full"):
            join(store.groups)
