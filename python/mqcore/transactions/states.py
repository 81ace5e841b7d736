"""The states of a transactional id and their moves. Pure.

    EMPTY / COMPLETE_COMMIT / COMPLETE_ABORT -- begin --> ONGOING -- prepare --> PREPARE_COMMIT | PREPARE_ABORT
    PREPARE_COMMIT -- complete --> COMPLETE_COMMIT        PREPARE_ABORT -- complete --> COMPLETE_ABORT

Invariants:
    1. What is prepared can only be completed, and only as it was prepared.
    2. The end of a transaction bumps the epoch: PREPARE, markers and COMPLETE carry it, and the next transaction writes
       with it. A batch that comes late has the old one and is refused everywhere (KIP-890, part 2).
    3. An epoch never passes int16: an id whose epochs are used up gets another producer id (`is_exhausted`).
Source: KIP-98, KIP-360, KIP-890; TransactionMetadata in apache/kafka.
"""

from __future__ import annotations

from mqcore.errors import InvalidTransactionStateError
from mqcore.log.transaction_records import Partitions, Status, TransactionRecord

EPOCH_MAX = 32767
_IDLE = frozenset((Status.EMPTY, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT))


def fresh(producer_id: int, now_ms: int) -> TransactionRecord:
    """An id that never had a transaction."""
    return TransactionRecord(producer_id, 0, 0, Status.EMPTY, (), now_ms, -1)


def is_idle(state: TransactionRecord) -> bool:
    return state.status in _IDLE


def is_exhausted(state: TransactionRecord) -> bool:
    """Whether the id needs a new producer id for its next transaction. One epoch is left for a fence after a crash."""
    return state.epoch >= EPOCH_MAX - 1


def begin(state: TransactionRecord, now_ms: int, timeout_ms: int) -> TransactionRecord:
    """InvalidTransactionStateError: the last transaction is not over."""
    if state.status not in _IDLE:
        raise _illegal("begin", state)
    return TransactionRecord(state.producer_id, state.epoch, timeout_ms, Status.ONGOING, (), now_ms, now_ms)


def prepare(state: TransactionRecord, partitions: Partitions, now_ms: int, *, commit: bool) -> TransactionRecord:
    """Decide. InvalidTransactionStateError: nothing is going on, or it is decided already."""
    if state.status is not Status.ONGOING:
        raise _illegal("end", state)
    status = Status.PREPARE_COMMIT if commit else Status.PREPARE_ABORT
    return TransactionRecord(
        state.producer_id, state.epoch + 1, state.timeout_ms, status, partitions, now_ms, state.started_ms
    )


def complete(state: TransactionRecord, now_ms: int) -> TransactionRecord:
    """Every marker is written. InvalidTransactionStateError: nothing was decided."""
    if state.status is Status.PREPARE_COMMIT:
        status = Status.COMPLETE_COMMIT
    elif state.status is Status.PREPARE_ABORT:
        status = Status.COMPLETE_ABORT
    else:
        raise _illegal("complete", state)
    return TransactionRecord(state.producer_id, state.epoch, state.timeout_ms, status, (), now_ms, state.started_ms)


def _illegal(what: str, state: TransactionRecord) -> InvalidTransactionStateError:
    return InvalidTransactionStateError(
        f"cannot {what} a transaction in state {state.status.name}", producer_id=state.producer_id, epoch=state.epoch
    )
