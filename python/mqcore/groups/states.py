"""The states of a group of the classic protocol, their moves, and the values that its calls take and give. Pure.

    Empty --join--> PreparingRebalance --all joined, or time out--> CompletingRebalance --leader's sync--> Stable
    Stable, CompletingRebalance --join, leave, time out--> PreparingRebalance --nobody left--> Empty --delete--> Dead
(apache/kafka ClassicGroupState.java)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mqcore.errors import InvariantError
from mqcore.groups.waiter import Waiter


class GroupState(StrEnum):
    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


_FROM: Mapping[GroupState, frozenset[GroupState]] = {
    GroupState.EMPTY: frozenset({GroupState.PREPARING}),
    GroupState.PREPARING: frozenset({GroupState.EMPTY, GroupState.COMPLETING, GroupState.STABLE}),
    GroupState.COMPLETING: frozenset({GroupState.PREPARING}),
    GroupState.STABLE: frozenset({GroupState.COMPLETING}),
    GroupState.DEAD: frozenset({GroupState.EMPTY}),
}


def check_move(old: GroupState, new: GroupState) -> None:
    """Raises InvariantError for a move that the picture above does not have."""
    if old not in _FROM[new]:
        raise InvariantError("a group made a move that there is none of", old=str(old), new=str(new))


@dataclass(frozen=True, slots=True)
class Join:
    """What a member joins with. member_id: "" the first time; new_id: what it wants to be called then, "" for any name.
    protocols: name -> metadata bytes, the preferred first. Times in ms. rebalance: have one even if nothing that the
    member says has changed. notify: called, without locks, when a rebalance begins or the member is put out, so that it
    need not wait for its next heartbeat."""

    protocols: Mapping[str, bytes]
    member_id: str = ""
    new_id: str = ""
    instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000
    protocol_type: str = "consumer"
    reason: str = ""
    rebalance: bool = False
    notify: Callable[[], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class JoinedMember:
    member_id: str
    instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join. members: the leader's only, for it to assign partitions."""

    generation: int
    member_id: str
    leader: str
    protocol: str
    members: tuple[JoinedMember, ...] = ()

    @property
    def leads(self) -> bool:
        return bool(self.members)


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to a sync: what the member shall read, as the leader wrote it."""

    generation: int
    protocol: str
    assignment: bytes


@dataclass(slots=True)
class Member:
    """A member of a group. deadline_s: monotonic; when its session ends. joining, syncing: calls that wait."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Mapping[str, bytes]
    deadline_s: float = 0.0
    assignment: bytes = b""
    joining: Waiter[Joined] | None = None
    syncing: Waiter[Synced] | None = None
    synced: bool = False
    notify: Callable[[], None] | None = None

    def take(self, join: Join) -> None:
        """Note what it joins with this time."""
        self.client_id, self.client_host = join.client_id, join.client_host
        self.session_timeout_ms, self.rebalance_timeout_ms = join.session_timeout_ms, join.rebalance_timeout_ms
        self.protocols, self.notify = join.protocols, join.notify

    def heard(self, now_s: float) -> None:
        """It is alive."""
        self.deadline_s = now_s + self.session_timeout_ms / 1000


@dataclass(frozen=True, slots=True)
class MemberDescription:
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    assignment: bytes
    metadata: bytes
    session_left_s: float | None = None


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group as of one moment."""

    group: str
    state: GroupState
    generation: int
    protocol: str
    protocol_type: str
    leader: str
    members: tuple[MemberDescription, ...] = field(default_factory=tuple)
