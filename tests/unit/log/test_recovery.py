"""After a crash, what was acknowledged is there or is reported, what was not may be cut, and no offset comes back.

The rule (R7) case by case: a torn tail, a bad batch with and without successors, in the middle and at the end, under
fsync and under os, proven by the journal, by a recovery point, or not at all.
"""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo, Io
from mqcore.errors import CorruptBatchError, DiskFullError, StorageError, UnknownTopicError
from mqcore.log.checkpoints import PartitionKey, read_damage, read_offsets
from mqcore.log.internal_records import encode
from mqcore.log.layout import LOG_STARTS
from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog
from tests.support.stores import (
    TOPIC,
    batch_positions,
    flip,
    kill,
    opened,
    partition_dir,
    put,
    readable,
    segment_files,
    values_of,
)

SMALL = {"segment.bytes": 1000}


def crashed(tmp_path: Path, durability: str, count: int = 20, config: dict[str, int] | None = None) -> Path:
    """An image of a store killed after `count` acknowledged appends of one 100-byte record each (b"0…", b"1…", …)."""
    store = LogStore.open(tmp_path / "live", durability=durability)
    store.create_topic(TOPIC, config=config)
    log = store.partition(TOPIC, 0)
    for number in range(count):
        put(log, value(number))
    return kill(store, tmp_path / "image")


def value(number: int) -> bytes:
    return b"%d" % number + b"." * 100


def without_journal(image: Path) -> Path:
    """As if the journal had been checkpointed: it proves nothing."""
    for file in (image / "journal").glob("*"):
        file.unlink()
    return image


def unproven(image: Path) -> Path:
    """As if nothing had been synced since the open (the maintenance thread may have): the scan is all there is."""
    (image / "recovery-point-offset-checkpoint").unlink(missing_ok=True)
    return without_journal(image)


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("config", [None, SMALL], ids=["one segment", "many segments"])
def test_a_kill_loses_nothing(tmp_path: Path, durability: str, config: dict[str, int] | None) -> None:
    with opened(crashed(tmp_path, durability, config=config), durability=durability) as store:
        assert not store.recovery.clean
        assert store.recovery.findings == []
        log = store.partition(TOPIC, 0)
        assert values_of(log) == [value(number) for number in range(20)]
        assert put(log, b"next") == 21


def test_a_clean_close_leaves_nothing_to_recover(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create_topic(TOPIC, config=SMALL)
        for number in range(20):
            put(store.partition(TOPIC, 0), value(number))
    with opened(tmp_path / "store") as store:
        assert store.recovery.clean
        assert store.recovery.segments_scanned == 0
        assert store.partition(TOPIC, 0).epoch == 0
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(20)]


