"""Transactions of a store's states alone, in their order: lock, compare, append, wait, apply. Without markers and
aborts after an append: the coordinator's own tests have those."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mqcore.log.internal_records import encode
from mqcore.log.manager import LogStore
from mqcore.state.stores import StateStores
from mqcore.state.transaction import TransactionState


class FakeTransactions:
    def __init__(self, log: LogStore) -> None:
        self.log, self.states, self.commit_lock = log, StateStores(log), threading.Lock()

    def begin(self) -> FakeTransaction:
        return FakeTransaction(self)

    @contextmanager
    def transaction(self) -> Iterator[FakeTransaction]:
        tx = self.begin()
        try:
            yield tx
        except BaseException:
            tx.abort()
            raise
        tx.commit()


class FakeTransaction:
    def __init__(self, owner: FakeTransactions) -> None:
        self.owner = owner
        self.parts: dict[Any, Any] = {}
        self.ends: list[tuple[Any, int]] = []

    def state(self, name: str) -> TransactionState:
        return self.owner.states.in_transaction(self, name)

    def enlist(self, key: Any, participant: Any) -> Any:
        return self.parts.setdefault(key, participant)

    def write(
        self,
        topic: str,
        partition: int,
        keys: list[bytes],
        values: list[bytes | None],
        timestamp_ms: int | None = None,
    ) -> Any:
        log = self.owner.log.partition(topic, partition)
        appended = log.append(encode(list(zip(keys, values, strict=True)), timestamp_ms or 1))
        self.ends.append((log, appended.next_offset))
        return appended

    def prepare(self) -> None:
        with self.owner.commit_lock:
            try:
                for part in self.parts.values():
                    part.prepare(self)
            except BaseException:
                self.abort()
                raise

    def finish(self) -> None:
        for log, end in self.ends:
            log.wait_durable(end)
        for part in self.parts.values():
            part.applied(self)

    def commit(self) -> None:
        self.prepare()
        self.finish()

    def abort(self) -> None:
        for part in self.parts.values():
            part.aborted(self)
