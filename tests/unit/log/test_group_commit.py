"""What a wait returned for is there after any crash: in the segment, or in the journal's replay; and a failure of the
disk reaches everybody, once and for all."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mqcore._native.io import FaultyIo
from mqcore.errors import InvariantError, StorageError, StoreClosedError, TimeoutExceededError
from mqcore.log.group_commit import GroupCommit, JournalEntry
from tests.support.commit import FakePartition, open_committer


def abandon(committer: GroupCommit) -> None:
    """The process dies: nothing is written any more."""
    committer._queue.close()
    committer._stop_flusher()
    if committer._journal is not None:
        committer._journal.close()


def redo(entries: list[JournalEntry], disk: dict[int, bytearray]) -> dict[int, int]:
    """Recovery in short: the bytes go where they belong; the result is what is proven durable."""
    proven: dict[int, int] = {}
    for entry in entries:
        assert entry.topic_id == uuid.UUID(int=entry.partition + 1)
        proven[entry.partition] = max(entry.next_offset, proven.get(entry.partition, 0))
        if entry.data is not None:
            data = disk.setdefault(entry.partition, bytearray())
            data.extend(bytes(max(0, entry.position - len(data))))
            data[entry.position : entry.position + len(entry.data)] = entry.data
    return proven


class CommitMachine(RuleBasedStateMachine):
    """Appends, waits, checkpoints and power losses, over a small ring; the model is the list of acknowledged bytes."""

    PARTITIONS = 3

    def __init__(self) -> None:
        super().__init__()
        self.io = FaultyIo()

    @initialize(direct=st.sampled_from([1 << 30, 9000, 1]))
    def start(self, direct: int) -> None:
        import tempfile

        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = tempfile.TemporaryDirectory(prefix="mqcore-commit-", dir=base)
        self.direct = direct
        self.partitions = [FakePartition(i) for i in range(self.PARTITIONS)]
        self.acknowledged = [0] * self.PARTITIONS
        self.points: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.committer = open_committer(Path(self.folder.name), self.io, ring_bytes=200 << 10, max_round_bytes=40 << 10)
        self.committer.direct_bytes = self.direct
        self.committer.on_checkpoint = lambda points: self.points.update((t.partition, n) for t, n in points)

    @rule(partition=st.integers(0, 2), size=st.integers(1, 20_000), wait=st.booleans())
    def append(self, partition: int, size: int, wait: bool) -> None:
        p = self.partitions[partition]
        next_offset = p.append(self.committer, bytes([p.next_offset % 251 + 1]) * size)
        if wait:
            self.committer.wait(p, next_offset)
            assert p.durable >= next_offset
            self.acknowledged[partition] = next_offset

    @rule()
    def checkpoint(self) -> None:
        self.committer.checkpoint()

    @rule()
    def drain(self) -> None:
        self.committer.drain()
        self.acknowledged = [p.next_offset for p in self.partitions]

    @rule(cuts=st.lists(st.floats(0, 1), min_size=3, max_size=3), torn=st.integers(0, 30_000), close=st.booleans())
    def power_loss(self, cuts: list[float], torn: int, close: bool) -> None:
        """Of each segment any part of what was not synced reaches the disk, and the record being written is torn."""
        if close:
            self.committer.close()
            self.acknowledged = [p.next_offset for p in self.partitions]
        else:
            self.partitions[0].append(self.committer, b"\xff" * 5000)
            self.io.arm(1, errno.EIO, short=torn, only="pwritev")
            try:
                self.committer.drain()
                self.acknowledged = [p.next_offset for p in self.partitions]  # synced in the segments: no record
            except StorageError:
                pass
            self.io.disarm()
            abandon(self.committer)
        self.recover(cuts, clean=close)

    def recover(self, cuts: list[float], clean: bool) -> None:
        self.open()
        entries = list(self.committer.replay())
        assert self.committer.damage == ""
        assert not (clean and entries)
        disk = {}
        for p, cut in zip(self.partitions, cuts, strict=True):
            synced, cached = p.segment.synced, bytes(p.segment.data)
            disk[p.partition] = bytearray(cached[: len(synced) + int(cut * (len(cached) - len(synced)))])
        proven = redo(entries, disk)
        for p in self.partitions:
            # A record that was whole on the disk although its round failed is kept, too: it proves what it holds.
            kept = max(self.acknowledged[p.partition], proven.get(p.partition, 0), self.points.get(p.partition, 0))
            assert kept <= p.next_offset
            expected = b"".join(p.appended[:kept])
            assert bytes(disk[p.partition][: len(expected)]) == expected
            recovered = FakePartition(p.partition)  # only what is proven: the rest is cut
            recovered.appended = p.appended[:kept]
            recovered.next_offset = recovered.durable = kept
            recovered.segment.data = bytearray(expected)
            recovered.segment.flush()
            self.partitions[p.partition] = recovered
            self.acknowledged[p.partition] = kept
        self.points.clear()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            abandon(self.committer)
            self.folder.cleanup()


CommitMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCommitMachine = CommitMachine.TestCase


def test_many_threads_wait_for_their_own_appends(tmp_path: Path) -> None:
    committer = open_committer(tmp_path, ring_bytes=1 << 20)
    partitions = [FakePartition(i) for i in range(5)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(60):
                p = partitions[(number + i) % 5]
                next_offset = p.append(committer, bytes([number + 1]) * (500 + 97 * i))
                committer.wait(p, next_offset)
                assert p.durable >= next_offset
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        committer.checkpoint()
        time.sleep(0.002)
    for thread in threads:
        thread.join()
    assert not failures
    committer.close()
    again = open_committer(tmp_path)
    assert list(again.replay()) == []
    again.close()
    for p in partitions:
        assert p.durable == p.next_offset
        assert p.segment.synced == b"".join(p.appended)


def test_kick_makes_submissions_durable_that_nobody_waits_for(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p = FakePartition(0)
    assert p.append(committer, b"x" * 100) == 1
    committer.kick()
    for _ in range(1000):
        if p.durable == 1:
            break
        time.sleep(0.005)
    assert p.durable == 1
    assert any(t.name == "mqcore-flusher" for t in threading.enumerate())
    committer.close()
    assert not any(t.name == "mqcore-flusher" for t in threading.enumerate())


def test_nothing_is_created_before_the_first_round(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p = FakePartition(0)
    committer.checkpoint()
    p.append(committer, b"x")
    assert not (tmp_path / "journal").exists()
    committer.wait(p, 1)
    assert [f.name for f in (tmp_path / "journal").iterdir()] == ["00000.journal"]
    committer.close()


def test_a_buffer_in_flight_cannot_be_resized_and_is_let_go_after(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p, data = FakePartition(0), bytearray(b"x" * 100)
    p.append(committer, data)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        data += b"y"
    committer.wait(p, 1)
    data += b"y"
    committer.close()


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
def test_a_failed_round_is_final_for_everybody(tmp_path: Path, call: str, direct: bool) -> None:
    io = FaultyIo()
    committer = open_committer(tmp_path, io)
    first, second = FakePartition(0), FakePartition(1)
    if not direct:  # to make the file takes two calls of open, the third is for the records
        io.arm(3, errno.EINVAL, only="open")
    committer.wait(first, first.append(committer, b"x" * 100))
    io.arm(1, errno.EIO, only=call)
    first.append(committer, b"y" * 100)
    second.append(committer, b"z" * 100)
    with pytest.raises(StorageError) as failed:
        committer.wait(first, 2)
    assert failed.value.where["errno"] == "EIO"
    assert "00000.journal" in failed.value.where["path"]
    for attempt in (lambda: committer.wait(second, 1), lambda: second.append(committer, b"q"), committer.checkpoint):
        with pytest.raises(StorageError):
            attempt()
    committer.wait(first, 1)  # what was durable stays so
    assert first.durable == 1
    assert second.durable == 0
    committer.close()


def test_a_failed_segment_flush_is_final(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p = FakePartition(0)
    committer.wait(p, p.append(committer, b"x"))

    def fail() -> None:
        raise StorageError("fsync failed", errno="EIO")

    p.segment.before_flush = fail
    with pytest.raises(StorageError):
        committer.checkpoint()
    with pytest.raises(StorageError):
        p.append(committer, b"y")
    committer.close()
    again = open_committer(tmp_path)
    assert [e.data for e in again.replay()] == [b"x"]  # the ring was not freed
    again.close()


def test_a_disk_too_full_for_the_ring_syncs_the_segments(tmp_path: Path) -> None:
    io = FaultyIo()
    committer = open_committer(tmp_path, io)
    p = FakePartition(0)
    io.arm(1, errno.ENOSPC, only="pwritev", sticky=True)
    committer.wait(p, p.append(committer, b"x" * 50))
    assert p.segment.synced == b"x" * 50
    io.disarm()
    committer.wait(p, p.append(committer, b"y" * 50))
    assert p.segment.synced == b"x" * 50
    abandon(committer)
    again = open_committer(tmp_path)
    assert [(e.position, e.next_offset, e.data) for e in again.replay()] == [(0, 1, None), (50, 2, b"y" * 50)]
    again.close()


def test_large_rounds_are_synced_in_place_and_vouched_for(tmp_path: Path) -> None:
    committer = open_committer(tmp_path, max_round_bytes=64 << 10)
    p, q = FakePartition(0), FakePartition(1)
    p.append(committer, b"x" * (600 << 10))
    q.append(committer, b"y" * (600 << 10))
    committer.wait(p, 1)
    assert q.durable == 1
    assert p.segment.flushes == q.segment.flushes == 1
    committer.wait(p, p.append(committer, b"z"))
    abandon(committer)
    again = open_committer(tmp_path)
    found = [(e.partition, e.next_offset, e.data) for e in again.replay()]
    assert found == [(0, 1, None), (1, 1, None), (0, 2, b"z")]
    again.close()


def test_a_discarded_partition_stops_no_checkpoint(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p, q = FakePartition(0), FakePartition(1)
    committer.wait(p, p.append(committer, b"x"))
    committer.wait(q, q.append(committer, b"y"))

    def closed() -> None:
        raise StoreClosedError("deleted")

    committer.discard(p)
    p.segment.before_flush = closed
    committer.checkpoint()
    assert q.segment.synced == b"y"
    assert p.segment.synced == b""
    with pytest.raises(InvariantError):
        committer.wait(p, 2)
    committer.close()


def test_offsets_never_submitted_are_refused(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    p = FakePartition(0)
    with pytest.raises(InvariantError):
        committer.wait(p, 1)
    p.append(committer, b"x")
    with pytest.raises(InvariantError):
        committer.wait(p, 2)
    committer.close()
    with pytest.raises(StoreClosedError):
        p.append(committer, b"x")


def blocked_round(tmp_path: Path) -> tuple[GroupCommit, FakePartition, threading.Event, threading.Thread]:
    """A committer whose leader (another thread) is inside a flush until the event is set."""
    committer = open_committer(tmp_path)
    committer.direct_bytes = 1
    p, entered, go_on = FakePartition(0), threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        assert go_on.wait(30)

    p.segment.before_flush = block
    leader = threading.Thread(target=lambda: committer.wait(p, p.append(committer, b"x")))
    leader.start()
    assert entered.wait(30)
    return committer, p, go_on, leader


def test_a_follower_times_out_alone(tmp_path: Path) -> None:
    committer, p, go_on, leader = blocked_round(tmp_path)
    q = FakePartition(1)
    q.append(committer, b"y")
    with pytest.raises(TimeoutExceededError):
        committer.wait(q, 1, timeout_s=0.02)
    go_on.set()
    leader.join()
    committer.wait(q, 1, timeout_s=30)
    assert p.durable == 1
    assert q.durable == 1
    committer.close()


def test_ctrl_c_reaches_a_waiting_follower(tmp_path: Path) -> None:
    committer, _p, go_on, leader = blocked_round(tmp_path)
    q = FakePartition(1)
    q.append(committer, b"y")
    killer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        committer.wait(q, 1)
    killer.join()
    go_on.set()
    leader.join()
    committer.wait(q, 1)
    committer.close()


def test_ctrl_c_in_the_leader_ends_no_round(tmp_path: Path) -> None:
    committer = open_committer(tmp_path)
    committer.direct_bytes = 1
    p, q = FakePartition(0), FakePartition(1)
    strikes = [KeyboardInterrupt(), KeyboardInterrupt()]

    def interrupted() -> None:
        if strikes:
            raise strikes.pop()

    p.segment.before_flush = interrupted
    p.append(committer, b"x")
    with pytest.raises(KeyboardInterrupt):
        committer.wait(p, 1)
    assert p.durable == 1
    assert p.segment.synced == b"x"
    committer.wait(q, q.append(committer, b"y"))
    committer.close()


def test_a_decision_is_recorded_after_the_data_of_its_round_was_synced(tmp_path: Path) -> None:
    """Also where the round is too large for the journal: synced in place, a decision could become durable alone."""
    committer = open_committer(tmp_path, max_round_bytes=8192)
    data, decision = FakePartition(0), FakePartition(1)
    data.append(committer, b"x" * 20_000)
    wanted = decision.append(committer, b"prepare", ordered=True)
    data.append(committer, b"marker", ordered=True)
    records_at_flush: list[int] = []
    data.segment.before_flush = lambda: records_at_flush.append(
        committer._journal.sequence if committer._journal is not None else 0
    )
    committer.wait(decision, wanted)
    assert records_at_flush == [0]
    assert (data.durable, decision.durable) == (2, 1)
    assert decision.segment.flushes == 0
    abandon(committer)
    again = open_committer(tmp_path)
    entries = list(again.replay())
    assert [(e.partition, e.data) for e in entries] == [(0, None), (1, b"prepare"), (0, b"marker")]
    abandon(again)


def test_many_decisions_of_one_round_take_several_records(tmp_path: Path) -> None:
    committer = open_committer(tmp_path, max_round_bytes=4096)
    partition = FakePartition(0)
    for number in range(600):
        partition.append(committer, b"%03d" % number * 10, ordered=True)
    committer.wait(partition, 600)
    assert committer._journal is not None
    assert committer._journal.sequence == 3
    abandon(committer)
    again = open_committer(tmp_path)
    assert redo(list(again.replay()), {}) == {0: 600}
    abandon(again)


def test_waiters_that_give_up_leave_nobody_asleep(tmp_path: Path) -> None:
    """Whom a round woke wakes the next one: also where a timeout or a signal comes between the round and the waking."""
    committer = open_committer(tmp_path)
    partitions = [FakePartition(number) for number in range(8)]
    late = [0] * len(partitions)

    def work(number: int) -> None:
        for step in range(150):
            mine = partitions[number].append(committer, b"%d-%d" % (number, step))
            try:
                committer.wait(partitions[number], mine, 1e-4 if number % 2 else None)
            except TimeoutExceededError:
                late[number] += 1

    before = signal.signal(signal.SIGALRM, lambda *_: None)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, len(partitions))]
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        for thread in threads:
            thread.start()
        work(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    committer.drain()
    assert [p.durable for p in partitions] == [150] * len(partitions)
    assert not any(late[::2]), "who has all the time does not time out"
    committer.close()
