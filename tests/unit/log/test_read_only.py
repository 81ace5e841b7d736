"""A reader of another process sees what is durable, at once, and writes nothing, beside a writer or without one."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mqcore.errors import StoreFormatError, StoreReadOnlyError, UnknownTopicError
from mqcore.log.manager import LogStore
from tests.support.stores import (
    TOPIC,
    batch_positions,
    flip,
    kill,
    opened,
    put,
    segment_files,
    values_of,
)

ROOT = Path(__file__).parents[3]
# A writer that does what it is told, line by line: "put N", "roll", "delete N", "create NAME", "unsynced N", "stop".
WRITER = """
import sys; sys.path.insert(0, sys.argv[3])
from tests.support.stores import *
store = LogStore.open(sys.argv[1], durability=sys.argv[2])
store._maintenance.stop()  # a checkpoint makes durable what nobody waited for
if TOPIC not in store.topics(): store.create_topic(TOPIC, config={"segment.bytes": 2000})
print("ready", flush=True)
for line in sys.stdin:
    verb, *rest = line.split()
    log = store.partition(TOPIC, 0)
    if verb == "put":
        for number in range(int(rest[0])): put(log, b"%d" % log.log_end_offset + b"." * 100)
    elif verb == "unsynced":
        for number in range(int(rest[0])): put(log, b"not yet", wait=False)
    elif verb == "roll": log.roll()
    elif verb == "delete": log.delete_before(int(rest[0]))
    elif verb == "create": store.create_topic(rest[0])
    elif verb == "stop": store.close()
    print("done", flush=True)
"""


class Writer:
    def __init__(self, path: Path, durability: str) -> None:
        command = [sys.executable, "-P", "-c", WRITER, path, durability, ROOT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer("ready")

    def answer(self, wanted: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == wanted

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.answer("done")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def writing(path: Path, durability: str) -> Iterator[Writer]:
    writer = Writer(path, durability)
    try:
        yield writer
    finally:
        writer.kill()


def value(number: int) -> bytes:
    return b"%d" % number + b"." * 100


def fingerprint(path: Path) -> dict[str, str]:
    """Every file, its bytes, and when it was changed."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest() + str(file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_reader_follows_a_writer_of_another_process(tmp_path: Path, durability: str) -> None:
    with writing(tmp_path, durability) as writer, opened(tmp_path, read_only=True) as store:
        log = store.partition(TOPIC, 0)
        assert values_of(log) == []
        total = 0
        for count in (1, 1, 30, 5, 60):  # rolls at 2000 bytes: some of these cross segments
            writer.tell(f"put {count}")
            total += count
            assert log.high_watermark == total
            assert values_of(log) == [value(number) for number in range(total)]
        writer.tell("roll")
        writer.tell("put 1")
        assert values_of(log, total) == [value(total)]


def test_a_reader_sees_nothing_that_is_not_durable(tmp_path: Path) -> None:
    with writing(tmp_path, "fsync") as writer, opened(tmp_path, read_only=True) as store:
        writer.tell("put 3")
        log = store.partition(TOPIC, 0)
        writer.tell("unsynced 2")
        assert values_of(log) == [value(number) for number in range(3)]
        assert log.read(3) is None


def test_a_reader_sees_topics_come_and_log_starts_move(tmp_path: Path) -> None:
    with writing(tmp_path, "os") as writer, opened(tmp_path, read_only=True) as store:
        with pytest.raises(UnknownTopicError):
            store.topic("later")
        writer.tell("create later")
        assert store.topic("later").partitions == 1
        assert set(store.topics()) == {TOPIC, "later"}
        writer.tell("put 60")
        log = store.partition(TOPIC, 0)
        assert len(values_of(log)) == 60
        writer.tell("delete 45")
        assert log.log_start_offset == 45
        assert values_of(log) == [value(number) for number in range(45, 60)]


def test_what_was_served_stays_served_when_writers_come_and_go(tmp_path: Path) -> None:
    with opened(tmp_path / "s", durability="os") as first:
        first.create_topic(TOPIC, config={"segment.bytes": 2000})
    with opened(tmp_path / "s", read_only=True) as store:
        log = store.partition(TOPIC, 0)
        assert values_of(log) == []
        seen = 0
        for _ in range(3):
            with writing(tmp_path / "s", "os") as writer:
                store._attached_at = 0.0  # look for a writer now
                writer.tell("put 20")
                seen += 20
                assert len(values_of(log)) == seen
            assert len(values_of(log)) == seen  # killed


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_without_a_writer_nothing_is_written(tmp_path: Path, durability: str) -> None:
    with opened(tmp_path / "s", durability=durability) as store:
        store.create_topic(TOPIC, config={"segment.bytes": 2000})
        for number in range(50):
            put(store.partition(TOPIC, 0), value(number))
    before = fingerprint(tmp_path / "s")
    with opened(tmp_path / "s", read_only=True) as store:
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(50)]
        for call in (
            lambda: store.create_topic("u"),
            lambda: store.delete_topic(TOPIC),
            lambda: put(store.partition(TOPIC, 0), b"x"),
            lambda: store.partition(TOPIC, 0).delete_before(3),
            store.maintain,
        ):
            with pytest.raises(StoreReadOnlyError):
                call()
    assert fingerprint(tmp_path / "s") == before


