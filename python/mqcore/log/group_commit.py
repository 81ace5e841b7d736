"""Group commit: what waits for the disk, from any partition, goes to the journal in one synced write.

Invariants:
    1. A partition's durable mark moves only after the bytes below it are synced: in a journal record, or in their
       segment. `advance_durable` is called in offset order, by one thread at a time, under no lock of this module.
    2. The ring is freed up to a sequence only after every segment that those records touched was flushed and the
       recovery points were handed out. After `checkpoint()` returns, a crash replays nothing that was submitted
       before it: from then on its segments may be compacted, renamed or deleted.
    3. A failed journal write, journal fsync or segment flush is final (Linux marks the failed pages clean): waiters
       and all later callers get StorageError.
    4. Every step of a round may run twice (a signal can interrupt it): the same bytes go to the same places.
    5. An ordered submission (a decision of a transaction) is proven durable by a journal record, never by its place in a
       synced segment alone, and that record comes after the sync of everything submitted before it.

Locks, in order: `_checkpoint_lock` (one checkpoint at a time; held while segments are flushed), then `_dirty_lock`
(the tables of what the ring still holds; never held across I/O). The leader of a round takes both, so no one may wait
for a round with either of them.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mqcore._native.commit import CommitQueue, Submission
from mqcore._native.inbox import Inbox
from mqcore._native.journal import Journal
from mqcore.errors import DiskFullError, InvariantError, StorageError, StoreClosedError
from mqcore.log.commit_ports import DurableTarget, FlushableSegment, OnCheckpoint, SyncIo

RING_FILE_BYTES = 8 << 20
# A round of one segment from this size on is synced in place; a smaller one goes to the journal, because overwriting
# blocks needs no commit of the file system. Measured (ext4, 2 cores; speed against write + fdatasync of the same bytes
# to a new file, 90 MiB, so that growing the ring and every checkpoint are in it; journal / in place): 107 KiB 0.94 / 0.78,
# 267 KiB 0.73 / 0.77, 535 KiB 0.61 / 0.86, 1 MiB 0.53 / 0.71.
DIRECT_BYTES = 256 << 10
LONE_ROUNDS = 16  # ... and as many in a row were of one: else others wait already, for whom a short flush is better
# The flusher checkpoints when the ring backs this much, or half of what it may: submitters should not have to wait for
# a checkpoint. Less means more and smaller flushes of the same segments, more a larger ring (4 to 30 MiB ran alike).
CHECKPOINT_BYTES = 16 << 20
# From here on one syncfs before the flushes costs less than as many journal commits of the file system.
SYNCFS_SEGMENTS = 16
DECISIONS_MAX = 256  # in one record, of a round that was synced in place
_FLUSH, _GROW, _CHECKPOINT, _STOP = 1, 2, 4, 8
_RING_NAME = re.compile(r"^(\d{5})\.journal$")


class JournalEntry(NamedTuple):
    """What a journal record says of one partition. data: the batches to redo at `position` (bytes) of the segment, or
    None: they, and all below next_offset, were synced in the segment itself."""

    topic_id: uuid.UUID
    partition: int
    leader_epoch: int
    segment_base: int
    position: int
    base_offset: int
    next_offset: int
    data: bytes | None


class GroupCommit:
    """Many appenders, one journal round. One per store; thread-safe.

    The life of a round: `submit` queues, the first `wait` leads: it takes all that is queued, writes it, moves the
    durable marks and wakes the others; what came meanwhile is the next round, led by one of its own waiters. There is
    no thread in between. Submissions that nobody waits for are written when someone waits, or after `kick`.
    """

    def __init__(
        self, io: SyncIo, directory: str, store_id: bytes, ring_bytes: int, max_round_bytes: int, *, read_only: bool
    ) -> None:
        self._io, self._directory, self._store_id = io, directory, store_id
        self._file_bytes = max(64 << 10, min(RING_FILE_BYTES, ring_bytes // 4)) // 4096 * 4096
        self._file_limit = max(2, ring_bytes // self._file_bytes)
        self._read_only = read_only
        self.max_round_bytes = max_round_bytes
        self.direct_bytes = DIRECT_BYTES
        self.checkpoint_bytes = min(CHECKPOINT_BYTES, self._file_bytes * self._file_limit // 2)
        self.on_checkpoint: OnCheckpoint | None = None  # the store's; runs with `_checkpoint_lock` held
        self._journal: Journal | None = None
        self._lone_rounds = LONE_ROUNDS  # how many in a row were of one segment
        self._settled = False  # this process wrote or checkpointed: the run that it found needs no replay any more
        self._replayed = False  # replay() ran to its end
        self._queue = CommitQueue(self._write_round, _final_error)
        self._dirty: dict[int, Submission] = {}  # id(segment) -> its newest submission not checkpointed yet
        self._vouches: dict[int, Submission] = {}  # id(target) -> newest submission synced in place, to be recorded
        self._data_sequence = 0  # newest record with entries: all its segments are in _dirty, or flushed
        self._dirty_lock = threading.Lock()
        self._checkpoint_lock = threading.Lock()
        self._flusher: threading.Thread | None = None
        self._inbox = Inbox()  # the flusher's
        self._flusher_lock = threading.Lock()  # starts the flusher once
        self._grow_lock = threading.Lock()  # one adds a file at a time; nothing else is locked under it
        self._work_requested = False  # the flusher was asked to grow or checkpoint and has not finished
        self._closed = False

    @classmethod
    def open(
        cls,
        io: SyncIo,
        directory: str,
        store_id: bytes,
        *,
        ring_bytes: int = 64 << 20,
        max_round_bytes: int = 4 << 20,
        on_checkpoint: OnCheckpoint | None = None,
        read_only: bool = False,
    ) -> GroupCommit:
        """Open the journal in directory (STORE/journal), which need not exist: it is made at the first round.

        ring_bytes: how far the ring may grow (it starts with one file of 8 MiB); what it holds bounds the recovery.
        max_round_bytes: larger rounds are synced in their segments instead. on_checkpoint: gets each target's next
        offset that is safely in its segments, before the ring forgets it. read_only: replay only.
        Raises StorageError.
        """
        committer = cls(io, directory, store_id, ring_bytes, max_round_bytes, read_only=read_only)
        committer.on_checkpoint = on_checkpoint
        numbers = _ring_numbers(directory)
        if numbers:
            committer._journal = committer._open_journal(max(numbers) + 1)
            committer._data_sequence = committer._journal.sequence
        return committer

    def _open_journal(self, files_present: int) -> Journal:
        return Journal(
            self._io,
            self._directory,
            self._store_id,
            file_bytes=self._file_bytes,
            file_limit=self._file_limit,
            files_present=files_present,
            read_only=self._read_only,
        )

    # ---- recovery ----

    def replay(self) -> Iterator[JournalEntry]:
        """What the journal proves durable and the checkpoint does not cover, oldest first.

        The caller writes `data` where the segment differs, and syncs those segments before its first submit,
        checkpoint or close: each declares the replay done. Until then it may be read again. An entry whose topic is gone
        may be skipped. Raises StorageError, InvariantError (already done: what it holds would be lost).
        """
        if self._settled:
            raise InvariantError("the journal was replayed before, or written to before its replay")
        if self._journal is not None:
            for topic_id, *rest in self._journal.replay():
                yield JournalEntry(uuid.UUID(bytes=topic_id), *rest)
        self._replayed = True

    @property
    def damage(self) -> str:
        """What of the journal could not be read although it was durable once; empty if nothing."""
        stats = self._journal.stats() if self._journal is not None else None
        if stats is None or not stats["missing"]:
            return ""
        name = f"{stats['missing_file']:05d}.journal"
        return f"{stats['missing']} journal record(s) damaged, near byte {stats['missing_position']} of {name}"

    # ---- appenders ----

    def submit(
        self,
        target: DurableTarget,
        segment: FlushableSegment,
        batches: bytes | bytearray | memoryview,
        position: int,
        base_offset: int,
        next_offset: int,
        leader_epoch: int,
        ordered: bool = False,
    ) -> None:
        """Queue what `segment` just took at `position` (bytes): offsets base_offset to below next_offset of target.

        Called under the partition's lock, in offset order; does no I/O. The buffer is held (it cannot be resized) and
        must not change until it is durable. ordered: a decision, that must be proven durable only together with or
        after all that was submitted before it (invariant 5). Raises StorageError after a failure, StoreClosedError.
        """
        pending = self._queue.submit(
            target, segment, batches, position, base_offset, next_offset, leader_epoch, ordered
        )
        if pending >= self.max_round_bytes:
            self.kick()  # nobody waits, and the buffers are held until somebody does

    def wait(self, target: DurableTarget, next_offset: int, timeout_s: float | None = None) -> None:
        """Block until everything of target below next_offset is durable; lead a round if nobody does.

        next_offset: as submitted, or below. A leader does not time out: its own round is what it waits for.
        Raises TimeoutExceededError, StorageError (final), KeyboardInterrupt.
        """
        self._queue.wait(target, next_offset, timeout_s)

    def drain(self, timeout_s: float | None = None) -> None:
        """Block until all that was submitted so far is durable. Under no partition's lock. Errors as `wait`."""
        self._queue.drain(timeout_s)

    @property
    def failed(self) -> bool:
        """Whether a commit failed for good (invariant 3): nothing is accepted any more."""
        return self._queue.error is not None

    @property
    def failed_errno(self) -> str | None:
        """The errno name of what failed, None if nothing did or it was no system call."""
        name: str | None = getattr(self._queue.error, "where", {}).get("errno")
        return name

    @property
    def pending_bytes(self) -> int:
        """Bytes submitted and in no round yet: what a producer that does not wait should bound (`drain`)."""
        return self._queue.pending_bytes

    def kick(self) -> None:
        """Have the flusher thread run a round soon: for submissions that nobody waits for."""
        self._request(_FLUSH)

    def discard(self, target: DurableTarget) -> None:
        """The partition is being deleted or was truncated: forget what is known of it. Before its files are closed."""
        self._queue.discard(target)
        with self._dirty_lock:
            for key in [key for key, s in self._dirty.items() if s.target is target]:
                del self._dirty[key]
            self._vouches.pop(id(target), None)

    # ---- one round (the leader, from CommitQueue) ----

    def _write_round(self, submissions: list[Submission], total: int) -> None:
        """Make the round durable; twice for the same round after a signal (invariant 4)."""
        if self._queue.error is not None:
            raise self._queue.error
        self._settle()
        if self._goes_direct(submissions, total) or not self._write_journal(submissions):
            self._sync_segments([s for s in submissions if s.target is not None and not s.ordered])
            self._write_decisions([s for s in submissions if s.ordered or s.target is None])

    def _write_decisions(self, decisions: list[Submission]) -> None:
        """The rest of a round that was synced in place: marks and ordered submissions (invariant 5)."""
        for start in range(
            0, len(decisions), DECISIONS_MAX
        ):  # records of their own: each is smaller than a ring's file
            part = decisions[start : start + DECISIONS_MAX]
            if any(s.ordered for s in part):
                if not self._write_journal(part):
                    # The ring has no room and the disk has none for another file. Recovery points prove as much, and
                    # they come after all of it is synced.
                    self._sync_segments([s for s in decisions[start:] if s.target is not None])
                    self._checkpoint_once()
                    return
            elif self._journal is not None:
                self._write_journal(part)

    def _settle(self) -> None:
        if not self._settled and self._journal is not None:
            self._journal.set_checkpointed(self._data_sequence)
        self._settled = True

    def _goes_direct(self, submissions: list[Submission], total: int) -> bool:
        lone = len({id(s.segment) for s in submissions}) == 1
        self._lone_rounds = self._lone_rounds + 1 if lone else 0
        return total > self.max_round_bytes or (total >= self.direct_bytes and self._lone_rounds >= LONE_ROUNDS)

    def _write_journal(self, submissions: list[Submission]) -> bool:
        """Whether the round is in the journal now; False if it must be synced in place (too large, disk full)."""
        journal = self._journal or self._create_journal()
        if journal is None:
            return False
        vouches = list(self._vouches.values())
        files = journal.files
        sequence = journal.write(submissions, vouches)
        if sequence == 0 and self._grow(journal, files):
            sequence = journal.write(submissions, vouches)
        if sequence == 0:  # the ring has all its files, or the disk no room: the submitters wait for a checkpoint
            try:
                self._checkpoint_once()
            except DiskFullError:  # the recovery points have no room: the ring keeps what it has
                if self._queue.error is not None:
                    raise
            sequence = journal.write(submissions, vouches)
        if sequence <= 0:
            return False
        has_entries = False
        with self._dirty_lock:
            for s in submissions:
                if s.target is not None:
                    has_entries = True
                    if not s.discarded:
                        self._dirty[id(s.segment)] = s
            if has_entries or vouches:
                self._data_sequence = sequence
            for s in vouches:
                if self._vouches.get(id(s.target)) is s:
                    del self._vouches[id(s.target)]
        live_bytes, wants_file = journal.pressure()
        full = live_bytes > self.checkpoint_bytes
        if (full or wants_file) and not self._work_requested:
            self._work_requested = True
            self._request(_GROW * wants_file | _CHECKPOINT * full)
        return True

    def _grow(self, journal: Journal, files: int, *, beside_writer: bool = False) -> bool:
        """Add a file to the ring, unless it has more than `files` already; False if it cannot."""
        with self._grow_lock:
            try:
                return journal.files > files or journal.grow(beside_writer)
            except DiskFullError:
                return False

    def _create_journal(self) -> Journal | None:
        """Directory and handle of a ring; its first file is made by the first write. None: no space for it."""
        try:
            try:
                self._io.mkdir(self._directory)
            except FileExistsError:
                pass
            else:
                self._io.sync_dir(os.path.dirname(self._directory))
            self._journal = self._open_journal(0)
        except DiskFullError:
            return None
        return self._journal

    def _sync_segments(self, submissions: list[Submission]) -> None:
        """Sync a round in its segments; the next record, or the checkpoint, vouches for it."""
        newest = {id(s.segment): s for s in submissions if s.target is not None and not s.discarded}
        self._flush(list(newest.values()))
        with self._dirty_lock:
            for s in newest.values():
                self._dirty[id(s.segment)] = s
                self._vouches[id(s.target)] = s

    def _flush(self, submissions: Sequence[Submission]) -> None:
        behind = [s for s in submissions if s.segment.flushed_size < s.end_position]
        if len(behind) >= SYNCFS_SEGMENTS:
            self._io.sync_filesystem(os.path.dirname(self._directory))
        for s in behind:
            try:
                s.segment.flush()
            except StoreClosedError:
                if not s.discarded:
                    raise

    # ---- checkpoint ----

    def checkpoint(self) -> None:
        """Flush every segment that the ring still backs, hand out the recovery points, free the ring durably.

        Invariant 2 says what holds afterwards. Not under a partition's lock. Raises StorageError (final).
        """
        self._settle()
        sequence = self._checkpoint_once()
        journal = self._journal
        # Without this record a crash would replay what was just checkpointed: harmless to the same segments, not to
        # what compaction or deletion make of them.
        for _ in range(3):  # a full disk may leave no room for it next to the rounds that came meanwhile
            if journal is None or journal.recorded >= sequence:
                return
            self._queue.wait_ticket(self._queue.mark())
        raise DiskFullError("no room to record a checkpoint", path=self._directory)

    def _checkpoint_once(self) -> int:
        """The checkpoint without its record; the sequence that it reached. Rounds go on beside it, and what they
        write stays dirty."""
        with self._checkpoint_lock:
            if self._queue.error is not None:
                raise _final_error(self._queue.error)
            with self._dirty_lock:
                work, sequence = list(self._dirty.items()), self._data_sequence
            try:
                self._flush([s for _, s in work])
            except Exception as error:
                self._queue.fail(error)
                raise
            if work and self.on_checkpoint is not None:
                self.on_checkpoint(_points([s for _, s in work]))
            with self._dirty_lock:
                for key, s in work:
                    if self._dirty.get(key) is s:  # else a newer round made it dirty again
                        del self._dirty[key]
                    if self._vouches.get(id(s.target)) is s:
                        del self._vouches[id(s.target)]
            if self._journal is not None:
                self._journal.set_checkpointed(sequence)
            return sequence

    # ---- flusher thread ----

    def _request(self, bits: int) -> None:
        if self._flusher is None:
            with self._flusher_lock:
                if self._flusher is None and not self._closed:
                    thread = threading.Thread(target=self._run_flusher, name="mqcore-flusher", daemon=True)
                    thread.start()
                    self._flusher = thread
                    # A daemon that is stopped and joined here: a plain thread would keep a forgotten store's
                    # interpreter alive, a mere daemon would be killed inside a write.
                    atexit.register(_stop_at_exit, weakref.ref(self))
        self._inbox.request(bits)

    def _run_flusher(self) -> None:
        while True:
            bits = self._inbox.take()
            try:
                if bits & _FLUSH:
                    self._queue.drain()
                if bits & _GROW and self._journal is not None:
                    self._grow(self._journal, self._journal.files, beside_writer=True)
                if bits & _CHECKPOINT:
                    self.checkpoint()
            except (StorageError, StoreClosedError, DiskFullError):
                pass  # final, and kept by the queue: every appender gets it
            finally:
                if bits & (_GROW | _CHECKPOINT):
                    self._work_requested = False  # not before: rounds beside the work still see the need for it
            if bits & _STOP:
                return

    def _stop_flusher(self) -> None:
        thread = self._flusher
        if thread is not None:
            self._inbox.request(_STOP)
            thread.join()
            self._flusher = None

    def abandon(self) -> None:
        """Let go as a crash does: nothing pending is written, nothing is checkpointed. Idempotent."""
        with self._flusher_lock:
            if self._closed:
                return
            self._closed = True
        self._queue.close()
        self._stop_flusher()
        if self._journal is not None:
            self._journal.close()

    def close(self) -> None:
        """Write what is pending, checkpoint, stop the flusher. Idempotent. Raises StorageError, after closing."""
        with self._flusher_lock:
            if self._closed:
                return
            self._closed = True
        try:
            used = self._settled or self._replayed or self._queue.pending_bytes > 0
            if used and self._queue.error is None and not self._read_only:
                self._queue.drain()
                self.checkpoint()
        finally:
            self._queue.close()
            self._stop_flusher()
            if self._journal is not None:
                self._journal.close()


def _ring_numbers(directory: str) -> list[int]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [int(match[1]) for match in map(_RING_NAME.match, names) if match and int(match[1]) < 1024]


def _points(submissions: Sequence[Submission]) -> list[tuple[DurableTarget, int]]:
    """The highest next offset of each target."""
    newest: dict[int, Submission] = {}
    for s in submissions:
        known = newest.get(id(s.target))
        if known is None or known.next_offset < s.next_offset:
            newest[id(s.target)] = s
    return [(s.target, s.next_offset) for s in newest.values()]


def _final_error(cause: BaseException) -> StorageError:
    """What a waiter gets: an instance of its own, since tracebacks must not be shared between threads."""
    where = dict(getattr(cause, "where", {}))
    error = StorageError(
        f"a commit failed, and this process must not trust the disk again: {getattr(cause, 'what', cause)}",
        hint="The store is read-only now: close it, check the disk, open it again. What was acknowledged is kept",
        **where,
    )
    error.__cause__ = cause
    return error


def _stop_at_exit(reference: weakref.ref[GroupCommit]) -> None:
    committer = reference()
    if committer is not None:
        committer._stop_flusher()
