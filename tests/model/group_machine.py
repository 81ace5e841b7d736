"""A group beside a short model of it: who is in, which generation it is, what each may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import mqcore
from mqcore import errors
from mqcore.clock import ManualClock
from mqcore.groups.states import GroupState, Join, Joined, Synced
from mqcore.groups.waiter import Waiter
from mqcore.types import TopicPartition

SESSION_S, REBALANCE_S = 10, 30
KEY = TopicPartition("t", 0)


@dataclass
class Model:
    """One member. seen_s: its last sign of life. joining, syncing: what it waits for."""

    seen_s: float
    generation: int = -1
    joining: Waiter[Joined] | None = None
    joined: Joined | None = None
    syncing: Waiter[Synced] | None = None
    has: bytes = b""


@dataclass
class Group:
    generation: int = 0
    members: dict[str, Model] = field(default_factory=dict)
    phase: str = "Empty"  # Empty, Preparing, Completing, Stable
    phase_s: float = 0.0
    committed: int | None = None


class GroupMachine(RuleBasedStateMachine):
    """Rules call the coordinator; the model says what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = mqcore.open(":memory:", clock=self.clock, config={"offsets.topic.num.partitions": 1})
        self.store.create_topic("t", 1)
        self.groups = self.store.groups
        self.model = Group()
        self.out: list[str] = []  # ids of members that are out
        self.count = 0

    def teardown(self) -> None:
        self.store.close()

    # -- the model's moves ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.model.phase != "Preparing":
            self.model.phase, self.model.phase_s = "Preparing", self.clock.monotonic_s()

    def _try_complete(self) -> None:
        model = self.model
        if model.phase != "Preparing" or any(one.joining is None for one in model.members.values()):
            return
        model.generation += 1
        model.phase = "Completing" if model.members else "Empty"
        model.phase_s = self.clock.monotonic_s()
        for one in model.members.values():
            assert one.joining is not None
            one.joined, one.joining = one.joining.result(), None
            assert one.joined.generation == model.generation
            one.generation, one.seen_s, one.has = model.generation, self.clock.monotonic_s(), b""
        leaders = [one for one in model.members.values() if one.joined and one.joined.leads]
        assert len(leaders) == (1 if model.members else 0)

    def _remove(self, member: str) -> None:
        gone = self.model.members.pop(member)
        self.out.append(member)
        for waiter in (gone.joining, gone.syncing):
            if waiter is not None:
                assert waiter.done
        if self.model.phase != "Empty":
            self._prepare()
        self._try_complete()

    def _pick(self, data: Any) -> str:
        return data.draw(st.sampled_from(sorted(self.model.members)))

    # -- rules ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.members) < 4)
    @rule()
    def join(self) -> None:
        self.count += 1
        name = f"m{self.count}"
        waiter = self._join("", name)
        self.model.members[name] = Model(self.clock.monotonic_s(), joining=waiter)
        self._prepare()
        self._try_complete()

    def _join(self, member: str, name: str) -> Waiter[Joined]:
        return self.groups.join(
            "g",
            Join(
                protocols={"range": b"x"},
                member_id=member,
                new_id=name,
                session_timeout_ms=SESSION_S * 1000,
                rebalance_timeout_ms=REBALANCE_S * 1000,
                rebalance=True,
            ),
        )

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def join_again(self, data: Any) -> None:
        name = self._pick(data)
        member = self.model.members[name]
        member.joining, member.seen_s, member.syncing = self._join(name, ""), self.clock.monotonic_s(), None
        self._prepare()
        self._try_complete()

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def sync(self, data: Any) -> None:
        name = self._pick(data)
        member = self.model.members[name]
        everybody = {one: one.encode() for one in self.model.members}
        leads = member.joined is not None and member.joined.leads and member.generation == self.model.generation
        call = lambda: self.groups.sync("g", name, member.generation, everybody if leads else {})  # noqa: E731
        if member.generation != self.model.generation:
            self._refused(call, errors.IllegalGenerationError)
        elif self.model.phase == "Preparing":
            self._refused(call, errors.RebalanceInProgressError)
        else:
            member.syncing, member.seen_s = call(), self.clock.monotonic_s()
            if leads and self.model.phase == "Completing":
                self.model.phase = "Stable"
            for one, other in self.model.members.items():
                if self.model.phase == "Stable" and other.syncing is not None:
                    assert other.syncing.result().assignment == one.encode()
                    other.has, other.syncing = one.encode(), None
            assert self.model.phase == "Stable" or not member.syncing.done  # type: ignore[union-attr]

    @rule(data=st.data(), offset=st.integers(0, 99), age=st.integers(0, 2))
    def commit(self, data: Any, offset: int, age: int) -> None:
        """As a member, of its generation or an older one; as one that is out; or from outside."""
        name = data.draw(st.sampled_from([*sorted(self.model.members), *self.out[-2:], ""]))
        model = self.model
        generation = -1 if not name else max(-1, (model.members[name].generation if name in model.members else 1) - age)
        call = lambda: self.groups.commit_offsets("g", {KEY: offset}, member_id=name, generation=generation)  # noqa: E731
        if name not in model.members and (name or model.members):
            self._refused(call, errors.UnknownMemberError)
        elif name and generation != model.generation:
            self._refused(call, errors.IllegalGenerationError)
        elif name and model.phase == "Completing":
            self._refused(call, errors.RebalanceInProgressError)
            model.members[name].seen_s = self.clock.monotonic_s()
        else:
            call()
            model.committed = offset
            if name:
                model.members[name].seen_s = self.clock.monotonic_s()

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def heartbeat(self, data: Any) -> None:
        name = self._pick(data)
        member = self.model.members[name]
        call = lambda: self.groups.heartbeat("g", name, member.generation)  # noqa: E731
        if member.generation != self.model.generation:
            self._refused(call, errors.IllegalGenerationError)
            return
        if self.model.phase == "Preparing":
            self._refused(call, errors.RebalanceInProgressError)
        else:
            call()
        member.seen_s = self.clock.monotonic_s()

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        name = self._pick(data)
        self.groups.leave("g", name)
        self._remove(name)

    @rule(seconds=st.sampled_from([1, 4, 11, 31]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.groups.tick()
        now, model = self.clock.monotonic_s(), self.model
        for name, one in list(model.members.items()):
            if name in model.members and one.joining is None and one.seen_s + SESSION_S <= now:
                self._remove(name)
        if model.phase == "Preparing" and now >= model.phase_s + REBALANCE_S:
            for name, one in list(model.members.items()):
                if one.joining is None:
                    self._remove(name)
            self._try_complete()

    @rule()
    def reopen(self) -> None:
        """The coordinator of another process: members are gone, offsets and generation are not."""
        from mqcore.groups.coordinator import Coordinator

        fresh = Coordinator(self.store.log)
        fresh.topic = self.groups.topic  # one view a store
        fresh._made = True
        found = fresh.fetch_offsets("g")
        assert (found[KEY].offset if found else None) == self.model.committed

    def _refused(self, call: Any, expected: type[errors.MQError]) -> None:
        try:
            call()
        except expected:
            return
        raise AssertionError(f"not refused with {expected.__name__}")

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_group_is_as_the_model_has_it(self) -> None:
        group = self.groups.in_memory("g")
        if group is None:
            return
        machine, model = group.machine, self.model
        names = {
            GroupState.EMPTY: "Empty",
            GroupState.PREPARING: "Preparing",
            GroupState.COMPLETING: "Completing",
            GroupState.STABLE: "Stable",
        }
        assert names[machine.state] == model.phase
        assert set(machine.members) == set(model.members)
        assert machine.generation == model.generation
        found = self.groups.fetch_offsets("g")
        assert (found[KEY].offset if found else None) == model.committed
