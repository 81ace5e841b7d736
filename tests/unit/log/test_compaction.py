"""A compacted log is the dict of its records' last values, whatever stops a round, and whoever reads beside it."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.io import FaultyIo
from mqcore.clock import ManualClock
from mqcore.errors import CorruptBatchError, MQError
from mqcore.log import compaction, segment_swap
from mqcore.log.compaction import Compaction
from mqcore.log.maintenance import Maintenance
from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog
from mqcore.log.reader import PartitionReader
from mqcore.log.verify import verify
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker
from tests.support.stores import TOPIC, batch_positions, flip, kill, opened, segment_files

CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": 2000,
    "delete.retention.ms": 1000,
    "min.cleanable.dirty.ratio": 0,
}
Records = dict[int, tuple[bytes | None, bytes | None, int]]
"""offset -> (key, value, timestamp)"""


@pytest.fixture(autouse=True, scope="module")
def _no_maintenance_thread() -> Iterator[None]:
    """The tests run the passes themselves: faults must hit what they aim at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Maintenance, "start", lambda self: None)
        yield


def open_store(path: Path, clock: ManualClock, io: FaultyIo | None = None, durability: str = "os") -> LogStore:
    return LogStore.open(path, durability=durability, io=io, clock=clock)


def append(log: PartitionLog, records: list[tuple[bytes | None, bytes | None]], codec: int = 0, **more: int) -> Records:
    """Append one batch; what was stored."""
    now = log.host.clock.wall_ms()
    plain = [Plain(value, key, timestamp=now + i) for i, (key, value) in enumerate(records)]
    appended = log.append(bytearray(encode(plain, codec=codec, **more)))
    log.wait_durable(appended.next_offset)
    return {appended.base_offset + i: (record.key, record.value, record.timestamp) for i, record in enumerate(plain)}


def stored(log: PartitionLog) -> Records:
    reader, found = PartitionReader(log, log.log_start_offset), {}
    while (columns := reader.read()) is not None:
        found |= {r.offset: (r.key, r.value, r.timestamp) for r in columns.iter_records()}
    return found


def check(found: Records, model: Records, dropped_tombstones_ok: bool = True) -> None:
    """Nothing invented, the last of each key there; a tombstone may be gone if all that it hides is."""
    last = {key: offset for offset, (key, _, _) in model.items()}
    for offset, record in found.items():
        assert model[offset] == record
    for key, offset in last.items():
        if offset not in found:
            assert model[offset][1] is None
            assert dropped_tombstones_ok
            assert not any(k == key for k, _, _ in found.values())


def is_compacted(found: Records, model: Records, end: int) -> None:
    """Below `end` a key has at most one record: its last, unless a newer one lies past `end`."""
    last: dict[bytes | None, int] = {}
    for offset, (key, _, _) in model.items():
        last[key] = offset
    assert [o for o, (key, _, _) in found.items() if o < end and last[key] != o] == []


def compact(log: PartitionLog, clock: ManualClock, map_bytes: int = 1 << 20) -> compaction.Round | None:
    log.flush()
    plan = compaction.plan(log, cleaned=log.cleaned, now_ms=clock.wall_ms())
    if plan is None:
        return None
    done = Compaction(map_bytes=map_bytes).run(log, plan, clock.wall_ms())
    log.host.note_cleaned(log, done.end)  # type: ignore[attr-defined]
    return done


KEYS = st.sampled_from([b"a", b"b", b"c", b"dd", b"", b"a rather long key " * 3])
BATCHES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=300)), min_size=1, max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), BATCHES, st.sampled_from([0, 0, 0, 1, 2, 3, 4])),
        st.tuples(st.sampled_from(["roll", "compact", "reopen", "crash"]), st.none(), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("stopped compaction"), st.integers(1, 60), st.booleans()),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(STEPS, st.sampled_from(["os", "fsync"]))
def test_equals_a_dict_whatever_stops_it(steps: list, durability: str) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as directory:
        root, number, clock, io = Path(directory), 0, ManualClock(), FaultyIo()
        store = open_store(root / "0", clock, io, durability)
        store.create_topic(TOPIC, config=CONFIG)
        model: Records = {}
        for step, what, more in [*steps, ("compact", None, None)]:
            log = store.partition(TOPIC, 0)
            if step == "append":
                model |= append(log, what, more)
            elif step == "roll":
                log.roll()
            elif step == "wait":
                clock.advance(what / 1000)
            elif step == "compact":
                log.roll()
                done = compact(log, clock)
                if done is not None:
                    is_compacted(stored(log), model, done.end)
            elif step == "stopped compaction":
                io.arm(what, errno.EIO, sticky=more)
                try:
                    compact(log, clock)
                except MQError:
                    pass
                finally:
                    io.disarm()
            if step in ("crash", "stopped compaction"):
                number += 1
                kill(store, root / str(number))
                store = open_store(root / str(number), clock, io, durability)
            elif step == "reopen":
                store.close()
                store = open_store(root / str(number), clock, io, durability)
            check(stored(store.partition(TOPIC, 0)), model)
        store.close()
        again = open_store(root / str(number), clock)
        assert again.recovery.clean
        check(stored(again.partition(TOPIC, 0)), model)
        again.close()


