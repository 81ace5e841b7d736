"""A directory that is no store, one of another version, one that somebody writes, or one that nobody can write is
refused in words and left as it was; a link inside a store leads nowhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mqcore as mq
from mqcore.errors import (
    MQError,
    StoreFormatError,
    StoreLockedError,
    StoreReadOnlyError,
)
from mqcore.log.checkpoints import with_checksum
from tests.support.processes import can_mount, mqcore, run_read_only, writing
from tests.support.stores import flip
from tests.support.strict import needs


def snapshot(path: Path) -> dict[str, bytes | str | None]:
    """Every name below a path with its content (files), target (links) or None (directories)."""
    found: dict[str, bytes | str | None] = {}
    for one in sorted(path.rglob("*")):
        name = str(one.relative_to(path))
        found[name] = os.readlink(one) if one.is_symlink() else None if one.is_dir() else one.read_bytes()
    return found


def contents(path: Path) -> object:
    """What a refused open must leave as it was; the empty lock file of its own excepted."""
    if not path.is_dir():
        return path.lstat().st_mtime_ns
    return {name: data for name, data in snapshot(path).items() if name != "lock"}


def filled(path: Path, durability: str = "os", **config: object) -> Path:
    """A closed store with a topic `t` of 3 partitions and 60 records."""
    with mq.open(path, durability=durability) as store:
        store.create_topic("t", partitions=3, config={"segment.bytes": 600, **config})
        with store.producer(linger_ms=0) as producer:
            for number in range(60):
                producer.send("t", b"value %d" % number, key=b"%d" % number)
    return path


def everything(store: mq.Store) -> dict[tuple[int, int], bytes]:
    return {
        (batch.partition, record.offset): bytes(record.value)
        for batch in store.consumer("t", follow=False).batches()
        for record in batch
    }


# -- what is no store ----------------------------------------------------------------------------------------------


def a_thesis(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years")


def a_kafka_log_directory(path: Path) -> None:
    (path / "orders-0").mkdir(parents=True)
    (path / "orders-0" / "00000000000000000000.log").write_bytes(b"\0" * 100)
    (path / "meta.properties").write_text("version=1\ncluster.id=x\n")


def an_sqlite_file(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(84))


def a_named_pipe(path: Path) -> None:
    os.mkfifo(path)


def only_a_lock_and_foreign_topics(path: Path) -> None:
    (path / "topics" / "mine-0").mkdir(parents=True)


@pytest.mark.parametrize(
    "make", [a_thesis, a_kafka_log_directory, an_sqlite_file, a_named_pipe, only_a_lock_and_foreign_topics]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_store_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], read_only: bool
) -> None:
    path = tmp_path / "x"
    make(path)
    before = contents(path)
    with pytest.raises(MQError) as caught:
        mq.open(path, read_only=read_only)
    assert str(path) in str(caught.value)
    if path.is_dir():
        (error,) = mqcore(*(("topic", "list") if read_only else ("topic", "create", "t")), "--store", path, code=1)
        assert error["error"] == "StoreFormatError"
        assert error["hint"]
    assert contents(path) == before


@pytest.mark.parametrize("version", [0, 2, 999_999_999_999])
def test_another_format_version_is_refused_by_number(tmp_path: Path, version: int) -> None:
    """Opening, reading, verifying and repairing say which version it is and which one is read; nothing is changed."""
    path = filled(tmp_path / "s")
    store_id = (path / "meta.json").read_text().partition('"store_id":"')[2][:32]
    (path / "meta.json").write_bytes(with_checksum(b'{"format":%d,"store_id":"%s"}\n' % (version, store_id.encode())))
    last = sorted((path / "topics" / "t-0").glob("*.log"))[-1]
    last.write_bytes(last.read_bytes()[:-7])  # what this version would mend, if it were its own
    before = contents(path)
    for read_only in (False, True):
        with pytest.raises(StoreFormatError, match=f"format version {version}, this mqcore reads 1"):
            mq.open(path, read_only=read_only)
    for command in (("log", "repair", "--yes"), ("topic", "list")):
        (error,) = mqcore(*command, "--store", path, code=1)
        assert f"format version {version}" in str(error)
    assert contents(path) == before


# -- a second writer -----------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    """Whichever process is second, and through whichever door; the first goes on undisturbed."""
    path = tmp_path / "s"
    with writing(path) as writer:
        writer.send("one")
        with pytest.raises(StoreLockedError, match=rf"another process.*pid={writer.pid}\b") as caught:
            mq.open(path)
        assert caught.value.where["pid"] == writer.pid
        assert "read_only=True" in caught.value.hint
        for command in (("topic", "create", "x"), ("produce", "t"), ("topic", "delete", "t", "--yes")):
            (error,) = mqcore(*command, "--store", path, code=1)
            assert (error["error"], error["where"]["pid"]) == ("StoreLockedError", writer.pid)
        (error,) = mqcore("log", "repair", "--yes", "--store", path, code=1)
        assert str(writer.pid) in str(error)
        writer.send("three")
        with mq.open(path, read_only=True) as reader:
            assert everything(reader) == writer.sent
        writer.close()
    with mq.open(path) as store:
        assert everything(store) == writer.sent
        with pytest.raises(StoreLockedError, match="this process"):
            mq.open(path)


# -- a read-only file system ---------------------------------------------------------------------------------------

_ON_A_READ_ONLY_DISK = """
import sys, mqcore
from mqcore.errors import StoreReadOnlyError, StorageError
path = sys.argv[1] + "/s"
for target in (path, sys.argv[1] + "/new"):
    try:
        mqcore.open(target)
    except StoreReadOnlyError as error:
        assert "read_only=True" in error.hint, error
        assert target in str(error), error
        print("refused:", error)
