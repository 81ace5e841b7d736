"""The coordinator's log: `__transaction_state`, one partition of it for each transactional id.

Invariants:
    1. One caller at a time appends (the coordinator's decision lock): so an append whose outcome an interrupt hid is
       told by the log's end.
    2. Under fsync an append is durable only with a journal record (PartitionLog submits this topic's as ordered).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.errors import UnknownTopicError
from mqcore.log import internal_topics
from mqcore.log.internal_records import encode
from mqcore.log.layout import TRANSACTION_TOPIC
from mqcore.log.transaction_log import last_values
from mqcore.log.transaction_records import (
    TransactionRecord,
    decode_key,
    decode_value,
    encode_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.partition_ports import Appended

_CONFIG: dict[str, int | str] = {
    "cleanup.policy": "compact",
    "compression.type": "uncompressed",
    "segment.bytes": 4 << 20,  # an id's first use and a recovery read what is not compacted yet
}


class TransactionLog:
    """`__transaction_state` of one store; made by the first transaction."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def log_for(self, transactional_id: str) -> PartitionLog:
        """The partition of an id; the topic is made if it is not there."""
        count = self._store.config.transaction_state_log_num_partitions
        info = internal_topics.ensure(self._store, TRANSACTION_TOPIC, count, _CONFIG)
        number = internal_topics.partition_of(transactional_id, info.partitions)
        return self._store.partition(TRANSACTION_TOPIC, number)

    def logs(self) -> Iterator[PartitionLog]:
        """All partitions that hold anything."""
        try:
            info = self._store.topic(TRANSACTION_TOPIC)
        except UnknownTopicError:
            return
        for number in range(info.partitions):
            if self._store.bounds(TRANSACTION_TOPIC, number)[1]:
                yield self._store.partition(TRANSACTION_TOPIC, number)

    def append(
        self,
        log: PartitionLog,
        key: bytes,
        record: TransactionRecord,
        partitions: bytes | None,
        owed: TransactionRecord | None = None,
    ) -> Appended:
        """Write a record of an id; not yet durable under fsync. partitions: encoded, if known. owed: one that goes
        before it, in the same batch."""
        records: list[tuple[bytes | None, bytes | None]] = [(key, encode_value(record, partitions))]
        if owed is not None:
            records.insert(0, (key, encode_value(owed)))
        return log.append(encode(records, record.updated_ms))

    def forget(self, log: PartitionLog, keys: list[bytes], now_ms: int) -> Appended:
        """Take ids away: tombstones, which compaction follows."""
        return log.append(encode([(key, None) for key in keys], now_ms))


def read(log: PartitionLog) -> dict[str, TransactionRecord]:
    """{transactional id: its last record} of a partition, as far as it is durable. StoreFormatError, StorageError."""
    return {decode_key(key): decode_value(value) for key, value in last_values(log).items()}
