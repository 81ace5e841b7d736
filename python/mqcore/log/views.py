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

Between commits the changes since the last one lie in memory (`_pending`) over the table and serve reads; maintenance
commits them in the background, and a view with much pending commits earlier.

Locks: ViewEnvironment._lock (one commit, drop or rebuild at a time) before View._lock; nobody holds the locks of two
views, and a fold looks at its own view only.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from mqcore.errors import DiskFullError, MQError, StorageError, StoreClosedError
from mqcore.log.internal_records import InternalRecord, RecordSource, read_records
from mqcore.log.view_tables import Damaged, LmdbTables, MemoryTables, Position, Tables, source_of
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from mqcore._native.io import Io

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
        self._closed = False
        self._failure: StorageError | None = None
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
        if self._closed:
            raise StoreClosedError("the views are closed")

    def commit(self) -> int:
        """Commit what all views have pending, in one synced transaction; return how many pairs changed.

        Raises DiskFullError (retry later) or StorageError (final: a failed sync cannot be repeated and believed, R2).
        Either way nothing was committed, and reads go on from memory.
        """
        with self.lock:
            self.check_open()
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
            self._closed = True
            self.tables.close()

    def abandon(self) -> None:
        """Close as a crash does: no commit, no digest. The next open walks the file, and the views catch up."""
        with self.lock:
            if not self._closed:
                self._closed = True
                if isinstance(self.tables, LmdbTables):
                    self.tables.abandon()


class View:
    """One log, folded. Safe to share between threads; its lock is held while records are folded."""

    def __init__(
        self,
        environment: ViewEnvironment,
        name: str,
        log: SourceLog,
        fold: Fold,
        *,
        records: Callable[[SourceLog, int], Iterator[InternalRecord]] = read_records,
    ) -> None:
        """name: unique in the environment, 1 to 255 bytes of UTF-8. records: reads the log from an offset on.

        Checks the stored position against the log, but reads nothing of the log yet: `catch_up` does.
        """
        assert 0 < len(name.encode()) <= 255
        self.name = name
        self._environment, self._log, self._fold, self._records = environment, log, fold, records
        self._lock = threading.RLock()
        self._pending: dict[bytes, bytes | None] = {}
        self._frozen: dict[bytes, bytes | None] = {}  # being committed
        self._pending_bytes = 0
        self._committed: Position | None = None
        self._position = self._position_at(log.log_start_offset)
        environment.register(self)
        self._take_stored_position()

    def _position_at(self, offset: int) -> Position:
        source = source_of(self._environment.owner, self._log.topic_id)
        return Position(source, self._log.epoch_of(offset - 1), offset)

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
            self._committed = self._position = stored

    def _doubt(self, stored: Position) -> str:
        """Return why a stored position is not to be believed, "" if it is."""
        log = self._log
        if stored.source != source_of(self._environment.owner, log.topic_id):
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
        return self._position

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None without one. Raises StorageError, StoreClosedError."""
        try:
            with self._lock:
                return self._lookup(key)
        except Damaged as damage:
            self.rebuild(str(damage))
            return self.get(key)

    def _lookup(self, key: bytes) -> bytes | None:
        """`get` for who holds the lock. Raises Damaged."""
        for changes in (self._pending, self._frozen):
            if key in changes:
                return changes[key]
        self._environment.check_open()
        return self._environment.tables.get(self.name, key)

    def items(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return all pairs whose key begins with prefix, as of one moment, sorted by key."""
        try:
            with self._lock:
                self._environment.check_open()
                pairs = dict(self._environment.tables.items(self.name, prefix))
                for changes in (self._frozen, self._pending):
                    for key, value in changes.items():
                        if value is None:
                            pairs.pop(key, None)
                        elif key.startswith(prefix):
                            pairs[key] = value
                return sorted(pairs.items())
        except Damaged as damage:
            self.rebuild(str(damage))
            return self.items(prefix)

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

    def _apply_some(self) -> tuple[int, bool]:
        """Fold records until the end or until much is pending; return (how many, whether there are more)."""
        applied = 0
        with self._lock:
            self._environment.check_open()
            end = self._log.visible_end(IsolationLevel.READ_COMMITTED)
            if end <= self._position.offset:
                return 0, False
            for record in self._records(self._log, self._position.offset):
                if record.offset >= end:
                    break
                for key, value in list(self._fold(record, self._lookup)):
                    self._pending[key] = value
                    self._pending_bytes += len(key) + len(value or b"") + PENDING_PAIR_BYTES
                self._position = self._position_at(record.offset + 1)
                applied += 1
                if self._pending_bytes > PENDING_BYTES_MAX and self._environment.usable:
                    return applied, True
            # Markers and gaps at the end have no record that would move the position past them.
            self._position = self._position_at(end)
        return applied, False

    def rebuild(self, reason: str) -> None:
        """Drop the stored view and fold its log again; readers wait meanwhile. The caller holds no view's lock."""
        with self._environment.lock, self._lock:
            self._environment.report(f"view {self.name!r} rebuilt from its log: {reason}")
            self._environment.tables.drop(self.name)
            self._pending, self._frozen, self._pending_bytes = {}, {}, 0
            self._committed, self._position = None, self._position_at(self._log.log_start_offset)
            try:
                while self._apply_some()[1]:
                    self._environment.commit()
            except Damaged as damage:
                # Freshly written and bad again: the machine's memory or disk, not an old flip.
                raise StorageError(f"view {self.name!r} is damaged as soon as it is written: {damage}") from None

    # -- for the environment ----------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        return self._position != self._committed

    def freeze(self) -> tuple[dict[bytes, bytes | None], Position]:
        """Set the pending changes apart for a commit; reads still see them."""
        with self._lock:
            assert not self._frozen, "one commit at a time"
            self._frozen, self._pending, self._pending_bytes = self._pending, {}, 0
            return self._frozen, self._position

    def thaw(self, committed: Position | None) -> None:
        """After a commit: the frozen changes are in the table now, or (None) pending again, below newer ones."""
        with self._lock:
            if committed is not None:
                self._committed = committed
            else:
                self._pending = {**self._frozen, **self._pending}
                self._pending_bytes = sum(
                    len(key) + len(value or b"") + PENDING_PAIR_BYTES for key, value in self._pending.items()
                )
            self._frozen = {}
