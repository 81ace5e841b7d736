"""Reading `__transaction_state`: the last record of each transactional id, and what was decided of each producer.

Invariants:
    1. A later record of an id replaces an earlier one; a null value takes the id away.
    2. A record that cannot be read is an error, never a decision left out (StoreFormatError, CorruptBatchError).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mqcore.log.internal_records import read_records
from mqcore.log.reader import latest_values
from mqcore.log.transaction_records import Decided, decides, peek

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.topics import TopicInfo


def last_values(log: PartitionLog) -> dict[bytes, bytes]:
    """{key: its last value} of a partition of `__transaction_state`; ids that have expired are not in it."""
    latest: dict[bytes, bytes | None] = {}
    for _, _, changes in latest_values(log, log.log_start_offset):
        latest |= changes
    return {key: value for key, value in latest.items() if value is not None}


class Decisions:
    """What the recovered log of decisions says, for the recovery of all other partitions. Safe to share between threads."""

    def __init__(self, store: LogStore, topic: TopicInfo | None) -> None:
        """topic: None: the store never had transactions."""
        self._store, self._topic = store, topic
        self._lock = threading.Lock()
        self._known: dict[int, Decided] | None = None

    def bear_out(self, producer_id: int, epoch: int, kind: int) -> bool:
        """Whether a marker follows from a decision. Reads the log at the first call: most recoveries have none."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
        return decides(self._known.get(producer_id), epoch, kind)

    def _read(self) -> dict[int, Decided]:
        known: dict[int, Decided] = {}
        if self._topic is None:
            return known
        for number in range(self._topic.partitions):
            log = self._store.partitions.log_of(self._topic, number)
            # All records, not the last of each id: an id's old producer may have markers too.
            for record in read_records(log, log.log_start_offset):
                if record.value is not None:
                    producer_id, decided = peek(record.value)
                    known[producer_id] = decided
        return known
