"""What a decision brings about in the partitions: a marker each. And what must be on the disk before it is taken.

Invariants:
    1. A marker is written only after its decision: in the same order of submissions where one journal record proves both,
       else after the decision is on the disk (`of_another_durability`).
    2. Writing markers again is harmless: a partition without an open transaction of that producer takes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mqcore.errors import UnknownTopicError

if TYPE_CHECKING:
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.transaction_records import TransactionRecord


def of_another_durability(logs: Iterable[PartitionLog], decisions: PartitionLog) -> list[PartitionLog]:
    """Those whose records no common journal record proves together with the decision: they are synced before it."""
    group = decisions.group
    return [log for log in logs if log.group is not group]


def make_durable(log: PartitionLog) -> None:
    """Have everything that is appended on the disk, whatever the topic's durability asks for. StorageError."""
    if log.group is not None:
        log.wait_durable(log.log_end_offset)
    else:
        log.flush()


def write(logs: Iterable[PartitionLog], record: TransactionRecord, *, commit: bool, coordinator_epoch: int) -> None:
    """A marker in each of `logs` in which the producer has a transaction open. Errors as an append's."""
    for log in logs:
        try:
            log.append_marker(record.producer_id, record.epoch, commit=commit, coordinator_epoch=coordinator_epoch)
        except UnknownTopicError:
            continue  # deleted since, and its records with it
