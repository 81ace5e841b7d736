"""The error tree of mqcore: one root, one class for each thing that a caller handles apart.

Invariants:
    1. A leaf has exactly one of `retriable`, `aborts_transaction`, `fatal` true: there is no fourth kind.
    2. The message is composed in one place (`MQError.__init__`): what happened, where, what to do next.
    3. An error never carries a secret or a record's bytes.

`kafka_code` is the error code of Kafka's protocol that a front answers with (Kafka's `Errors` table).
"""

from __future__ import annotations

from typing import Any, ClassVar


class MQError(Exception):
    """Base of all errors of mqcore.

    what: what happened, one clause. where: topic, partition, offset, path, … as far as known (also a dict in
    `.where`). hint: what to do next; empty where there is nothing to do.
    """

    kafka_code: ClassVar[int] = -1  # UNKNOWN_SERVER_ERROR
    retriable: ClassVar[bool] = False  # the same call may succeed later, unchanged
    aborts_transaction: ClassVar[bool] = False  # abort and run the whole transaction again
    fatal: ClassVar[bool] = False  # this object, call or input will never succeed

    def __init__(self, what: str, *, hint: str = "", **where: Any) -> None:
        place = " ".join(f"{name}={value}" for name, value in where.items() if value is not None)
        super().__init__(what + (f" ({place})" if place else "") + (f". {hint}" if hint else ""))
        self.what, self.hint, self.where = what, hint, where

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.hint, self.where)


def _rebuild(cls: type[MQError], what: str, hint: str, where: dict[str, Any]) -> MQError:
    """Unpickle: the constructor takes keywords, which BaseException does not keep."""
    return cls(what, hint=hint, **where)


class FatalError(MQError):
    """Will not succeed on retry: a wrong argument, a closed object, damage."""

    fatal = True


class RetriableError(MQError):
    """May succeed on retry, unchanged."""

    retriable = True


class StoreError(FatalError):
    """The store as a whole cannot be used as asked."""


class StoreLockedError(StoreError):
    """Another process writes this store (`where`: path, pid)."""


class StoreFormatError(StoreError):
    """The directory is no store, or one of another format version."""


class StoreReadOnlyError(StoreError):
    """A write on a read-only store: opened so, or after a failed fsync."""


class StoreClosedError(StoreError):
    """The store, producer or consumer was closed before."""


class ForkedStoreError(StoreError):
    """A forked child used its parent's store: open one of its own (read-only beside a living writer)."""


class StorageError(FatalError):
    """The disk or file system failed a call (`where`: path, errno, position)."""

    kafka_code = 56  # KAFKA_STORAGE_ERROR


class DiskFullError(RetriableError):
    """No space left on the device or in the quota; nothing was acknowledged, nothing damaged."""

    kafka_code = 56  # KAFKA_STORAGE_ERROR


class CorruptBatchError(FatalError):
    """Stored or received bytes fail a check (`where`: topic, partition, path, position, offset)."""

    kafka_code = 2  # CORRUPT_MESSAGE


class RecordTooLargeError(FatalError):
    """A record or batch is over its limit (`where`: size, limit)."""

    kafka_code = 10  # MESSAGE_TOO_LARGE


class InvalidRecordError(FatalError):
    """A record breaks a rule: timestamp out of range, key missing in a compacted topic, …"""

    kafka_code = 87  # INVALID_RECORD


class UnsupportedFormatError(FatalError):
    """Message format 0 or 1, or a codec that is not installed."""

    kafka_code = 43  # UNSUPPORTED_FOR_MESSAGE_FORMAT


class OffsetOutOfRangeError(FatalError):
    """An offset outside log start .. log end (`where`: offset, log_start_offset, log_end_offset)."""

    kafka_code = 1  # OFFSET_OUT_OF_RANGE


class UnknownTopicError(FatalError):
    """No such topic or partition."""

    kafka_code = 3  # UNKNOWN_TOPIC_OR_PARTITION


class TopicExistsError(FatalError):
    """A topic of this name is there already."""

    kafka_code = 36  # TOPIC_ALREADY_EXISTS


class InvalidTopicError(FatalError):
    """A topic name or partition count outside Kafka's rules."""

    kafka_code = 17  # INVALID_TOPIC_EXCEPTION


class InvalidConfigError(FatalError):
    """An unknown config key (the nearest name is in the hint) or a value out of range."""

    kafka_code = 40  # INVALID_CONFIG


