"""The dedup window of a partition: which message ids its log holds already, so that a retry is not stored twice.

Invariants:
    1. An id is noted after its record is appended, never before (R5): a failed append leaves the id unseen, and the
       retry is stored.
    2. The window is a view of the log and nothing else: it is folded from the records' headers at its first use after
       an open, as far back as the window reaches, so a kill loses nothing of it.
    3. A hit is confirmed in the log: a duplicate's answer is the offset of a record that has this id, and -1 only
       where retention took that record away.
    4. Look-up, append and note are one step under `_lock`: of two senders of one id one gets the other's offset.
    5. At the cap nothing is appended whose id could not be noted: WindowFullError, before the append.
    6. Ids of an open transaction are pending (pending_ids.py): they count once it is committed.

The window reaches back `mqcore.dedup.window.ms`, and, where `mqcore.dedup.window.count` is set, at most about so many
ids. 64-bit ids are Snowflakes of mqcore's epoch: their own time decides when they leave. 128-bit ids leave by the time
of their record.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mqcore._native import ids as native
from mqcore._native.dedup import Dedup, Dedup128
from mqcore.errors import WindowFullError
from mqcore.log.pending_ids import IdHolder, PendingIds, Spans
from mqcore.log.reader import PartitionReader
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mqcore._native.columns import Columns
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.partition_ports import Appended

HEADER = native.HEADER
WIDTHS = (8, 16)
_ID_BYTES = {8: 48, 16: 64}  # of memory that one id may take at most (a Snowflake alone in its bucket)
_PENDING_BYTES = 136  # likewise, while it is pending: its places in a list and in a table that may be growing
_EXPIRE_EVERY_MS = 1000
_TWICE, _NOT_THERE = -2, -3
_UNSEEN = -2  # of find_many
_PAIR = np.dtype([("high", np.uint64), ("low", np.uint64)])


class Sent(NamedTuple):
    """What became of records with ids. offsets: of each, the first with its id; duplicates: it was there before.

    next_offset: everything below it must be durable before this may be acknowledged.
    """

    offsets: NDArray[np.int64]
    duplicates: NDArray[np.bool_]
    next_offset: int


class SeenIds:
    """The ids of both widths that were seen in a window. The caller serialises."""

    def __init__(self, window_ms: int, count_max: int, max_bytes: int) -> None:
        """count_max: -1: no bound."""
        self.window_ms, self._count_max, self._max_bytes = window_ms, count_max, max_bytes
        self.by_width: dict[int, Any] = {}
        self._added: deque[tuple[int, int]] = deque()  # (ms, ids) of each call of `add`, for the bound by count
        self._total = 0
        self._expired_ms = -1

    def of(self, width: int) -> Any:
        """The set of that width: Dedup or Dedup128."""
        found = self.by_width.get(width)
        if found is None:
            found = Dedup(max_bytes=self._max_bytes) if width == 8 else Dedup128(max_bytes=self._max_bytes)
            self.by_width[width] = found
        return found

    def add(self, ids: NDArray[np.uint64], width: int, base_offset: int, now_ms: int) -> NDArray[np.bool_]:
        """Note ids (as `native.find` gives them) whose records lie at base_offset and on; which of them were there
        before. WindowFullError."""
        count = len(ids) * 8 // width
        if width == 8:
            seen: NDArray[np.bool_] = self.of(8).test_and_set_many(ids, base_offset)
        else:
            seen = self.of(16).test_and_set_many(ids, now_ms, base_offset)
        self._count(now_ms, count)
        return seen

    def confirm(self, tag: int, width: int, now_ms: int) -> None:
        """Pending ids count from now on. WindowFullError: some are still pending."""
        seen = self.of(width)
        self._count(now_ms, seen.confirm(tag) if width == 8 else seen.confirm(tag, now_ms))

    def _count(self, now_ms: int, count: int) -> None:
        self._added.append((now_ms, count))
        self._total += count

    def has_room(self, width: int, count: int, *, pending: bool = False) -> bool:
        """pending: for ids of an open transaction, now and when they will count."""
        stats = self.of(width).stats()
        count += stats["pending"]
        need = count * _ID_BYTES[width] + (count * _PENDING_BYTES + 4096 if pending else 0)
        return bool(stats["bytes_used"] + need <= self._max_bytes)

    def expire(self, now_ms: int, *, at_once: bool = False) -> None:
        """Drop what has left the window."""
        if now_ms < self._expired_ms + _EXPIRE_EVERY_MS and not at_once and self._count_max < 0:
            return
        before = now_ms - self.window_ms if self.window_ms > 0 else -1
        while self._added:
            oldest, count = self._added[0]
            over = 0 <= self._count_max <= self._total - count
            if oldest >= before and not over:
                break
            self._added.popleft()
            self._total -= count
            before = max(before, oldest + 1) if over else before
        self._expired_ms = now_ms
        for seen in self.by_width.values():
            if before > 0:
                seen.expire(before)


def _twins(ids: NDArray[np.uint64], width: int) -> NDArray[np.bool_]:
    """Which ids came earlier in the same array."""
    if width == 8 and bool((ids[1:] > ids[:-1]).all()):  # as Snowflake gives them
        return np.zeros(len(ids), np.bool_)
    _, firsts = np.unique(_items(ids, width), return_index=True)
    twins = np.ones(len(ids) * 8 // width, np.bool_)
    twins[firsts] = False
    return twins


def _items(ids: NDArray[np.uint64], width: int) -> Any:
    """The ids as an array of shape (n,)."""
    return ids if width == 8 else ids.view(_PAIR).reshape(-1)


class IdWindow:
    """Of one partition. Made by IdWindows. Any thread may use it."""

    def __init__(self, log: PartitionLog, settings: tuple[int, int, int]) -> None:
        """settings: as SeenIds takes them."""
        self._log, self.settings = log, settings
        self._lock = threading.Lock()
        self._seen = SeenIds(*settings)
        self._pending = PendingIds(log.topic, log.partition)
        self._noted = Spans()  # what this window appended past `_followed`, noted or pending
        self._followed = self._begin()  # everything below it is noted

    def _begin(self) -> int:
        """Where in the log the window begins."""
        window_ms = self._seen.window_ms
        if window_ms <= 0:
            return self._log.log_start_offset
        found = self._log.offset_for_time(max(0, self._log.host.clock.wall_ms() - window_ms))
        return found[0] if found is not None else self._log.last_stable_offset

    def send(
        self,
        ids: NDArray[np.uint64],
        width: int,
        append: Callable[[NDArray[np.int64]], Appended],
        holder: IdHolder | None = None,
    ) -> Sent:
        """Append the records whose ids are new. ids: as `native.find` gives them. append: takes the indices of the new
        ones. holder: the transaction that they belong to.

        Raises WindowFullError, ConcurrentTransactionsError (an id that another open transaction has): nothing was
        appended; and what the append raises (likewise).
        """
        with self._lock:
            now_ms = self._log.host.clock.wall_ms()
            self._pending.settle(self._seen, now_ms)
            self._follow()
            self._seen.expire(now_ms)
            offsets, duplicates = self._known(ids, width, holder)
            new = np.flatnonzero(~duplicates)
            end = int(offsets.max(initial=-1)) + 1
            if len(new):
                self._make_room(width, len(new), now_ms, pending=holder is not None)
                appended = append(new)
                base, end = appended.base_offset, max(end, appended.next_offset)
                offsets[new] = np.arange(base, base + len(new))
                fresh = ids if len(new) == len(offsets) else ids.reshape(-1, width // 8)[new].reshape(-1)
                self._note(fresh, width, base, appended.next_offset, now_ms, holder)
            twins = np.flatnonzero(offsets == _TWICE)
            if len(twins):  # a copy within this call has the place of the first
                items = _items(ids, width)
                firsts = np.flatnonzero(offsets != _TWICE)
                order = firsts[np.argsort(items[firsts])]
                offsets[twins] = offsets[order[np.searchsorted(items[order], items[twins])]]
            return Sent(offsets, duplicates, end)

    def _make_room(self, width: int, count: int, now_ms: int, *, pending: bool) -> None:
        if not self._seen.has_room(width, count, pending=pending):
            self._seen.expire(now_ms, at_once=True)
            if not self._seen.has_room(width, count, pending=pending):
                raise WindowFullError(
                    "the dedup window has no room for these ids",
                    hint="Raise mqcore.dedup.max.bytes, or shorten mqcore.dedup.window.ms",
                    topic=self._log.topic,
                    partition=self._log.partition,
                    done=0,
                )

    def _note(
        self, ids: NDArray[np.uint64], width: int, base: int, next_offset: int, now_ms: int, holder: IdHolder | None
    ) -> None:
        if holder is not None:
            self._pending.add(self._seen, holder, ids, width, base)
        else:
            try:
                self._seen.add(ids, width, base, now_ms)
            except WindowFullError:
                return  # stored: they are read before anything else is taken
        self._noted.add(base, next_offset)

    def _known(
        self, ids: NDArray[np.uint64], width: int, holder: IdHolder | None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(offset of the first record with each id, -1 if unknown or new, _TWICE; whether it is a duplicate)."""
        duplicates = _twins(ids, width)
        offsets = np.where(duplicates, _TWICE, -1)
        pending, places = self._pending.find(self._seen, holder, ids, width)
        duplicates[pending], offsets[pending] = True, places
        seen = self._seen.of(width)
        if not len(seen):
            return offsets, duplicates
        if width == 8:
            there = seen.contains_many(ids)
            there[pending] = False
            hits = np.flatnonzero(there)
            low, high = seen.find_many(ids[hits])
        else:
            low = seen.find_many(ids)
            low[pending] = _UNSEEN
            hits = np.flatnonzero(low != _UNSEEN)
            low = high = low[hits]
        if len(hits):
            found = self._confirmed(_items(ids, width)[hits], low, high, width)
            known = hits[found != _NOT_THERE]
            duplicates[known], offsets[known] = True, found[found != _NOT_THERE]
        return offsets, duplicates

    def _confirmed(self, items: Any, low: NDArray[np.int64], high: NDArray[np.int64], width: int) -> NDArray[np.int64]:
        """The offset of the first record with each id, looked up in the log from `low` to `high`; -1: retention took
        it; _NOT_THERE: no record has it, so the window is wrong."""
        start = self._log.log_start_offset
        found = np.where(low < start, -1, _NOT_THERE)
        first, last = max(int(low.min()), start), int(high.max())
        stable = self._log.last_stable_offset
        if last < first:
            return found
        self._log.wait_durable(last + 1)  # readers see what is durable, and its sender waits for that too
        wanted, place = np.unique(items, return_inverse=True)
        offsets = np.full(len(wanted), -1, np.int64)
        for columns in self._read(first, last + 1, unstable=True):
            ids, at = native.find(columns, width=width)
            there = _items(ids, width)
            index = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
            mine = np.flatnonzero(wanted[index] == there)[::-1]  # backwards: of two with one id the first is kept
            mine = mine[~self._pending.are_undone(columns.offsets[at[mine]], stable)]
            fresh = mine[offsets[index[mine]] < 0]
            offsets[index[fresh]] = columns.offsets[at[fresh]]
            if (offsets >= 0).all():
                break
        confirmed = offsets[place.reshape(-1)]
        return np.where(confirmed >= 0, confirmed, found)

    def _read(self, start: int, end: int, *, unstable: bool = False) -> Iterator[Columns]:
        """The committed records from start to end; unstable: also those that an open transaction before them holds."""
        levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        for isolation in levels if unstable else levels[:1]:
            reader = PartitionReader(self._log, start, isolation=isolation, copy=True)
            while reader.position < end and (columns := reader.read()) is not None:
                yield columns
            start = max(reader.position, self._log.visible_end(isolation))
            if start >= end:
                return

    def _follow(self) -> None:
        """Note the ids of committed records that others appended, and, at first, of the window's. WindowFullError."""
        end = self._log.log_end_offset
        while (start := self._noted.take_from(self._followed)) < end:
            self._followed = start
            stop = self._noted.next_start(end)
            self._log.wait_durable(stop)
            stable = min(stop, self._log.last_stable_offset)
            for columns in self._read(max(start, self._log.log_start_offset), stable):
                self._add_columns(columns)
                self._followed = columns.next_offset
            self._followed = max(self._followed, stable)
            if stable < stop:
                return  # what an open transaction holds back
        self._followed = start

    def _add_columns(self, columns: Columns) -> None:
        now_ms = int(columns.timestamps.max(initial=0))
        for width in WIDTHS:
            ids, at = native.find(columns, width=width)
            begin = 0
            while begin < len(at):  # runs of neighbours: the set takes ids with consecutive offsets
                offsets = columns.offsets[at[begin:]]
                run = int(np.argmax(offsets - np.arange(len(offsets)) != offsets[0])) or len(offsets)
                words = slice(begin * width // 8, (begin + run) * width // 8)
                self._seen.add(ids[words], width, int(offsets[0]), now_ms)
                begin += run
        self._seen.expire(now_ms)


class IdWindows:
    """The windows of a store's partitions. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the map
        self._windows: weakref.WeakKeyDictionary[PartitionLog, IdWindow] = weakref.WeakKeyDictionary()

    def of(self, log: PartitionLog) -> IdWindow | None:
        """The window of a partition; None where its topic compares no ids."""
        config = log.config
        settings = (config.dedup_window_ms, config.dedup_window_count, config.dedup_max_bytes)
        if settings[0] <= 0 and settings[1] < 0:
            return None
        window = self._windows.get(log)
        if window is None or window.settings != settings:
            with self._lock:
                window = self._windows.get(log)
                if window is None or window.settings != settings:
                    window = self._windows[log] = IdWindow(log, settings)
        return window
