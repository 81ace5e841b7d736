"""T15: members of a group join, leave, stall and die every few milliseconds, in threads of one process, while they read and
commit; zombies commit as what they no longer are.

One store, one topic that grows meanwhile, one group an assignor. Every member notes what it was handed and in which
generation; the judge looks at the group after every event. Checked:
    I10  committed offsets and a member's positions never go back within an ownership
    I11  no record is skipped: an ownership begins at the committed offset and goes on without a gap; at the end everything
         was handed to somebody
    I12  committed offset <= first record that nobody has processed
    I16  a commit of a generation that is over is refused, whoever makes it
    I21  in a generation a partition is one member's: as the leader assigned, and as records were handed out
    I22  when the storm is over every partition has an owner within session time-out + rebalance time-out
A record that is processed twice is no violation: the group promises at least once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mqcore
from mqcore import errors
from mqcore.groups.assignors import ASSIGNORS
from mqcore.groups.protocol import parse_assignment
from mqcore.groups.states import GroupState
from mqcore.torture.attack import workplace
from mqcore.torture.report import Report
from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.client.group_consumer import GroupConsumer

TOPIC, PARTITIONS = "storm", 6
SESSION_S, MAX_POLL_S = 0.3, 0.6
SLACK_S = 10.0  # of a machine that does other things too
MEMBERS = 5
EVENT_S = (0.0, 0.008)
_STORE = {"offsets.topic.num.partitions": 2, "maintenance.interval.ms": 200}
# What a member must expect of its group in a storm.
_EXPECTED = (
    errors.UnknownMemberError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.FencedInstanceError,
)


@dataclass
class _Judge:
    """What all members saw of one group. `lock` guards all of it."""

    store: Any
    group: str
    report: Report
    lock: threading.Lock = field(default_factory=threading.Lock)
    owners: dict[tuple[int, int], str] = field(default_factory=dict)  # (partition, generation) -> member
    processed: dict[int, set[int]] = field(default_factory=dict)  # partition -> offsets at or above the prefix
    prefix: Counter[int] = field(default_factory=Counter)  # partition -> all below it are processed
    committed: Counter[int] = field(default_factory=Counter)
    commits: int = 0

    def violate(self, invariant: str, sentence: str) -> None:
        self.report.violate(invariant, f"{sentence} [{self.group}]")

    def handed(self, member: str, generation: int, partition: int, offsets: list[int]) -> None:
        """A member was handed these records and has processed them."""
        with self.lock:
            owner = self.owners.setdefault((partition, generation), member)
            if owner != member:
                self.violate("I21", f"{TOPIC}-{partition} was handed out to two members in generation {generation}")
            seen = self.processed.setdefault(partition, set())
            for offset in offsets:
                self.report.read += 1
                if offset < self.prefix[partition] or offset in seen:
                    self.report.duplicated += 1
                else:
                    seen.add(offset)
            while self.prefix[partition] in seen:
                seen.discard(self.prefix[partition])
                self.prefix[partition] += 1

    def look(self) -> None:
        """The group as it is now."""
        offsets = self.store.groups.fetch_offsets(self.group)
        with self.lock:
            for key, found in offsets.items():
                if found.offset > self.prefix[key.partition]:
                    self.violate(
                        "I12", f"{key.partition}: committed {found.offset}, processed {self.prefix[key.partition]}"
                    )
                if found.offset < self.committed[key.partition]:
                    self.violate(
                        "I10", f"{key.partition}: committed {self.committed[key.partition]}, then {found.offset}"
                    )
                self.committed[key.partition] = max(self.committed[key.partition], found.offset)
        group = self.store.groups.in_memory(self.group)
        if group is None:
            return
        with group.lock:
            machine = group.machine
            assigned = [parse_assignment(one.assignment) for one in machine.members.values()]
            stable, generation = machine.state == GroupState.STABLE, machine.generation
        counts = Counter(key for partitions in assigned for key in partitions)
        for key, count in counts.items() if stable else ():
            if count > 1:
                self.violate("I21", f"{key.partition} is assigned to {count} members in generation {generation}")


class _Member(threading.Thread):
    """A user's thread with a consumer: polls or iterates, processes, commits now and then."""

    def __init__(self, judge: _Judge, assignor: str, rng: random.Random, number: int) -> None:
        super().__init__(name=f"member-{number}", daemon=True)
        self._judge, self._assignor, self._rng = judge, assignor, rng
        self._static = f"static-{number % 3}" if rng.random() < 0.15 else None
        self._by_record = rng.random() < 0.3
        self.go_on, self.ends = threading.Event(), threading.Event()
        self.go_on.set()
        self.dies = False
        self.consumer: GroupConsumer | None = None
        self._next: dict[int, int] = {}  # partition -> offset of the next record, while it is ours

    def run(self) -> None:
        judge = self._judge
        try:
            self.consumer = judge.store.consumer(
                TOPIC,
                group=judge.group,
                assignor=self._assignor,
                group_instance_id=self._static,
                session_timeout_s=SESSION_S,
                max_poll_interval_s=MAX_POLL_S,
                on_assigned=self._assigned,
                on_revoked=self._revoked,
                on_lost=lambda _, gone: self._forget(gone),
            )
            while not self.ends.is_set():
                self.go_on.wait()
                self._read(self.consumer)
        except (errors.FencedInstanceError, errors.StoreClosedError):
            pass  # another one took its instance id, or the storm is over
        except Exception as error:
            judge.violate("I3", f"a member died of {type(error).__name__}: {error}")
        finally:
            if self.consumer is not None and not self.dies:
                self.consumer.close()

    def _read(self, consumer: GroupConsumer) -> None:
        if self._by_record:
            stop = self._rng.randrange(1, 200)
            # It ends by itself now and then: an iteration that follows waits for ever.
            for batch in consumer.batches(self._rng.randrange(1, 20), timeout_s=0.02):
                self._handed(consumer, batch.partition, batch.offsets.tolist())
                stop -= 1
                if stop <= 0 or self.ends.is_set() or not self.go_on.is_set():
                    break
        else:
            for batch in consumer.poll(0.02, max_records=self._rng.randrange(1, 200)):
                self._handed(consumer, batch.partition, batch.offsets.tolist())
        if self._rng.random() < 0.5:
            self._commit(consumer)

    def _handed(self, consumer: GroupConsumer, partition: int, offsets: list[int]) -> None:
        expected = self._next.get(partition)
        if expected is None:
            self._judge.violate("I21", f"a record of {partition}, which was not assigned")
        elif offsets != list(range(expected, expected + len(offsets))):
            self._judge.violate("I11", f"{partition}: expected {expected} on, got {offsets[:3]} … {offsets[-1]}")
        self._next[partition] = offsets[-1] + 1
        member = consumer.group_metadata()
        # A static member that comes back goes on in its generation: to the group it is the same one.
        self._judge.handed(member.instance_id or member.member_id, member.generation, partition, offsets)

    def _commit(self, consumer: GroupConsumer) -> None:
        try:
            consumer.commit()
            self._judge.commits += 1
        except _EXPECTED:
            self._judge.report.notes["commits_refused"] = self._judge.report.notes.get("commits_refused", 0) + 1

    def _assigned(self, consumer: GroupConsumer, added: list[TopicPartition]) -> None:
        committed = consumer.committed(*added)
        for key in added:
            begins = consumer.position(key)
            if begins != (committed[key] or 0):
                # Commits of others are refused from our generation on, so nothing moves in between.
                self._judge.violate("I11", f"{key.partition} begins at {begins}, committed is {committed[key]}")
            self._next[key.partition] = begins

    def _revoked(self, consumer: GroupConsumer, gone: list[TopicPartition]) -> None:
        if self._rng.random() < 0.7:
            self._commit(consumer)
        self._forget(gone)

    def _forget(self, gone: list[TopicPartition]) -> None:
        for key in gone:
            self._next.pop(key.partition, None)

    def stall(self) -> None:
        """Neither poll nor heartbeat until `go_on` is set."""
        self.go_on.clear()
        if self.consumer is not None:
            self.consumer._membership.suspended = True

    def wake(self) -> None:
        if self.consumer is not None:
            self.consumer._membership.suspended = False
        self.go_on.set()

    def die(self) -> None:
        """End without a word: no close, no heartbeat."""
        self.dies = True
        self.stall()
        self.ends.set()
        self.go_on.set()


