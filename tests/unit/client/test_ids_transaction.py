"""The ids of a transaction count when it is committed and not before: after an abort, a fence or a kill they can be sent again,
and are stored; after a commit they are duplicates, whoever sends them, also after a reopen."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore.errors import ConcurrentTransactionsError, ProducerFencedError, WindowFullError
from mqcore.log.id_window import IdWindow
from mqcore.log.pending_ids import PendingIds

HOUR = {"mqcore.dedup.window.ms": 3_600_000}
GENERATOR = mqcore.Snowflake(11)
Make = Callable[[int], Any]


def numbers(count: int) -> Any:
    return GENERATOR.batch(count)


def uuids(count: int) -> Any:
    return [uuid.uuid4() for _ in range(count)]


both = pytest.mark.parametrize("make", [numbers, uuids])


@pytest.fixture(params=["os", "fsync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mqcore.Store]:
    with mqcore.open(tmp_path / "s", durability=request.param) as store:
        store.create_topic("t", partitions=3, config=HOUR)
        yield store


def stored(store: mqcore.Store, topic: str = "t") -> list[bytes]:
    with store.consumer(topic, follow=False, isolation="read_committed") as consumer:
        return sorted(bytes(record.value) for record in consumer)


def give_up(store: mqcore.Store, name: str, send: Callable[[mqcore.Transaction], Any]) -> None:
    tx = store.transaction(name)
    send(tx)
    tx.abort()


@both
def test_committed_ids_are_duplicates_for_everybody(store: mqcore.Store, make: Make) -> None:
    ids, values = make(300), [b"%03d" % i for i in range(300)]
    with store.transaction("a") as tx:
        first = tx.send_many("t", values, ids=ids)
        assert not first.duplicates.any()
    for _ in range(2):
        with store.transaction("a") as tx:
            again = tx.send_many("t", values, ids=ids)
            assert again.duplicates.all()
            assert (again.offsets == first.offsets).all()
    with store.transaction("b") as tx, store.producer() as producer:
        assert tx.send_many("t", values[:9], ids=ids[:9]).duplicates.all()
        assert producer.send_many("t", values[5:], ids=ids[5:]).offsets.tolist() == first.offsets[5:].tolist()
    assert stored(store) == values


@both
def test_aborted_ids_are_stored_when_they_are_sent_again(store: mqcore.Store, make: Make) -> None:
    ids, values = make(50), [b"%02d" % i for i in range(50)]
    give_up(store, "a", lambda tx: tx.send_many("t", [b"never"] * 50, ids=ids))
    give_up(store, "b", lambda tx: tx.send_many("t", [b"never"] * 50, ids=ids))
    with store.transaction("a") as tx:
        sent = tx.send_many("t", values[:25], ids=ids[:25])
        assert not sent.duplicates.any()
    with store.producer() as producer:
        again = producer.send_many("t", values, ids=ids)
        assert again.duplicates.tolist() == [True] * 25 + [False] * 25
        assert again.offsets[:25].tolist() == sent.offsets.tolist()
    assert stored(store) == values


@both
def test_an_id_of_an_open_transaction_is_refused_to_others_and_a_duplicate_to_itself(
    store: mqcore.Store, make: Make
) -> None:
    ids = make(4)
    with store.producer() as producer, store.transaction("a") as tx:
        first = tx.send_many("t", [b"1", b"2", b"3"], ids=ids[:3], partition=1)
        again = tx.send_many("t", [b"2", b"1", b"1"], ids=[ids[1], ids[0], ids[0]], partition=1)
        assert again.duplicates.all()
        assert again.offsets.tolist() == [first.offsets[1], first.offsets[0], first.offsets[0]]
        other = store.transaction("b")
        for sender in (producer, other):
            with pytest.raises(ConcurrentTransactionsError) as refused:
                sender.send_many("t", [b"4", b"2"], ids=[ids[3], ids[1]], partition=1)
            assert refused.value.retriable
            assert (refused.value.where["topic"], refused.value.where["partition"]) == ("t", 1)
        other.send_many("t", [b"4"], ids=ids[3:], partition=1)
        other.commit()
    with store.producer() as producer:
        assert producer.send_many("t", [b"2", b"4"], ids=[ids[1], ids[3]], partition=1).duplicates.all()
    assert stored(store) == [b"1", b"2", b"3", b"4"]


def test_order_with_plain_sends_and_other_partitions(store: mqcore.Store) -> None:
    """Records with ids and without them mix in one transaction: one order, and sequences without a gap."""
    one = numbers(40)
    for turn in range(3):
        with store.transaction("a") as tx:
            for i in range(10):
                tx.send_many("t", [b"%d-%02d-a" % (turn, i)] * 3, partition=0)
                tx.send("t", b"%d-%02d-b" % (turn, i), partition=0, id=one[10 * turn + i])
                assert tx.send("t", b"x", partition=0, id=one[10 * turn + i]).duplicate
                tx.send("t", b"%d-%02d-c" % (turn, i), partition=0)
            tx.send_many("t", [b"%d-d" % turn] * 2, partition=turn)
    with store.consumer("t", follow=False) as consumer:
        values = [bytes(record.value) for record in consumer if record.partition == 0 and b"d" not in record.value]
    assert values == sorted(values)
    assert len(values) == 3 * 10 * 5


def test_a_fenced_transaction_frees_its_ids(store: mqcore.Store) -> None:
    ids = numbers(5)
    zombie = store.transaction("a")
    zombie.send_many("t", [b"zombie"] * 5, ids=ids, partition=0)
    with store.transaction("a") as tx:
        assert not tx.send_many("t", [b"v"] * 5, ids=ids, partition=0).duplicates.any()
        for again in (ids, numbers(2)):
            with pytest.raises(ProducerFencedError):
                zombie.send_many("t", [b"zombie"] * len(again), ids=again, partition=0)
    assert stored(store) == [b"v"] * 5


@both
def test_ids_behind_an_open_transaction(store: mqcore.Store, make: Make) -> None:
    """The last stable offset stands still: outcomes behind it count all the same, and an aborted record is nobody's original."""
    ids = make(30)
    with store.transaction("slow") as slow, store.producer() as producer:
        slow.send_many("t", [b"slow"] * 10, ids=ids[:10], partition=0)
        give_up(store, "a", lambda tx: tx.send_many("t", [b"never"] * 10, ids=ids[10:20], partition=0))
        with store.transaction("a") as tx:
            tx.send_many("t", [b"v"] * 20, ids=ids[10:], partition=0)
        again = producer.send_many("t", [b"v"] * 20, ids=ids[10:], partition=0)
        assert again.duplicates.all()
        base = again.offsets[0]
        assert again.offsets.tolist() == list(range(base, base + 20))
        assert base > 20
        log = store.log.partition("t", 0)
        assert log.last_stable_offset == 0
    assert stored(store) == [b"slow"] * 10 + [b"v"] * 20


