"""Where a topic has another durability than the store, no common record proves its data and the decision: the data is synced
first, then PREPARE, and the markers come after. So a death at any call leaves all of a transaction or nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore._native.io import FaultyIo
from mqcore.errors import MQError
from mqcore.transactions import markers
from mqcore.transactions.log import TransactionLog

MIXES = [("fsync", "os"), ("os", "fsync")]
TOPICS = ("same", "other")
CALLS_MAX = 500


def opened(path: Path, durability: str, io: FaultyIo | None = None) -> mqcore.Store:
    store = mqcore.open(path, durability=durability, io=io)
    store.log._maintenance.stop()  # its calls would come at another place each time
    return store


def made(path: Path, mix: tuple[str, str], io: FaultyIo | None = None) -> mqcore.Store:
    """A store with a topic of its own durability and one of the other, and a committed transaction in both."""
    store = opened(path, mix[0], io)
    store.create_topic("same")
    store.create_topic("other", config={"mqcore.durability": mix[1]})
    with store.transaction("a") as tx:
        send(tx, b"first")
    return store


def send(tx: mqcore.Transaction, value: bytes) -> None:
    for topic in TOPICS:
        tx.send(topic, value, partition=0)
    tx.state("s")[b"k"] = value


def values(store: mqcore.Store, topic: str) -> list[bytes | None]:
    with store.consumer(topic, start="earliest", isolation="read_committed") as consumer:
        found, end = [], store.log.partition(topic, 0).last_stable_offset
        while consumer.position(0) < end:
            found += [record.value for batch in consumer.poll(timeout_s=0) for record in batch.records()]
        return found


def seen(store: mqcore.Store) -> tuple[list[bytes | None], list[bytes | None], bytes]:
    """What readers of committed records see in the two topics and in the state."""
    return values(store, "same"), values(store, "other"), store.state("s")[b"k"]


@pytest.mark.parametrize("mix", MIXES)
def test_data_is_synced_before_prepare_and_markers_come_after(
    tmp_path: Path, mix: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(owner: Any, name: str, what: Any) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            events.append(what(*args))
            return result

        monkeypatch.setattr(owner, name, call)

    with made(tmp_path / "s", mix) as store:
        noted(markers, "make_durable", lambda log: f"synced {log.topic}")
        noted(TransactionLog, "append", lambda _, log, key, record, *rest: record.status.name)
        noted(markers, "write", lambda *_: "markers")
        with store.transaction("a") as tx:
            send(tx, b"second")
        assert events[:4] == ["synced other", "PREPARE_COMMIT", "synced __transaction_state", "markers"]
        assert events[-1] == "synced other"
        assert seen(store) == ([b"first", b"second"], [b"first", b"second"], b"second")


def deaths(path: Path, mix: tuple[str, str]) -> Iterator[tuple[Path, bool]]:
    """A commit with every call from the n-th on failing, then the death; (its directory, whether commit returned)."""
    for at in range(1, CALLS_MAX):
        io, directory = FaultyIo(), path / str(at)
        store, committed = made(directory, mix, io), True
        tx = store.transaction("a")
        send(tx, b"second")
        fired = io.fired
        io.arm(at, errno.EIO, sticky=True)
        try:
            tx.commit()
        except MQError:
            committed = False
        through = io.fired == fired
        store.abandon()
        yield directory, committed
        if through:
            return
    raise AssertionError("the commit never got through")


@pytest.mark.parametrize("mix", MIXES)
def test_a_death_at_any_call_leaves_all_or_nothing(tmp_path: Path, mix: tuple[str, str]) -> None:
    outcomes = set()
    for directory, committed in deaths(tmp_path, mix):
        with opened(directory, mix[0]) as store:
            same, other, state = seen(store)
            whole = state == b"second"
            assert same == other == ([b"first", b"second"] if whole else [b"first"])
            assert whole or not committed
            for topic in TOPICS:
                log = store.log.partition(topic, 0)
                assert log.last_stable_offset == log.log_end_offset, "nothing is left open"
            with store.transaction("a") as tx:
                send(tx, b"third")
            assert seen(store)[2] == b"third"
        outcomes.add(whole)
    assert outcomes == {True, False}
