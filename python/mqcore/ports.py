"""What siblings hand each other: Protocols only, so that transactions, groups and state meet without an import.

Invariants:
    1. Nothing here is implemented here.
    2. A participant's `prepare` runs under the store-wide commit lock, before the decision is written: what it validates
       cannot change until its transaction is decided.
"""

from __future__ import annotations

from typing import Any, Protocol


class TransactionWriter(Protocol):
    """A transaction, as its participants see it."""

    @property
    def transactional_id(self) -> str: ...

    def write(
        self,
        topic: str,
        partition: int,
        keys: list[bytes],
        values: list[bytes | None],
        timestamp_ms: int | None = None,
    ) -> Any:
        """Append records to one partition now, as part of the transaction; the result has base_offset and next_offset.

        From `prepare` only. Raises as an append does; the transaction is aborted then.
        """

    def enlist(self, key: Any, participant: Participant) -> Participant:
        """Have a participant in the transaction; the one that is there already, if `key` is."""


class Participant(Protocol):
    """What a transaction carries beside records: offsets of a group, changes of a state."""

    def prepare(self, tx: Any) -> Any:
        """Validate, and write own records through tx.write (invariant 2). An error aborts the transaction."""

    def applied(self, tx: Any) -> Any:
        """The transaction is committed, durably: make it visible in memory. Must not fail."""

    def aborted(self, tx: Any) -> Any:
        """The transaction is over and nothing of it will be seen. Must not fail; may come without a prepare."""
