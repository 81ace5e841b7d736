"""The part of a partition that takes segments away: deletion below an offset, and the exchange of compaction.

Invariants:
    1. The log start moves first, and durably; files go after it: a crash leaves litter, never a hole.
    2. Views that readers hold stay valid: handles are closed or dropped, mappings are their holders'.
    3. The last segment stays: its name says where the log ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mqcore.log import read_errors
from mqcore.log.readable import ReadablePartition
from mqcore.log.segments import Exchange, SegmentEntry

if TYPE_CHECKING:
    from mqcore._native.segment import Segment
    from mqcore.log.checkpoints import SegmentState
    from mqcore.log.partition_dir import PartitionDirectory


class RemovablePartition(ReadablePartition):
    """What PartitionLog has for retention and compaction. The attributes are PartitionLog's."""

    _dir: PartitionDirectory
    _exchange: Exchange | None

    def _settle(self) -> int:
        raise NotImplementedError

    def _move_start(self, offset: int) -> None:
        raise NotImplementedError

    def _begin_epoch(self, base: int) -> None:
        raise NotImplementedError

    def _roll(self, base: int, now_ms: int) -> Segment:
        raise NotImplementedError

    def open_segment(self, state: SegmentState) -> Segment:
        raise NotImplementedError

    def delete_before(self, offset: int) -> None:
        """Move the log start to `offset` and remove the segments that lie wholly below it. Views that readers hold
        stay valid. OffsetOutOfRangeError: `offset` is past the last stable offset."""
        self.host.check_writable()
        with self._lock:
            self.check_there()  # its name may be another topic's by now, and log starts go by name
            self._settle()
            offsets = self._offsets
            if not 0 <= offset <= offsets.last_stable:
                raise read_errors.out_of_range("cannot delete past the last stable offset", self, offset, offsets)
            if offset <= offsets.log_start:
                return
            last = self._segments.last
            if last is not None and last.next_offset <= offset and last.size:
                # The log end lives in the last segment's name: never remove the last one.
                self._begin_epoch(offsets.log_end)
                self._roll(offsets.log_end, self.host.clock.wall_ms())
            self._move_start(offset)
            self._drop_below(offset)

    def _drop_below(self, offset: int) -> None:
        entries = self._segments.entries
        keep = 0
        while keep + 1 < len(entries) and entries[keep + 1].base_offset <= offset:
            keep += 1
        if keep == 0:
            return
        self._segments.replace(entries[keep:])
        for entry in entries[:keep]:
            if entry.is_open:
                self.host.open_segments.forget(entry.segment())
            # Not closed: a reader may be in it. The handle goes with its last holder.
            self._dir.remove(entry.base_offset)

    def exchange(self, old: Sequence[SegmentEntry], new: SegmentState, swap: Callable[[], None]) -> bool:
        """Put one segment in the place of neighbours. swap: does it to the files, once their handles are closed (mappings
        stay); may be called again after an error. False: `old` are not all there any more."""
        with self._lock:
            if self.deleted or not self._segments.holds(old):
                return False
            self._exchange = Exchange(self._segments, old, SegmentEntry(new, self.open_segment, sealed=True), swap)
            for entry in old:
                if entry.is_open:
                    self.host.open_segments.forget(entry.segment())
                entry.retire()
            self._exchange.finish()
            self._exchange = None
        return True

    def finish_exchange(self) -> None:
        """Go on with an exchange that an error interrupted. None: nothing."""
        with self._lock:
            if self._exchange is not None:
                self._exchange.finish()
                self._exchange = None
