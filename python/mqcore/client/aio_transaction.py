"""A transaction, awaited: sends run on the loop, commit and abort in the store's pool.

Invariant: the transaction is ended by `async with`, commit or abort; cancelling an await of commit does not stop it: it is
committed, or the next use of its id tells.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mqcore.client.aio import AsyncStore
    from mqcore.client.transaction import Transaction
    from mqcore.state.transaction import TransactionState


class AsyncTransaction:
    """Made by AsyncStore.transaction: `async with store.transaction("teller-1") as tx`. See mqcore.client.transaction."""

    def __init__(self, store: AsyncStore, transactional_id: str, timeout_s: float) -> None:
        self._store, self._id, self._timeout_s = store, transactional_id, timeout_s
        self._tx: Transaction | None = None

    @property
    def transaction(self) -> Transaction:
        """The transaction itself. RuntimeError: not entered yet."""
        if self._tx is None:
            raise RuntimeError("begin the transaction with `async with`")
        return self._tx

    def send(self, topic: str, value: Any, key: Any = None, **options: Any) -> None:
        """As Transaction.send; commit says whether it is stored. May write a full chunk to the page cache."""
        self.transaction.send(topic, value, key, **options)

    def send_many(self, topic: str, values: Any, **options: Any) -> None:
        """As Transaction.send_many; commit says whether they are stored."""
        self.transaction.send_many(topic, values, **options)

    def state(self, name: str) -> TransactionState:
        """As Transaction.state: reads come from memory, or from a mapped file."""
        return self.transaction.state(name)

    async def commit_offsets(self, source: Any, group: Any = None) -> None:
        """As Transaction.commit_offsets. source: an AsyncGroupConsumer, or offsets."""
        await self._store.run(self.transaction.commit_offsets, source, group)

    async def commit(self) -> None:
        await self._store.run(self.transaction.commit)

    async def abort(self) -> None:
        await self._store.run(self.transaction.abort)

    async def __aenter__(self) -> Self:
        self._tx = await self._store.run(self._store.sync.transaction, self._id, timeout_s=self._timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.run(self.transaction.__exit__, kind, error, trace)
