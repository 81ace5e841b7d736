"""Transactions of a whole store beside a short model: what each partition, the state and the group hold, and who may go on.

The model has one list of entries a partition, in the order of their appends; an entry is seen by read_committed if it has no
transaction or a committed one, and no open transaction has an entry before it. State and offsets are dicts that a commit
updates. What a transaction has sent and not yet appended is nowhere. A crash ends every open transaction.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqcore import errors
from mqcore.testing import open_store
from mqcore.testing.clock import DrivenClock
from mqcore.testing.stores import kill
from mqcore.types import IsolationLevel, TopicPartition
from tests.model.log_machine import FAST_DIRECTORY

Pair = tuple[bytes | None, bytes | None]  # key and value of a record

PLAIN, COMPACTED = "plain", "compacted"
PARTITIONS = [TopicPartition(PLAIN, 0), TopicPartition(PLAIN, 1), TopicPartition(COMPACTED, 0)]
GROUP, STATE = "g", "s"
TIMEOUT_S = 60
CONFIG = {"segment.bytes": 2000}
COMPACT = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0, "delete.retention.ms": 0, **CONFIG}

NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.sampled_from(PARTITIONS)
KEYS = st.sampled_from([b"k0", b"k1", b"k2", b"k3"])
STATE_KEYS = st.sampled_from([b"k0", b"k1"])
LOST = (errors.ProducerFencedError, errors.TransactionTimedOutError)


@dataclass(eq=False)
class Tx:
    """One transaction. handle: the real one. changes, offsets: what its commit updates.

    saw: keys of the state that it read or wrote. since: how many commits of the state it has seen; None: it has not looked.
    """

    handle: Any
    deadline_s: float
    outcome: bool | None = None
    waiting: list[tuple[TopicPartition, Pair]] = field(default_factory=list)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    saw: set[bytes] = field(default_factory=set)
    since: int | None = None


class TransactionMachine(RuleBasedStateMachine):
    """Rules do the same to the store and to the model, and know which calls are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="mqcore-model-", dir=FAST_DIRECTORY))
        self.path, self.opens, self.count = self.root / "0", 0, 0
        self.clock = DrivenClock()
        self.log: dict[TopicPartition, list[tuple[Pair, Tx | None]]] = {place: [] for place in PARTITIONS}
        self.state: dict[bytes, bytes] = {}
        self.state_commits: list[set[bytes]] = []  # the keys of each
        self.offsets: dict[TopicPartition, int] = {}
        self.open_ones: dict[str, Tx] = {}
        self.lost: list[Tx] = []  # fenced or timed out, and not told yet
        self._open()
        self.store.create_topic(PLAIN, 2, CONFIG)
        self.store.create_topic(COMPACTED, 1, COMPACT)

    def teardown(self) -> None:
        self.store.abandon()
        shutil.rmtree(self.root, ignore_errors=True)

    def _open(self) -> None:
        config = {"offsets.topic.num.partitions": 1, "transaction.state.log.num.partitions": 1}
        self.store = open_store(self.path, clock=self.clock, durability="os", config=config)
        self.store.log._maintenance.stop()  # its work is a rule here: an example must run the same way twice
        self.producer = self.store.producer()

    def _new_pair(self, key: bytes, *, tombstone: bool = False) -> Pair:
        self.count += 1
        return key, None if tombstone else b"value %d" % self.count

    def _tx(self, name: str) -> Tx:
        """The open transaction of a name; a new one, if there is none."""
        if name not in self.open_ones:
            handle = self.store.transaction(name, timeout_s=TIMEOUT_S)
            self.open_ones[name] = Tx(handle, self.clock.monotonic_s() + TIMEOUT_S)
        return self.open_ones[name]

    def _end(self, name: str, *, committed: bool) -> Tx:
        tx = self.open_ones.pop(name)
        tx.outcome = committed
        tx.waiting.clear()
        return tx

    # -- what users do ----------------------------------------------------------------------------------------------

    @rule(place=PLACES, key=KEYS, tombstone=st.booleans())
    def send_plainly(self, place: TopicPartition, key: bytes, tombstone: bool) -> None:
        pair = self._new_pair(key, tombstone=tombstone)
        self.producer.send(place.topic, pair[1], pair[0], partition=place.partition).result()
        self.log[place].append((pair, None))

    @rule(offset=st.integers(0, 99), place=PLACES)
    def commit_offset_plainly(self, offset: int, place: TopicPartition) -> None:
        self.store.groups.commit_offsets(GROUP, {place: offset})
        self.offsets[place] = offset

    @rule(name=NAMES)
    def begin(self, name: str) -> None:
        """Whoever has the name already is fenced."""
        if name in self.open_ones:
            self.lost.append(self._end(name, committed=False))
        self._tx(name)

    @rule(name=NAMES, places=st.lists(PLACES, min_size=1, max_size=4), key=KEYS, tombstone=st.booleans())
    def send(self, name: str, places: list[TopicPartition], key: bytes, tombstone: bool) -> None:
        tx = self._tx(name)
        for place in places:
            pair = self._new_pair(key, tombstone=tombstone)
            tx.handle.send(place.topic, pair[1], pair[0], partition=place.partition)
            tx.waiting.append((place, pair))

    @rule(name=NAMES)
    def append(self, name: str) -> None:
        """As when chunks are full: the records are in the log, before the outcome is known."""
        tx = self._tx(name)
        tx.handle._sender.append_all()
        self._appended(tx)

    def _appended(self, tx: Tx) -> None:
        for place, pair in tx.waiting:
            self.log[place].append((pair, tx))
        tx.waiting.clear()

    @rule(name=NAMES, key=STATE_KEYS)
    def put(self, name: str, key: bytes) -> None:
        """Without a read before."""
        tx, value = self._looking(name), self._new_pair(key)[1]
        tx.handle.state(STATE)[key] = value
        tx.saw.add(key)
        tx.changes[key] = value

    @rule(name=NAMES, key=STATE_KEYS)
    def pop(self, name: str, key: bytes) -> None:
        """A read, and a change if there is something."""
        tx = self._looking(name)
        self._read(name, tx, key)
        if tx.outcome is None:
            there = tx.changes[key] if key in tx.changes else self.state.get(key)
            assert tx.handle.state(STATE).pop(key) == there
            if there is not None:
                tx.changes[key] = None

    @rule(name=NAMES, key=STATE_KEYS)
    def get(self, name: str, key: bytes) -> None:
        self._read(name, self._looking(name), key)

    def _looking(self, name: str) -> Tx:
        tx = self._tx(name)
        tx.handle.state(STATE)
        if tx.since is None:
            tx.since = len(self.state_commits)
        return tx

    def _conflicts(self, tx: Tx) -> bool:
        return tx.since is not None and any(tx.saw & keys for keys in self.state_commits[tx.since :])

    def _read(self, name: str, tx: Tx, key: bytes) -> None:
        """Its own change, or what is committed now; refused if what it saw has changed: then its user aborts it."""
        read = lambda: tx.handle.state(STATE).get(key)  # noqa: E731
        if key in tx.changes:
            assert read() == tx.changes[key]
        elif self._conflicts(tx):
            _refused(read, errors.StateConflictError)
            self.abort(name)
        else:
            assert read() == self.state.get(key)
            tx.saw.add(key)
            tx.since = len(self.state_commits)

    @rule(name=NAMES, place=PLACES, offset=st.integers(0, 99))
    def commit_offset(self, name: str, place: TopicPartition, offset: int) -> None:
        tx = self._tx(name)
        tx.handle.commit_offsets({place: offset}, group=GROUP)
        tx.offsets[place] = offset

    @rule(name=NAMES)
    def commit(self, name: str) -> None:
        tx = self._tx(name)
        self._appended(tx)
        if self._conflicts(tx):
            _refused(tx.handle.commit, errors.StateConflictError)
            self._end(name, committed=False)
            return
        tx.handle.commit()
        self._end(name, committed=True)
        self.offsets.update(tx.offsets)
        if tx.changes:
            self.state_commits.append(set(tx.changes))
        for key, value in tx.changes.items():
            self.state.pop(key, None)
            if value is not None:
                self.state[key] = value

    @rule(names=st.permutations(["a", "b", "c"]), key=STATE_KEYS, reads=st.booleans())
    def race(self, names: list[str], key: bytes, reads: bool) -> None:
        """Two see a key, one of them changes it first; the other has offsets that are on their way before it loses."""
        self.commit_offset(names[1], PARTITIONS[0], 50)
        for name in names[:2]:
            self.get(name, key) if reads else self.put(name, key)
        self.put(names[0], key)
        self.commit(names[0])
        self.commit(names[1])

    @rule(name=NAMES)
    def abort(self, name: str) -> None:
        self._tx(name).handle.abort()
        self._end(name, committed=False)

    @precondition(lambda self: self.lost)
    @rule(
        data=st.data(), call=st.sampled_from(["send", "append", "state", "put", "offsets", "commit", "abort"]), key=KEYS
    )
    def zombie(self, data: Any, call: str, key: bytes) -> None:
        """One that lost its transaction calls on. It may abort, which does nothing; everything else is refused."""
        tx = self.lost[data.draw(st.integers(0, len(self.lost) - 1))]
        handle = tx.handle
        if call == "abort":
            handle.abort()
        elif call == "send":
            _refused(lambda: handle.send(PLAIN, b"from a zombie", key, partition=0), *LOST)
        elif call == "append" and handle._sender is not None:
            with suppress(*LOST):  # if there was something to append
                handle._sender.append_all()
        elif call == "put" and tx.since is not None:
            _refused(lambda: handle.state(STATE).update({key: b"from a zombie"}), errors.InvalidTransactionStateError)
        elif call == "state" and tx.since is None:
            _refused(lambda: handle.state(STATE), *LOST)
        elif call == "offsets":
            _refused(lambda: handle.commit_offsets({PARTITIONS[0]: 1000}, group=GROUP), *LOST)
        elif call == "commit":
            _refused(handle.commit, *LOST, errors.TransactionAbortedError)

    # -- what happens to a store ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 25, 61]))
    def time_passes(self, seconds: int) -> None:
        """Transactions past their time are aborted; a pass of maintenance."""
        self.clock.advance(seconds)
        for name, tx in list(self.open_ones.items()):
            if tx.deadline_s <= self.clock.monotonic_s():
                self.lost.append(self._end(name, committed=False))

    @rule()
    def maintain(self) -> None:
        """Seals, compaction, checkpoints, commits of views."""
        self.store.log.maintain()

    @rule(place=PLACES)
    def roll(self, place: TopicPartition) -> None:
        self.store.log.partition(place.topic, place.partition).roll()

    @rule()
    def compact(self) -> None:
        """Everything is in closed segments."""
        self.send_plainly(PARTITIONS[2], b"k0", tombstone=False)
        self.roll(PARTITIONS[2])
        self.time_passes(1)

    @rule()
    def crash(self) -> None:
        self.opens += 1
        image = Path(kill(self.store, self.root / str(self.opens)))
        shutil.rmtree(self.path)
        self.path = image
        self._next_process()
        assert self.store.recovery.damaged == []

    @rule(name=NAMES, place=PLACES)
    def crash_in_the_middle(self, name: str, place: TopicPartition) -> None:
        """Of a transaction that has records in the log, with others behind them."""
        self.send(name, [place], b"k0", tombstone=False)
        self.append(name)
        self.send_plainly(place, b"k1", tombstone=False)
        self.crash()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self._next_process()
        assert self.store.recovery.clean

    def _next_process(self) -> None:
        """The handles of the last one are gone."""
        for name in list(self.open_ones):
            self._end(name, committed=False)
        self.lost.clear()
        self.state_commits.clear()
        self._open()

    # -- what always holds ------------------------------------------------------------------------------------------

    def _visible(self, place: TopicPartition) -> list[Pair]:
        """What read_committed sees of a partition."""
        found = []
        for pair, tx in self.log[place]:
            if tx is not None and tx in self.open_ones.values():
                break
            if tx is None or tx.outcome:
                found.append(pair)
        return found

    @invariant()
    def read_committed_sees_the_model(self) -> None:
        found: dict[TopicPartition, list[Pair]] = {place: [] for place in PARTITIONS}
        with self.store.consumer(
            PLAIN, COMPACTED, start="earliest", isolation=IsolationLevel.READ_COMMITTED
        ) as consumer:
            while batches := consumer.poll(timeout_s=0, max_records=100_000):
                for batch in batches:
                    for record in batch.records():
                        found[TopicPartition(batch.topic, batch.partition)].append(
                            (_bytes(record.key), _bytes(record.value))
                        )
        for place in PARTITIONS:
            visible = self._visible(place)
            if place.topic == PLAIN:
                assert found[place] == visible
            else:
                _check_compacted(found[place], visible)

    @invariant()
    def state_and_offsets_are_the_models(self) -> None:
        assert dict(self.store.state(STATE).items()) == self.state
        offsets = self.store.groups.fetch_offsets(GROUP, PARTITIONS)
        assert {place: one.offset for place, one in offsets.items() if one.offset >= 0} == self.offsets


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _check_compacted(found: list[Pair], visible: list[Pair]) -> None:
    """What is left is in its order, and comes to the same map."""
    rest = iter(visible)
    assert all(pair in rest for pair in found), (found, visible)
    assert _fold(found) == _fold(visible)


def _fold(pairs: list[Pair]) -> dict[bytes | None, bytes]:
    return {key: value for key, value in dict(pairs).items() if value is not None}


def _refused(call: Callable[[], Any], *expected: type[errors.MQError]) -> None:
    try:
        call()
    except expected:
        return
    raise AssertionError(f"not refused with one of {[one.__name__ for one in expected]}")