def filled(path: Path, clock: ManualClock, io: FaultyIo | None = None, rounds: int = 12) -> tuple[LogStore, Records]:
    store = open_store(path, clock, io)
    store.create_topic(TOPIC, config=CONFIG)
    log, model = store.partition(TOPIC, 0), {}
    for i in range(rounds):
        records: list[tuple[bytes | None, bytes | None]] = [(b"key-%d" % k, b"%d" % i * 80) for k in range(i % 3, 9, 2)]
        model |= append(log, [*records, (b"gone-%d" % (i % 4), None if i > 5 else b"soon")], codec=i % 5)
    log.roll()
    return store, model


@pytest.mark.parametrize("go_on", ["crash", "same process"])
def test_stopped_at_every_call(tmp_path: Path, go_on: str) -> None:
    clock, io = ManualClock(), FaultyIo()
    store, model = filled(tmp_path / "base", clock, io, rounds=8)
    base = kill(store, tmp_path / "image")
    for at in range(1, 1000):
        path = tmp_path / f"stopped-{at}"
        shutil.copytree(base, path)
        store = open_store(path, clock, io)
        log = store.partition(TOPIC, 0)
        log.flush()
        io.arm(at, errno.EIO, sticky=go_on == "crash")
        fired, failed = io.fired, False
        try:
            compact(log, clock)
        except MQError:
            failed = True
        stopped = io.fired > fired
        io.disarm()
        assert failed or not stopped
        if go_on == "crash":
            store = open_store(kill(store, tmp_path / f"again-{at}"), clock, io)
            log = store.partition(TOPIC, 0)
        if not any(entry.retired for entry in log.segments):
            check(stored(log), model)
        done = compact(log, clock)
        assert done is not None or log.cleaned
        found = stored(log)
        check(found, model)
        if done is not None:
            is_compacted(found, model, done.end)
        assert segment_swap.unfinished(log.directory) == []
        assert [p.name for p in Path(log.directory).iterdir() if p.name.endswith((".swap", ".cleaned"))] == []
        store.close()
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / f"again-{at}", ignore_errors=True)
        if not stopped:
            assert at > 30
            return
    raise AssertionError("compaction never came through")


def test_tombstones_go_after_their_time(tmp_path: Path) -> None:
    clock = ManualClock()
    store = open_store(tmp_path / "s", clock)
    store.create_topic(TOPIC, config=CONFIG)
    log = store.partition(TOPIC, 0)
    append(log, [(b"k", b"1"), (b"other", b"x")])
    tombstone = append(log, [(b"k", None)])
    log.roll()
    compact(log, clock)
    assert {r[1] for r in stored(log).values()} == {b"x", None}
    assert tombstone.items() <= stored(log).items()  # offset and timestamp as they were, beside the delete horizon
    clock.advance(0.9)
    append(log, [(b"later", b"y")])
    log.roll()
    compact(log, clock)
    assert tombstone.items() <= stored(log).items()
    clock.advance(0.2)
    append(log, [(b"later", b"z")])
    log.roll()
    compact(log, clock)
    assert [r[:2] for r in stored(log).values()] == [(b"other", b"x"), (b"later", b"z")]
    store.close()


def test_small_segments_merge(tmp_path: Path) -> None:
    clock = ManualClock()
    store, model = filled(tmp_path / "s", clock, rounds=40)
    log = store.partition(TOPIC, 0)
    before = len(log.segments)
    done = compact(log, clock)
    assert done is not None
    for i in range(3):
        model |= append(log, [(b"new-%d" % i, b"v")])
        log.roll()
        compact(log, clock)
    assert before >= 8
    assert len(log.segments) <= 3
    assert done.bytes_after < done.bytes_before / 3
    check(stored(log), model)
    digests = [
        entry.base_offset
        for entry in log.segments
        if (Path(log.directory) / f"{entry.base_offset:020d}.digest").exists()
    ]
    assert len(digests) >= len(log.segments) - 2
    store.close()


def test_a_small_map_takes_several_rounds(tmp_path: Path) -> None:
    clock = ManualClock()
    store = open_store(tmp_path / "s", clock)
    store.create_topic(TOPIC, config=CONFIG | {"segment.bytes": 100_000})
    log, model = store.partition(TOPIC, 0), {}
    for i in range(60):
        model |= append(log, [(b"key-%d-%d" % (i % 30, k), b"%d" % i) for k in range(100)])
    log.roll()
    ends = []
    for _ in range(20):
        done = compact(log, clock, map_bytes=1 << 16)
        if done is None:
            break
        check(stored(log), model)
        ends.append(done.end)
    assert ends == sorted(set(ends))
    assert len(ends) > 3
    assert len(stored(log)) < len(model)
    store.close()


