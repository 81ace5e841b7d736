"""The crash injector passes a processor that is right, finds one that is not, and replays what it found by its seed."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore.testing import crashes

RECORDS, PARTITIONS = 60, 2


def _feed(store: Any) -> None:
    store.create_topic("in", partitions=PARTITIONS)
    store.create_topic("out", partitions=PARTITIONS)
    with store.producer() as producer:
        for partition in range(PARTITIONS):
            producer.send_many("in", [b"%d" % number for number in range(RECORDS)], partition=partition)


def _sent(store: Any) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {number: [] for number in range(PARTITIONS)}
    with store.consumer("out", start="earliest", isolation="read_committed") as consumer:
        while batches := consumer.poll(timeout_s=0, max_records=1000):
            for batch in batches:
                found[batch.partition] += [int(record.value) for record in batch.records()]
    return found


def _check(store: Any) -> None:
    assert _sent(store) == {number: list(range(RECORDS)) for number in range(PARTITIONS)}
    assert store.state("sums")[b"all"] == b"%d" % (PARTITIONS * sum(range(RECORDS)))


def _check_nothing_is_lost(store: Any) -> None:
    for values in _sent(store).values():
        assert set(values) == set(range(RECORDS))


def _adding(batch: Any, tx: Any) -> None:
    sums = tx.state("sums")
    for record in batch.records():
        sums[b"all"] = b"%d" % (int(sums.get(b"all", b"0")) + int(record.value))
    tx.send_many("out", [record.value for record in batch.records()], partition=batch.partition)


exactly = mqcore.processor(source="in", group="g")(_adding)
at_least = mqcore.processor(source="in", group="g", guarantee="at_least_once")(_adding)


@pytest.mark.parametrize("kind", crashes.KINDS)
def test_a_processor_in_transactions_does_each_record_once(kind: str) -> None:
    result = crashes.attack(exactly, feed=_feed, check=_check, seed=5, runs=6, kinds=[kind])
    assert result.runs == 6
    assert result.steps > 20
    assert set(result.faults) == {kind}


def test_all_faults_together() -> None:
    crashes.attack(exactly, feed=_feed, check=_check, seed=6, runs=20, faults=5)


def test_at_least_once_loses_nothing() -> None:
    crashes.attack(at_least, feed=_feed, check=_check_nothing_is_lost, seed=7, runs=10)


def test_at_least_once_is_not_exactly_once_and_the_seed_replays_it() -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(AssertionError, match="replay with seed=8") as caught:
            crashes.attack(at_least, feed=_feed, check=_check, seed=8, runs=30, kinds=["kill"])
        messages.append(str(caught.value).partition("kill at")[2])
    assert messages[0] == messages[1]
    assert "(step" in messages[0]


def test_what_a_processor_keeps_for_itself_is_found() -> None:
    sums = {"all": 0}

    @mqcore.processor(source="in", group="g")
    def forgetful(batch: Any, tx: Any) -> None:
        sums["all"] += sum(int(record.value) for record in batch.records())
        tx.state("sums")[b"all"] = b"%d" % sums["all"]
        tx.send_many("out", [record.value for record in batch.records()], partition=batch.partition)

    def feed(store: Any) -> None:
        sums["all"] = 0
        _feed(store)

    with pytest.raises(AssertionError, match="replay with seed=9"):
        crashes.attack(forgetful, feed=feed, check=_check, seed=9, runs=30)


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="flood"):
        crashes.attack(exactly, feed=_feed, check=_check, kinds=["flood"])


def test_nothing_is_left() -> None:
    place = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    crashes.attack(exactly, feed=_feed, check=_check, seed=10, runs=5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mqcore")]
    files = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    ]
    assert not [name for name in files if "mqcore-crashes-" in name and str(os.getpid()) in name]
    assert place.is_dir()
