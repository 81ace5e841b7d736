"""Transactions of one store: begin, commit, abort, and the order in which they are written.

A commit appends, in this order, from one thread: what participants carry (offsets, state), PREPARE_COMMIT, a marker in each
partition, COMPLETE_COMMIT; then it waits once, for the last of them. PREPARE is the commit point. docs/transactions.md has
the argument why that survives a crash at every step.

Invariants:
    1. At most one transaction of an id is open; the next `begin` fences it (its handle gets ProducerFencedError).
    2. `_decisions` is held from the first check of a commit to its last append, never over its flush: participants
       validate against what is decided, and the log of decisions has one writer.
    3. What is decided is completed: by the committing thread, else by a later call, the timer, or the next open.
    4. An id in memory is as its last record says, or newer. One that fell out of memory begins with a new producer id.
    5. Without a journal (os, memory) COMPLETE may be owed: it only tells a recovery that there is nothing to do. It goes in
       one batch with the id's next PREPARE and before it, else with the timer's next look, or the close. Never after a
       PREPARE that came later: that one would be hidden. So who owes is not forgotten.
Locks, in order: a TransactionalId's `lock` (begins of one id), `_decisions`, OpenTransaction.lock, then those of the log.
`_table` guards the map of ids and is a leaf.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from threading import get_ident
from typing import TYPE_CHECKING, Any

from mqcore.errors import (
    AbortsTransactionError,
    CommitUndecidedError,
    ConcurrentTransactionsError,
    InvalidTransactionStateError,
    MQError,
    ProducerFencedError,
    StorageError,
    StoreClosedError,
    TransactionAbortedError,
    TransactionTimedOutError,
)
from mqcore.log.transaction_records import TransactionRecord, encode_key, encode_partitions, grouped
from mqcore.transactions import log as transaction_log
from mqcore.transactions import markers, states
from mqcore.transactions.fencing import OpenTransaction, Phase
from mqcore.transactions.log import TransactionLog
from mqcore.transactions.timeouts import Timer

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog


_NOWHERE = encode_partitions(())
OWED_MAX = 32  # COMPLETEs; more are written at once
_TOMBSTONES = 1000  # in one batch
_PATIENCE_S = 0.1
EXPIRY_S = 3600.0  # between two looks for ids to forget (Kafka's transaction.remove.expired... interval)


class TransactionalId:
    """One id, as it is remembered between its transactions."""

    __slots__ = ("_logs", "_partitions", "key", "lock", "log", "name", "running", "state")

    def __init__(self, name: str, log: PartitionLog, state: TransactionRecord) -> None:
        self.name, self.key, self.log, self.state = name, encode_key(name), log, state
        self.lock = threading.Lock()
        self.running: OpenTransaction | None = None
        self._logs: list[PartitionLog] = []
        self._partitions = _NOWHERE

    def partitions(self, logs: Iterable[PartitionLog]) -> bytes:
        """Encoded. The same id mostly touches the same partitions, in the same order."""
        touched = list(logs)
        if touched != self._logs:
            self._partitions = encode_partitions(grouped((log.topic, log.partition) for log in touched))
            self._logs = touched
        return self._partitions


class Coordinator:
    """Safe to share between threads. `close` aborts what is open."""

    def __init__(self, store: LogStore) -> None:
        self._store, self._clock = store, store.clock
        self._log = TransactionLog(store)
        self._decisions = threading.Lock()
        self._doubt: tuple[OpenTransaction, TransactionRecord, bool, int] | None = None  # PREPARE: written or not?
        self._table = threading.Lock()
        self._load_lock = threading.Lock()
        self._ids: OrderedDict[str, TransactionalId] = OrderedDict()  # the least recently used first
        self._ids_max = store.config.transactional_ids_cached_max
        self._evictions = 0
        self._loaded: set[int] = set()  # partitions whose ids were read since the open
        self.running: dict[OpenTransaction, None] = {}
        self._owed: dict[TransactionalId, TransactionRecord] = {}
        self._unapplied: list[OpenTransaction] = []  # committed; an interrupt kept their participants from hearing
        self._timer = Timer(self)
        self._expired_s = self._clock.monotonic_s()
        store.housekeeper.guests.append(self._maintain)
        self._closed = False

    # -- ids --------------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> TransactionalId:
        with self._table:
            entry = self._ids.get(name)
            if entry is not None:
                self._ids.move_to_end(name)
                return entry
        log = self._log.log_for(name)
        self._load(log)
        with self._table:
            entry = self._ids.get(name)
            if entry is None:
                state = states.fresh(self._store.producer_ids.allocate(), self._clock.wall_ms())
                entry = self._ids[name] = TransactionalId(name, log, state)
                self._evict()
            return entry

    def _load(self, log: PartitionLog) -> None:
        """Read the ids of one partition of the log, once."""
        if log.partition in self._loaded:
            return
        with self._load_lock:
            if log.partition in self._loaded:
                return
            found = transaction_log.read(log)
            with self._table:
                for name, state in found.items():
                    self._ids.setdefault(name, TransactionalId(name, log, state))
                self._evict()
            self._loaded.add(log.partition)

    def _evict(self) -> None:
        """Forget the ids that were not used for longest, but none that runs. Under `_table`."""
        for name in tuple(islice(self._ids, max(0, len(self._ids) - self._ids_max))):
            entry = self._ids[name]
            if entry.running is None and entry not in self._owed and entry.lock.acquire(blocking=False):
                del self._ids[name]
                self._evictions += 1
                entry.lock.release()

    # -- begin ------------------------------------------------------------------------------------------------------

    def begin(self, name: str, timeout_ms: int) -> OpenTransaction:
        """Open a transaction of an id; one that is open is aborted and its handle fenced. Writes nothing.

        Raises ConcurrentTransactionsError (the last one cannot be completed yet), StoreReadOnlyError, StorageError.
        """
        self._store.check_writable()
        while True:
            entry = self._id(name)
            with entry.lock:
                if self._ids.get(name) is not entry:
                    continue  # evicted since
                if entry.running is not None:
                    self._fence(entry.running)
                return self._open(entry, timeout_ms)

    def _open(self, entry: TransactionalId, timeout_ms: int) -> OpenTransaction:
        clock = self._clock
        now_ms, state = clock.wall_ms(), entry.state
        if states.is_exhausted(state):
            state = states.fresh(self._store.producer_ids.allocate(), now_ms)
        tx = OpenTransaction(entry, states.begin(state, now_ms, timeout_ms), clock.monotonic_s() + timeout_ms / 1000)
        if self._closed:
            raise StoreClosedError("the store is closed", path=self._store.path)
        entry.running = self.running[tx] = tx  # type: ignore[assignment]
        if self._timer.is_idle:
            self._timer.wake()
        return tx

    def _fence(self, tx: OpenTransaction) -> None:
        where: dict[str, Any] = {"transactional_id": tx.entry.name, "epoch": tx.state.epoch}
        self._end(tx, ProducerFencedError("another transaction of this id began", **where))
        if tx.phase is not Phase.OVER:
            raise ConcurrentTransactionsError("the id's last transaction is not completed yet", **where)

    # -- commit -----------------------------------------------------------------------------------------------------

    def commit(self, tx: OpenTransaction) -> None:
        """Commit, durably; or complete a commit that an earlier call decided. Everything it covers is appended.

        Raises why it is over instead (ProducerFencedError, TransactionTimedOutError, what a participant raised …):
        nothing of it will be seen. DiskFullError: decided, and completed by a later call. CommitUndecidedError.
        """
        try:
            self._commit(tx)
            self._apply(tx)
        except StorageError as error:
            raise _undecided(tx, error) from error
        except BaseException:
            if tx.committed and tx.participants:  # an interrupt, or a marker that found no room
                self._unapplied.append(tx)
                self._timer.wake()
            raise

    def _commit(self, tx: OpenTransaction) -> None:
        with self._decisions:
            self._resolve()
            if tx.phase < Phase.DECIDED:
                self._begin_end(tx)
                try:
                    for participant in tuple(tx.participants.values()):
                        participant.prepare(tx.writer)
                    self._decide(tx, commit=True)
                except BaseException as error:
                    reason = self._cannot_commit(tx, error)
                    if reason is error:
                        raise
                    raise reason from error
            if not tx.committed:
                raise tx.refusal()
            self._complete(tx)

    def _begin_end(self, tx: OpenTransaction) -> None:
        """Close the gate to all but this thread. An ENDING left by an interrupt is taken over: its thread is gone."""
        if tx.error is None and self._clock.monotonic_s() >= tx.deadline_s:
            self._give_up(tx, _timed_out(tx))
        with tx.lock:
            if tx.phase > Phase.ENDING or tx.error is not None:
                raise tx.refusal()
            tx.phase, tx.owner = Phase.ENDING, get_ident()

    def _decide(self, tx: OpenTransaction, *, commit: bool) -> None:
        """Write PREPARE: from here on it stands."""
        entry, logs = tx.entry, tx.logs
        if not logs:  # nothing was written, so there is nothing to decide
            tx.committed = commit
            self._over(tx)
            return
        log = entry.log
        tx.foreign = markers.of_another_durability(logs, log) if commit else ()
        for each in tx.foreign:
            markers.make_durable(each)
        record = states.prepare(tx.state, (), self._clock.wall_ms(), commit=commit)
        self._doubt = tx, record, commit, log.log_end_offset
        self._log.append(log, entry.key, record, entry.partitions(logs), self._owed.get(entry))
        self._resolve()
        if tx.foreign:
            markers.make_durable(log)

    def _resolve(self) -> None:
        """Whether PREPARE was written is told by the end of its log: an interrupt may have hidden it."""
        if self._doubt is not None:
            tx, record, commit, log_end = self._doubt
            if tx.entry.log.log_end_offset > log_end:
                self._owed.pop(tx.entry, None)
                tx.state = tx.entry.state = record
                tx.committed = commit
                tx.phase = Phase.DECIDED
            self._doubt = None

    def _complete(self, tx: OpenTransaction) -> None:
        """Write the markers that are missing, and COMPLETE. May be called again after an error."""
        entry = tx.entry
        if tx.phase is Phase.OVER:
            return
        markers.write(tx.logs, tx.state, commit=tx.committed, coordinator_epoch=entry.log.epoch)
        record = states.complete(tx.state, self._clock.wall_ms())
        if entry.log.group is None:
            self._owed[entry] = record
            if len(self._owed) > OWED_MAX:
                self._pay()
        else:
            tx.end_offset = self._log.append(entry.log, entry.key, record, _NOWHERE).next_offset
        entry.state = tx.state = record
        self._over(tx)

    def _pay(self) -> None:
        """Write the COMPLETEs that are owed (invariant 5). Under `_decisions`."""
        for entry, record in list(self._owed.items()):
            self._log.append(entry.log, entry.key, record, _NOWHERE)
            self._owed.pop(entry, None)

    def _over(self, tx: OpenTransaction) -> None:
        tx.phase = Phase.OVER
        self.running.pop(tx, None)
        if tx.entry.running is tx:
            tx.entry.running = None

    def _apply(self, tx: OpenTransaction) -> None:
        """Wait for the flush, then let participants show what they hold. May be called again."""
        tx.entry.log.wait_durable(tx.end_offset)
        for log in tx.foreign:
            markers.make_durable(log)
        while tx.participants:
            key, participant = next(iter(tx.participants.items()))
            participant.applied(tx.writer)
            tx.participants.pop(key, None)

    # -- abort ------------------------------------------------------------------------------------------------------

    def abort(self, tx: OpenTransaction) -> None:
        """End a transaction; nothing of it will be seen. Again: nothing. InvalidTransactionStateError: it is committed.

        DiskFullError, StorageError: it is over all the same, and its markers come later (or with the next open).
        """
        self._end(tx, None)
        if tx.committed:
            raise InvalidTransactionStateError("the transaction is committed", transactional_id=tx.entry.name)
        if tx.phase is not Phase.OVER:
            self._finish(tx)

    def _end(self, tx: OpenTransaction, error: MQError | None) -> None:
        """Abort for a reason (None: its owner wants it), or complete what is decided; errors of the disk are kept for
        the next attempt."""
        with self._decisions:
            self._resolve()
            if tx.phase < Phase.DECIDED:
                self._give_up(tx, error)
            elif tx.phase is Phase.DECIDED:
                self._try_complete(tx)

    def _finish(self, tx: OpenTransaction) -> None:
        """Write what is missing of an end; raises what keeps it from being written."""
        with self._decisions:
            self._resolve()
            if tx.phase < Phase.DECIDED:
                self._decide(tx, commit=False)
            self._complete(tx)

    def _give_up(self, tx: OpenTransaction, error: MQError | None) -> None:
        """Refuse further appends and abort. Under `_decisions`, undecided."""
        with tx.lock:
            tx.phase, tx.owner = Phase.ENDING, 0
            tx.error = tx.error or error
        self._try_complete(tx)
        while tx.participants:  # one by one: an interrupt must leave those that were not told for the next attempt
            key, participant = next(iter(tx.participants.items()))
            participant.aborted(tx.writer)
            tx.participants.pop(key, None)

    def _try_complete(self, tx: OpenTransaction) -> None:
        try:
            if tx.phase < Phase.DECIDED:
                self._decide(tx, commit=False)
            self._complete(tx)
            tx.entry.log.commit_soon()  # readers of read_committed wait for the markers, though nobody else does
        except MQError:
            pass  # no room, or no disk: `tend` tries again, and so does the next open

    def _cannot_commit(self, tx: OpenTransaction, error: BaseException) -> BaseException:
        """What commit raises for an error that came before it was decided; the transaction is aborted. Decided all the
        same (an interrupt came after the write): it will be completed."""
        self._resolve()
        if tx.phase >= Phase.DECIDED or tx.phase is Phase.OPEN:
            return error
        if isinstance(error, StorageError):
            with tx.lock:
                tx.error, tx.owner = _undecided(tx, error), 0
            return error
        if isinstance(error, MQError) and not isinstance(error, AbortsTransactionError):
            reason: MQError = TransactionAbortedError(
                f"the commit failed: {error.what}", transactional_id=tx.entry.name, **error.where
            )
        elif isinstance(error, MQError):
            reason = error
        else:
            reason = TransactionAbortedError("the commit was interrupted", transactional_id=tx.entry.name)
        if tx.error is None:
            self._give_up(tx, reason)
            return reason if isinstance(error, MQError) else error
        return error

    # -- time -------------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Abort what is past its time-out, complete what an error left behind. The timer calls it; so may a test."""
        now = self._clock.monotonic_s()
        for tx in list(self.running):
            if tx.phase is Phase.DECIDED or (tx.phase is Phase.ENDING and tx.error is not None):
                self._end(tx, None)
            elif now >= tx.deadline_s:
                self._end(tx, _timed_out(tx))
        if self._owed:
            with self._decisions:
                self._resolve()
                self._pay()
        late, self._unapplied = self._unapplied, []
        for tx in late:
            if tx.phase is Phase.OVER:
                self._apply(tx)
            else:
                self._unapplied.append(tx)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to tend."""
        return bool(self.running or self._unapplied or self._owed)

    def left_s(self) -> float:
        """Until `tend` has something to do; inf: nothing is open."""
        now = self._clock.monotonic_s()
        return min((tx.deadline_s - now for tx in list(self.running)), default=math.inf)

    def abandon(self) -> None:
        """Stop the thread; what is open stays so."""
        self._closed = True
        self._timer.stop()

    def _maintain(self, _: object) -> None:
        """A pass of the store's maintenance: now and then look for ids to forget."""
        now_s = self._clock.monotonic_s()
        if now_s - self._expired_s >= EXPIRY_S:
            self._expired_s = now_s
            self.expire(self._store.retention_clock.now_ms() - self._store.config.transactional_id_expiration_ms)

    def expire(self, before_ms: int) -> int:
        """Forget the ids without a transaction since before_ms (ms): tombstones, in memory too; how many."""
        expired = 0
        if self._owed and self._decisions.acquire(timeout=_PATIENCE_S):
            try:
                self._resolve()
                self._pay()
            finally:
                self._decisions.release()
        for log in self._log.logs():
            evictions = self._evictions
            found = transaction_log.read(log)
            old = [name for name, state in found.items() if states.is_idle(state) and state.updated_ms < before_ms]
            for start in range(0, len(old), _TOMBSTONES):
                # Nobody decides meanwhile. Not waited for: maintenance holds locks that a commit may need.
                if not self._decisions.acquire(timeout=_PATIENCE_S):
                    return expired
                try:
                    self._resolve()
                    gone = self._forget(old[start : start + _TOMBSTONES], before_ms, evictions)
                    if gone:
                        self._log.forget(log, [encode_key(name) for name in gone], self._clock.wall_ms())
                finally:
                    self._decisions.release()
                expired += len(gone)
        return expired

    def _forget(self, names: list[str], before_ms: int, evictions: int) -> list[str]:
        """Drop ids from memory; those of `names` that were not used since their record was read."""
        gone = []
        with self._table:
            if self._evictions != evictions:
                return []  # one that was used since may have fallen out of memory again: the next time
            for name in names:
                entry = self._ids.get(name)
                if entry is not None:
                    if entry.running is not None or entry in self._owed or entry.state.updated_ms >= before_ms:
                        continue
                    if not entry.lock.acquire(blocking=False):
                        continue  # a transaction of it begins
                    del self._ids[name]
                    entry.lock.release()
                gone.append(name)
        return gone

    def close(self) -> None:
        """Abort what is open; their handles get StoreClosedError. The store is closed next."""
        self._closed = True
        self._timer.stop()
        for tx in list(self.running):
            self._end(tx, StoreClosedError("the store was closed in the middle of the transaction"))
        if not self._store.closed:
            self.tend()


def _timed_out(tx: OpenTransaction) -> TransactionTimedOutError:
    return TransactionTimedOutError(
        "the transaction was open for too long and was aborted",
        transactional_id=tx.entry.name,
        timeout_ms=tx.timeout_ms,
    )


def _undecided(tx: OpenTransaction, error: StorageError) -> CommitUndecidedError:
    return CommitUndecidedError(
        f"the disk failed while a commit was written: {error.what}",
        hint="Close the store, check the disk, open it again: it tells whether the transaction is committed",
        **{**error.where, "transactional_id": tx.entry.name},
    )