def test_producers_keep_their_last_batch_and_markers_wait(tmp_path: Path) -> None:
    clock = ManualClock()
    store = open_store(tmp_path / "s", clock)
    store.create_topic(TOPIC, config=CONFIG)
    log = store.partition(TOPIC, 0)
    append(log, [(b"k", b"1")], producer_id=5)
    append(log, [(b"k", b"2")])
    append(log, [(b"t", b"committed")], attributes=TRANSACTIONAL, producer_id=6)
    log.append(bytearray(marker(0, 6, commit=True)))
    append(log, [(b"t", b"later")])
    log.roll()

    def headers() -> list[tuple[int, int, int]]:
        from mqcore._native.batch import scan

        rows = [scan(e.segment().view(e.size))[0] for e in log.segments if e.size]
        return [(r["base_offset"], r["producer_id"], r["record_count"]) for rs in rows for r in rs]

    compact(log, clock)
    # The batches of both producers stay, empty; the marker stays with its transaction's batch.
    assert headers() == [(0, 5, 0), (1, -1, 1), (2, 6, 0), (3, 6, 1), (4, -1, 1)]
    append(log, [(b"x", b"y")], producer_id=5, base_sequence=1)
    log.roll()
    compact(log, clock)
    assert headers()[0] == (1, -1, 1)
    store.close()


def test_damage_ends_a_round_and_changes_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    store, _ = filled(tmp_path / "s", clock)
    log = store.partition(TOPIC, 0)
    log.flush()
    files = segment_files(tmp_path / "s")
    flip(files[1], 100)
    before = {file.name: file.read_bytes() for file in files}
    with pytest.raises(CorruptBatchError):
        compact(log, clock)
    assert {file.name: file.read_bytes() for file in segment_files(tmp_path / "s")} == before
    store.abandon()


def test_a_seal_that_does_not_match_stops_readers_and_rounds(tmp_path: Path) -> None:
    """Base offsets lie outside the CRC, and compaction leaves gaps: only the digest tells a wrong one."""
    clock = ManualClock()
    store, _ = filled(tmp_path / "s", clock)
    log = store.partition(TOPIC, 0)
    compact(log, clock)
    end = log.segments[0].next_offset
    store.close()
    file = segment_files(tmp_path / "s")[0]
    position = batch_positions(file)[-1][0]
    for damage in (position + 7, position + 30):  # the base offset; a timestamp, of which the CRC tells
        flip(file, damage)
        for read_only in (False, True):
            store = LogStore.open(tmp_path / "s", durability="os", read_only=read_only, clock=clock)
            log = store.partition(TOPIC, 0)
            with pytest.raises(CorruptBatchError, match="sealed" if damage == position + 7 else "CRC") as caught:
                stored(log)
            if damage == position + 7:
                assert caught.value.where["next_offset"] == end
                if not read_only:
                    append(log, [(b"key-1", b"new")] * 9)
                    log.roll()
                    with pytest.raises(CorruptBatchError, match=r"sealed|outside its segment"):
                        compact(log, clock)
            else:
                assert log.read(0) is not None  # the batches before it
            store.close()
        flip(file, damage)
    with opened(tmp_path / "s", durability="os", clock=clock) as store:
        assert stored(store.partition(TOPIC, 0))


def test_what_retention_takes_between_plan_and_round_changes_no_other_segment(tmp_path: Path) -> None:
    clock = ManualClock()
    store, model = filled(tmp_path / "s", clock)
    log = store.partition(TOPIC, 0)
    model |= append(log, [(b"key-1", b"active")] * 2)
    log.flush()
    for gone in (2, len(log.segments) - 1):
        planned = compaction.plan(log, cleaned=0, now_ms=clock.wall_ms())
        assert planned is not None
        log.delete_before(log.segments[gone].base_offset)
        Compaction(map_bytes=1 << 20).run(log, planned, clock.wall_ms())
        assert not log.segments[-1].sealed
        check(stored(log), {offset: record for offset, record in model.items() if offset >= log.log_start_offset})
        if gone == 2:
            for i in range(3):
                model |= append(log, [(b"key-%d" % i, b"v")])
                log.roll()
            model |= append(log, [(b"key-1", b"active")] * 2)
            log.flush()
    store.close()


