"""What a processor's function writes through, one class a guarantee, one interface.

Invariants:
    1. exactly once: outputs, state and offsets are one transaction; `commit` is its commit.
    2. at least once: `commit` returns after outputs and state are acknowledged, and only then are offsets committed. A
       crash or an error in between repeats the batch; nothing of it is ever skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from mqcore.types import TopicPartition

Positions = Mapping[TopicPartition, int]


class Outputs(Protocol):
    """What the function gets as `tx`."""

    def send(self, topic: str, value: Any, **options: Any) -> Any: ...
    def send_many(self, topic: str, values: Any, **options: Any) -> Any: ...
    def state(self, name: str) -> Any: ...


class Attempt(Outputs, Protocol):
    """One attempt at some batches, as the worker sees it. Leaving the `with` without `finish` undoes what can be."""

    def finish(self, positions: Positions) -> None:
        """Everything was processed up to these positions: commit."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class ExactlyOnce:
    """One transaction."""

    def __init__(self, store: Any, consumer: Any, transactional_id: str, timeout_s: float) -> None:
        self._consumer = consumer
        self._tx = store.transaction(transactional_id, timeout_s=timeout_s)
        self.send, self.send_many, self.state = self._tx.send, self._tx.send_many, self._tx.state

    def finish(self, positions: Positions) -> None:
        self._tx.commit_offsets(positions, group=self._consumer.group_metadata())
        self._tx.commit()

    def __enter__(self) -> Self:
        self._tx.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tx.__exit__(kind, error, at)


class AtLeastOnce:
    """A producer's sends; state in a transaction of its own; offsets after both."""

    def __init__(self, store: Any, consumer: Any, producer: Any, transactional_id: str, timeout_s: float) -> None:
        self._store, self._consumer, self._producer = store, consumer, producer
        self._id, self._timeout_s = transactional_id, timeout_s
        self._tx: Any = None
        self.send, self.send_many = producer.send, producer.send_many

    def state(self, name: str) -> Any:
        if self._tx is None:
            self._tx = self._store.transaction(self._id, timeout_s=self._timeout_s)
        return self._tx.state(name)

    def finish(self, positions: Positions) -> None:
        self._producer.flush()
        if self._tx is not None:
            self._tx.commit()
        self._consumer.commit(positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            return
        if self._tx is not None:
            self._tx.abort()
