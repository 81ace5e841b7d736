"""Which aborted transactions overlap a range of one partition: what read_committed leaves out.

Invariants:
    1. The entries are those of Kafka's `.txnindex` files: one a transaction, in the segment of its abort marker.
    2. A partition without such a file costs one stat of its directory: plain topics pay nothing for transactions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from mqcore.clock import Clock
from mqcore.log import layout
from mqcore.log.segments import SegmentEntry

# A directory's time of change has the kernel's tick as its grain: a listing made this close to it may be too old.
_MTIME_GRAIN_NS = 50_000_000

Aborted = tuple[int, int, int, int]
"""Producer id, first offset, offset of the abort marker, last stable offset when it was written."""


class AbortedTransactions:
    """Of one partition directory. Safe to share between threads: what is cached is replaced as a whole."""

    def __init__(self, directory: str, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._listed: tuple[int, frozenset[int]] = (-1, frozenset())

    def overlapping(self, entries: Sequence[SegmentEntry], from_offset: int, to_offset: int) -> list[Aborted]:
        """The aborted transactions that overlap [from_offset, to_offset), sorted by producer and first offset.

        entries: the partition's segments, ascending. Raises StorageError, CorruptBatchError.
        """
        bases = self._bases()
        if not bases:
            return []
        found: list[Aborted] = []
        for entry in entries:
            if entry.base_offset not in bases or entry.next_offset <= from_offset:
                continue
            here = entry.segment().aborted(from_offset, to_offset)
            found += here
            if any(last_stable >= to_offset for *_, last_stable in here):
                break  # every transaction that began below to_offset was decided by then
        return sorted(found)

    def _bases(self) -> frozenset[int]:
        """Base offsets of the segments that have a transaction index."""
        try:
            changed = os.stat(self._directory, follow_symlinks=False).st_mtime_ns
            if changed == self._listed[0]:
                return self._listed[1]
            bases = self._list()
        except FileNotFoundError:
            return frozenset()
        settled = self._clock.wall_ms() * 1_000_000 - changed > _MTIME_GRAIN_NS
        self._listed = (changed if settled else -1, bases)
        return bases

    def _list(self) -> frozenset[int]:
        names = (layout.parse_segment_file(name) for name in os.listdir(self._directory))
        return frozenset(name.base_offset for name in names if name is not None and name.suffix == layout.TXN_INDEX)
