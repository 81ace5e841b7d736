"""What a processor's function writes through, one class a guarantee, one interface.

Invariants:
    1. exactly once: outputs, state and offsets are one transaction; the offsets are those of the generation under which
       the batches were polled, so that a member which lost its partitions meanwhile commits nothing (KIP-447).
    2. at least once: `finish` returns after outputs and state are acknowledged, and only then are offsets committed. A
       crash or an error in between repeats the batch; nothing of it is ever skipped.
    3. A commit that is decided and finds no room for its markers is completed, never run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from mqcore.errors import DiskFullError, MQError
from mqcore.types import TopicPartition

Positions = Mapping[TopicPartition, int]
_DECIDED_WAIT_S = 0.5


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

    def __init__(
        self, store: Any, transactional_id: str, timeout_s: float, member: Any, pause: Callable[[float], bool]
    ) -> None:
        """member: GroupMetadata of when the batches were polled. pause: wait so many seconds; True: told to stop."""
        self._member, self._pause = member, pause
        self._tx = store.transaction(transactional_id, timeout_s=timeout_s)
        self.send, self.send_many, self.state = self._tx.send, self._tx.send_many, self._tx.state

    def finish(self, positions: Positions) -> None:
        self._tx.commit_offsets(positions, group=self._member)
        while True:
            try:
                self._tx.commit()
                return
            except DiskFullError:  # invariant 3; a stop leaves it to the store's close, or to the next open
                if self._pause(_DECIDED_WAIT_S):
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._tx.__exit__(kind, error, at)


class AtLeastOnce:
    """A producer's sends; state in a transaction of its own; offsets after both."""

    def __init__(self, store: Any, transactional_id: str, timeout_s: float, consumer: Any, producer: Any) -> None:
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
            self._tx.__exit__(kind, error, at)
        with suppress(MQError):
            self._producer.flush()  # errors of what this attempt sent are no news for the next one
