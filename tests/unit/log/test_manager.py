"""A store opens, or refuses with a reason; it keeps what it was given, and touches nothing that is not its own."""

import gc
import json
import os
import resource
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from mqcore.clock import ManualClock
from mqcore.errors import (
    ForkedStoreError,
    InvalidConfigError,
    InvalidRecordError,
    InvalidTopicError,
    MQError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    StoreClosedError,
    StoreFormatError,
    StoreLockedError,
    TopicExistsError,
    UnknownTopicError,
)
from mqcore.log.checkpoints import with_checksum
from mqcore.log.internal_records import encode
from mqcore.log.manager import LogStore
from tests.support.stores import TOPIC, kill, opened, partition_dir, put, segment_files, values_of

DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    with opened(tmp_path / "store") as open_store:
        open_store.create_topic(TOPIC)
        yield open_store


# -- what is a store -----------------------------------------------------------------------------------------------


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b" / "store", durability="fsync") as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"x")
    for path in [tmp_path / "a" / "b" / "store", *(tmp_path / "a" / "b" / "store").rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_with_other_files_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreFormatError, match=r"not a store.*thesis\.tex"):
        LogStore.open(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreFormatError, MQError, NotADirectoryError)):
        LogStore.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_checksum(b'{"format":2,"store_id":"' + b"0" * 32 + b'"}\n'), "format version 2, this mqcore reads 1"),
        (b"", "not a store's meta.json"),
        (b"\xff\xfe\x00", "not a store's meta.json"),
        (b"[1, 2]\n", "not a store's meta.json"),
        (b'{"format":1,"store_id":"' + b"0" * 32 + b'"}\n', "checksum"),
        (with_checksum(b'{"format":1,"store_id":"xyz"}\n'), "no store id"),
        (with_checksum(b'{"format":1,"store_id":7}\n'), "no store id"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with opened(tmp_path):
        pass
    (tmp_path / "meta.json").write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(StoreFormatError, match=message):
            LogStore.open(tmp_path, read_only=read_only)


def test_a_crash_while_a_store_is_made_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "lock").write_text("1\n")
    (tmp_path / "meta.json.tmp").write_text("half")
    with opened(tmp_path) as store:
        assert store.recovery.created


@pytest.mark.parametrize("name", ["topics", "views", "journal", "quarantine", "meta.json", "lock"])
def test_links_inside_a_store_are_refused(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "store", durability="fsync"):
        pass
    elsewhere, inside = tmp_path / "elsewhere", tmp_path / "store" / name
    if inside.exists():
        inside.rename(elsewhere)
    else:
        elsewhere.mkdir()
    before = sorted(path.name for path in elsewhere.iterdir()) if elsewhere.is_dir() else elsewhere.read_bytes()
    inside.symlink_to(elsewhere)
    with pytest.raises(StoreFormatError, match="symbolic link"):
        LogStore.open(tmp_path / "store")
    after = sorted(path.name for path in elsewhere.iterdir()) if elsewhere.is_dir() else elsewhere.read_bytes()
    assert after == before


def test_a_link_as_partition_directory_is_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"x")
    real = partition_dir(tmp_path / "store")
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    with opened(tmp_path / "store") as store:
        assert [finding.what for finding in store.recovery.findings] == ["quarantined", "lost"]
        assert put(store.partition(TOPIC, 0), b"next") == 2
    assert (tmp_path / "elsewhere" / f"{0:020d}.log").exists()


