"""What an operator asks of groups: which there are, who reads what, why they rebalanced, and how far behind they are;
and what he does to them: move offsets, delete.

Invariants:
    1. Looking changes nothing, and works on a store that is open for reading only: then what the records say counts.
    2. Offsets are moved and deleted only while nobody is in the group.
    3. A reset stays within what the partition has (Kafka's tool clips likewise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mqcore.errors import GroupNotEmptyError, UnknownGroupError, UnknownTopicError
from mqcore.groups.coordinator import Coordinator
from mqcore.groups.group import Group
from mqcore.groups.lag import Lag, count_readable
from mqcore.groups.protocol import parse_assignment
from mqcore.groups.records import Cause, Committed, StoredGroup, format_group_key, format_offset_key
from mqcore.groups.states import GroupState
from mqcore.types import IsolationLevel, TopicPartition

if TYPE_CHECKING:
    from mqcore.log.partition_log import PartitionLog

_BATCH_RECORDS = 5000  # tombstones in one batch: far below any max.message.bytes


@dataclass(frozen=True, slots=True)
class MemberView:
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as of one moment. state_ms: since when, wall clock. causes: of its last rebalances, oldest first."""

    group: str
    state: GroupState
    generation: int
    protocol: str
    protocol_type: str
    leader: str
    state_ms: int
    members: tuple[MemberView, ...] = ()
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True, slots=True)
class OffsetView:
    """How far a group is in a partition. committed: None without an offset; lag: None then, and if the topic is gone."""

    partition: TopicPartition
    committed: Committed | None
    lag: Lag | None
    member: MemberView | None = None


def list_groups(groups: Coordinator) -> list[GroupView]:
    """All groups that left anything in the store, by name."""
    return [_view(groups, name) for name in groups.topic.names()]


def describe(groups: Coordinator, group_id: str) -> GroupView:
    """One group. Raises UnknownGroupError, InvalidGroupError."""
    _require(groups, group_id)
    return _view(groups, group_id)


def describe_offsets(
    groups: Coordinator, group_id: str, *, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
) -> list[OffsetView]:
    """Offsets and lag of each partition that the group has committed or reads, sorted. Raises UnknownGroupError."""
    view = describe(groups, group_id)
    committed = groups.fetch_offsets(group_id)
    owners = {partition: member for member in view.members for partition in member.partitions}
    return [
        OffsetView(
            partition,
            committed.get(partition),
            _lag(groups, partition, committed.get(partition), isolation),
            owners.get(partition),
        )
        for partition in sorted(committed.keys() | owners.keys())
    ]


def _lag(
    groups: Coordinator, partition: TopicPartition, committed: Committed | None, isolation: IsolationLevel
) -> Lag | None:
    if committed is None:
        return None
    try:
        log = groups.store.partition(partition.topic, partition.partition)
    except UnknownTopicError:
        return None
    return count_readable(log, committed.offset, isolation)


def _require(groups: Coordinator, group_id: str) -> None:
    """UnknownGroupError names those that sound alike."""
    if not _known(groups, group_id):
        from difflib import get_close_matches

        near = get_close_matches(group_id, groups.topic.names(), n=1)
        raise UnknownGroupError("no such group", hint=f"Did you mean {near[0]!r}?" if near else "", group=group_id)


def _known(groups: Coordinator, group_id: str) -> bool:
    group = groups.in_memory(group_id)
    if group is not None and (group.machine.members or group.offsets or group.machine.generation):
        return True
    stored, offsets = groups.topic.load(group_id)
    return stored is not None or bool(offsets)


def _view(groups: Coordinator, group_id: str) -> GroupView:
    group = groups.in_memory(group_id)
    if group is not None and not groups.store.read_only:
        with group.lock:
            return _from_record(group_id, group.machine.stored(), group.machine.state)
    stored = groups.topic.load(group_id)[0] or StoredGroup()
    # Beside a writer the record is of the living; without one its members are gone.
    attached = getattr(groups.store, "attached", None)
    alive = attached is not None and attached() is not None
    state = GroupState.STABLE if stored.members and alive else GroupState.EMPTY
    return _from_record(group_id, stored, state, with_members=alive)