def crashed(tmp_path: Path, durability: str) -> Path:
    store = LogStore.open(tmp_path / "live", durability=durability)
    store._maintenance.stop()
    store.create_topic(TOPIC, config={"segment.bytes": 2000})
    log = store.partition(TOPIC, 0)
    for number in range(30):
        put(log, value(number))
    if durability == "fsync":
        put(log, b"never acknowledged", wait=False)
    return kill(store, tmp_path / "image")


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_after_a_crash_what_is_provably_kept_is_served(tmp_path: Path, durability: str) -> None:
    image = crashed(tmp_path, durability)
    before = fingerprint(image)
    with opened(image, read_only=True) as store:
        log = store.partition(TOPIC, 0)
        assert values_of(log) == [value(number) for number in range(30)]
        served = log.high_watermark
    assert fingerprint(image) == before
    with opened(image, durability=durability) as store:
        assert store.partition(TOPIC, 0).high_watermark >= served


def test_after_a_crash_a_bad_batch_ends_what_is_served(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os")
    file = segment_files(image)[-1]
    position, size = batch_positions(file)[1]
    flip(file, position + size - 1)
    with opened(image, read_only=True) as store:
        log = store.partition(TOPIC, 0)
        good = int(file.stem) + 1
        assert values_of(log) == [value(number) for number in range(good)]
        assert log.log_end_offset == good


def test_no_store_is_made_for_a_reader(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(StoreFormatError):
            LogStore.open(path, read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("clean", [True, False])
def test_a_read_only_file_system_will_do(tmp_path: Path, clean: bool) -> None:
    if clean:
        with opened(tmp_path / "image", durability="os") as store:
            store.create_topic(TOPIC)
            for number in range(30):
                put(store.partition(TOPIC, 0), value(number))
    else:
        crashed(tmp_path, "os")
    mount = tmp_path / "mount"
    mount.mkdir()
    commands = [["mount", "--bind", tmp_path / "image", mount], ["mount", "-o", "remount,bind,ro", mount]]
    if os.geteuid() != 0 or any(subprocess.run(command, capture_output=True).returncode for command in commands):
        pytest.skip("needs a read-only bind mount")
    try:
        with opened(mount, read_only=True) as store:
            assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(30)]
        with pytest.raises(StoreReadOnlyError, match="read_only=True"):
            LogStore.open(mount)
    finally:
        subprocess.run(["umount", mount], check=True)


def test_how_the_last_writer_left_the_store_is_what_counts(tmp_path: Path) -> None:
    """A reader that looked at the store before a writer came and died goes by that writer's session: under fsync it
    does not see what nobody was told of, though the session before was under os."""
    store = LogStore.open(tmp_path / "s", durability="os")
    store.create_topic(TOPIC, partitions=2)
    for number in range(2):
        put(store.partition(TOPIC, number), b"before")
    store.abandon()
    with LogStore.open(tmp_path / "s", read_only=True) as reader:
        assert values_of(reader.partition(TOPIC, 0)) == [b"before"]
        store = LogStore.open(tmp_path / "s", durability="fsync")
        put(store.partition(TOPIC, 1), b"told")
        put(store.partition(TOPIC, 1), b"not told", wait=False)
        store.abandon()
        assert values_of(reader.partition(TOPIC, 1)) == [b"before", b"told"]


def test_a_damaged_journal_is_reported_to_a_reader(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path / "live")
    store._maintenance.stop()
    store.create_topic(TOPIC)
    for number in range(10):
        put(store.partition(TOPIC, 0), b"value-%d" % number)
    image = kill(store, tmp_path / "image")
    (ring,) = (image / "journal").iterdir()
    flip(ring, ring.read_bytes().index(b"value-5"))
    reader = LogStore.open(image, read_only=True)
    assert len(values_of(reader.partition(TOPIC, 0))) == 10  # later records prove what lies before them, too
    assert ["journal record" in one.reason for one in reader.recovery.of("lost")] == [True]
    reader.close()
    with opened(image) as store:
        assert len(values_of(store.partition(TOPIC, 0))) == 10  # the segment has it all the same
