"""Leader epochs of a partition: which offset each leadership began at (KIP-101). Pure.

A single node leads always; its epoch rises at each open after a crash. A reader that knew epoch 3 at offset 900 and
now finds epoch 4 from offset 700 on knows that 700-899 were lost, however many records were appended since.

Invariants:
    1. Epochs and start offsets rise strictly from entry to entry.
    2. An entry is written before the first batch of its epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple


class EpochStart(NamedTuple):
    epoch: int
    start_offset: int


class LeaderEpochs:
    """The entries, oldest first."""

    __slots__ = ("_entries",)

    def __init__(self, entries: list[EpochStart] | None = None) -> None:
        self._entries: list[EpochStart] = []
        for entry in entries or []:
            self.assign(*entry)

    @property
    def entries(self) -> tuple[EpochStart, ...]:
        return tuple(self._entries)

    @property
    def latest(self) -> int:
        """The latest epoch; -1 without one."""
        return self._entries[-1].epoch if self._entries else -1

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` begins at `start_offset`; whether that changed anything (then: write the file first).

        Entries that claim the same offset or later belonged to a tail that is gone, and go (Kafka's rule).
        """
        if epoch <= self.latest:
            return False
        while self._entries and self._entries[-1].start_offset >= start_offset:
            self._entries.pop()
        self._entries.append(EpochStart(epoch, start_offset))
        return True

    def epoch_of(self, offset: int) -> int:
        """The epoch that the record at `offset` was written in; -1 before the first entry."""
        index = bisect_right(self._entries, offset, key=lambda entry: entry.start_offset)
        return self._entries[index - 1].epoch if index else -1

    def end_offset_for(self, epoch: int, log_end: int) -> tuple[int, int]:
        """(epoch, end offset) of the largest epoch <= `epoch`: the answer to OffsetsForLeaderEpoch. (-1, -1) where
        nothing is known. log_end ends the latest epoch."""
        index = bisect_right(self._entries, epoch, key=lambda entry: entry.epoch)
        if index == 0:
            return -1, -1
        end = self._entries[index].start_offset if index < len(self._entries) else log_end
        return self._entries[index - 1].epoch, end

    def truncate_end(self, log_end: int) -> bool:
        """Forget entries that begin at or past `log_end`: their records were cut. Whether any went."""
        before = len(self._entries)
        while self._entries and self._entries[-1].start_offset >= log_end:
            self._entries.pop()
        return len(self._entries) != before

    def truncate_start(self, log_start: int) -> bool:
        """Forget what only concerns offsets below `log_start`; the entry that covers it now begins there."""
        index = bisect_right(self._entries, log_start, key=lambda entry: entry.start_offset)
        if index == 0 or (index == 1 and self._entries[0].start_offset == log_start):
            return False
        self._entries[:index] = [EpochStart(self._entries[index - 1].epoch, log_start)]
        return True