class _Storm:
    """One group under attack."""

    def __init__(self, store: Any, assignor: str, rng: random.Random, report: Report) -> None:
        self._store, self._assignor, self._rng, self._report = store, assignor, rng, report
        self._judge = _Judge(store, f"storm-{assignor}", report)
        self._members: list[_Member] = []
        self._stalled: list[_Member] = []
        self._gone: list[_Member] = []
        self._old: list[tuple[str, int]] = []  # (member id, generation) that were once
        self._count = 0

    def _join(self) -> None:
        self._count += 1
        member = _Member(self._judge, self._assignor, random.Random(self._rng.random()), self._count)
        self._members.append(member)
        member.start()

    def event(self) -> None:
        """One fault, and one attempt of a zombie."""
        living = len(self._members)
        kinds = ["join"] * max(0, MEMBERS - living) + (["leave", "stall", "die"] if living > 1 else [])
        kind = self._rng.choice(kinds + ["wake"] * len(self._stalled))
        if kind == "join":
            self._join()
        elif kind == "wake":
            member = self._stalled.pop(0)
            member.wake()
            self._members.append(member)
        else:
            member = self._members.pop(self._rng.randrange(living))
            self._remember(member)
            if kind == "stall":
                member.stall()
                self._stalled.append(member)
            elif kind == "die":
                member.die()
                self._gone.append(member)
            else:
                member.ends.set()
                self._gone.append(member)
        self._report.faults_injected[kind] += 1
        self._zombie()
        self._judge.look()

    def _remember(self, member: _Member) -> None:
        if member.consumer is not None:
            who = member.consumer.group_metadata()
            if who.member_id:  # without one it would be a commit from outside, which an empty group takes
                self._old = [*self._old[-20:], (who.member_id, who.generation)]

    def _zombie(self) -> None:
        """Commit as somebody of a generation that is over. It only rises, so no refusal can be by chance."""
        group = self._store.groups.in_memory(self._judge.group)
        if group is None:
            return
        with group.lock:
            current, living = group.machine.generation, list(group.machine.members)
            at = {key: one.offset for key, one in group.offsets.items()}
        old = [(who, generation) for who, generation in self._old if generation < current]
        old += [(who, current - 1) for who in living]
        if not old or not at:
            return
        who, generation = self._rng.choice(old)
        key = self._rng.choice(sorted(at))
        try:
            self._store.groups.commit_offsets(self._judge.group, {key: at[key]}, member_id=who, generation=generation)
        except (errors.UnknownMemberError, errors.IllegalGenerationError):
            self._report.notes["zombies_refused"] = self._report.notes.get("zombies_refused", 0) + 1
        except errors.MQError as error:
            self._judge.violate("I16", f"a zombie was told {type(error).__name__}")
        else:
            self._judge.violate("I16", f"a commit of generation {generation} went through, {current} is current")

    def end(self, expected: int) -> None:
        """The storm is over: two members stay, everything finds an owner and is read to its end."""
        for member in self._stalled:
            member.wake()
        self._members += self._stalled
        while len(self._members) < 2:
            self._join()
        leaving, self._members = self._members[2:], self._members[:2]
        for member in leaving:
            member.ends.set()
        if all(not member.is_alive() for member in self._members):  # fenced by those that came later
            self._join()
        began = time.monotonic()
        deadline = began + SESSION_S + MAX_POLL_S + SLACK_S
        while not self._owned() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._owned():
            self._report.recovery_s.append(time.monotonic() - began)
        else:
            self._judge.violate("I22", f"not all partitions have an owner after {deadline - began:.1f} s")
        while sum(self._judge.prefix.values()) < expected and time.monotonic() < deadline + SLACK_S:
            time.sleep(0.01)
        self._judge.look()
        lost = expected - sum(self._judge.prefix.values())
        if lost:
            self._report.lost += lost
            self._judge.violate("I11", f"{lost} of {expected} records were handed to nobody")
        for member in self._members:
            member.ends.set()
        for member in [*self._members, *leaving, *self._gone]:
            member.join(SLACK_S)
            if member.is_alive():
                self._judge.violate("I22", f"{member.name} hangs")
        self._report.acked += self._judge.commits

    def _owned(self) -> bool:
        keys = [key for one in self._members if one.consumer for key in one.consumer.assignment]
        return len(set(keys)) == PARTITIONS


