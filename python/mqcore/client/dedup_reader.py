"""A reader that leaves out records whose message id it has read before.

Invariants:
    1. A record is left out if and only if an earlier record of its partition, no older than the window, has its id: a
       function of the log alone. So whoever reads on from an offset, after a crash too, leaves out the same records:
       nothing but the committed offset has to be kept. (Only at the window's edge, about a second wide, and for a third
       copy that the window reaches the second of but not the first, does it matter where the reading began.)
    2. A record that is read again (a seek, an iteration that ended early) is not its own repetition.
    3. Records without an id pass.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mqcore._native import ids as native
from mqcore.log.id_window import WIDTHS, SeenIds
from mqcore.log.reader import PartitionReader, ReadableLog

if TYPE_CHECKING:
    from mqcore._native.columns import Columns

DEFAULT_WINDOW_MS = 3_600_000
_KEPT = 1 << 16  # repetitions that are remembered, for records that are read again

Log = TypeVar("Log", bound=ReadableLog, covariant=True)


class DedupReader(PartitionReader[Log]):
    """As PartitionReader. window_ms: how far back an id counts, by the records' timestamps (64-bit ids: by the time in
    them). memory_bytes: of the ids; past it `read` raises WindowFullError."""

    def __init__(
        self, log: Any, offset: int = 0, *, window_ms: int, memory_bytes: int = 64 << 20, **options: Any
    ) -> None:
        self._window_ms, self._memory_bytes = window_ms, memory_bytes
        self._seen = SeenIds(window_ms, -1, memory_bytes)
        self._primed = False
        self._low = self._high = -1  # offsets: what lies between was compared
        self._repeated: list[int] = []  # offsets between them, rising
        super().__init__(log, offset, **options)

    def seek(self, offset: int) -> None:
        if not self._low <= offset <= self._high:
            self._primed = False
        super().seek(offset)

    def read(self, max_records: int = 10_000) -> Columns | None:
        """As PartitionReader.read, without repetitions. WindowFullError: nothing was skipped."""
        while (columns := super().read(max_records)) is not None:
            try:
                self._compare(columns)
            except BaseException:
                self._primed = False  # some ids are noted, and would be their own repetitions
                self.unread(columns)
                raise
            first = bisect_left(self._repeated, columns.first_offset)
            if first == len(self._repeated):
                return columns
            again = np.isin(columns.offsets, self._repeated[first:])
            if not again.any():
                return columns
            if again.all():
                continue
            begin = int(np.argmin(again))
            end = begin + int(np.argmax(again[begin:])) if again[begin:].any() else len(columns)
            if end < len(columns):
                self.unread(columns.slice(end, len(columns)))
            return columns.slice(begin, end)
        return None

    def _compare(self, columns: Columns) -> None:
        """Compare the records that were not compared yet."""
        if not self._primed:
            self._prime(columns.first_offset, int(columns.timestamps[0]))
        if columns.next_offset <= self._high:
            return
        fresh = columns.slice(int(np.searchsorted(columns.offsets, self._high)), len(columns))
        self._repeated += sorted(self._note(fresh))
        self._high = columns.next_offset
        if len(self._repeated) > _KEPT:
            del self._repeated[: _KEPT // 2]
            self._low = self._repeated[0]

    def _note(self, columns: Columns) -> list[int]:
        """Note the ids; the offsets of the records whose id was there."""
        again: list[int] = []
        if not len(columns):
            return again
        now_ms = int(columns.timestamps.max())
        self._seen.expire(now_ms)
        for width in WIDTHS:
            ids, at = native.find(columns, width=width)
            if len(at):
                seen = self._seen.add(ids, width, -1, now_ms)
                if seen.any():
                    again += columns.offsets[at[seen]].tolist()
                if len(at) == len(columns):
                    break
        return again

    def _prime(self, offset: int, timestamp_ms: int) -> None:
        """Note the ids of the window before the record at an offset."""
        self._seen = SeenIds(self._window_ms, -1, self._memory_bytes)
        log: Any = self.log
        found = log.offset_for_time(max(0, timestamp_ms - self._window_ms))
        start = max(offset if found is None else found[0], log.log_start_offset)
        reader: PartitionReader[Any] = PartitionReader(log, start, isolation=self.isolation, copy=True)
        while reader.position < offset and (columns := reader.read()) is not None:
            self._note(columns.slice(0, int(np.searchsorted(columns.offsets, offset))))
        self._low = self._high = offset
        self._repeated = []
        self._primed = True
