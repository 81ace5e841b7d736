"""The journal's ring: records written, and replayed. Only mqcore.log.group_commit uses it."""

from collections.abc import Iterator
from typing import Any, Self

from mqcore._native.commit import Submission

class Journal:
    """The ring in one directory (`<number>.journal`). One writer at a time."""

    def __new__(
        cls,
        io: Any,
        directory: str,
        store_id: bytes,
        *,
        file_bytes: int,
        file_limit: int,
        files_present: int = 0,
        read_only: bool = False,
    ) -> Self:
        """Open the ring and find its newest run; creates nothing. file_bytes: of a new file, a multiple of 4096;
        file_limit: how many there may be (2 or more); files_present: numbers below it are looked for.
        Raises StorageError, ValueError."""
    sequence: int
    recorded: int
    files: int
    failed: bool
    def stats(self) -> dict[str, int]:
        """The fields of mq_journal_stat: sequence, checkpointed, recorded, live_bytes, capacity_bytes, missing, files,
        missing_file, missing_position, failed."""
    def pressure(self) -> tuple[int, bool]:
        """(bytes that a checkpoint would free, whether another file is wanted soon)."""
    def grow(self, beside_writer: bool) -> bool:
        """Add a file of zeros to the ring, synced; False: it has all. beside_writer: another thread may be in write.
        One caller at a time. Raises DiskFullError, StorageError (nothing was added, nothing failed for good)."""
    def write(self, entries: list[Submission], vouches: list[Submission]) -> int:
        """Write one record and make it durable: its sequence (> 0); 0: no file may be entered, grow or checkpoint
        first; -1: larger than a file. Raises StorageError (final)."""
    def set_checkpointed(self, sequence: int) -> None:
        """The segments of all records up to sequence are synced."""
    def replay(self) -> Iterator[tuple[Any, ...]]:
        """(topic id bytes, partition, leader epoch, segment base, position, base offset, next offset, bytes or None)
        of each entry past the recorded checkpoint, oldest first. Before the first write."""
    def close(self) -> None: ...
