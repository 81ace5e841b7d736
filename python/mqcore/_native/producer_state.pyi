import os
from typing import Any, Literal, TypeAlias, final

from _typeshed import ReadableBuffer

from mqcore._native.io import Io

_Verdict: TypeAlias = Literal["none", "new", "duplicate", "old", "gap", "stale", "in_transaction", "too_many"]
_Answer: TypeAlias = tuple[_Verdict, int, int, int, int, int, int, int, int]
_Facts: TypeAlias = tuple[int, int, int, int, int, int, int]
_Aborted: TypeAlias = tuple[int, int, int, int]

VERDICTS: tuple[_Verdict, ...]

def marker(producer_id: int, epoch: int, *, commit: bool, coordinator_epoch: int, timestamp_ms: int) -> bytearray:
    """The control batch that ends a transaction in one partition."""

@final
class Producers:
    """What one partition knows of its producers: sequences, epochs, open transactions. Kafka's rules; see
    mqcore/include/mqcore/producer_state.h."""

    def __init__(self, limit: int) -> None:
        """limit: of producers; past it the one that wrote longest ago goes. Raises MemoryError."""
    def __len__(self) -> int: ...
    def _handle(self) -> Any:
        """For mqcore._native.segment.recover."""
    @property
    def next_offset(self) -> int:
        """Batches below it were added."""
    def set_limit(self, limit: int) -> None:
        """Of producers, from the next new one on."""
    @property
    def bytes_used(self) -> int: ...
    @property
    def unstable(self) -> bool:
        """A transaction is open, or its marker may not be below the high watermark: stable_end may be below its mark."""
    def check(self, batches: ReadableBuffer) -> _Answer | None:
        """Judge a chunk of whole batches before its append. None: it may be appended. Else (verdict, producer id, epoch,
        known epoch, sequence, expected sequence, base offset, next offset, timestamp): the last three of a duplicate.

        Raises CorruptBatchError, MemoryError, DiskFullError (see mqcore.log.producer_state.check).
        """
    def add(self, batches: ReadableBuffer, now_ms: int) -> bool:
        """Take in a chunk as it lies in the log; what was added before is passed over. Returns `unstable`."""
    def end_of(self, producer_id: int, offset: int) -> _Aborted | None:
        """What an abort marker at `offset` adds to the .txnindex; None: this producer has no open transaction."""
    def fence(self, producer_id: int, epoch: int, coordinator_epoch: int, now_ms: int) -> None:
        """Note an epoch for which there is no batch."""
    def walk(self, io: Io, path: str | os.PathLike[str], position: int, end: int) -> None:
        """Add the batches at [position, end) of a .log file, by their headers. Raises StorageError, CorruptBatchError."""
    def stable_end(self, mark: int) -> int:
        """How far read_committed may read when all below `mark` is visible. Marks do not fall."""
    def expire(self, before_ms: int) -> int:
        """Forget producers without open transaction that were last heard of before; how many."""
    def moved(self, next_offset: int) -> None:
        """Batches below next_offset count as added."""
    def get(self, producer_id: int) -> _Facts | None:
        """(producer id, epoch, last sequence, last offset, last timestamp, coordinator epoch, first offset of the open
        transaction); -1 where there is none."""
    def batches(self, producer_id: int) -> list[tuple[int, int, int, int]]:
        """The batches that are remembered, oldest first: (last sequence, last offset, offset delta, timestamp)."""
    def entries(self, *, open_only: bool = False) -> list[_Facts]:
        """All producers: those with open transactions first, by first offset; then the others, longest idle first."""
    def encode(self, leader_epoch: int) -> bytes:
        """A snapshot: Kafka's format, and behind it what Kafka's reader skips. leader_epoch: of the last offset."""
    @classmethod
    def decode(cls, data: ReadableBuffer, offset: int, limit: int) -> tuple[Producers, int]:
        """(the state at `offset`, leader epoch; -1: Kafka wrote it). Raises CorruptBatchError, UnsupportedFormatError."""