class TimeoutExceededError(RetriableError):
    """A deadline passed first; what was sent may still be acknowledged."""

    kafka_code = 7  # REQUEST_TIMED_OUT


class AbortsTransactionError(MQError):
    """The transaction is over, nothing of it will ever be visible: run it again from its beginning."""

    aborts_transaction = True


class OutOfOrderSequenceError(FatalError):
    """A producer's batch does not follow its last one: something between was lost (`where`: producer_id, sequence,
    expected). Nothing was written."""

    kafka_code = 45  # OUT_OF_ORDER_SEQUENCE_NUMBER


class DuplicateSequenceError(FatalError):
    """A batch is stored already, too long ago to say where (`where`: producer_id, sequence). Nothing was written."""

    kafka_code = 46  # DUPLICATE_SEQUENCE_NUMBER


class InvalidProducerEpochError(FatalError):
    """A batch or request of an epoch that is over (`where`: producer_id, epoch, current_epoch). KIP-360, KIP-890."""

    kafka_code = 47  # INVALID_PRODUCER_EPOCH


class UnknownProducerError(FatalError):
    """A producer id of which nothing is known here: expired, or never given out."""

    kafka_code = 59  # UNKNOWN_PRODUCER_ID


class ProducerFencedError(FatalError):
    """Another producer took over the transactional id (`where`: transactional_id, epoch): this one is a zombie. Its
    transaction was aborted."""

    kafka_code = 90  # PRODUCER_FENCED


class InvalidTransactionStateError(FatalError):
    """A call that the transaction's state does not allow: a send after commit, a commit after abort."""

    kafka_code = 48  # INVALID_TXN_STATE


class TransactionAbortedError(AbortsTransactionError):
    """The transaction cannot commit any more: a send of it failed, or somebody aborted it. KIP-890, KIP-1050."""

    kafka_code = 120  # TRANSACTION_ABORTABLE


class TransactionTimedOutError(AbortsTransactionError):
    """The transaction was open longer than its time-out and was aborted (`where`: transactional_id, timeout_ms)."""

    kafka_code = 120  # TRANSACTION_ABORTABLE


class StateConflictError(AbortsTransactionError):
    """A key that the transaction read or wrote was changed by another one that committed first (`where`: state)."""

    kafka_code = 120  # TRANSACTION_ABORTABLE


class ConcurrentTransactionsError(RetriableError):
    """The transactional id's last transaction is still being completed."""

    kafka_code = 51  # CONCURRENT_TRANSACTIONS


class CommitUndecidedError(FatalError):
    """The disk failed while a commit was written: the next open tells whether it is committed. Read the state or the
    offsets there before you send again."""

    kafka_code = 56  # KAFKA_STORAGE_ERROR


class IllegalGenerationError(AbortsTransactionError):
    """Offsets or a heartbeat of a generation that is over: the partitions may be another member's (`where`: group,
    generation, current_generation)."""

    kafka_code = 22  # ILLEGAL_GENERATION


class UnknownMemberError(AbortsTransactionError):
    """The group does not know this member (any more): its session ran out, or it left."""

    kafka_code = 25  # UNKNOWN_MEMBER_ID


class RebalanceInProgressError(RetriableError):
    """The group is rebalancing: poll, then try again."""

    kafka_code = 27  # REBALANCE_IN_PROGRESS


class FencedInstanceError(FatalError):
    """Another member took over the static instance id."""

    kafka_code = 82  # FENCED_INSTANCE_ID


class InvalidGroupError(FatalError):
    """A group id or a request that a group cannot take."""

    kafka_code = 24  # INVALID_GROUP_ID


class UnknownGroupError(FatalError):
    """No such group."""

    kafka_code = 69  # GROUP_ID_NOT_FOUND


class GroupNotEmptyError(RetriableError):
    """The group has members: stop them first."""

    kafka_code = 68  # NON_EMPTY_GROUP


class WindowFullError(RetriableError):
    """A dedup window reached its memory cap; no id was lost (`where`: done, ids of this call that were set)."""

    kafka_code = 89  # THROTTLING_QUOTA_EXCEEDED


class SinkFencedError(FatalError):
    """Another process moved the offsets of this sink in its database (`where`: sink, topic, partition, expected): this
    one is a zombie. Nothing of its transaction was written."""

    kafka_code = 90  # PRODUCER_FENCED


class MissingExtraError(FatalError):
    """An optional dependency is not installed; the hint names the extra."""


class InvariantError(FatalError):
    """A rule of mqcore's own was broken: a bug. Please report it with the store's `log verify` output."""
