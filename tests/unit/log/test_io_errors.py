"""Each call to the disk may fail: the caller is told, nothing acknowledged is lost, and the store opens again.

Exhaustive, not random: the n-th call fails, n = 1, 2, 3, … until the work gets through without a fault.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo
from mqcore.errors import MQError, StorageError, StoreReadOnlyError
from mqcore.log.manager import LogStore
from tests.support.stores import TOPIC, opened, put, values_of

CALLS_MAX = 5000


def work(path: Path, io: FaultyIo, durability: str, acknowledged: list[bytes], started: list[bytes]) -> None:
    """Open, make a topic, append over several segments, delete some, maintain, close. What was acknowledged, and what
    was begun, is noted as it happens."""
    store = LogStore.open(path, io=io, durability=durability)
    try:
        store._maintenance.stop()  # its calls would come at another place each time
        if TOPIC not in store.topics():
            store.create_topic(TOPIC, config={"segment.bytes": 600})
        log = store.partition(TOPIC, 0)
        for number in range(8):
            value = b"%d" % number + b"." * 100
            started.append(value)
            put(log, value)
            acknowledged.append(value)
        store.maintain()
        store.create_topic("other")
        store.delete_topic("other")
        store.maintain()
        store.close()
    except BaseException:
        store.abandon()
        raise


def faults(
    tmp_path: Path, durability: str, number: int, **how: object
) -> Iterator[tuple[int, Path, BaseException | None]]:
    """Run the work with the n-th call failing; give the directory after each."""
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else str(tmp_path)
    for at in range(1, CALLS_MAX):
        path = Path(directory) / f"mqcore-faults-{os.getpid()}"
        shutil.rmtree(path, ignore_errors=True)
        io = FaultyIo()
        io.arm(at, number, **how)  # type: ignore[arg-type]
        acknowledged: list[bytes] = []
        started: list[bytes] = []
        error: BaseException | None = None
        try:
            work(path, io, durability, acknowledged, started)
        except (MQError, OSError) as caught:
            error = caught
        fired = io.fired
        io.disarm()
        try:
            check(path, durability, acknowledged, started, at)
        finally:
            shutil.rmtree(path, ignore_errors=True)
        yield at, path, error
        if not fired:
            return
    raise AssertionError("the work never got through")


def check(path: Path, durability: str, acknowledged: list[bytes], started: list[bytes], at: int) -> None:
    """Everything acknowledged is there, in place; nothing else than what was begun; and the store works."""
    with opened(path, durability=durability) as store:
        assert store.recovery.damaged == [], f"call {at}: {store.recovery.findings}"
        if TOPIC not in store.topics():
            assert acknowledged == []
            store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        found = values_of(log)
        assert found[: len(acknowledged)] == acknowledged, f"call {at}"
        assert found == started[: len(found)], f"call {at}"
        assert put(log, b"after") == len(found) + 1
    with opened(path, durability=durability) as store:
        assert store.recovery.clean
        assert values_of(store.partition(TOPIC, 0)) == [*found, b"after"]


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_one_failing_call(tmp_path: Path, durability: str, number: int) -> None:
    raised = calls = 0
    for _, _, error in faults(tmp_path, durability, number):
        calls += 1
        if error is not None:
            raised += 1
            assert isinstance(error, MQError), repr(error)
    assert calls > 60
    assert raised > calls // 2


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_all_calls_fail_from_one_on(tmp_path: Path, durability: str) -> None:
    for _, _, error in faults(tmp_path, durability, errno.EIO, sticky=True):
        assert error is None or isinstance(error, MQError), repr(error)


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_write_that_tears(tmp_path: Path, durability: str) -> None:
    for _, _, error in faults(tmp_path, durability, errno.EIO, short=7, only="pwritev"):
        assert error is None or isinstance(error, MQError), repr(error)


def test_after_a_failed_commit_the_store_is_read_only(tmp_path: Path) -> None:
    """A failed fsync is final for this process, whatever a second one says; the next one looks for itself."""
    io = FaultyIo()
    store = LogStore.open(tmp_path, io=io, durability="fsync")
    store._maintenance.stop()
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    put(log, b"acknowledged")
    io.arm(1, errno.EIO, only="fdatasync")
    with pytest.raises(StorageError):
        put(log, b"not acknowledged")
    io.disarm()
    end = log.log_end_offset
    for call in (lambda: put(log, b"x"), lambda: store.create_topic("u"), store.maintain, lambda: log.delete_before(1)):
        with pytest.raises(StoreReadOnlyError, match="commit failed"):
            call()
    assert log.log_end_offset == end, "what is refused changes nothing"
    assert values_of(log) == [b"acknowledged"]
    with pytest.raises(StorageError, match="as after a crash"):
        store.close()
    with opened(tmp_path, durability="fsync") as store:
        assert not store.recovery.clean
        assert values_of(store.partition(TOPIC, 0))[0] == b"acknowledged"
