"""Each call to the disk that a commit makes may fail: the caller gets an error of a documented kind, the store is usable or
read-only, and what the next open shows is what the caller was told.

Exhaustive, not random: the n-th call fails, n = 1, 2, 3, … until the commit gets through without a fault.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqcore
from mqcore._native.io import FaultyIo
from mqcore.errors import (
    AbortsTransactionError,
    CommitUndecidedError,
    DiskFullError,
    MQError,
    StorageError,
    StoreReadOnlyError,
)

CALLS_MAX = 500


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place: syncs are counted here, not timed."""
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mqcore-txn-calls-", dir=shm) as path:
        yield Path(path)


def opened(path: Path, durability: str, io: FaultyIo | None = None) -> mqcore.Store:
    store = mqcore.open(path, durability=durability, io=io)
    store.log._maintenance.stop()  # its calls would come at another place each time
    return store


def send(tx: mqcore.Transaction, value: bytes) -> None:
    for partition in range(2):
        tx.send("t", value, partition=partition)
    tx.state("s")[b"k"] = value


def seen(store: mqcore.Store) -> tuple[list[bytes | None], list[bytes | None], bytes | None]:
    """What readers of committed records see in the two partitions, and the value of the state."""
    found: tuple[list[bytes | None], list[bytes | None]] = [], []
    with store.consumer("t", start="earliest", isolation="read_committed") as consumer:
        ends = [store.log.partition("t", part).last_stable_offset for part in range(2)]
        while any(consumer.position(part) < ends[part] for part in range(2)):
            for batch in consumer.poll(timeout_s=0):
                found[batch.partition].extend(record.value for record in batch.records())
    return *found, store.state("s").get(b"k")


def check_usable(store: mqcore.Store) -> None:
    """Another id's transaction goes through, or the store says that it is read-only."""
    with contextlib.suppress(StoreReadOnlyError), store.transaction("b") as tx:
        tx.send("t", b"other", partition=0)


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_any_call_of_a_commit_fails_once(directory: Path, durability: str, number: int) -> None:
    failed = 0
    for at in range(1, CALLS_MAX):
        path, io = directory / str(at), FaultyIo()
        store = opened(path, durability, io)
        store.create_topic("t", partitions=2)
        tx = store.transaction("a")
        send(tx, b"x")
        io.arm(at, number)
        error: MQError | None = None
        try:
            tx.commit()
        except MQError as caught:
            error = caught
        through = not io.fired
        io.disarm()
        assert error is None or isinstance(error, (AbortsTransactionError, DiskFullError, CommitUndecidedError)), (
            f"call {at}: {error!r}"
        )
        decided = error is None or isinstance(error, DiskFullError)
        undecided = isinstance(error, CommitUndecidedError)
        if isinstance(error, DiskFullError):
            tx.commit()  # there is room again
        check_usable(store)
        try:
            store.close()
        except StorageError:
            store.abandon()
        with opened(path, durability) as again:
            first, second, state = seen(again)
            whole = state == b"x"
            assert [value for value in first if value != b"other"] == second == ([b"x"] if whole else []), f"call {at}"
            assert undecided or whole == decided, f"call {at}: {error!r}"
            with again.transaction("a") as tx:
                send(tx, b"after")
        shutil.rmtree(path)
        failed += error is not None
        if through:
            assert failed > 3
            return
    raise AssertionError("the commit never got through")
