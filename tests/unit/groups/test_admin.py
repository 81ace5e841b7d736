"""What `mqcore group` says and does: lag counts what will be read, resets stay in range, nothing moves under members."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqcore
from mqcore import errors
from mqcore.clock import ManualClock
from mqcore.groups import admin
from mqcore.groups.states import GroupState
from mqcore.types import IsolationLevel, TopicPartition
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker

T0 = TopicPartition("t", 0)


@pytest.fixture
def store() -> Iterator[mqcore.Store]:
    with mqcore.open(":memory:") as store:
        store.create_topic("t", 2, config={"cleanup.policy": "compact"})
        yield store


def send(store: mqcore.Store, count: int, key: str = "") -> None:
    with store.producer() as producer:
        for number in range(count):
            producer.send("t", b"x", key=(key or str(number)).encode(), partition=0, timestamp=1_000_000 + number)


def lag(store: mqcore.Store, offset: int, isolation: str = "read_committed") -> int:
    store.groups.commit_offsets("g", {T0: offset})
    (found,) = admin.describe_offsets(store.groups, "g", isolation=IsolationLevel(isolation))
    assert found.lag is not None
    return found.lag.records


def test_control_markers_are_no_lag(store: mqcore.Store) -> None:
    """The trap of subtraction: a group that has read all is behind for ever, by the marker at the end."""
    log = store.log.partition("t", 0)
    now = store.log.clock.wall_ms()
    log.append(
        bytearray(
            encode(
                [Plain(b"a", b"k", timestamp=now), Plain(b"b", b"l", timestamp=now)],
                attributes=TRANSACTIONAL,
                producer_id=7,
            )
        )
    )
    log.append(bytearray(marker(0, 7, commit=True)))
    assert lag(store, 0) == 2
    assert lag(store, 2) == 0
    assert store.end_offsets("t")[0] == 3


def test_what_retention_took_is_no_lag_and_is_told(store: mqcore.Store) -> None:
    send(store, 10)
    store.delete_before("t", {0: 6})
    assert lag(store, 2) == 4
    assert "t-0: retention took 4 offsets that it had not read" in admin.notes(store.groups, "g")


def test_what_compaction_took_is_no_lag(store: mqcore.Store) -> None:
    send(store, 50, key="one")
    store.log.partition("t", 0).roll()
    store.log.maintain()
    send(store, 1, key="two")
    store.alter_topic("t", {"min.cleanable.dirty.ratio": 0})
    for _ in range(3):
        store.log.maintain()
    assert store.end_offsets("t")[0] == 51
    assert lag(store, 0) == 2  # the last of each key


def test_the_bound_makes_lag_an_estimate(store: mqcore.Store) -> None:
    from mqcore.groups.lag import count_readable

    send(store, 100)
    log = store.log.partition("t", 0)
    assert count_readable(log, 0, IsolationLevel.READ_COMMITTED, exact_bytes=0) == (100, -1, 100, False)
    assert count_readable(log, 40, IsolationLevel.READ_COMMITTED) == (60, 1_000_040, 100, True)


@pytest.mark.parametrize(
    ("to", "number", "after"),
    [
        ("earliest", 0, 2),
        ("latest", 0, 10),
        ("current", 0, 5),
        ("offset", 7, 7),
        ("offset", 99, 10),
        ("shift", -1, 4),
        ("shift", -99, 2),
        ("shift", 99, 10),
        ("time", 1_000_008, 8),
        ("time", 2_000_000, 10),
    ],
)
def test_a_reset_lands_where_it_says(store: mqcore.Store, to: admin.To, number: int, after: int) -> None:
    send(store, 10)
    store.delete_before("t", {0: 2})
    store.groups.commit_offsets("g", {T0: 5})
    moves = admin.plan_reset(store.groups, "g", [T0], to, number)
    assert moves == [admin.Move(T0, 5, after)]
    assert store.groups.fetch_offsets("g")[T0].offset == 5  # a plan only
    admin.reset(store.groups, "g", moves)
    assert store.groups.fetch_offsets("g")[T0].offset == after


def test_nothing_is_moved_or_deleted_under_members(store: mqcore.Store) -> None:
    send(store, 10)
    with store.consumer("t", group="g") as consumer:
        consumer.poll(5)
        consumer.commit()
        moves = admin.plan_reset(store.groups, "g", [T0], "earliest")
        for change in (
            lambda: admin.reset(store.groups, "g", moves),
            lambda: admin.delete(store.groups, "g"),
            lambda: admin.delete_offsets(store.groups, "g", [T0]),
        ):
            with pytest.raises(errors.GroupNotEmptyError):
                change()
        view = admin.describe(store.groups, "g")
        assert (view.state, len(view.members)) == (GroupState.STABLE, 1)
        assert view.members[0].partitions == (T0, TopicPartition("t", 1))
    admin.delete_offsets(store.groups, "g", [T0])
    assert T0 not in store.groups.fetch_offsets("g")
    admin.delete(store.groups, "g")
    with pytest.raises(errors.UnknownGroupError):
        admin.describe(store.groups, "g")
    assert admin.list_groups(store.groups) == []


def test_a_deleted_group_stays_deleted_and_may_begin_anew(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t", 1)
        store.groups.commit_offsets("g", {T0: 5})
        store.groups.commit_offsets("h", {T0: 6})
        admin.delete(store.groups, "g")
    with mqcore.open(tmp_path / "s", durability="os") as store:
        assert [one.group for one in admin.list_groups(store.groups)] == ["h"]
        assert store.groups.fetch_offsets("g") == {}
        store.groups.commit_offsets("g", {T0: 7})
        assert store.groups.fetch_offsets("g")[T0].offset == 7


def test_the_causes_of_rebalances_are_kept_through_a_restart(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t", 1)
        with store.consumer("t", group="g") as consumer:
            consumer.poll(0)
    with mqcore.open(tmp_path / "s", read_only=True) as store:
        reasons = [cause.reason for cause in admin.describe(store.groups, "g").causes]
        assert reasons == ["the consumer began to read", "the consumer was closed"]


def test_a_reader_beside_a_writer_sees_members_and_offsets(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t", 2)
        send(store, 10)
        with store.consumer("t", group="g") as consumer:
            consumer.poll(5)
            consumer.commit()
            with mqcore.open(tmp_path / "s", read_only=True) as other:
                view = admin.describe(other.groups, "g")
                assert view.state == GroupState.STABLE
                assert view.members[0].member_id == consumer.group_metadata().member_id
                rows = admin.describe_offsets(other.groups, "g")
                assert [
                    (one.committed.offset if one.committed else None, one.lag and one.lag.records) for one in rows
                ] == [
                    (10, 0),
                    (0, 0),
                ]
                assert other.groups.fetch_offsets("g")[T0].offset == 10


def test_offsets_of_groups_that_nobody_uses_expire_by_the_guarded_clock() -> None:
    """offsets.retention.minutes counts from the last commit, and from when the last member left; a clock that jumps
    forward expires nothing."""
    clock = ManualClock()
    with mqcore.open(":memory:", clock=clock, config={"offsets.retention.minutes": 10}) as store:
        store.create_topic("t", 2, config={"retention.ms": -1})
        store.groups.commit_offsets("gone", {T0: 5})
        member = store.consumer("t", group="used", max_poll_interval_s=None)
        member.poll(0)
        member.commit({T0: 6})
        clock.jump(86_400_000)
        clock.advance(1)
        store.log.maintain()
        assert store.groups.fetch_offsets("gone")
        clock.jump(-86_400_000)
        for _ in range(3):
            clock.advance(400)
            member._membership.beat()
            store.log.maintain()
        assert store.groups.fetch_offsets("gone") == {}
        assert store.groups.fetch_offsets("used")
        member.close()
        for _ in range(4):
            clock.advance(400)
            store.log.maintain()
        assert admin.list_groups(store.groups) == []


def test_groups_without_members_leave_memory_and_not_the_store() -> None:
    with mqcore.open(":memory:", config={"group.cache.max.groups": 50}) as store:
        store.create_topic("t", 1)
        for number in range(200):
            store.groups.commit_offsets(f"g{number}", {T0: number})
        assert len(store.groups._groups) <= 51
        assert all(store.groups.fetch_offsets(f"g{number}")[T0].offset == number for number in range(200))


def test_a_fetch_is_far_below_its_bound(store: mqcore.Store) -> None:
    """No timing: it takes one lock and reads a dict, so a thousand of them touch neither log nor view."""
    store.groups.commit_offsets("g", {T0: 5})
    before = time.process_time()
    for _ in range(1000):
        store.groups.fetch_offsets("g", [T0])
    assert time.process_time() - before < 5
