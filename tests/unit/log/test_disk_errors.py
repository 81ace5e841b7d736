"""A failed system call reaches the caller as an error of ours that names cause and path, and costs nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from mqcore._native.io import FaultyIo
from mqcore.errors import DiskFullError, MQError, StorageError
from mqcore.log import layout, view_tables
from mqcore.log.lock import StoreLock
from mqcore.log.manager import LogStore
from mqcore.log.marks import Marks
from tests.support.stores import TOPIC, opened, put, values_of

SMALL = {"segment.bytes": 4096, "max.message.bytes": 4096}


def failing(number: int, times: int = 1) -> Any:
    """A stand-in for a call of the os module: fails so many times, then succeeds with nothing."""
    left = [times]

    def call(*args: Any, **_: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number), args[0] if isinstance(args[0], str) else None)
        return []

    return call


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_after_a_roll_that_failed_and_left_its_file_nothing_is_lost(tmp_path: Path, durability: str) -> None:
    io, kept = FaultyIo(), [b"a" * 3000]
    with opened(tmp_path / "s", durability=durability, io=io) as store:
        store.create_topic(TOPIC, config=SMALL)
        log = store.partition(TOPIC, 0)
        put(log, *kept)
        # The second file that is made fails, and the first cannot be taken back.
        io.arm(2, errno.EIO, sticky=True, only="open,unlink")
        with pytest.raises(StorageError, match="EIO"):
            put(log, b"b" * 3000)
        with pytest.raises(StorageError, match="EIO"):  # what is in the way must go first
            put(log, b"c")
        io.disarm()
        for value in (b"d", b"e", b"f" * 3000, b"g"):
            put(log, value)
            kept.append(value)
        assert values_of(log) == kept
    with opened(tmp_path / "s", durability=durability) as store:
        assert values_of(store.partition(TOPIC, 0)) == kept


@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_segment_in_the_middle_of_a_log_proves_nothing(tmp_path: Path, clean: bool) -> None:
    """The name of a file whose making failed may come back after a power loss."""
    values = [b"%d" % n + b"x" * 900 for n in range(12)]
    with opened(tmp_path / "s", durability="fsync") as store:
        store.create_topic(TOPIC, config=SMALL)
        for value in values:
            put(store.partition(TOPIC, 0), value)
        directory = Path(store.partition(TOPIC, 0).directory)
        bases = layout.list_segments(str(directory))
    assert len(bases) > 2
    (directory / layout.segment_name(bases[1] - 1)).touch()
    (directory / layout.segment_name(bases[-1] + 1)).touch()
    if not clean:
        (tmp_path / "s" / layout.CLEAN_SHUTDOWN).unlink()
    with opened(tmp_path / "s", durability="fsync") as store:
        log = store.partition(TOPIC, 0)
        assert values_of(log) == values
        put(log, b"after")
        assert values_of(log) == [*values, b"after"]


def test_a_lost_topics_directory_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path / "s", durability="fsync"):
        pass
    shutil.rmtree(tmp_path / "s" / layout.TOPICS)
    for name in (layout.CLEAN_SHUTDOWN, layout.SESSION, layout.RECOVERY_POINTS):
        (tmp_path / "s" / name).unlink(missing_ok=True)
    with opened(tmp_path / "s", durability="fsync") as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"x")


def test_a_lock_without_room_for_its_pid_is_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    lock = StoreLock(str(tmp_path / "lock"))
    with pytest.raises(MQError, match=r"open for writing already|another process"):
        StoreLock(str(tmp_path / "lock"))
    lock.close()
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    with pytest.raises(StorageError, match=r"Input/output error.*errno=EIO.*path="):
        StoreLock(str(tmp_path / "lock"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC])
def test_a_failed_open_says_why_and_lets_go_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with opened(tmp_path / "s") as store:
        store.create_topic(TOPIC)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing(number))
        with pytest.raises(DiskFullError if number == errno.ENOSPC else StorageError, match=errno.errorcode[number]):
            LogStore.open(tmp_path / "s", durability="os")  # type: ignore[arg-type]
    with opened(tmp_path / "s") as store:
        assert list(store.topics()) == [TOPIC]


def test_a_close_that_cannot_read_its_views_back_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore.open(tmp_path / "s")
    store.create_topic(TOPIC)
    monkeypatch.setattr(view_tables, "_digest", failing(errno.EIO))
    with pytest.raises(StorageError, match="errno=EIO"):
        store.close()
    monkeypatch.undo()
    with opened(tmp_path / "s", durability="fsync") as store:
        assert list(store.topics()) == [TOPIC]


def test_views_are_not_dropped_for_want_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "s") as store:
        store.create_topic(TOPIC)
    monkeypatch.setattr(view_tables, "_digest", failing(errno.EMFILE))
    with pytest.raises(StorageError, match="errno=EMFILE"):
        LogStore.open(tmp_path / "s")
    assert (tmp_path / "s" / layout.VIEWS / view_tables.DATA).stat().st_size > 0


def test_no_room_for_lmdbs_lock_table_is_an_error_and_no_crash(tmp_path: Path) -> None:
    io = FaultyIo()
    with opened(tmp_path / "s") as store:
        store.create_topic(TOPIC)
    io.arm(1, errno.ENOSPC, only="pwritev")  # the first write of an open
    with pytest.raises(DiskFullError, match=r"lock\.mdb"):
        LogStore.open(tmp_path / "s", io=io, durability="os")  # type: ignore[arg-type]
    with opened(tmp_path / "s") as store:
        assert list(store.topics()) == [TOPIC]


def test_no_memory_for_another_mark_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = Marks.create(b"s" * 16, str(tmp_path / "page"))
    assert marks.shared
    topic_id = uuid.uuid4()
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    assert [marks.slot(topic_id, partition) for partition in range(960)] == list(range(960))  # 64 KiB
    with pytest.raises(DiskFullError, match="ENOSPC"):
        marks.slot(topic_id, 960)
    assert marks.slot(topic_id, 960) == 960  # the same call again, with memory
    marks.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 6, 8, 12, 20, 40, 100])
def test_a_disk_of_so_many_free_pages_never_kills_the_process(tmp_path: Path, pages: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small], check=False).returncode:
        pytest.skip("no tmpfs to mount")
    try:
        (small / "filling").write_bytes(bytes((512 << 10) - 4096 * pages))
        code = (
            "import sys, mqcore\n"
            "try:\n"
            "    with mqcore.open(sys.argv[1]) as store:\n"
            "        store.create_topic('t')\n"
            "        with store.producer() as producer:\n"
            "            producer.send('t', b'x' * 5000).result()\n"
            "except mqcore.errors.DiskFullError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, small / "s"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (small / "filling").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        with opened(small / "s", durability="fsync") as store:
            if TOPIC not in store.topics():
                store.create_topic(TOPIC)
            put(store.partition(TOPIC, 0), b"y")
    finally:
        subprocess.run(["umount", small], check=False)