def _feed(store: Any, stop: threading.Event, sent: list[int]) -> None:
    """Records for all partitions, as long as the storm lasts."""
    with store.producer(linger_ms=1) as producer:
        while not stop.is_set():
            for partition in range(PARTITIONS):
                producer.send_many(TOPIC, [b"x"] * 5, partition=partition)
                sent[0] += 5
            producer.flush()
            time.sleep(0.005)


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "os") -> Report:
    """`faults` events, shared out among the assignors; each with a zombie's commit."""
    report = Report("rebalance-storm", seed, durability=durability, usual_durability="os", faults_wanted=faults)
    names = list(ASSIGNORS)
    done = 0
    with workplace() as place:
        for number, assignor in enumerate(names):
            rng = random.Random(seed * 1_000_003 + number)
            with mqcore.open(place / assignor, durability=durability, config=_STORE) as store:
                store.create_topic(TOPIC, PARTITIONS)
                stop, sent = threading.Event(), [0]
                feeder = threading.Thread(target=_feed, args=(store, stop, sent), daemon=True)
                feeder.start()
                storm = _Storm(store, assignor, rng, report)
                for _ in range((faults + len(names) - 1 - number) // len(names)):
                    storm.event()
                    time.sleep(rng.uniform(*EVENT_S))
                    done += 1
                    progress(done)
                stop.set()
                feeder.join()
                storm.end(sent[0])
    return report