def _from_record(group_id: str, stored: StoredGroup, state: GroupState, *, with_members: bool = True) -> GroupView:
    members = tuple(
        MemberView(
            one.member_id, one.instance_id, one.client_id, one.client_host, parse_assignment(one.assignment)
        )
        for one in stored.members
    )  # fmt: skip
    return GroupView(
        group_id,
        state,
        stored.generation,
        stored.protocol or "",
        stored.protocol_type,
        stored.leader or "",
        stored.state_ms,
        members if with_members else (),
        stored.causes,
    )


def notes(groups: Coordinator, group_id: str) -> list[str]:
    """Sentences on what holds the group up now, for people. Raises UnknownGroupError."""
    view = describe(groups, group_id)
    found = []
    group = groups.in_memory(group_id)
    if group is not None:
        with group.lock:
            waits = [one.member_id for one in group.machine.members.values() if one.joining is None]
        if view.state == GroupState.PREPARING:
            found.append(f"it waits for {', '.join(waits) or 'more members'} to join again (they join when they poll)")
        elif view.state == GroupState.COMPLETING:
            found.append(f"it waits for its leader {view.leader} to assign partitions")
    for one in describe_offsets(groups, group_id):
        where = f"{one.partition.topic}-{one.partition.partition}"
        if one.committed is not None and one.lag is None:
            found.append(f"{where}: the topic is gone")
        elif one.lag is not None and one.committed is not None:
            found += _lag_notes(groups, one, where, owned=one.member is not None or not view.members)
    return found


def _lag_notes(groups: Coordinator, one: OffsetView, where: str, *, owned: bool) -> list[str]:
    assert one.committed is not None
    assert one.lag is not None
    found = []
    log = groups.store.partition(one.partition.topic, one.partition.partition)
    if one.committed.offset < log.log_start_offset:
        gone = log.log_start_offset - one.committed.offset
        found.append(f"{where}: retention took {gone:,} offsets that it had not read")
    if one.lag.records and not owned:
        found.append(f"{where}: {one.lag.records:,} records wait and nobody reads them")
    held = log.visible_end(IsolationLevel.READ_UNCOMMITTED) - one.lag.end
    if held > 0:
        found.append(f"{where}: an open transaction holds {held:,} offsets back from readers of committed records")
    return found


# -- moving offsets ------------------------------------------------------------------------------------------------

To = Literal["earliest", "latest", "current", "offset", "shift", "time"]


@dataclass(frozen=True, slots=True)
class Move:
    """What a reset does to one partition. before: None without an offset."""

    partition: TopicPartition
    before: int | None
    after: int


def plan_reset(
    groups: Coordinator, group_id: str, partitions: Iterable[TopicPartition], to: To, number: int = 0
) -> list[Move]:
    """Where a reset would move a group; nothing is changed.

    to: "earliest", "latest", "current" (the committed offset, else the end), "offset" (number), "shift" (by number from
    the committed offset; back if negative), "time" (the first record at or after number, ms; else the end).
    Raises UnknownTopicError.
    """
    wanted = sorted(partitions)
    committed = groups.fetch_offsets(group_id, wanted)
    return [_move(groups, partition, committed.get(partition), to, number) for partition in wanted]


def plan_offsets(groups: Coordinator, group_id: str, offsets: Mapping[TopicPartition, int]) -> list[Move]:
    """As plan_reset, each partition to an offset of its own."""
    committed = groups.fetch_offsets(group_id, offsets)
    return [_move(groups, one, committed.get(one), "offset", offsets[one]) for one in sorted(offsets)]