def test_each_crash_begins_a_leader_epoch(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os", count=3)
    store = LogStore.open(image, durability="os")
    log = store.partition(TOPIC, 0)
    put(log, b"in the new epoch")
    assert [tuple(entry) for entry in log.epochs.entries] == [(0, 0), (1, 3)] or log.epochs.latest == 1
    assert (log.epoch_of(2), log.epoch_of(3)) == (0, 1)
    with opened(kill(store, tmp_path / "second"), durability="os") as store:
        log = store.partition(TOPIC, 0)
        put(log, b"and in the one after")
        assert [log.epoch_of(offset) for offset in range(5)] == [0, 0, 0, 1, 2]


# -- os: what lies in the page cache is acknowledged --------------------------------------------------------------


def test_os_a_torn_last_batch_is_cut(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os")
    file = segment_files(image)[-1]
    os.truncate(file, file.stat().st_size - 7)
    with opened(image, durability="os") as store:
        assert [(finding.what, finding.offset) for finding in store.recovery.findings] == [("cut", 19)]
        log = store.partition(TOPIC, 0)
        assert values_of(log) == [value(number) for number in range(19)]
        assert put(log, b"again") == 20


@pytest.mark.parametrize("durability_now", ["os", "fsync"])
def test_os_a_bad_batch_with_a_successor_is_damage(tmp_path: Path, durability_now: str) -> None:
    """Also when it is opened under fsync now: what counts is how it was written."""
    image = crashed(tmp_path, "os")
    file = segment_files(image)[-1]
    position, size = batch_positions(file)[5]
    flip(file, position + size - 3)
    with opened(image, durability=durability_now) as store:
        log = store.partition(TOPIC, 0)
        (finding,) = store.recovery.damaged
        assert (finding.offset, finding.next_offset, finding.position) == (5, 6, position)
        with pytest.raises(CorruptBatchError) as caught:
            values_of(log)
        where = caught.value.where
        assert (where["topic"], where["partition"], where["offset"], where["next_offset"]) == (TOPIC, 0, 5, 6)
        assert where["path"] == str(file)
        assert readable(log) == {number: value(number) for number in range(20) if number != 5}
        assert put(log, b"next") == 21
    with opened(image, durability=durability_now) as store:  # known now, also after a clean close
        assert store.recovery.clean
        assert set(range(21)) - set(readable(store.partition(TOPIC, 0))) == {5}


def test_os_damage_in_the_middle_of_many_segments(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os", config=SMALL)
    files = segment_files(image)
    flip(files[1], 70)
    with opened(image) as store:
        log = store.partition(TOPIC, 0)
        lost = set(range(20)) - set(readable(log))
        assert len(lost) == 1
        assert put(log, b"next") == 21


def test_os_a_missing_segment_is_damage(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os", config=SMALL)
    files = segment_files(image)
    first, after = int(files[1].stem), int(files[2].stem)
    files[1].unlink()
    with opened(image) as store:
        log = store.partition(TOPIC, 0)
        assert set(range(20)) - set(readable(log)) == set(range(first, after))
        assert [(one.offset, one.next_offset) for one in store.recovery.damaged] == [(first, after)]


# -- fsync: what the journal or a recovery point proves is kept, the rest is cut -----------------------------------


def test_fsync_what_the_journal_holds_is_written_again(tmp_path: Path) -> None:
    """The segment's bytes were never synced: after a power loss they may be anything, or nothing."""
    image = crashed(tmp_path, "fsync")
    for file in segment_files(image):
        file.write_bytes(b"")
    with opened(image, durability="fsync") as store:
        assert store.recovery.redone_bytes > 0
        assert store.recovery.damaged == []
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(20)]


def test_fsync_what_lies_below_the_log_start_leaves_no_hole_in_its_segment(tmp_path: Path) -> None:
    """The log start is in the middle of a segment that lost power before it was synced."""
    with opened(crashed(tmp_path, "fsync", count=0), durability="fsync") as store:
        store._maintenance.stop()  # no checkpoint: the journal has everything
        log = store.partition(TOPIC, 0)
        for number in range(4):
            put(log, value(number))
        log.delete_before(2)
        image = kill(store, tmp_path / "lost")
    os.truncate(segment_files(image)[0], 0)
    with opened(image, durability="fsync") as store:
        assert store.recovery.findings == []
        assert store.partition(TOPIC, 0).log_start_offset == 2
        assert values_of(store.partition(TOPIC, 0)) == [value(2), value(3)]


def test_fsync_a_lost_directory_is_made_again(tmp_path: Path) -> None:
    image = crashed(tmp_path, "fsync")
    for file in partition_dir(image).iterdir():
        file.unlink()
    partition_dir(image).rmdir()
    with opened(image, durability="fsync") as store:
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(20)]


def test_fsync_a_bad_batch_past_what_is_proven_ends_the_log(tmp_path: Path) -> None:
    """Whatever follows it: unsynced writes reach the disk in any order, and nobody was told of them."""
    image = unproven(crashed(tmp_path, "fsync", config=SMALL))
    files = segment_files(image)
    position, _ = batch_positions(files[2])[1]
    end = int(files[2].stem) + 1
    flip(files[2], position + 70)
    with opened(image, durability="fsync") as store:
        log = store.partition(TOPIC, 0)
        assert log.log_end_offset == end
        assert values_of(log) == [value(number) for number in range(end)]
        assert {finding.what for finding in store.recovery.findings} == {"cut"}
        assert put(log, b"next") == end + 1
    assert list((image / "quarantine").rglob("*.log")), "what is cut off as a whole is set aside, not deleted"


def test_fsync_a_bad_batch_below_the_recovery_point_is_damage(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path / "live", durability="fsync")
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    for number in range(20):
        put(log, value(number))
    store.maintain()  # a checkpoint: the journal forgets, the recovery point remembers
    assert read_offsets(store.io, f"{store.path}/recovery-point-offset-checkpoint")[PartitionKey(TOPIC, 0)] == 20
    image = without_journal(kill(store, tmp_path / "image"))
    file = segment_files(image)[-1]
    position, _ = batch_positions(file)[18]
    flip(file, position + 70)
    os.truncate(file, batch_positions(file)[19][0] + 5)  # and the last one is torn
    with opened(image, durability="fsync") as store:
        log = store.partition(TOPIC, 0)
        assert set(range(20)) - set(readable(log)) == {18, 19}
        assert store.recovery.cut == []
        assert put(log, b"next") == 21, "the offsets of lost records are not given out again"
        assert readable(log)[20] == b"next"
        assert read_damage(store.io, f"{log.directory}/damaged")


def test_fsync_a_cut_file_below_what_the_journal_proves_is_no_cut(tmp_path: Path) -> None:
    """All of it is in the journal: nothing is lost, although the file ends in the middle."""
    image = crashed(tmp_path, "fsync")
    file = segment_files(image)[-1]
    os.truncate(file, batch_positions(file)[3][0] + 11)
    with opened(image, durability="fsync") as store:
        assert store.recovery.findings == []
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(20)]


def test_a_crash_in_recovery_is_recovered_like_any_other(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os")
    file = segment_files(image)[-1]
    position, size = batch_positions(file)[5]
    flip(file, position + size - 3)
    for attempt in range(3):
        store = LogStore.open(image, durability="os")
        assert set(range(20)) - set(readable(store.partition(TOPIC, 0))) == {5}
        image = kill(store, tmp_path / f"again{attempt}")
    assert len(segment_files(image)) == 2, "the records behind the damage were split off once"


# -- the small files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["session.json", "recovery-point-offset-checkpoint", "log-start-offset-checkpoint"])
def test_damaged_small_files_cost_a_scan_only(tmp_path: Path, name: str) -> None:
    image = crashed(tmp_path, "os")
    (image / name).write_bytes(b"\xff\x00garbage")
    with opened(image) as store:
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(20)]
        assert [finding.what for finding in store.recovery.findings] == ["rebuilt"]


def test_a_damaged_clean_shutdown_file_is_not_believed(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), value(0))
    flip(tmp_path / "store" / "clean-shutdown", 20)
    with opened(tmp_path / "store") as store:
        assert not store.recovery.clean
        assert values_of(store.partition(TOPIC, 0)) == [value(0)]


