"""After a crash: what is decided is completed, what is not is aborted.

The logs are recovered before (log/recovery.py): each holds what its durability promises, and under fsync no marker that
the decisions do not bear out. Two steps are left:
    1. every PREPARE without COMPLETE gets the markers that are missing, then COMPLETE;
    2. every transaction that is still open in a partition was never decided: it is aborted.

Invariants:
    1. A marker of step 1 goes only where the transaction that PREPARE decided is open: one of a lower epoch. An open one of
       the same epoch is the id's next transaction, whose PREPARE did not survive.
    2. Both steps may be cut short by another crash, and are then done again.
    3. All of it is durable before the store is handed out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mqcore.errors import UnknownTopicError
from mqcore.log.transaction_records import Status, TransactionRecord, encode_key, grouped
from mqcore.transactions import log as transaction_log
from mqcore.transactions import markers, states
from mqcore.transactions.log import TransactionLog

if TYPE_CHECKING:
    from collections.abc import Container

    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog


class Left(NamedTuple):
    """What an id's last record says. log: the partition that holds it."""

    name: str
    log: PartitionLog
    state: TransactionRecord


def recover(store: LogStore) -> tuple[int, int]:
    """Complete and abort; how many of each. Raises StorageError, CorruptBatchError, StoreFormatError."""
    log = TransactionLog(store)
    ids = last_records(store)
    completed = [left for left in ids if left.state.status.is_decided]
    for left in completed:
        _complete(store, log, left)
    aborted = abort_undecided(store, ids)
    if completed or aborted:
        _make_durable(store)
    return len(completed), aborted


def abort_undecided(store: LogStore, ids: list[Left], only: Container[int] | None = None) -> int:
    """Abort what is open in any partition (of these producer ids); how many. Nobody runs transactions meanwhile."""
    log, aborted = TransactionLog(store), 0
    last = {left.state.producer_id: left for left in ids}
    for producer_id, (epoch, where) in _undecided(store).items():
        if only is None or producer_id in only:
            _abort(store, log, last.get(producer_id), producer_id, epoch, where)
            aborted += 1
    return aborted


def last_records(store: LogStore) -> list[Left]:
    """Every id that the log of decisions knows."""
    logs = TransactionLog(store).logs()
    return [Left(name, log, state) for log in logs for name, state in transaction_log.read(log).items()]


def _complete(store: LogStore, log: TransactionLog, left: Left) -> None:
    state = left.state
    where = []
    for topic, numbers in state.partitions:
        for number in numbers:
            try:
                partition = store.partition(topic, number)
            except UnknownTopicError:
                continue  # deleted since
            open_one = partition.open_transactions().get(state.producer_id)
            if open_one is not None and open_one.epoch < state.epoch:  # invariant 1
                where.append(partition)
    commit = state.status is Status.PREPARE_COMMIT
    markers.write(where, state, commit=commit, coordinator_epoch=left.log.epoch)
    done = states.complete(state, store.clock.wall_ms())
    log.append(left.log, encode_key(left.name), done, None)


def _undecided(store: LogStore) -> dict[int, tuple[int, list[PartitionLog]]]:
    """{producer id: (its epoch, where it has a transaction open)}."""
    found: dict[int, tuple[int, list[PartitionLog]]] = {}
    held_back = [key for key, state in store.partitions.states() if state.stable_end < state.log_end]
    for log in [store.partition(*key) for key in held_back]:
        for producer_id, open_one in log.open_transactions().items():
            epoch, where = found.get(producer_id, (0, []))
            found[producer_id] = max(epoch, open_one.epoch), [*where, log]
    return found


def _abort(
    store: LogStore, log: TransactionLog, left: Left | None, producer_id: int, epoch: int, where: list[PartitionLog]
) -> None:
    """left: the id's last record; None: it never came to one, and its producer id is not used again."""
    now_ms = store.clock.wall_ms()
    epoch = min(epoch + 1, states.EPOCH_MAX)
    partitions = grouped((each.topic, each.partition) for each in where)
    timeout_ms = left.state.timeout_ms if left is not None else 0
    state = TransactionRecord(producer_id, epoch, timeout_ms, Status.PREPARE_ABORT, partitions, now_ms, now_ms)
    if left is not None:
        log.append(left.log, encode_key(left.name), state, None)
    markers.write(where, state, commit=False, coordinator_epoch=where[0].epoch)
    if left is not None:
        log.append(left.log, encode_key(left.name), states.complete(state, now_ms), None)


def _make_durable(store: LogStore) -> None:
    if store.group is not None:
        store.group.drain()
