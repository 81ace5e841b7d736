"""A consumer's membership in its group: join, sync, heartbeat. It never runs the user's code and never waits.

Invariants:
    1. Joining begins in the user's thread only, when it has given up what it must (see group_consumer.py). Everything
       after that, the leader's assigning included, happens in whatever thread answers: a slow user delays only its own
       joining, never the others' new assignment.
    2. `attention` is set whenever the user's thread has something to do here; it is cleared before looking, never after.
    3. An answer to an attempt that is over changes nothing.
Lock: `_lock` guards the fields; a leaf: the coordinator is called without it, as its answers come back here.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
import weakref
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from mqcore.errors import (
    FencedInstanceError,
    IllegalGenerationError,
    MQError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from mqcore.groups.assignors import Assignor, Candidate
from mqcore.groups.classic import NO_GENERATION
from mqcore.groups.coordinator import Coordinator
from mqcore.groups.protocol import format_assignment, format_subscription, parse_assignment, parse_subscription
from mqcore.groups.states import Join, Joined, JoinedMember, Synced
from mqcore.groups.waiter import Waiter
from mqcore.types import TopicPartition


class GroupMetadata(NamedTuple):
    """Who commits: what a transaction needs to have offsets fenced by generation (KIP-447)."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None


class Phase(Enum):
    OUT = "out"  # must join
    JOINING = "joining"  # waits for the generation to begin
    SYNCING = "syncing"  # waits for its assignment
    IN = "in"


class Watched:
    """What a membership asks of its consumer."""

    def _interrupt(self) -> None:
        """Something happened: end a running iteration over records that were decoded ahead."""

    def _overdue(self) -> str:
        """Why the consumer counts as stuck, "" if it does not."""
        return ""

    def _look_at_topics(self) -> None:
        """Notice topics and partitions that are new or gone."""