def test_a_file_that_was_cut_after_a_clean_close_is_damage(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create_topic(TOPIC)
        for number in range(5):
            put(store.partition(TOPIC, 0), value(number))
    file = segment_files(tmp_path / "store")[0]
    os.truncate(file, batch_positions(file)[3][0])
    with opened(tmp_path / "store") as store:
        log = store.partition(TOPIC, 0)
        assert set(readable(log)) == {0, 1, 2}
        assert [(one.offset, one.next_offset) for one in store.recovery.damaged] == [(3, 5)]
        assert put(log, b"next") == 6


def test_recovery_points_are_not_ahead_of_what_is_synced(tmp_path: Path) -> None:
    image = crashed(tmp_path, "fsync")
    points = read_offsets(LogStore.open(tmp_path / "other").io, str(image / "recovery-point-offset-checkpoint"))
    assert points.get(PartitionKey(TOPIC, 0), 0) == 0


def test_the_session_of_the_writer_is_what_recovery_goes_by(tmp_path: Path) -> None:
    image = crashed(tmp_path, "os", count=1)
    session = json.loads((image / "session.json").read_bytes().splitlines()[0])
    assert (session["epoch"], session["durability"]) == (0, "os")
    with opened(image, durability="fsync"):
        session = json.loads((image / "session.json").read_bytes().splitlines()[0])
        assert (session["epoch"], session["durability"]) == (1, "fsync")


@pytest.mark.parametrize(
    ("short", "fails"), [(50, "pwritev"), (250, "pwritev"), (50, "pwritev,ftruncate"), (250, "pwritev,ftruncate")]
)
def test_what_a_failed_write_left_behind_a_checkpoint_hides_nothing(tmp_path: Path, short: int, fails: str) -> None:
    """The disk is full in the middle of an append; the next record goes to a new segment, and a kill comes before the
    old one is sealed: no byte of the failed append is believed, and none is in the way."""
    io = FaultyIo()
    store = LogStore.open(tmp_path / "s", io=io)
    store._maintenance.stop()
    store.create_topic(TOPIC)
    log = store.partition(TOPIC, 0)
    put(log, b"a" * 100)
    assert store.group is not None
    store.group.checkpoint()
    io.arm(1, errno.ENOSPC, short=short, only=fails, sticky=True)
    with pytest.raises(DiskFullError):
        log.append(bytearray(encode([(None, b"b" * 100)], 0)) + encode([(None, b"c" * 100)], 0))
    if "ftruncate" in fails:
        io.arm(1, errno.EIO, only="ftruncate", sticky=True)
        with pytest.raises(StorageError):  # nothing may be acknowledged behind it
            put(log, b"e")
        with pytest.raises(StorageError):
            log.roll()
    io.disarm()
    log.roll()
    put(log, b"d" * 100)
    with opened(kill(store, tmp_path / "image"), durability="fsync") as store:
        assert values_of(store.partition(TOPIC, 0)) == [b"a" * 100, b"d" * 100]
        assert not [one for one in store.recovery.findings if one.what != "cut"]


def test_what_the_journal_holds_of_a_deleted_topic_goes_with_it(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path / "live")
    store._maintenance.stop()
    store.create_topic(TOPIC)
    put(store.partition(TOPIC, 0), b"a")
    store.delete_topic(TOPIC)
    with opened(kill(store, tmp_path / "image")) as store:
        assert store.recovery.of("quarantined") == []
    assert not (tmp_path / "image" / "quarantine").exists()


@pytest.mark.parametrize("lost", ["bytes", "directory", "nothing"])
def test_what_the_journal_holds_of_a_topic_that_metadata_lost_is_kept(tmp_path: Path, lost: str) -> None:
    store = LogStore.open(tmp_path / "live")
    store._maintenance.stop()
    store.create_topic(TOPIC)
    put(store.partition(TOPIC, 0), b"old")
    assert store.group is not None
    store.group.checkpoint()  # from here on the journal knows nothing of `__metadata`
    put(store.partition(TOPIC, 0), b"a", b"b")
    topic_id = store.topic(TOPIC).topic_id
    image = kill(store, tmp_path / "image")
    for name in ("topics/__metadata-0", "views", *(["topics/t-0"] if lost == "directory" else [])):
        shutil.rmtree(image / name)
    (image / "recovery-point-offset-checkpoint").unlink()
    if lost == "bytes":
        os.truncate(segment_files(image)[0], batch_positions(segment_files(image)[0])[0][1])
    with opened(image) as store:
        assert store.topics() == {}
        reasons = [one.reason for one in store.recovery.of("quarantined")]
        assert sum("journal" in reason for reason in reasons) == (lost != "nothing")
        image = kill(store, tmp_path / "again")
    name = TOPIC if lost != "directory" else str(topic_id)
    with opened(image) as store:
        assert store.recovery.findings == []
        if lost == "directory":
            directory = image / "quarantine" / f"{name}-0"
            assert b"a" in (directory / f"{0:020d}.log").read_bytes()
        else:
            store.adopt(str(image / "quarantine" / f"{name}-0"), TOPIC, 0)
            assert values_of(store.partition(TOPIC, 0)) == [b"old", b"a", b"b"]


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("tail", [b"", b"x" * 30, b"valid"])
def test_batches_behind_the_base_of_a_segment_that_was_written_to_are_nobodys(
    tmp_path: Path, durability: str, tail: bytes
) -> None:
    """A failed write was cut off, but a power loss took the cut back: the next segment is what was acknowledged."""
    image = crashed(tmp_path, durability, 12, SMALL)
    old, new = segment_files(image)[:2]
    stale = old.read_bytes()[batch_positions(old)[-1][0] :]  # one good batch ...
    at = int(new.stem)
    stale = at.to_bytes(8, "big") + stale[8:]  # ... with the offset that the next segment begins at
    following = (at + 1).to_bytes(8, "big") + stale[8:]
    with old.open("ab") as file:
        file.write(stale + (following if tail == b"valid" else tail))
    reader = LogStore.open(image, read_only=True)
    assert values_of(reader.partition(TOPIC, 0)) == [value(n) for n in range(12)]
    reader.close()
    with opened(unproven(image), durability=durability) as store:
        assert values_of(store.partition(TOPIC, 0)) == [value(n) for n in range(12)]
        assert {one.what for one in store.recovery.findings} == {"cut"}
    assert not (image / "quarantine").exists()


@pytest.mark.parametrize("crash", [False, True])
def test_a_deleted_topic_says_nothing_of_one_of_its_name(tmp_path: Path, crash: bool) -> None:
    """Recovery points and log starts go by name; they must not hide, skip or cut what a new topic was given. crash:
    between the delete and the making."""
    with opened(tmp_path / "s", durability="fsync") as store:
        store.create_topic(TOPIC)
        for number in range(20):
            put(store.partition(TOPIC, 0), value(number))
        store.partition(TOPIC, 0).delete_before(10)
    store = LogStore.open(tmp_path / "s")
    store._maintenance.stop()
    store.delete_topic(TOPIC)
    if crash:
        store = LogStore.open(kill(store, tmp_path / "deleted"))
        store._maintenance.stop()
    store.create_topic(TOPIC)
    put(store.partition(TOPIC, 0), b"new")
    image = kill(store, tmp_path / "image")
    segment_files(image)[0].write_bytes(b"")  # a power cut: what is not synced is gone, and the journal has it
    with opened(image, durability="fsync") as store:
        assert readable(store.partition(TOPIC, 0)) == {0: b"new"}
        assert not store.recovery.findings


def test_offset_files_are_written_by_one_at_a_time(tmp_path: Path) -> None:
    """Log starts that move in several partitions at once, and checkpoints beside maintenance: no write is lost."""
    with opened(tmp_path / "s", durability="fsync") as store:
        store.create_topic(TOPIC, partitions=8)
        logs = [store.partition(TOPIC, number) for number in range(8)]
        for log in logs:
            put(log, *[b"v"] * 40)

        def move(log: PartitionLog) -> None:
            for offset in range(1, 31):
                log.delete_before(offset)
                store.save_recovery_points()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(move, logs))
        starts = read_offsets(store.io, store.layout.path(LOG_STARTS))
        assert starts == {PartitionKey(TOPIC, number): 30 for number in range(8)}