def test_a_refused_open_gives_the_lock_back(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    good = (tmp_path / "meta.json").read_bytes()
    (tmp_path / "meta.json").write_bytes(b"garbage")
    with pytest.raises(StoreFormatError):
        LogStore.open(tmp_path)
    (tmp_path / "meta.json").write_bytes(good)
    with opened(tmp_path):
        pass


# -- topics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["fsync", "os", "memory"])
def test_topics_outlive_the_store(tmp_path: Path, durability: str) -> None:
    with opened(tmp_path, durability=durability) as store:
        store.create_topic("a", partitions=3, config={"retention.ms": 1000})
        store.create_topic("b")
        store.alter_topic("b", {"segment.bytes": 5000})
        store.add_partitions("a", 5)
        with pytest.raises(TopicExistsError):
            store.create_topic("a")
        with pytest.raises(InvalidTopicError):
            store.create_topic("../escape")
        with pytest.raises(InvalidConfigError, match=r"retention\.ms"):
            store.create_topic("c", config={"retention.msec": 1})
    with opened(tmp_path, durability=durability) as store:
        assert [(info.name, info.partitions) for info in store.topics().values()] == [("a", 5), ("b", 1)]
        assert store.topic("a").config.retention_ms == 1000
        assert store.topic("b").config.segment_bytes == 5000
        with pytest.raises(UnknownTopicError, match=r"'a'"):
            store.topic("aa")
        with pytest.raises(UnknownTopicError, match="0 to 4"):
            store.partition("a", 5)


def test_directories_come_with_the_first_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create_topic(TOPIC, partitions=100)
        assert [path.name for path in (tmp_path / "topics").iterdir()] == ["__metadata-0"]
        put(store.partition(TOPIC, 42), b"x")
        assert partition_dir(tmp_path, 42).is_dir()
    with opened(tmp_path) as store:
        assert store.bounds(TOPIC, 42) == (0, 1)
        assert store.bounds(TOPIC, 41) == (0, 0)


def test_a_deleted_topic_goes_and_its_views_stay(store: LogStore) -> None:
    log = store.partition(TOPIC, 0)
    put(log, b"kept by the view")
    view = log.read(0)
    assert view is not None
    held = memoryview(view.mapping)[view.start : view.end]  # type: ignore[arg-type]
    before = bytes(held)
    store.delete_topic(TOPIC)
    store.maintain()
    assert [path.name for path in Path(store.path, "topics").iterdir()] == ["__metadata-0"]
    assert bytes(held) == before
    for call in (lambda: log.read(0), lambda: put(log, b"late"), lambda: store.partition(TOPIC, 0)):
        with pytest.raises(UnknownTopicError):
            call()
    store.create_topic(TOPIC)
    assert put(store.partition(TOPIC, 0), b"a new life") == 1
    assert store.registry.deleted() == {}


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_topic_deleted_before_a_crash_stays_deleted(tmp_path: Path, durability: str) -> None:
    store = LogStore.open(tmp_path / "live", durability=durability)
    store.create_topic(TOPIC)
    put(store.partition(TOPIC, 0), b"old")
    info = store.topic(TOPIC)
    store.registry.delete(TOPIC)  # the tombstone is durable, the directory is not renamed yet
    image = kill(store, tmp_path / "image")
    assert partition_dir(image).is_dir()
    with opened(image, durability=durability) as store:
        store.maintain()
        assert store.topics() == {}
        assert not partition_dir(image).exists()
        assert info.topic_id not in store.registry.deleted()
        store.create_topic(TOPIC)
        assert values_of(store.partition(TOPIC, 0)) == []


def test_an_unknown_partition_directory_is_set_aside_and_kept(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    foreign = tmp_path / "topics" / "stranger-0"
    foreign.mkdir()
    (foreign / f"{0:020d}.log").write_bytes(b"somebody's data")
    (tmp_path / "topics" / "notes.txt").write_text("hm")
    with opened(tmp_path) as store:
        assert {finding.what for finding in store.recovery.findings} == {"quarantined"}
    assert (tmp_path / "quarantine" / "stranger-0" / f"{0:020d}.log").read_bytes() == b"somebody's data"
    assert (tmp_path / "quarantine" / "notes.txt").read_text() == "hm"


def test_a_directory_of_the_right_name_and_another_topic_id_is_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"of the other store")
    with opened(tmp_path / "two") as store:
        store.create_topic(TOPIC)
    os.rename(partition_dir(tmp_path / "one"), partition_dir(tmp_path / "two"))
    with opened(tmp_path / "two") as store:
        assert [finding.what for finding in store.recovery.findings] == ["quarantined"]
        assert values_of(store.partition(TOPIC, 0)) == []


def test_a_damaged_topic_id_file_does_not_cost_the_partition(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"x")
    for content in (b"\xff", b"version: 0\ntopic_id: " + b"A" * 22):  # unreadable; of no known topic
        (partition_dir(tmp_path) / "partition.metadata").write_bytes(content)
        with opened(tmp_path) as store:
            assert values_of(store.partition(TOPIC, 0)) == [b"x"]
            assert [finding.what for finding in store.recovery.findings] == ["rebuilt"]


# -- limits --------------------------------------------------------------------------------------------------------


def test_limits_of_a_topic_are_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        store.create_topic(TOPIC, config={"max.message.bytes": 500, "message.timestamp.before.max.ms": DAY_MS})
        log = store.partition(TOPIC, 0)
        with pytest.raises(RecordTooLargeError, match=r"max\.message\.bytes"):
            put(log, b"x" * 500)
        for timestamp in (clock.wall_ms() + 2 * DAY_MS, clock.wall_ms() - 2 * DAY_MS, -5):
            with pytest.raises(InvalidRecordError):
                log.append(encode([(None, b"x")], timestamp), from_outside=True)
        assert put(log, b"") == 1  # an empty record is one
        with pytest.raises(OffsetOutOfRangeError):
            log.read(2)
        with pytest.raises(OffsetOutOfRangeError):
            log.read(-1)
        assert log.read(1) is None


def test_log_append_time_is_the_stores(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        store.create_topic(TOPIC, config={"message.timestamp.type": "LogAppendTime"})
        log = store.partition(TOPIC, 0)
        put(log, b"x", timestamp_ms=5)
        assert log.segments[-1].max_timestamp == clock.wall_ms()


def test_segments_roll_by_size_and_by_record_time(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        store.create_topic(TOPIC, config={"segment.bytes": 1000, "segment.ms": DAY_MS})
        log = store.partition(TOPIC, 0)
        for _ in range(20):
            put(log, b"x" * 100)
        by_size = len(log.segments)
        assert by_size == 4
        clock.advance(2 * 24 * 60 * 60)
        put(log, b"x")
        assert len(log.segments) == by_size + 1
        assert values_of(log) == [b"x" * 100] * 20 + [b"x"]
        store.maintain()
        assert all(entry.sealed for entry in log.segments[:-1])


def test_delete_before_moves_the_log_start_for_good(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create_topic(TOPIC, config={"segment.bytes": 500})
        log = store.partition(TOPIC, 0)
        for number in range(20):
            put(log, b"%d" % number * 50)
        files = len(segment_files(tmp_path))
        log.delete_before(11)
        assert (log.log_start_offset, values_of(log)[0]) == (11, b"11" * 50)
        assert len(segment_files(tmp_path)) < files
        with pytest.raises(OffsetOutOfRangeError):
            log.read(10)
        with pytest.raises(OffsetOutOfRangeError):
            log.delete_before(21)
    with opened(tmp_path) as store:
        log = store.partition(TOPIC, 0)
        assert (log.log_start_offset, log.log_end_offset) == (11, 20)
        log.delete_before(20)
        assert values_of(log) == []
        assert put(log, b"next") == 21
    store = LogStore.open(tmp_path, durability="os")
    with opened(kill(store, tmp_path.with_name("image"))) as store:
        assert values_of(store.partition(TOPIC, 0)) == [b"next"]


def test_a_topic_under_fsync_in_a_store_under_os(tmp_path: Path) -> None:
    with opened(tmp_path, durability="os") as store:
        store.create_topic(TOPIC, config={"mqcore.durability": "fsync"})
        log = store.partition(TOPIC, 0)
        end = put(log, b"x", wait=False)
        assert (log.high_watermark, log.log_end_offset) == (0, 1)
        assert log.read(0) is None, "nobody reads what a crash may take back"
        log.wait_durable(end)
        assert values_of(log) == [b"x"]
        store.alter_topic(TOPIC, {"mqcore.durability": "os"})
        put(log, b"y", wait=False)
        assert values_of(log) == [b"x", b"y"]


# -- threads, processes, resources -----------------------------------------------------------------------------------


def test_many_threads_append_to_one_partition(store: LogStore) -> None:
    log, failures = store.partition(TOPIC, 0), []

    def work(name: int) -> None:
        try:
            for number in range(100):
                put(log, b"%d-%d" % (name, number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = [value.split(b"-") for value in values_of(log) if value is not None]
    for name in range(8):
        assert [number for who, number in found if int(who) == name] == [b"%d" % number for number in range(100)]


def test_a_closed_store_refuses_and_closes_again(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path)
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    put(log, b"x")
    store.close()
    store.close()
    for call in (
        store.topics,
        lambda: log.read(0),
        lambda: put(log, b"y"),
        lambda: store.create_topic("u"),
        store.maintain,
    ):
        with pytest.raises(StoreClosedError):
            call()


def test_a_forked_child_cannot_use_the_store_and_harms_nothing(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path, durability="fsync")
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    put(log, b"before")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = []
        for call in (store.topics, lambda: log.read(0), lambda: put(log, b"child"), lambda: store.partition(TOPIC, 0)):
            try:
                call()
                outcome.append("worked")
            except ForkedStoreError:
                outcome.append("ok")
            except BaseException as error:
                outcome.append(repr(error))
        store.close()
        os.write(write, json.dumps(outcome).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert json.loads(os.read(read, 4096)) == ["ok", "ok", "ok", "ok"]
    os.close(read)
    os.close(write)
    put(log, b"after")
    with pytest.raises(StoreLockedError):
        LogStore.open(tmp_path)
    store.close()
    with opened(tmp_path, durability="fsync") as store:
        assert store.recovery.clean
        assert values_of(store.partition(TOPIC, 0)) == [b"before", b"after"]


def test_a_forked_child_that_exits_in_good_order_writes_nothing(tmp_path: Path) -> None:
    """Its interpreter tears down every object that it inherited: none of them may touch the parent's files."""
    code = """
import hashlib, os, sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from mqcore.log.marks import page_path
from tests.support.stores import *
def files():
    return {str(p): p.read_bytes() for p in Path(sys.argv[1]).rglob("*") if p.is_file()}
for durability in ("os", "fsync"):
    store = LogStore.open(Path(sys.argv[1]) / durability, durability=durability)
    store._maintenance.stop()
    store.create_topic(TOPIC, config={"index.interval.bytes": 100})
    for number in range(50): put(store.partition(TOPIC, 0), b"x" * 100)
    before = files()
    if os.fork() == 0:
        sys.exit(0)
    assert os.wait()[1] == 0
    assert files() == before
    assert os.path.exists(page_path(store.store_id, store.path))
    put(store.partition(TOPIC, 0), b"still here")
    store.close()
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-P", "-c", code, tmp_path, root], check=True)
    for durability in ("os", "fsync"):
        with opened(tmp_path / durability, durability=durability) as store:
            assert store.recovery.clean
            assert store.partition(TOPIC, 0).log_end_offset == 51


def test_an_exit_without_close_is_a_clean_close(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.support.stores import *\n"
        "store = LogStore.open(sys.argv[1]); store.create_topic(TOPIC); put(store.partition(TOPIC, 0), b'x')\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-P", "-c", code, tmp_path / "store", root], check=True)
    with opened(tmp_path / "store") as store:
        assert store.recovery.clean
        assert values_of(store.partition(TOPIC, 0)) == [b"x"]


def resident_mib() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return (int(fields["RssAnon"].split()[0]) + int(fields["RssShmem"].split()[0])) / 1024


def test_a_thousand_partitions_fit_in_memory_and_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    gc.collect()
    before = resident_mib()
    try:
        with opened(tmp_path) as store:
            store.create_topic(TOPIC, partitions=1000)
            for number in range(1000):
                put(store.partition(TOPIC, number), b"%d" % number)
            assert len(os.listdir("/proc/self/fd")) < 1000
        with opened(tmp_path) as store:
            for number in range(1000):
                log = store.partition(TOPIC, number)
                assert values_of(log) == [b"%d" % number]
                put(log, b"again")
            assert len(os.listdir("/proc/self/fd")) < 1000
            assert resident_mib() - before < 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ids_of_topics_are_new_each_time(store: LogStore) -> None:
    first = store.topic(TOPIC).topic_id
    assert isinstance(first, uuid.UUID)
    store.delete_topic(TOPIC)
    assert store.create_topic(TOPIC).topic_id != first