class Membership:
    """See the module. One a consumer."""

    def __init__(
        self,
        coordinator: Coordinator,
        group: str,
        assignor: Assignor,
        owner: Watched,
        *,
        client_id: str,
        instance_id: str | None,
        session_timeout_s: float,
        rebalance_timeout_s: float,
    ) -> None:
        self.coordinator, self.group, self.assignor = coordinator, group, assignor
        self.instance_id, self._client_id = instance_id, client_id
        self.session_timeout_s, self._rebalance_timeout_s = session_timeout_s, rebalance_timeout_s
        self._owner: weakref.ref[Watched] = weakref.ref(owner)  # weakly: one that nobody holds any more leaves
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._attempt = 0
        self._wanted = "the consumer began to read"  # why to join (again); "": no need
        self._forced = False
        self.phase = Phase.OUT
        self.member_id, self.generation = "", NO_GENERATION
        self.attention = True
        self.suspended = False  # heartbeats stopped: tests and torture
        self.fresh: tuple[TopicPartition, ...] | None = None  # an assignment that the user's thread has not taken yet
        self.lost: MQError | None = None  # why the membership ended without our doing
        self.fatal: MQError | None = None

    # -- the user's thread --------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> GroupMetadata:
        with self._lock:
            return GroupMetadata(self.group, self.generation, self.member_id, self.instance_id)

    @property
    def must_join(self) -> bool:
        with self._lock:
            return bool(self._wanted) and self.phase != Phase.JOINING

    @property
    def rebalance_timeout_s(self) -> float:
        return self._rebalance_timeout_s

    def join(self, topics: Iterable[str], owned: Iterable[TopicPartition]) -> None:
        """Join, or join again. owned: what is kept (cooperative), or was had until now (eager)."""
        with self._lock:
            self._attempt += 1
            attempt, reason, forced = self._attempt, self._wanted, self._forced
            subscription = self.assignor.subscription(tuple(sorted(topics)), tuple(owned), self.generation)
            member_id, new_id = self.member_id, f"{self.instance_id or self._client_id}-{uuid.uuid4()}"
            self._wanted, self._forced, self.fresh, self.phase = "", False, None, Phase.JOINING
        join = Join(
            protocols={self.assignor.name: format_subscription(subscription)},
            member_id=member_id,
            new_id=new_id,
            instance_id=self.instance_id,
            client_id=self._client_id,
            session_timeout_ms=int(self.session_timeout_s * 1000),
            rebalance_timeout_ms=int(self._rebalance_timeout_s * 1000),
            reason=reason,
            rebalance=forced,
            notify=self.beat,
        )
        if not member_id:
            with self._lock:
                self.member_id = new_id
        try:
            waiter = self.coordinator.join(self.group, join)
        except (UnknownMemberError, FencedInstanceError) as error:
            self._failed(attempt, error)
            return
        except BaseException:
            with self._lock:  # the store is closed, or the group refuses: try again when asked again
                self.phase, self._wanted, self.member_id = Phase.OUT, reason, member_id
            raise
        waiter.on_done(lambda done: self._joined(attempt, done))

    def want(self, reason: str, *, forced: bool = False) -> None:
        """Join again at the next chance. forced: a rebalance must come of it."""
        with self._lock:
            self._wanted = self._wanted or reason
            self._forced |= forced
            self.attention = True

    def taken(self, assignment: tuple[TopicPartition, ...]) -> None:
        """The user's thread has taken an assignment over."""
        with self._lock:
            if self.fresh is assignment:
                self.fresh = None

    def forget(self) -> None:
        """Begin anew, as another member: the old one was put out."""
        with self._lock:
            self.lost = None
            self.member_id, self.generation, self.phase = "", NO_GENERATION, Phase.OUT
            self._wanted = self._wanted or "the consumer came back"

    def leave(self, reason: str, *, lost: bool = False) -> None:
        """Leave the group, for good or (lost) until the user's thread joins again. Who is out already: nothing.

        A static member stays: it is expected back, and its session decides (KIP-345).
        """
        with self._lock:
            self._attempt += 1  # answers that come now are nobody's
            member_id, was = self.member_id, self.phase
            self.phase = Phase.OUT
            if lost:
                self.lost = UnknownMemberError(f"left the group: {reason}", group=self.group, member=member_id)
                self.attention = True
            self._settled.notify_all()
        if member_id and was != Phase.OUT and (self.instance_id is None or lost):
            with contextlib.suppress(UnknownMemberError, FencedInstanceError):  # it was put out meanwhile
                self.coordinator.leave(self.group, member_id, reason, self.instance_id)

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until no join or sync is under way; whether it came to that."""
        with self._lock:
            return self._settled.wait_for(lambda: self.phase in (Phase.IN, Phase.OUT), timeout_s)

    # -- answers, in any thread -----------------------------------------------------------------------------------------

    def _joined(self, attempt: int, waiter: Waiter[Joined]) -> None:
        try:
            joined = waiter.result()
        except MQError as error:
            self._failed(attempt, error)
            return
        with self._lock:
            if attempt != self._attempt:
                return
            self.member_id, self.generation, self.phase = joined.member_id, joined.generation, Phase.SYNCING
        try:
            assignments = self._assign(joined.members) if joined.leads else {}
            synced = self.coordinator.sync(
                self.group, joined.member_id, joined.generation, assignments, self.instance_id
            )
        except MQError as error:
            self._failed(attempt, error)
            return
        synced.on_done(lambda done: self._synced(attempt, done))

    def _assign(self, members: tuple[JoinedMember, ...]) -> dict[str, bytes]:
        """What the leader decides for everybody."""
        candidates = [Candidate(one.member_id, parse_subscription(one.metadata), one.instance_id) for one in members]
        there = self.coordinator.store.topics()
        wanted = {topic for one in candidates for topic in one.subscription.topics}
        counts = {topic: there[topic].partitions for topic in wanted if topic in there}
        assigned = self.assignor.assign(counts, candidates)
        return {member_id: format_assignment(partitions) for member_id, partitions in assigned.items()}

    def _synced(self, attempt: int, waiter: Waiter[Synced]) -> None:
        try:
            assignment = parse_assignment(waiter.result().assignment)
        except MQError as error:
            self._failed(attempt, error)
            return
        with self._lock:
            if attempt != self._attempt:
                return
            self.phase, self.fresh, self.attention = Phase.IN, assignment, True
            self._settled.notify_all()
        self._tell()

    def _failed(self, attempt: int, error: MQError) -> None:
        with self._lock:
            if attempt != self._attempt:
                return
            self._note(error)
        self._tell()

    def _note(self, error: MQError) -> None:
        """What an error means for the membership. The lock is held."""
        if isinstance(error, RebalanceInProgressError):
            self._wanted = self._wanted or "the group rebalances"
            if self.phase != Phase.IN:
                self.phase = Phase.OUT
        elif isinstance(error, FencedInstanceError):
            self.phase, self.fatal = Phase.OUT, error
        elif isinstance(error, UnknownMemberError | IllegalGenerationError):
            self.phase, self.lost = Phase.OUT, error
        else:  # the store fails or closes: the next poll says so
            self.phase, self._wanted = Phase.OUT, self._wanted or "joining failed"
        self.attention = True
        self._settled.notify_all()

    def _tell(self) -> None:
        owner = self._owner()
        if owner is not None:
            owner._interrupt()

    # -- the heartbeat thread -------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Tell the coordinator that we are alive, and learn how the group is. Also called when it rebalances."""
        with self._lock:
            attempt, member_id, generation, phase = self._attempt, self.member_id, self.generation, self.phase
        if self.suspended or phase not in (Phase.SYNCING, Phase.IN):
            return
        try:
            self.coordinator.heartbeat(self.group, member_id, generation, self.instance_id)
            return
        except MQError as error:
            with self._lock:
                if attempt != self._attempt or generation != self.generation:
                    return  # it went on meanwhile
                if isinstance(error, RebalanceInProgressError):
                    self._wanted = self._wanted or "the group rebalances"
                    self.attention = True
                else:
                    self._note(error)
        self._tell()
        self.coordinator.wake(self.group)

    def look_after(self) -> bool:
        """One look of the heartbeat thread; False: there is nobody any more."""
        owner = self._owner()
        if owner is None:
            self.leave("its consumer is gone and was not closed")
            return False
        stuck = owner._overdue()
        if stuck and self.phase != Phase.OUT:
            self.leave(stuck, lost=True)
            self._tell()
        owner._look_at_topics()
        self.beat()
        return True
