"""A store that closes and a topic that goes leave every call beside them a clear answer, and the files in order."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo
from mqcore.errors import DiskFullError, StoreClosedError, UnknownTopicError
from mqcore.log.internal_records import encode
from mqcore.log.manager import LogStore
from tests.support.stores import TOPIC, opened, put, values_of


class Late:
    """A lock whose first owner comes a moment too late: `before` runs when it has checked everything else."""

    def __init__(self, lock: threading.Lock, before: Callable[[], None]) -> None:
        self._lock, self._before = lock, [before]

    def __enter__(self) -> None:
        if self._before:
            self._before.pop()()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("call", ["append", "roll", "delete_before"])
def test_a_call_that_a_close_overtakes_changes_nothing(tmp_path: Path, durability: str, call: str) -> None:
    store = LogStore.open(tmp_path / "s", durability=durability)
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    put(log, b"before", b"too")
    log._lock = Late(log._lock, store.close)  # type: ignore[assignment]
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: put(log, b"late"),
        "roll": log.roll,
        "delete_before": lambda: log.delete_before(1),
    }
    with pytest.raises(StoreClosedError):
        calls[call]()
    with opened(tmp_path / "s", durability=durability) as store:
        assert store.recovery.clean
        assert store.recovery.findings == []
        assert values_of(store.partition(TOPIC, 0)) == [b"before", b"too"]


def test_a_wait_for_a_record_of_a_deleted_topic_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "s", durability="fsync") as store:
        store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        appended = log.append(bytearray(encode([(None, b"x")], 0)))
        log.mark_deleted()  # what a delete does, before the round of its own record takes this one along
        assert store.group is not None
        store.group.discard(log)
        with pytest.raises(UnknownTopicError):
            log.wait_durable(appended.next_offset)


def test_a_seal_that_fails_keeps_no_other_log_from_its_seal_and_comes_again(tmp_path: Path) -> None:
    io = FaultyIo()
    with opened(tmp_path / "s", durability="os", io=io) as store:
        store._maintenance.stop()
        logs = []
        for name in ("a", "b", "c"):
            store.create_topic(name)
            logs.append(store.partition(name, 0))
            put(logs[-1], b"x" * 100)
            logs[-1].roll()
        assert set(store.to_seal) == set(logs)
        io.arm(1, errno.ENOSPC, only="open")  # the first index file that is written
        with pytest.raises(DiskFullError):
            store.maintain()
        io.disarm()
        assert sorted(log.segments[0].sealed for log in logs) == [False, True, True]
        assert store.maintain().sealed == 1
        assert not store.to_seal
