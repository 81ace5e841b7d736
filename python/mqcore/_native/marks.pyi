"""The mapped marks page. Only mqcore.log.marks uses it, which documents the public methods."""

import uuid
from typing import Self

PAGE_BYTES: int

class MarksPage:
    """A page in a file of tmpfs (fd >= 0) or anonymous (fd -1), mapped as long as this object lives."""

    _armed: bool
    def __new__(cls, fd: int, size: int, *, writable: bool) -> Self:
        """Map size bytes of fd, which may be closed after. Raises StorageError, ValueError (too small)."""
    @property
    def writer_pid(self) -> int: ...
    @property
    def nonce(self) -> int:
        """Of the writer's page: another number means another writer."""
    @property
    def _state(self) -> int:
        """As the page says: 0 open, 1 closed, 2 superseded."""
    @property
    def _ended(self) -> bool:
        """Whether this object was closed."""
    def _format(self, store_id: bytes) -> None: ...
    def _matches(self, store_id: bytes) -> bool: ...
    def _end(self, state: int) -> None: ...
    def _abandon(self) -> None: ...
    def _fire(self) -> None: ...
    def closed(self) -> bool: ...
    def living(self) -> bool:
        """Not closed(), with a look at the writer's lock every 50 ms only: one that was killed a moment ago left in the
        files what its page says, and the next one flags the page, which is looked at each time."""
    def slot(self, topic_id: uuid.UUID, partition: int) -> int:
        """The partition's slot. Writer: given out if need be (StoreError if all are); reader: -1 if there is none."""
    def publish(self, slot: int, log_start: int, high_watermark: int, last_stable: int, log_end: int) -> None:
        """Set a slot's four offsets, then wake all who sleep on it or on the page, in and across processes.

        Callers serialize the publishes of one slot: the last one wins. Nothing happens once the page is closed.
        """
    def read(self, slot: int) -> tuple[int, int, int, int]:
        """(log start, high watermark, last stable, log end) of one moment. Raises StoreClosedError if the writer died
        inside the slot, ValueError for a slot that was not given out."""
    def sequence(self, slot: int = -1) -> int:
        """The word of a slot, or of the page: read it before the condition that `wait` is for."""
    def wait(self, seen: int, timeout_s: float | None = None, slot: int = -1) -> bool:
        """Sleep until the word is not `seen` (True), or the timeout (False). True, too, when the page is closed or its
        writer is gone: check closed(). Raises KeyboardInterrupt and what else signal handlers raise."""
