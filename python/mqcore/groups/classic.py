"""One group of the classic protocol: who is in it, which generation it is, and who waits for what. No I/O, no clock.

Invariants:
    1. A generation begins when everybody joined, or those who did not in time are out; numbers only rise.
    2. A member reads what the leader of its generation gave it, and nothing once it is out (I21, with an honest leader).
    3. Whoever waits is answered: by the answer, by a new rebalance, or by being put out.
    4. A session ends `session_timeout_ms` after the last sign of life; one that waits in a join is alive.
    5. Each rebalance has a cause, and the last CAUSES_MAX are kept.
The caller holds the group's lock, passes the time (monotonic seconds, wall ms), and after the lock is released runs
`take_answers()`: answers run code of members. `changed` says that the group's record must be written.
Source: apache/kafka ClassicGroup.java, GroupMetadataManager.java; KIP-345 (static members).
"""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mqcore.errors import (
    FencedInstanceError,
    IllegalGenerationError,
    InvalidGroupError,
    MQError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from mqcore.groups.records import Cause, StoredGroup, StoredMember
from mqcore.groups.states import GroupState, Join, Joined, JoinedMember, Member, Synced, check_move
from mqcore.groups.waiter import Waiter

CAUSES_MAX = 10
NO_GENERATION = -1


class Now(NamedTuple):
    """The time of a call."""

    s: float  # monotonic
    ms: int  # wall


class ClassicGroup:
    """See the module. `generation` 0 is the one before the first."""

    def __init__(self, group_id: str, *, members_max: int, initial_delay_ms: int = 0) -> None:
        self.group_id = group_id
        self._members_max, self._initial_delay_ms = members_max, initial_delay_ms
        self.state = GroupState.EMPTY
        self.state_ms = -1
        self.generation = 0
        self.protocol_type = self.protocol = self.leader = ""
        self.members: dict[str, Member] = {}
        self.instances: dict[str, str] = {}  # instance id -> member id
        self.causes: deque[Cause] = deque(maxlen=CAUSES_MAX)
        self.changed = False
        self._deadline_s = 0.0  # of the join or the sync phase
        self._held_until_s = 0.0  # the first rebalance of an empty group waits for more members
        self._answers: list[Callable[[], None]] = []

    def load(self, stored: StoredGroup, now: Now) -> None:
        """Go on from the group's record: its generation and causes. Its members were of a process that is gone."""
        self.generation, self.protocol_type = stored.generation, stored.protocol_type
        self.state_ms = stored.state_ms
        self.causes.extend(stored.causes)
        if stored.members:
            self.state_ms, self.changed = now.ms, True
            self.causes.append(Cause(now.ms, self.generation, "the store was opened anew: its members are gone"))

    def stored(self) -> StoredGroup:
        """The group's record, as it is now."""
        members = tuple(
            StoredMember(
                one.member_id,
                one.instance_id,
                one.client_id,
                one.client_host,
                one.rebalance_timeout_ms,
                one.session_timeout_ms,
                one.protocols.get(self.protocol, b""),
                one.assignment,
            )
            for one in self.members.values()
        )
        return StoredGroup(
            self.protocol_type,
            self.generation,
            self.protocol or None,
            self.leader or None,
            self.state_ms,
            members,
            tuple(self.causes),
        )

    def take_answers(self) -> list[Callable[[], None]]:
        """What to run once the lock is released, in order."""
        answers, self._answers = self._answers, []
        return answers

    # -- the calls of members ---------------------------------------------------------------------------------------

    def join(self, join: Join, now: Now) -> Waiter[Joined]:
        """A member joins, or joins again; the answer comes when the generation begins.

        Raises InvalidGroupError (protocols that the others do not speak, too many members), UnknownMemberError,
        FencedInstanceError.
        """
        self._check_protocols(join)
        waiter: Waiter[Joined] = Waiter()
        if join.instance_id is not None and not join.member_id and join.instance_id in self.instances:
            return self._replace_static(join, now, waiter)
        if not join.member_id:
            return self._join_new(join, now, waiter)
        member = self.member(join.member_id, join.instance_id)
        same = member.protocols == join.protocols
        member.take(join)
        member.heard(now.s)
        if self.state == GroupState.COMPLETING and same and not join.rebalance:
            self._answer_join(member, waiter)  # the answer to its last join was lost
            return waiter
        must = self.state != GroupState.STABLE or join.rebalance or not same or member.member_id == self.leader
        if not must:
            self._answer_join(member, waiter)
            return waiter
        self._wait_to_join(member, waiter)
        self._prepare(join.reason or "a member joined again", member.member_id, now)
        self._try_complete(now)
        return waiter

    def sync(
        self,
        member_id: str,
        generation: int,
        assignments: Mapping[str, bytes],
        now: Now,
        instance_id: str | None = None,
    ) -> Waiter[Synced]:
        """The leader says who reads what; the others ask. Answered once the leader has said it.

        Raises UnknownMemberError, FencedInstanceError, IllegalGenerationError, RebalanceInProgressError (join again).
        """
        member = self.member(member_id, instance_id)
        self._check_generation(member_id, generation)
        if self.state == GroupState.PREPARING:
            raise self._rebalancing()
        waiter: Waiter[Synced] = Waiter()
        member.heard(now.s)
        member.synced = True
        member.syncing = waiter
        if self.state == GroupState.COMPLETING and member_id == self.leader:
            for one in self.members.values():
                one.assignment = assignments.get(one.member_id, b"")
            self._move(GroupState.STABLE, now)
            self.changed = True
        if self.state == GroupState.STABLE:
            for one in self.members.values():
                self._answer_sync(one)
        return waiter

    def heartbeat(self, member_id: str, generation: int, now: Now, instance_id: str | None = None) -> None:
        """A sign of life. Raises as sync; RebalanceInProgressError says: join again."""
        member = self.member(member_id, instance_id)
        self._check_generation(member_id, generation)
        member.heard(now.s)
        if self.state == GroupState.PREPARING:
            raise self._rebalancing()

    def leave(self, member_id: str, reason: str, now: Now, instance_id: str | None = None) -> None:
        """Raises UnknownMemberError, FencedInstanceError."""
        self._remove(self.member(member_id, instance_id), reason or "a member left", now)

    def check_commit(self, member_id: str, generation: int, now: Now, instance_id: str | None = None) -> None:
        """Whether this member may commit offsets now (I16); a sign of life, too. generation NO_GENERATION and no
        member: somebody outside the group, allowed while nobody is in it."""
        if generation == NO_GENERATION and not member_id:
            if self.members:
                raise UnknownMemberError(
                    "the group has members, and this is none of them",
                    hint="Commit through a consumer of the group",
                    group=self.group_id,
                )
            return
        member = self.member(member_id, instance_id)
        self._check_generation(member_id, generation)
        member.heard(now.s)
        if self.state == GroupState.COMPLETING:
            raise self._rebalancing()

    def member(self, member_id: str, instance_id: str | None = None) -> Member:
        """The member of this id. Raises UnknownMemberError, FencedInstanceError."""
        if instance_id is not None and instance_id in self.instances and self.instances[instance_id] != member_id:
            raise FencedInstanceError(
                "another member took over the instance id", group=self.group_id, instance_id=instance_id
            )
        member = self.members.get(member_id)
        if member is None:
            raise UnknownMemberError(
                "the group does not know this member",
                hint="Its session ran out, it did not poll for too long, or it left: poll again to join",
                group=self.group_id,
                member=member_id,
            )
        return member

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: Now) -> None:
        """Put out members whose session ended, and end phases whose time is over."""
        for member in list(self.members.values()):
            if member.joining is None and member.deadline_s <= now.s:
                self._remove(member, f"no sign of life for {member.session_timeout_ms / 1000:g} s", now)
        if self.state == GroupState.PREPARING and now.s >= self._deadline_s:
            for member in list(self.members.values()):
                # A static member keeps its place until its session ends: it is expected back (KIP-345).
                if member.joining is None and member.instance_id is None:
                    self._remove(member, "did not join again within the rebalance time-out", now)
            self._try_complete(now, late=True)
        elif self.state == GroupState.PREPARING and now.s >= self._held_until_s:
            self._try_complete(now)
        if self.state == GroupState.COMPLETING and now.s >= self._deadline_s:
            late = [member for member in self.members.values() if not member.synced]
            for member in late:
                self._remove(member, "did not take its assignment within the rebalance time-out", now)
            if not late:  # everybody asked, and the leader with them: only a bug comes here
                self._prepare("the leader assigned nothing", self.leader, now)

    def next_s(self) -> float | None:
        """When `tick` has something to do; None: nothing is due."""
        due = [member.deadline_s for member in self.members.values() if member.joining is None]
        if self.state == GroupState.PREPARING and self._held_until_s:
            due.append(self._held_until_s)
        if self.state in (GroupState.PREPARING, GroupState.COMPLETING):
            due.append(self._deadline_s)
        return min(due, default=None)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _check_protocols(self, join: Join) -> None:
        others = [one for one in self.members.values() if one.member_id != join.member_id]
        common = set(join.protocols).intersection(*(one.protocols for one in others))
        if not common or (others and self.protocol_type not in ("", join.protocol_type)):
            spoken = sorted(set().union(*(one.protocols for one in others))) if others else []
            raise InvalidGroupError(
                "this member and the group have no assignor in common",
                hint=f"The members speak {', '.join(spoken)}" if spoken else "Name at least one protocol",
                group=self.group_id,
                protocols=sorted(join.protocols),
            )

    def _check_generation(self, member_id: str, generation: int) -> None:
        if generation != self.generation:
            raise IllegalGenerationError(
                "this generation of the group is over",
                hint="Its partitions may be another member's: poll to get the new assignment, and go on from there",
                group=self.group_id,
                member=member_id,
                generation=generation,
                current_generation=self.generation,
            )

    def _rebalancing(self) -> RebalanceInProgressError:
        return RebalanceInProgressError(
            "the group is rebalancing", hint="Poll, then try again", group=self.group_id, generation=self.generation
        )

    def _join_new(self, join: Join, now: Now, waiter: Waiter[Joined]) -> Waiter[Joined]:
        if len(self.members) >= self._members_max:
            raise InvalidGroupError("the group is full", group=self.group_id, limit=self._members_max)
        member_id = _new_id(join)
        member = Member(member_id, join.instance_id, "", "", 0, 0, {})
        member.take(join)
        member.heard(now.s)
        self.members[member_id] = member
        if join.instance_id is not None:
            self.instances[join.instance_id] = member_id
        self.protocol_type = join.protocol_type
        self._wait_to_join(member, waiter)
        self._prepare(join.reason or "a member joined", member_id, now)
        self._try_complete(now)
        return waiter

    def _replace_static(self, join: Join, now: Now, waiter: Waiter[Joined]) -> Waiter[Joined]:
        """A static member is back under a new member id: no rebalance if it wants what it wanted (KIP-345, KIP-814)."""
        assert join.instance_id is not None
        old = self.members.pop(self.instances[join.instance_id])
        fenced = FencedInstanceError(
            "another member took over the instance id", group=self.group_id, instance_id=join.instance_id
        )
        self._fail(old, fenced)
        if old.notify is not None:
            self._answers.append(old.notify)
        member_id = _new_id(join)
        member = Member(member_id, join.instance_id, "", "", 0, 0, {}, assignment=old.assignment)
        member.take(join)
        member.heard(now.s)
        self.members[member_id] = member
        self.instances[join.instance_id] = member_id
        if self.leader == old.member_id:
            self.leader = member_id
        if self.state == GroupState.STABLE and dict(old.protocols) == dict(join.protocols) and not join.rebalance:
            self.changed = True
            waiter.answer(Joined(self.generation, member_id, self.leader, self.protocol))
            return waiter
        self._wait_to_join(member, waiter)
        self._prepare(join.reason or "a static member came back and wants something else", member_id, now)
        self._try_complete(now)
        return waiter

    def _wait_to_join(self, member: Member, waiter: Waiter[Joined]) -> None:
        old, member.joining = member.joining, waiter
        if old is not None:
            self._answers.append(lambda: old.answer(None, self._rebalancing()))

    def _prepare(self, reason: str, member_id: str, now: Now) -> None:
        """Begin a rebalance; one that is on already goes on."""
        if self.state == GroupState.PREPARING:
            return
        self.causes.append(Cause(now.ms, self.generation, reason, member_id))
        first = self.state == GroupState.EMPTY
        for member in self.members.values():
            if member.syncing is not None:
                waiter, member.syncing = member.syncing, None
                self._answers.append(lambda waiter=waiter: waiter.answer(None, self._rebalancing()))  # type: ignore[misc]
            if member.joining is None and member.notify is not None:
                self._answers.append(member.notify)
        self._move(GroupState.PREPARING, now)
        longest_ms = max((one.rebalance_timeout_ms for one in self.members.values()), default=0)
        self._deadline_s = now.s + longest_ms / 1000
        self._held_until_s = now.s + self._initial_delay_ms / 1000 if first and self._initial_delay_ms else 0.0

    def _try_complete(self, now: Now, *, late: bool = False) -> None:
        """Begin the next generation if everybody is here. late: static members that are not are waited for no more."""
        if self.state != GroupState.PREPARING or now.s < self._held_until_s:
            return
        missing = [one for one in self.members.values() if one.joining is None]
        if self.members and missing and not (late and len(missing) < len(self.members)):
            if late:
                self._deadline_s = now.s + 1.0  # only static ones are left, and none is here: their sessions decide
            return
        self.generation += 1
        self._held_until_s = 0.0
        if not self.members:
            self.protocol = self.leader = ""
            self._move(GroupState.EMPTY, now)
            self.changed = True
            return
        self.protocol = self._vote()
        if self.leader not in self.members or self.members[self.leader].joining is None:
            self.leader = next(one.member_id for one in self.members.values() if one.joining is not None)
        self._move(GroupState.COMPLETING, now)
        self._deadline_s = now.s + max(one.rebalance_timeout_ms for one in self.members.values()) / 1000
        for member in self.members.values():
            waiter, member.joining = member.joining, None
            member.synced = waiter is None  # a static member that is expected back: nobody waits for it
            if waiter is not None:
                member.heard(now.s)
                self._answer_join(member, waiter)

    def _vote(self) -> str:
        """The protocol that most members prefer among those that all speak; by name where they are even."""
        common = set.intersection(*(set(one.protocols) for one in self.members.values()))
        votes = Counter(next(name for name in one.protocols if name in common) for one in self.members.values())
        return min(common, key=lambda name: (-votes[name], name))

    def _answer_join(self, member: Member, waiter: Waiter[Joined]) -> None:
        everybody: tuple[JoinedMember, ...] = ()
        if member.member_id == self.leader and self.state == GroupState.COMPLETING:
            everybody = tuple(
                JoinedMember(one.member_id, one.instance_id, one.protocols[self.protocol])
                for one in self.members.values()
            )
        joined = Joined(self.generation, member.member_id, self.leader, self.protocol, everybody)
        self._answers.append(lambda: waiter.answer(joined))

    def _answer_sync(self, member: Member) -> None:
        waiter, member.syncing = member.syncing, None
        if waiter is not None:
            synced = Synced(self.generation, self.protocol, member.assignment)
            self._answers.append(lambda: waiter.answer(synced))

    def _remove(self, member: Member, reason: str, now: Now) -> None:
        del self.members[member.member_id]
        if member.instance_id is not None and self.instances.get(member.instance_id) == member.member_id:
            del self.instances[member.instance_id]
        if self.leader == member.member_id:
            self.leader = ""
        gone = UnknownMemberError(f"no member any more: {reason}", group=self.group_id, member=member.member_id)
        self._fail(member, gone)
        if member.notify is not None:
            self._answers.append(member.notify)
        if self.state in (GroupState.STABLE, GroupState.COMPLETING):
            self._prepare(reason, member.member_id, now)
        self._try_complete(now)

    def _fail(self, member: Member, error: MQError) -> None:
        for waiter in (member.joining, member.syncing):
            if waiter is not None:
                self._answers.append(lambda waiter=waiter: waiter.answer(None, error))  # type: ignore[misc]
        member.joining = member.syncing = None

    def _move(self, state: GroupState, now: Now) -> None:
        check_move(self.state, state)
        self.state, self.state_ms = state, now.ms


def _new_id(join: Join) -> str:
    return join.new_id or f"{join.instance_id or join.client_id or 'member'}-{uuid.uuid4()}"
