"""The parts of an open store, put together: who owns them, in which order they start and end.

Invariants:
    1. Nobody has a store before what a crash left of its transactions is decided (`start`).
    2. `close` ends the parts before the log: what they write at their end is synced with it.
    3. A part that nobody asks for is not made: a store without groups does not pay for their import.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mqcore.state.stores import StateStores

if TYPE_CHECKING:
    from mqcore.groups.coordinator import Coordinator as Groups
    from mqcore.log.manager import LogStore
    from mqcore.transactions.coordinator import Coordinator as Transactions


class Broker:
    """One a store. Safe to share between threads."""

    def __init__(self, log: LogStore) -> None:
        self.log = log
        self.states = StateStores(log)
        self._lock = threading.Lock()  # guards the making of the parts below
        self._transactions: Transactions | None = None
        self._groups: Groups | None = None

    def start(self) -> None:
        """Complete and abort what a crash left. Raises StorageError, CorruptBatchError, StoreFormatError."""
        if not self.log.read_only and not self.log.recovery.clean:
            from mqcore.transactions.recovery import recover

            recover(self.log)

    @property
    def transactions(self) -> Transactions:
        """The coordinator of transactions."""
        if self._transactions is None:
            from mqcore.transactions.coordinator import Coordinator

            with self._lock:
                self._transactions = self._transactions or Coordinator(self.log)
        return self._transactions

    @property
    def groups(self) -> Groups:
        """The coordinator of consumer groups."""
        if self._groups is None:
            from mqcore.groups.coordinator import Coordinator

            with self._lock:
                self._groups = self._groups or Coordinator(self.log)
        return self._groups

    def tend(self) -> None:
        """End what is past its time, as the parts' threads do by themselves."""
        if self._transactions is not None:
            self._transactions.tend()
        if self._groups is not None:
            self._groups.tick()

    def abandon(self) -> None:
        """Stop the threads; write nothing."""
        if self._transactions is not None:
            self._transactions.abandon()

    def close(self) -> None:
        """End what is running. Again: nothing. The log is closed next, by its owner."""
        for part in (self._transactions, self._groups):
            if part is not None:
                part.close()
