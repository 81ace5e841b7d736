"""Check the index files of a segment against its batches. Formats: Kafka's OffsetIndex, TimeIndex, TransactionIndex.

    .index      relative offset u32, position u32: the last offset of the batch that begins at the position
    .timeindex  timestamp i64, relative offset u32: a new greatest one, last offset of the first batch with it
    .txnindex   version i16 = 0, producer id, first offset, last offset, last stable offset (i64 each)
All big-endian, entries rising. Kafka takes index files' space in advance: zero entries at the end are unused.

Invariants:
    1. An index that passes leads every lookup to the batch that a scan would find; all bytes but unused ones count.
    2. Rows of good batches come in order, in runs; memory is the index file's size, whatever the segment's.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from mqcore.log import layout
from mqcore.log.segment_check import SegmentCheck

INDEX_BYTES_MAX = 256 << 20
_OFFSET_ENTRY = np.dtype([("relative", ">u4"), ("position", ">u4")])
_TIME_ENTRY = np.dtype([("timestamp", ">i8"), ("relative", ">u4")])
_TXN_ENTRY = struct.Struct(">hqqqq")


def read_index(path: str) -> bytes | None:
    """Return an index file's bytes, None if it is not there. Raises OSError. A link is not followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(INDEX_BYTES_MAX)


class _Entries:
    """Entries of one index file, matched against rows as these come."""

    def __init__(self, data: bytes, dtype: np.dtype[Any]) -> None:
        self.problem = "" if len(data) % dtype.itemsize == 0 else "its size is no whole number of entries"
        entries = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
        used = np.flatnonzero(entries != np.zeros(1, dtype)[0])
        # Only the end may be unused: a zero entry between others breaks the rise.
        self.entries = entries[: int(used[-1]) + 1] if len(used) else entries[:0]
        self.next = 0

    def fail(self, what: str) -> None:
        if not self.problem:
            self.problem = what

    def take(self, keys: np.ndarray[Any, Any], starts: np.ndarray[Any, Any]) -> tuple[int, int, Any]:
        """Return (first, end) of the entries whose key lies in the rows, and the row each of them is to match."""
        first = self.next
        end = first + int(np.searchsorted(keys[first:], int(starts[-1]), side="right"))
        self.next = end
        return first, end, np.searchsorted(starts, keys[first:end])


class OffsetIndexCheck(_Entries):
    def __init__(self, data: bytes, base_offset: int) -> None:
        super().__init__(data, _OFFSET_ENTRY)
        self._positions = self.entries["position"].astype(np.int64)
        self._offsets = self.entries["relative"].astype(np.int64) + base_offset
        if (np.diff(self._positions) <= 0).any() or (np.diff(self._offsets) <= 0).any():
            self.fail("its entries do not rise")

    def rows(self, rows: Any) -> None:
        if self.problem or self.next >= len(self.entries):
            return
        first, end, at = self.take(self._positions, rows["position"])
        good = (rows["position"][at] == self._positions[first:end]) & (
            rows["last_offset"][at] == self._offsets[first:end]
        )
        if not good.all():
            self.fail(f"entry {first + int(np.argmin(good))} names no batch")

    def finish(self, found: SegmentCheck) -> str:
        if self.next < len(self.entries):
            self.fail(f"entry {self.next} points past the data")
        return self.problem


class TimeIndexCheck(_Entries):
    def __init__(self, data: bytes, base_offset: int) -> None:
        super().__init__(data, _TIME_ENTRY)
        self._times = self.entries["timestamp"].astype(np.int64)
        self._offsets = self.entries["relative"].astype(np.int64) + base_offset
        if (np.diff(self._times) <= 0).any() or (np.diff(self._offsets) <= 0).any():
            self.fail("its entries do not rise")

    def rows(self, rows: Any) -> None:
        if self.problem or self.next >= len(self.entries):
            return
        first, end, at = self.take(self._offsets, rows["last_offset"])
        good = (rows["last_offset"][at] == self._offsets[first:end]) & (
            rows["max_timestamp"][at] == self._times[first:end]
        )
        if not good.all():
            self.fail(f"entry {first + int(np.argmin(good))} is not a batch's offset and time")

    def finish(self, found: SegmentCheck, *, sealed: bool) -> str:
        """sealed: the last entry must be the greatest timestamp (an entry is due at roll)."""
        if self.next < len(self.entries):
            self.fail(f"entry {self.next} points past the data")
        last = int(self._times[-1]) if len(self._times) else -1
        if sealed and found.max_timestamp > last:
            self.fail(f"its last entry is {last}, the segment's greatest timestamp {found.max_timestamp}")
        return self.problem


def check_txn_index(data: bytes, found: SegmentCheck) -> str:
    """Return what is wrong with a .txnindex, "" if nothing is."""
    if len(data) % _TXN_ENTRY.size:
        return "its size is no whole number of entries"
    before = -1
    for number, (version, _, first, last, stable) in enumerate(_TXN_ENTRY.iter_unpack(data)):
        if version != 0:
            return f"entry {number} has version {version}"
        if not (0 <= first <= last < found.next_offset and last > before and stable >= 0):
            return f"entry {number} has impossible offsets"
        before = last
    return ""


class SegmentIndexes:
    """The three index files of one segment."""

    def __init__(self, directory: str, base_offset: int) -> None:
        """Reads them. An index that cannot be read counts as damaged."""
        self._base = base_offset
        self.problems: dict[str, str] = {}
        data = {suffix: self._read(directory, suffix) for suffix in (layout.INDEX, layout.TIME_INDEX, layout.TXN_INDEX)}
        self.missing = [s for s in (layout.INDEX, layout.TIME_INDEX) if data[s] is None and s not in self.problems]
        self._offsets = OffsetIndexCheck(data[layout.INDEX] or b"", base_offset)
        self._times = TimeIndexCheck(data[layout.TIME_INDEX] or b"", base_offset)
        self._txns = data[layout.TXN_INDEX] or b""

    def _read(self, directory: str, suffix: str) -> bytes | None:
        path = os.path.join(directory, layout.segment_name(self._base, suffix))
        try:
            return read_index(path)
        except OSError as error:
            self.problems[suffix] = f"unreadable: {error.strerror}"
            return None

    def rows(self, rows: Any) -> None:
        """Take in a run of good batches."""
        self._offsets.rows(rows)
        self._times.rows(rows)

    def finish(self, found: SegmentCheck, *, sealed: bool) -> dict[str, str]:
        """Return {suffix: what is wrong}. sealed: final, so nothing may be missing."""
        wrong = {
            layout.INDEX: self._offsets.finish(found),
            layout.TIME_INDEX: self._times.finish(found, sealed=sealed and layout.TIME_INDEX not in self.missing),
            layout.TXN_INDEX: check_txn_index(self._txns, found),
        }
        if sealed:
            wrong.update(dict.fromkeys(self.missing, "it is missing"))
        return {suffix: what for suffix, what in {**wrong, **self.problems}.items() if what}