def test_a_delete_between_the_look_up_and_the_making_of_a_log(tmp_path: Path) -> None:
    """Who looked a topic up before it was deleted gets no log of it, which a topic of the same name would inherit."""
    with LogStore.open(tmp_path / "s") as store:
        store.create_topic(TOPIC)
        info = store.topic(TOPIC)
        store.delete_topic(TOPIC)
        with pytest.raises(UnknownTopicError):
            store.partitions.log_of(info, 0)
        store.create_topic(TOPIC)
        put(store.partition(TOPIC, 0), b"new")
    with LogStore.open(tmp_path / "s") as store:
        assert values_of(store.partition(TOPIC, 0)) == [b"new"]


def test_a_file_longer_than_any_segment_is_cut_or_damage_not_a_crash(tmp_path: Path) -> None:
    image = crashed(tmp_path, "fsync", count=3)
    os.truncate(segment_files(image)[0], 3 << 30)
    with opened(image, durability="fsync") as store:
        assert values_of(store.partition(TOPIC, 0)) == [value(number) for number in range(3)]
        put(store.partition(TOPIC, 0), b"next")


def test_what_recovery_keeps_is_synced_whatever_the_session_before_was(tmp_path: Path) -> None:
    """A directory that was written as a store in memory, and is opened under fsync: it is durable before it is read."""
    image = crashed(tmp_path, "memory", count=3)
    synced: list[str] = []

    class Watching(Io):
        def sync_file(self, path: str) -> None:
            synced.append(path)
            super().sync_file(path)

    with opened(image, durability="fsync", io=Watching()) as store:
        assert len(readable(store.partition(TOPIC, 0))) == 3
        assert str(segment_files(image)[0]) in synced