@both
@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_kill_and_a_reopen_leave_out_what_was_not_committed(tmp_path: Path, make: Make, durability: str) -> None:
    ids = make(40)
    with mqcore.open(tmp_path / "s", durability=durability) as store:
        store.create_topic("t", partitions=2, config=HOUR)
        with store.transaction("a") as tx:
            first = tx.send_many("t", [b"v"] * 10, ids=ids[:10])
        give_up(store, "a", lambda tx: tx.send_many("t", [b"never"] * 10, ids=ids[10:20]))
        tx = store.transaction("b")
        tx.send_many("t", [b"never"] * 10, ids=ids[20:30]).result()
        shutil.copytree(tmp_path / "s", tmp_path / "killed")
    for path in (tmp_path / "killed", tmp_path / "s"):
        with mqcore.open(path, durability=durability) as store, store.producer() as producer:
            again = producer.send_many("t", [b"v"] * 40, ids=ids)
            assert again.duplicates.tolist() == [True] * 10 + [False] * 30
            assert again.offsets[:10].tolist() == first.offsets.tolist()
            again.result()
            assert stored(store) == [b"v"] * 40


WORKER = """
import random, sys, mqcore
rng = random.Random(int(sys.argv[3]))
store = mqcore.open(sys.argv[1], durability=sys.argv[2])
ids = list(range(1 << 40, (1 << 40) + 2000))
while True:
    tx = store.transaction("worker")
    some = rng.sample(ids, 20)
    tx.send_many("t", [b"%d" % i for i in some], ids=some)
    if rng.random() < 0.3:
        tx.abort()
    else:
        tx.commit()
        print(*some, flush=True)
"""


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_kills_lose_and_repeat_no_id(tmp_path: Path, durability: str) -> None:
    path, rng = tmp_path / "s", random.Random(3)
    with mqcore.open(path, durability=durability) as store:
        store.create_topic("t", partitions=2, config={"mqcore.dedup.window.count": 1_000_000})
    acknowledged: set[bytes] = set()
    for turn in range(4):
        command = [sys.executable, "-P", "-c", WORKER, str(path), durability, str(turn)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        lines = [worker.stdout.readline() for _ in range(rng.randint(1, 60))]
        worker.send_signal(signal.SIGKILL)
        lines += worker.stdout.read().split(b"\n")[:-1]
        worker.wait()
        acknowledged.update(*(line.split() for line in lines))
        with mqcore.open(path, durability=durability) as store:
            counts = Counter(stored(store))
        assert set(counts.values()) == {1}
        assert acknowledged <= counts.keys()


def test_pending_ids_have_a_bound(store: mqcore.Store) -> None:
    store.alter_topic("t", {"mqcore.dedup.max.bytes": 1 << 18})
    sent = 0
    tx = store.transaction("a")
    with pytest.raises(WindowFullError):  # noqa: PT012
        while True:
            tx.send_many("t", [b"v"] * 100, ids=uuids(100), partition=0)
            sent += 100
    tx.commit()
    assert len(stored(store)) == sent > 500


def test_counting_before_the_commit_is_caught(store: mqcore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker is checked (R14): ids that count at once are lost with their abort."""

    def at_once(self: PendingIds, seen: Any, holder: Any, ids: Any, width: int, base_offset: int) -> None:
        seen.add(ids, width, base_offset, 0)

    monkeypatch.setattr(PendingIds, "add", at_once)
    monkeypatch.setattr(IdWindow, "_confirmed", lambda self, items, low, high, width: low)
    with pytest.raises(AssertionError):
        test_aborted_ids_are_stored_when_they_are_sent_again(store, numbers)
