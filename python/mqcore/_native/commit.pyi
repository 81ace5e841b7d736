"""The queue of appenders that share the journal's rounds. Only mqcore.log.group_commit uses it."""

from collections.abc import Callable
from typing import Any, Self

class Submission:
    """Batches of one append on their way to the disk. target is None for a mark (no data). Offsets are record
    numbers, positions and sizes bytes."""

    target: Any
    segment: Any
    position: int
    end_position: int
    next_offset: int
    size: int
    ordered: bool
    def _handle(self) -> Any:
        """PyCapsule "mqcore.journal_entry": mq_journal_entry *, valid while this lives."""
    @property
    def discarded(self) -> bool: ...

class CommitQueue:
    """Appenders that wait for the disk: the first becomes the leader of a round, the others are in it or the next."""

    def __new__(
        cls,
        write_round: Callable[[list[Submission], int], None],
        final_error: Callable[[BaseException], BaseException],
    ) -> Self:
        """write_round(submissions, bytes): make them durable; may be called again with the same round after a signal.
        final_error(cause): the exception to raise in one waiter after a failed round."""
    pending_bytes: int
    error: BaseException | None
    def submit(
        self,
        target: Any,
        segment: Any,
        batches: Any,
        position: int,
        base_offset: int,
        next_offset: int,
        leader_epoch: int,
        ordered: bool = False,
    ) -> int:
        """Queue one append; the bytes now pending. Raises the final error, StoreClosedError, InvariantError."""
    def mark(self) -> int:
        """Queue a submission without data; its ticket."""
    def discard(self, target: Any) -> None: ...
    def wait(self, target: Any, next_offset: int, timeout_s: float | None = None) -> None:
        """Block until target is durable up to next_offset. Raises TimeoutExceededError, the final error,
        InvariantError (never submitted)."""
    def wait_ticket(self, ticket: int, timeout_s: float | None = None) -> None: ...
    def drain(self, timeout_s: float | None = None) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def close(self) -> None: ...
