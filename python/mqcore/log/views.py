"""Views: the state that a log's records fold into, kept where it is found again without reading the log.

Invariants:
    1. A view equals the fold of its log's records below `position.offset`: whatever crashed, was lost or flipped.
    2. The position is committed in the transaction that commits the values it stands for.
    3. Nothing is applied that could still vanish: only records below the durable mark and the last stable offset.
    4. A view is never ahead of its log (I5): a position past the log's end, of another topic id, or whose last record
       now has another leader epoch (the tail was lost and written anew) is not believed; the view is rebuilt.
    5. A view is disposable (R9): what fails a check is dropped, rebuilt from the log and reported, and the reader who
       found it gets the right answer. Rebuilding costs time, never data: so a view's log keeps what it needs
       (compaction without retention).
    6. A view that compaction may have passed (position below the log's `cleaned`) is rebuilt: it would keep keys whose
       tombstones are gone.

Between commits the changes since the last one lie in memory over the table and serve reads; maintenance commits them
in the background, and a view with much pending commits earlier. Readers take no lock: they see `front.layers`, which are
swapped as a whole; it is None while the view is not whole (rebuild), after the close, and in a forked child.

Locks: ViewEnvironment._lock (one commit, drop or rebuild at a time) before View._lock; nobody holds the locks of two
views, and a fold looks at its own view only.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from mqcore.errors import DiskFullError, ForkedStoreError, MQError, StorageError, StoreClosedError
from mqcore.log.internal_records import InternalRecord, RecordSource, read_records
from mqcore.log.overlay import Changes, KeyOrder, Layers, Memory, Pair, successor, walk
from mqcore.log.reader import latest_values
from mqcore.log.view_pairs import Damaged, Front, Reader
from mqcore.log.view_snapshot import ViewSnapshot
from mqcore.log.view_tables import LmdbTables, MemoryTables, Position, Tables, source_of
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.log.reader import ReadableLog

PENDING_BYTES_MAX = 16 << 20  # of one view; past it the view commits in the middle of catching up
PENDING_PAIR_BYTES = 200  # what Python needs beside the bytes of a pair
_logger = logging.getLogger(__name__)

Change = tuple[bytes, bytes | None]


class SourceLog(RecordSource, Protocol):
    """What a view needs of its partition (PartitionLog)."""

    @property
    def topic_id(self) -> uuid.UUID: ...
    @property
    def log_start_offset(self) -> int: ...
    def visible_end(self, isolation: IsolationLevel) -> int: ...
    def epoch_of(self, offset: int) -> int:
        """Return the leader epoch of the record at an offset, -1 below the first known one."""


Lookup = Callable[[bytes], bytes | None]
Fold = Callable[[InternalRecord, Lookup], Iterable[Change]]
"""Returns what a record changes: (key, value) pairs, value None to take a key away. The lookup shows the view as it was
before the record. Pure otherwise: the same records must give the same view on any machine, at any time."""


class ViewEnvironment:
    """The tables of all views of a store, and their commits. One per process and store; safe to share."""

    def __init__(
        self,
        io: Io | None = None,
        directory: str | None = None,
        *,
        read_only: bool = False,
        map_bytes: int = 64 << 30,
        verify_bytes: int = 1 << 30,
        owner: bytes = b"",
    ) -> None:
        """directory: STORE/views, which exists; None or read_only: views live in memory, folded from the logs.

        owner: the store's id: some topic ids, `__metadata`'s first of all, are the same in every store.
        A writer must hold the store's lock. Raises StorageError, StoreFormatError. What was dropped, to be rebuilt,
        is in `problems`.
        """
        self.problems: list[str] = []
        self.owner = owner
        self.lock = threading.RLock()
        self._views: list[View] = []
        self._snapshots: weakref.WeakSet[ViewSnapshot] = weakref.WeakSet()
        self._closed = self._forked = False
        self._failure: StorageError | None = None
        self.hurry: Callable[[], None] = lambda: None  # has somebody commit soon; never blocks
        self.tables: Tables
        if io is None or directory is None or read_only:
            self.tables = MemoryTables()
            return
        self.tables = tables = LmdbTables(io, directory, map_bytes=map_bytes, verify_bytes=verify_bytes)
        if tables.dropped:
            self.report(f"views dropped, to be rebuilt from their logs: {tables.dropped}")

    @property
    def usable(self) -> bool:
        """False after a commit failed for good: the views go on in memory, nothing more is stored."""
        return self._failure is None

    def report(self, problem: str) -> None:
        """Note a problem that was met and mended."""
        self.problems.append(problem)
        _logger.warning("%s", problem)

    def register(self, view: View) -> None:
        with self.lock:
            self.check_open()
            assert all(view.name != other.name for other in self._views), "two views of one name"
            self._views.append(view)

    def check_open(self) -> None:
        if self._forked:
            raise ForkedStoreError("the store was opened by the parent process")
        if self._closed:
            raise StoreClosedError("the views are closed")

    def keep(self, snapshot: ViewSnapshot) -> None:
        """Close it when its time is over, or with the views."""
        self._snapshots.add(snapshot)

    def close_snapshots(self, *, expired_at: float | None = None) -> None:
        """expired_at: only those whose time is over (time.monotonic): they keep pages of the file from reuse."""
        for snapshot in list(self._snapshots):
            if expired_at is None or snapshot.deadline < expired_at:
                snapshot.close()

    def forked(self) -> None:
        """In a forked child: nothing is readable any more. Takes no lock and leaves LMDB alone."""
        self._forked = True
        for view in self._views:
            view.shut()

    def commit(self) -> int:
        """Commit what all views have pending, in one synced transaction; return how many pairs changed.

        Raises DiskFullError (retry later) or StorageError (final: a failed sync cannot be repeated and believed, R2).
        Either way nothing was committed, and reads go on from memory.
        """
        with self.lock:
            self.check_open()
            self.close_snapshots(expired_at=time.monotonic())
            if self._failure is not None:
                raise self._failure
            parts = [(view, *view.freeze()) for view in self._views if view.dirty]
            if not parts:
                return 0
            committed = False
            try:
                self.tables.commit([(view.name, changes, position) for view, changes, position in parts])
                committed = True
            except DiskFullError:
                raise
            except StorageError as error:
                self._failure = error
                raise
            finally:
                for view, _, position in parts:
                    view.thaw(position if committed else None)
            return sum(len(changes) for _, changes, _ in parts)

    def close(self) -> None:
        """Commit, close, and leave the digest for the next open. Idempotent. Raises StorageError, DiskFullError."""
        with self.lock:
            if self._closed:
                return
            try:
                self.commit()
            except MQError:
                self.abandon()
                raise
            self._shut()
            self.tables.close()

    def abandon(self) -> None:
        """Close as a crash does: no commit, no digest. The next open walks the file, and the views catch up."""
        with self.lock:
            if not self._closed:
                self._shut()
                if isinstance(self.tables, LmdbTables):
                    self.tables.abandon()

    def _shut(self) -> None:
        self._closed = True
        self.close_snapshots()
        for view in self._views:
            view.shut()


class View:
    """One log, folded. Safe to share between threads; its lock is held while records are folded."""

    def __init__(
        self,
        environment: ViewEnvironment,
        name: str,
        log: SourceLog,
        fold: Fold | None,
        *,
        records: Callable[[SourceLog, int], Iterator[InternalRecord]] = read_records,
    ) -> None:
        """name: unique in the environment, 1 to 255 bytes of UTF-8. records: reads the log from an offset on.
        fold: None: the latest value of each key, folded in bulk from a whole PartitionLog (`records` is not used).

        Checks the stored position against the log, but reads nothing of the log yet: `catch_up` does.
        """
        assert 0 < len(name.encode()) <= 255
        self.name = name
        self._environment, self._log, self._fold, self._records = environment, log, fold, records
        self._source = source_of(environment.owner, log.topic_id)
        self._lock = threading.RLock()
        self._pending_bytes = self._rebuilds = 0
        self.front = Front()
        self._shared = False  # a snapshot holds the pending changes: copy before the next one
        self._committed: Position | None = None
        self._offset = log.log_start_offset
        self._now: Layers = Layers({}, KeyOrder(), {}, KeyOrder())
        environment.register(self)
        self._take_stored_position()
        self.front.layers = self._now

    def _position_at(self, offset: int) -> Position:
        return Position(self._source, self._log.epoch_of(offset - 1), offset)

    def _take_stored_position(self) -> None:
        """Go on from the stored position if the log bears it out, else start anew (invariants 4 and 6)."""
        try:
            stored = self._environment.tables.position(self.name)
            problem = "" if stored is None else self._doubt(stored)
        except Damaged as damage:
            stored, problem = None, str(damage)
        if problem:
            self._environment.report(f"view {self.name!r} dropped, to be rebuilt from its log: {problem}")
        if stored is None or problem:
            with self._environment.lock:
                self._environment.tables.drop(self.name)
        else:
            self._committed, self._offset = stored, stored.offset

    def _doubt(self, stored: Position) -> str:
        """Return why a stored position is not to be believed, "" if it is."""
        log = self._log
        if stored.source != self._source:
            return f"it belongs to another topic id than {log.topic_id}, or to another store"
        end = log.visible_end(IsolationLevel.READ_COMMITTED)
        if stored.offset > end:
            return f"it is ahead of the log: {stored.offset} > {end}"
        if stored.offset < log.log_start_offset:
            return f"the log starts at {log.log_start_offset}, past it ({stored.offset})"
        if stored.leader_epoch != log.epoch_of(stored.offset - 1):
            return f"the record before offset {stored.offset} was lost and written anew in a later epoch"
        horizon = getattr(log, "cleaned", 0)
        if stored.offset < horizon:
            return f"tombstones below offset {horizon} may be gone, and it had come to {stored.offset} only"
        return ""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """How far the view, its memory included, has come."""
        return self._position_at(self._offset)

    @property
    def offset(self) -> int:
        """The offset of `position`."""
        return self._offset

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None without one. Raises StorageError, StoreClosedError, ForkedStoreError."""
        layers: Layers | None = self.front.layers
        if layers is None:
            return self._whole_get(key)
        # This order: a commit stores the frozen changes before it lets them go.
        for changes in (layers.pending, layers.frozen):
            if key in changes:
                return changes[key]
        rebuilds = self._rebuilds
        try:
            value = self._stored(key)
        except Damaged as damage:
            self.rebuild(str(damage))
            return self.get(key)
        # A rebuild empties the table: whoever looked meanwhile looks again.
        return value if self._rebuilds == rebuilds and self.front.layers is not None else self._whole_get(key)

    def _whole_get(self, key: bytes) -> bytes | None:
        with self._lock:
            self._make_whole()
            return self._lookup(key)

    def _stored(self, key: bytes) -> bytes | None:
        reader = self._environment.tables.reader(self.name)
        try:
            return reader.get(key)
        finally:
            reader.close()

    def _lookup(self, key: bytes) -> bytes | None:
        """`get` for who holds the lock. Raises Damaged."""
        for changes in (self._now.pending, self._now.frozen):
            if key in changes:
                return changes[key]
        self._environment.check_open()
        return self._stored(key)

    def stored_reader(self) -> tuple[Reader, Callable[[bytes], bytes | None], bytes]:
        """(a reader, `get` of what it reads, head): the stored key is head + key, the stored value begins with its
        checksum; with an empty head, keys and values are plain. For keys up to KEY_BYTES_MAX. Close the reader."""
        reader = self._environment.tables.reader(self.name)
        return (reader, *reader.raw())

    def items(self, prefix: bytes = b"") -> list[Pair]:
        """Return all pairs whose key begins with prefix, as of one moment, sorted by key."""
        return self.scan(prefix, successor(prefix))

    def scan(self, low: bytes, high: bytes | None, *, reverse: bool = False, limit: int | None = None) -> list[Pair]:
        """Return the first `limit` pairs of [low, high) (overlay.py), as of one moment, in order."""
        try:
            with self._lock:
                self._make_whole()
                reader = self._environment.tables.reader(self.name)
                try:
                    return list(islice(walk(self._now, reader, low, high, reverse=reverse), limit))
                finally:
                    reader.close()
        except Damaged as damage:
            self.rebuild(str(damage))
            return self.scan(low, high, reverse=reverse, limit=limit)

    def snapshot(self, max_age_s: float = 60.0) -> ViewSnapshot:
        """All pairs as of now, for at most so long: it keeps pages of the file from reuse. Close it."""
        with self._lock:
            self._make_whole()
            self._shared = True
            layers, reader = self._now, self._environment.tables.reader(self.name)
            snapshot = ViewSnapshot(self, layers, reader, self._offset, time.monotonic() + max_age_s)
        self._environment.keep(snapshot)
        return snapshot

    # -- following the log ------------------------------------------------------------------------------------------

    def catch_up(self) -> int:
        """Apply the records that became durable and stable since the last time; return how many.

        Raises CorruptBatchError (the log is damaged there: the view stays before it), StorageError, StoreClosedError.
        """
        total, more = 0, True
        while more:
            try:
                applied, more = self._apply_some()
            except Damaged as damage:
                self.rebuild(str(damage))
                return total
            total += applied
            if more and self._environment.usable:
                self._environment.commit()
        return total

    def follow(self) -> None:
        """`catch_up` if there is anything new. Cheap if not."""
        if self._log.visible_end(IsolationLevel.READ_COMMITTED) > self._offset:
            self.catch_up()

    def apply(self, base_offset: int, next_offset: int, changes: Changes, size: int) -> None:
        """Take in the changes of records that the caller appended itself, in the order of the log, once they are
        durable and stable; nothing is decoded. Nothing that folds lies between the position and base_offset. What the
        view has already read from the log is left alone. size: bytes of the changes' keys and values.
        """
        with self._lock:
            if next_offset <= self._offset:
                return
            assert base_offset >= self._offset, "changes that the view has half"
            self._change(changes, size + len(changes) * PENDING_PAIR_BYTES)
            self._offset = next_offset
            pending = self._pending_bytes
        if pending > PENDING_BYTES_MAX and self._environment.usable:
            if pending > 4 * PENDING_BYTES_MAX:  # the background does not keep up: who writes pays
                self._environment.commit()
            else:
                self._environment.hurry()

    def _change(self, changes: Changes, size: int) -> None:
        """Take in changes, in memory. The lock is held."""
        if self._shared:
            self._swap(self._now._replace(pending=dict(self._now.pending)))
            self._shared = False
        self._now.pending.update(changes)
        self._pending_bytes += size

    def _swap(self, layers: Layers) -> None:
        """Show readers other layers, unless they see none. The lock is held."""
        self._now = layers
        if self.front.layers is not None:
            self.front.layers = layers

    def _apply_some(self) -> tuple[int, bool]:
        """Fold records until the end or until much is pending; return (how many, whether there are more)."""
        with self._lock:
            self._environment.check_open()
            end = self._log.visible_end(IsolationLevel.READ_COMMITTED)
            if end <= self._offset:
                return 0, False
            applied = 0
            for count, next_offset, changes in self._folded(end):
                self._change(changes, sum(len(k) + len(v or b"") + PENDING_PAIR_BYTES for k, v in changes.items()))
                self._offset = next_offset
                applied += count
                if self._pending_bytes > PENDING_BYTES_MAX and self._environment.usable:
                    return applied, True
            # Markers and gaps at the end have no record that would move the position past them.
            self._offset = max(self._offset, end)
        return applied, False

    def _folded(self, end: int) -> Iterator[tuple[int, int, Memory]]:
        """(records, offset after them, what they change) from the position up to `end`, step by step."""
        if self._fold is None:
            yield from latest_values(cast("ReadableLog", self._log), self._offset)
            return
        for record in self._records(self._log, self._offset):
            if record.offset >= end:
                return
            yield 1, record.offset + 1, dict(self._fold(record, self._lookup))

    def _make_whole(self) -> None:
        """Go on with a rebuild that an error ended. The lock is held."""
        self._environment.check_open()
        if self.front.layers is None:
            while self._apply_some()[1]:
                pass  # nothing is committed: the environment's lock comes before ours
            self.front.layers = self._now

    def rebuild(self, reason: str) -> None:
        """Drop the stored view and fold its log again; readers wait meanwhile. The caller holds no view's lock."""
        with self._environment.lock, self._lock:
            self._environment.check_open()
            self._environment.report(f"view {self.name!r} rebuilt from its log: {reason}")
            self.front.layers = None
            self._rebuilds += 1
            self._environment.tables.drop(self.name)
            self._now = Layers({}, KeyOrder(), {}, KeyOrder())
            self._pending_bytes, self._shared = 0, False
            self._committed, self._offset = None, self._log.log_start_offset
            try:
                while self._apply_some()[1]:
                    self._environment.commit()
            except Damaged as damage:
                # Freshly written and bad again: the machine's memory or disk, not an old flip.
                raise StorageError(f"view {self.name!r} is damaged as soon as it is written: {damage}") from None
            self.front.layers = self._now

    # -- for the environment ----------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        return self._committed is None or self._offset != self._committed.offset

    def freeze(self) -> tuple[Memory, Position]:
        """Set the pending changes apart for a commit; reads still see them."""
        with self._lock:
            now = self._now
            assert not now.frozen, "one commit at a time"
            self._swap(Layers({}, KeyOrder(), now.pending, now.pending_order))
            self._pending_bytes, self._shared = 0, False
            return now.pending, self.position

    def thaw(self, committed: Position | None) -> None:
        """After a commit: the frozen changes are in the table now, or (None) pending again, below newer ones."""
        with self._lock:
            now = self._now
            if committed is not None:
                self._committed = committed
                self._swap(now._replace(frozen={}, frozen_order=KeyOrder()))
                return
            pending = {**now.frozen, **now.pending}
            self._pending_bytes = sum(len(k) + len(v or b"") + PENDING_PAIR_BYTES for k, v in pending.items())
            self._swap(Layers(pending, KeyOrder(), {}, KeyOrder()))
            self._shared = False

    def shut(self) -> None:
        """Nothing is read any more: the next reader asks the environment why. Takes no lock."""
        self.front.layers = None