def _move(groups: Coordinator, partition: TopicPartition, committed: Committed | None, to: To, number: int) -> Move:
    log = groups.store.partition(partition.topic, partition.partition)
    begin, end = log.log_start_offset, log.visible_end(IsolationLevel.READ_COMMITTED)
    before = None if committed is None else committed.offset
    current = end if before is None else before
    targets: dict[str, Callable[[], int]] = {
        "earliest": lambda: begin,
        "latest": lambda: end,
        "current": lambda: current,
        "offset": lambda: number,
        "shift": lambda: current + number,
        "time": lambda: _at_time(log, number, end),
    }
    return Move(partition, before, min(max(targets[to](), begin), end))


def _at_time(log: PartitionLog, timestamp_ms: int, end: int) -> int:
    found = log.offset_for_time(timestamp_ms)
    return end if found is None else found[0]


def reset(groups: Coordinator, group_id: str, moves: Iterable[Move]) -> None:
    """Do what was planned; durable on return. Raises GroupNotEmptyError (nothing is moved), UnknownTopicError."""
    offsets = {move.partition: move.after for move in moves}
    _require_empty(groups, group_id)
    groups.commit_offsets(group_id, offsets)


def _require_empty(groups: Coordinator, group_id: str) -> None:
    group = groups.in_memory(group_id)
    if group is not None and group.machine.members:
        raise GroupNotEmptyError(
            "the group has members", hint="Stop its consumers first", group=group_id, members=len(group.machine.members)
        )


# -- deleting ------------------------------------------------------------------------------------------------------


def delete(groups: Coordinator, group_id: str) -> None:
    """Delete a group and its offsets; durable on return. Raises GroupNotEmptyError, UnknownGroupError."""
    _require(groups, group_id)
    with groups.changing(group_id) as (group, _):
        _require_empty(groups, group_id)
        end = _remove(groups, group, list(group.offsets), whole=True)
    groups.topic.log(group_id).wait_durable(end)


def delete_offsets(groups: Coordinator, group_id: str, partitions: Iterable[TopicPartition]) -> None:
    """Forget how far a group is in these partitions. Raises GroupNotEmptyError, UnknownGroupError."""
    _require(groups, group_id)
    with groups.changing(group_id) as (group, _):
        _require_empty(groups, group_id)
        end = _remove(groups, group, [one for one in partitions if one in group.offsets], whole=False)
    groups.topic.log(group_id).wait_durable(end)


def _remove(groups: Coordinator, group: Group, partitions: list[TopicPartition], *, whole: bool) -> int:
    """Append tombstones; the offset after them. The group's lock is held."""
    group_id = group.machine.group_id
    keys = [format_offset_key(group_id, one) for one in partitions] + ([format_group_key(group_id)] if whole else [])
    end = 0
    for part in _parts(keys):
        end = groups.topic.append(group_id, [(key, None) for key in part]).next_offset
    group.forget(partitions)
    if whole:
        group.machine.changed = False
        groups.forget(group_id)
    return end


def _parts(keys: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(keys), _BATCH_RECORDS):
        yield keys[at : at + _BATCH_RECORDS]


def expire(groups: Coordinator, now_ms: int, retention_ms: int) -> int:
    """Forget offsets of groups without members: those committed, and the group left, more than retention_ms before
    now_ms (a time that no jump of the wall clock moved). A group of which nothing is left goes too. How many went."""
    gone = 0
    for group_id in groups.topic.names():
        with groups.changing(group_id) as (group, _):
            if not group.idle:
                continue
            since_ms = group.machine.state_ms
            old = [
                partition
                for partition, committed in group.offsets.items()
                if now_ms - max(committed.commit_ms, since_ms) > retention_ms
            ]
            whole = len(old) == len(group.offsets) and (bool(old) or now_ms - since_ms > retention_ms)
            if old or whole:
                _remove(groups, group, old, whole=whole)
                gone += len(old)
    return gone
