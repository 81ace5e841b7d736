"""One state: its view, and the order in which transactions change it.

Invariants:
    1. The view equals the fold of the changelog's committed records (I18): changes are appended in a transaction, and
       taken into memory after it is durable, in the order of the log.
    2. Transactions are serializable: each commits as if it had run alone at its commit. At commit every key and range
       that it read, and every key that it wrote, is compared with what was committed since it looked; the loser gets
       StateConflictError. Optimistic: nobody waits for a lock that a user's code holds.
    3. What a running transaction reads is one moment's state (opacity): if another commit changed what it read before,
       its next read raises StateConflictError instead of showing the two together.
    4. Nothing is shown before it is durable (R11). A read of a key that a commit in progress changes waits for its end:
       the old value would only lead to a conflict.

Time is counted in stamps: even ones, one a commit, given in the order of the log; odd while a commit is taken into
memory. A transaction is good up to the stamp it has last compared with (`TransactionState.stamp`). Commits are
remembered as long as a transaction that began before them is running, up to REMEMBERED_BYTES_MAX.

Locks: the store-wide commit lock (the caller's) before `changed`, `changed` before the view's. `changed` guards all
fields here; it is not held over I/O, but for an apply that has to read the log.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mqcore.errors import MQError, StateConflictError
from mqcore.log.view_pairs import Clock
from mqcore.log.views import View
from mqcore.state import changelog

if TYPE_CHECKING:
    from mqcore.log.overlay import Memory
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.views import ViewEnvironment
    from mqcore.ports import TransactionWriter
    from mqcore.state.transaction import TransactionState

REMEMBERED_BYTES_MAX = 64 << 20  # of commits that older transactions are compared with
COMMIT_WAIT_S = 10.0  # for a commit in progress, before a read goes on with what will be a conflict
_PENDING, _APPLIED, _ABORTED = range(3)
logger = logging.getLogger("mqcore.state")


class Commit:
    """What one transaction changes here, from its append on. size: bytes of keys and values."""

    __slots__ = ("base_offset", "changes", "next_offset", "size", "stamp", "status")

    def __init__(self, stamp: int, changes: Memory, size: int, base_offset: int, next_offset: int) -> None:
        self.stamp, self.changes, self.size = stamp, changes, size
        self.base_offset, self.next_offset, self.status = base_offset, next_offset, _PENDING


class StateStore:
    """Made by StateStores. Safe to share between threads."""

    def __init__(self, environment: ViewEnvironment, name: str, log: PartitionLog, *, read_only: bool = False) -> None:
        """Reads what the view lacks of the changelog. read_only: nobody writes here, or another process.
        Raises CorruptBatchError, StorageError."""
        self.name, self.log, self._read_only = name, log, read_only
        self.topic = changelog.topic_of(name)
        self.view = View(environment, f"state:{name}", log, None)
        self.view.catch_up()
        self.changed = threading.Condition(threading.Lock())
        self.clock = Clock()
        self.in_progress: deque[Commit] = deque()  # appended, not decided, in the order of the log
        self._remembered: deque[Commit] = deque()  # for comparison, in progress or done, ascending
        self._remembered_bytes = 0
        self._forgotten = 0  # stamp: what was committed up to here cannot be compared with any more
        self._last_stamp = 0  # the last one given
        self._behind = False  # the view could not follow the log
        self._running: set[TransactionState] = set()

    @property
    def value_room(self) -> int:
        """Bytes that key and value of a pair may have together."""
        return changelog.room_for(self.log.config.max_message_bytes)

    def follow(self) -> None:
        """Before a read outside of transactions: have the view where it should be. StorageError, CorruptBatchError."""
        if self._read_only:
            self.view.follow()
        elif self._behind:
            with self.changed:
                self._follow()

    # -- transactions -----------------------------------------------------------------------------------------------

    def enter(self, transaction: TransactionState) -> int:
        """A transaction begins to look; the stamp it is good up to."""
        with self.changed:
            self._running.add(transaction)
            return self.clock.stamp & ~1

    def leave(self, transaction: TransactionState) -> None:
        """It has ended."""
        with self.changed:
            self._running.discard(transaction)
            self._forget()

    def refresh(self, transaction: TransactionState, key: bytes | None = None) -> int:
        """Bring a transaction up to what is committed now, if nothing it read has changed; the stamp it is good up to.

        key: what it is about to read: a commit in progress that changes it is waited for.
        Raises StateConflictError; StorageError, CorruptBatchError (the view cannot follow its log).
        """
        with self.changed:
            if key is not None and self._is_changing(key):
                self.changed.wait_for(lambda: not self._is_changing(key), COMMIT_WAIT_S)
            if self._behind:
                self._follow()
            stamp = self.clock.stamp
            self._compare(transaction, stamp)
            return stamp

    def _is_changing(self, key: bytes) -> bool:
        return any(key in commit.changes for commit in self.in_progress)

    def _compare(self, transaction: TransactionState, until: int) -> None:
        """Raise StateConflictError if a commit after the transaction's stamp, up to `until`, changed what it saw."""
        if transaction.stamp < self._forgotten:
            raise StateConflictError(
                "the transaction is too old: more was committed beside it than is remembered", state=self.name
            )
        for commit in reversed(self._remembered):
            if commit.stamp <= transaction.stamp:
                return
            if commit.stamp <= until and commit.status != _ABORTED and transaction.saw(commit.changes):
                raise StateConflictError(
                    "another transaction changed what this one read or wrote",
                    hint="Run the transaction again",
                    state=self.name,
                )

    # -- commit (Participant) ---------------------------------------------------------------------------------------

    def prepare(self, transaction: TransactionState, writer: TransactionWriter) -> Commit | None:
        """Under the store-wide commit lock: compare, and append the changes; None without any.

        Raises StateConflictError, and what the append raises: then the transaction has to abort.
        """
        changes = transaction.changes
        with self.changed:
            self._compare(transaction, self._last_stamp)
        if not changes:
            return None
        size = changelog.size_of(changes)
        base = end = -1
        for keys, values in changelog.batches(changes, size, self.log.config.max_message_bytes):
            appended = writer.write(self.topic, 0, keys, values)
            base, end = appended.base_offset if base < 0 else base, appended.next_offset
        with self.changed:
            self._last_stamp += 2
            commit = Commit(self._last_stamp, changes, size, base, end)
            self.in_progress.append(commit)
            self.clock.in_progress = len(self.in_progress)
            self._remembered.append(commit)
            self._remembered_bytes += size
        return commit

    def applied(self, commit: Commit) -> None:
        """The transaction is durable: show its changes. Does not fail; a view that cannot follow says so to readers."""
        with self.changed:
            commit.status = _APPLIED
            self._drain()
            if commit in self.in_progress:
                # One before it is durable too, but its thread has not come to tell. The log knows how it ended.
                self._try(self._follow)
            self.changed.notify_all()

    def aborted(self, commit: Commit) -> None:
        with self.changed:
            commit.status = _ABORTED
            self._drain()
            self.changed.notify_all()

    def _drain(self) -> None:
        """Take the decided commits at the front of the queue into memory."""
        while self.in_progress and self.in_progress[0].status != _PENDING:
            commit = self.in_progress[0]
            if commit.status == _APPLIED and not self._behind:
                self.clock.stamp = commit.stamp - 1
                self._try(lambda c=commit: self.view.apply(c.base_offset, c.next_offset, c.changes, c.size))
            if self._behind:
                break
            self.in_progress.popleft()
            self.clock.stamp = max(self.clock.stamp, commit.stamp)
        if self._behind:
            self._try(self._follow)
        self._forget()

    def _follow(self) -> None:
        """Have the view read the log. Raises what that raises; readers get it too until it succeeds."""
        self.clock.stamp |= 1
        self._behind = True
        self.view.catch_up()
        self._behind = False
        while self.in_progress and self.in_progress[0].next_offset <= self.view.offset:
            self.in_progress.popleft()
        done = self.in_progress[0].stamp - 2 if self.in_progress else self._last_stamp
        self.clock.stamp, self.clock.in_progress = max(self.clock.stamp & ~1, done), len(self.in_progress)

    def _try(self, step: Any) -> None:
        try:
            step()
        except MQError as error:
            self._behind = True
            self.clock.stamp |= 1
            logger.error("state %s cannot follow its changelog: %s", self.name, error)

    def _forget(self) -> None:
        """Drop commits that no running transaction began before, and the oldest where there are too many."""
        oldest = min((transaction.stamp for transaction in self._running), default=self.clock.stamp)
        remembered = self._remembered
        self.clock.in_progress = len(self.in_progress)
        while remembered and remembered[0].status != _PENDING and remembered[0].stamp <= self.clock.stamp:
            if remembered[0].stamp > oldest:
                if self._remembered_bytes <= REMEMBERED_BYTES_MAX:
                    return
                self._forgotten = remembered[0].stamp
            self._remembered_bytes -= remembered.popleft().size


def in_range(changes: Memory, ranges: Sequence[Sequence[bytes | None]]) -> bool:
    """Whether a key lies in one of the ranges, each [low, high), high None without end."""
    return any(
        low is not None and low <= key and (high is None or key < high) for low, high in ranges for key in changes
    )