with mqcore.open(path, read_only=True) as store:
    print("read", sum(1 for _ in store.consumer("t", follow=False)))
    for change in (lambda: store.create_topic("x"), lambda: store.producer(), lambda: store.delete_topic("t"),
                   lambda: store.alter_topic("t", {"retention.ms": 1}), lambda: store.delete_before("t", {0: 1})):
        try:
            change()
        except StoreReadOnlyError:
            print("no change")
from mqcore.log.verify import repair, verify
print("problems", len(verify(path).problems))
try:
    repair(sys.argv[1] + "/damaged")
except StoreReadOnlyError:
    print("no repair")
"""


def test_a_read_only_file_system_is_read_and_never_written(tmp_path: Path) -> None:
    """A real read-only mount: opening to write, also a new store, is StoreReadOnlyError with the way out; reading and
    verifying work."""
    needs(can_mount(), "a mount namespace", "run the tests as root, with unshare(1) of util-linux")
    filled(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "damaged")
    flip(sorted((tmp_path / "damaged" / "topics" / "t-0").glob("*.log"))[0], 70)
    before = snapshot(tmp_path)
    result = run_read_only(tmp_path, _ON_A_READ_ONLY_DISK)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["refused", "refused"], result.stdout
    assert lines[2:] == ["read 60", *["no change"] * 5, "problems 0", "no repair"]
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere; the mount above stands for it")
def test_a_directory_without_the_right_to_write(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    path.chmod(0o500)
    (path / "lock").chmod(0o400)
    try:
        with pytest.raises(StoreReadOnlyError, match="read_only=True"):
            mq.open(path)
        with mq.open(path, read_only=True) as store:
            assert len(everything(store)) == 60
    finally:
        path.chmod(0o700)


# -- links ---------------------------------------------------------------------------------------------------------


PARTS = [
    *("topics", "views", "journal", "quarantine", "meta.json", "lock", "session.json", "clean-shutdown"),
    *("recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "views/data.mdb", "views/lock.mdb"),
    *("topics/t-0", "topics/__metadata-0", "topics/t-0/leader-epoch-checkpoint", "topics/t-0/partition.metadata"),
    *("topics/t-0/FIRST.log", "topics/t-0/FIRST.index", "topics/t-0/FIRST.timeindex", "topics/t-0/LAST.log"),
    *("journal/FIRST", "topics/t-0/FIRST.txnindex", "topics/t-0/damaged", "cleaner-offset-checkpoint"),
]


def part(store: Path, name: str) -> Path:
    """The path of a part, there or not; FIRST and LAST stand for the first and last segment, or file of the journal."""
    found = store / name
    for word, place in (("FIRST", 0), ("LAST", -1)):
        if word in found.name:
            suffix = ".log" if found.suffix else ""
            stem = sorted(one.stem if suffix else one.name for one in found.parent.glob(f"*{suffix}"))[place]
            return found.with_name(stem + found.suffix)
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("sound") / "s", durability="fsync")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("away", ["moved", "etc"])
def test_a_link_in_place_of_any_part_is_not_followed(sound: Path, fast_path: Path, name: str, away: str) -> None:
    """moved: the link leads to the part itself, elsewhere; etc: to a file or directory that must not be touched.

    The open is refused, or does without the part; what lies outside the store is neither written nor served."""
    path = fast_path / "s"
    shutil.copytree(sound, path)
    target, outside = part(path, name), fast_path / "outside"
    is_directory = target.is_dir() or name == "quarantine"
    if away == "moved" and target.exists():
        target.rename(outside)
    else:
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if is_directory:
            outside.mkdir()
        else:
            outside.write_bytes(b"secret of the outside\n" * 40)
    target.symlink_to(outside)
    before = snapshot(outside) if outside.is_dir() else outside.read_bytes()
    refusals: list[str] = []
    for read_only in (True, False, False):
        try:
            with mq.open(path, read_only=read_only) as store:
                for found in everything(store).values():
                    assert found.startswith(b"value ")
                if not read_only:
                    with store.producer() as producer:
                        producer.send("t", b"value of later", partition=0)
        except MQError as error:
            refusals.append(str(error))
    assert "secret" not in "".join(refusals)
    assert (snapshot(outside) if outside.is_dir() else outside.read_bytes()) == before
