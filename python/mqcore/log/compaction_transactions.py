"""Transactions as a compaction meets them, batch after batch in offset order.

Invariants:
    1. Every record of an aborted transaction goes; no record of a committed one goes because of its transaction.
    2. A marker stays for as long as a batch of its transaction was met in this round: a reader of `read_committed` must
       be able to tell. It may go, after its delete horizon, once its transaction is empty.

Source: Kafka's CleanedTransactionMetadata (LogCleaner.scala).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from mqcore.log.aborted import Aborted

ABORT, COMMIT = 0, 1


@dataclass(slots=True)
class OpenTransactions:
    """The transactions that are open at the batch that is looked at."""

    _coming: list[tuple[int, int]] = field(default_factory=list)  # heap of (first offset, producer id)
    _aborted: dict[int, bool] = field(default_factory=dict)  # producer id -> whether a batch of it was met
    _committed: set[int] = field(default_factory=set)

    def expect(self, aborted: Iterable[Aborted]) -> None:
        """Aborted transactions whose batches are still to come."""
        for producer_id, first, _, _ in aborted:
            heapq.heappush(self._coming, (first, producer_id))

    def _begin_up_to(self, offset: int) -> None:
        while self._coming and self._coming[0][0] <= offset:
            _, producer_id = heapq.heappop(self._coming)
            self._aborted.setdefault(producer_id, False)

    def data(self, producer_id: int, last_offset: int) -> bool:
        """A transactional batch; whether its records were aborted."""
        self._begin_up_to(last_offset)
        if producer_id in self._aborted:
            self._aborted[producer_id] = True
            return True
        self._committed.add(producer_id)
        return False

    def marker(self, producer_id: int, last_offset: int, kind: int) -> bool:
        """A control batch (kind -1: emptied by an earlier round); whether it may go after its delete horizon."""
        self._begin_up_to(last_offset)
        if kind == ABORT:
            return not self._aborted.pop(producer_id, False)
        if kind == COMMIT:
            met = producer_id in self._committed
            self._committed.discard(producer_id)
            return not met
        return kind == -1