def test_a_damaged_swap_replaces_nothing(tmp_path: Path) -> None:
    clock, io = ManualClock(), FaultyIo()
    store, model = filled(tmp_path / "s", clock, io)
    log = store.partition(TOPIC, 0)
    log.flush()
    for at in range(1, 20):  # stop right after the decision, at the first unlink of an old segment's file
        io.arm(at, errno.EIO, sticky=True, only="unlink")
        with pytest.raises(MQError):
            compact(log, clock)
        io.disarm()
        if segment_swap.unfinished(log.directory):
            break
    (base,) = segment_swap.unfinished(log.directory)
    image = kill(store, tmp_path / "image")
    flip(image / "topics" / f"{TOPIC}-0" / segment_swap.swap_name(base), 40)
    again = open_store(image, clock)
    assert "quarantined" in {finding.what for finding in again.recovery.findings}
    check(stored(again.partition(TOPIC, 0)), model)
    assert list((image / "quarantine").rglob("*.swap"))
    again.close()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_verify_is_content(tmp_path: Path, durability: str) -> None:
    clock = ManualClock()
    store = open_store(tmp_path / "s", clock, durability=durability)
    store.create_topic(TOPIC, config=CONFIG)
    log, model = store.partition(TOPIC, 0), {}
    for i in range(40):
        records = [(b"key-%d" % (i % 7), b"%d" % i * 150), (b"k", None)]
        model |= append(log, records, codec=i % 5, producer_id=i % 3, base_sequence=i // 3 * 2)
        if i % 10 == 9:
            log.roll()
            log.flush()
            clock.advance(2)
            assert store.maintain().compacted == 1
    check(stored(log), model)
    assert verify(tmp_path / "s").ok  # beside the living writer
    store.close()
    report = verify(tmp_path / "s")
    assert report.ok, report
    flip(segment_files(tmp_path / "s")[0], 50)
    assert not verify(tmp_path / "s").ok


def test_beside_appends_and_readers(tmp_path: Path) -> None:
    clock = ManualClock()
    store, model = filled(tmp_path / "s", clock)
    log, stop, errors = store.partition(TOPIC, 0), threading.Event(), []
    held = log.read(0)
    assert held is not None
    kept = bytes(memoryview(held.mapping)[held.start : held.end])

    def read() -> None:
        try:
            while not stop.is_set():
                found = stored(log)
                last: dict[bytes | None, bytes | None] = {}
                for key, value, _ in found.values():
                    last[key] = value
                assert last[b"fixed"] == b"here"
                assert list(found) == sorted(found)
                log.offset_for_time(0)
        except BaseException as error:
            errors.append(error)

    append(log, [(b"fixed", b"here")])
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for i in range(25):
        model |= append(log, [(b"key-%d" % (i % 9), b"%d" % i * 100)] * 3)
        log.roll()
        compact(log, clock)
    stop.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert bytes(memoryview(held.mapping)[held.start : held.end]) == kept  # a view outlives what it shows
    store.close()


def test_a_reader_of_another_process_follows(tmp_path: Path) -> None:
    clock = ManualClock()
    store, model = filled(tmp_path / "s", clock)
    log = store.partition(TOPIC, 0)
    reader = LogStore.open(tmp_path / "s", read_only=True)
    followed = reader.partition(TOPIC, 0)
    assert stored(followed) == model
    compact(log, clock)
    check(stored(followed), model)
    for entry in followed.segments:  # as if others had needed the descriptors
        if entry.is_open:
            entry.segment().release_fd()
    check(stored(followed), model)
    model |= append(log, [(b"key-1", b"last")])
    log.roll()
    compact(log, clock)
    found = stored(followed)
    check(found, model)
    assert len(found) == len(stored(log))
    reader.close()
    store.close()


def test_maintenance_compacts_what_is_due(tmp_path: Path) -> None:
    clock = ManualClock()
    store, model = filled(tmp_path / "s", clock)
    report = store.maintain()
    assert report.compacted == 1
    log = store.partition(TOPIC, 0)
    is_compacted(stored(log), model, log.cleaned)
    assert store.maintain().compacted == 0
    text = (tmp_path / "s" / "cleaner-offset-checkpoint").read_text()
    assert text.splitlines()[:3] == ["0", "1", f"{TOPIC} 0 {log.cleaned}"]
    store.close()
    again = open_store(tmp_path / "s", clock)
    assert again.partition(TOPIC, 0).cleaned == log.cleaned
    check(stored(again.partition(TOPIC, 0)), model)
    again.alter_topic(TOPIC, {"cleanup.policy": "delete"})  # gaps stay legal when the topic is compacted no more
    image = kill(again, tmp_path / "image")
    assert verify(image).ok
    reader = LogStore.open(image, read_only=True)
    check(stored(reader.partition(TOPIC, 0)), model)
    reader.close()
    third = open_store(image, clock)
    check(stored(third.partition(TOPIC, 0)), model)
    assert not [f for f in third.recovery.findings if f.what == "damaged"]
    third.close()
