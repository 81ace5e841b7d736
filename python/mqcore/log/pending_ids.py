"""The ids of open transactions in one dedup window: pending until their transaction's outcome stands.

Invariants:
    1. Pending ids count when their transaction is committed and the disk has its decision; with an abort they are gone.
    2. Of two open transactions with one id the second is refused, never told "a duplicate": the first may yet abort.
    3. A record that an abort undid is no duplicate's original, though the last stable offset has not passed it.
The caller serialises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mqcore.errors import ConcurrentTransactionsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mqcore.log.id_window import SeenIds

_NOT_PENDING = -2  # of pending_many


class IdHolder(Protocol):
    """An open transaction, as a window sees it."""

    @property
    def producer_id(self) -> int: ...
    @property
    def outcome(self) -> bool | None:
        """Whether it is committed; None: not known for good, a crash might still undo it."""


def _inside(ranges: list[tuple[int, int]], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    inside = np.zeros(len(offsets), np.bool_)
    for start, end in ranges:
        inside |= (start <= offsets) & (offsets < end)
    return inside


class Spans:
    """Ranges of offsets."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []  # rising, apart

    def add(self, start: int, end: int) -> None:
        """A range that lies above those that are there."""
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, end))

    def take_from(self, offset: int) -> int:
        """Leave out what lies below offset; the end of the range that begins there or before, else offset."""
        while self.ranges and self.ranges[0][0] <= offset:
            offset = max(offset, self.ranges.pop(0)[1])
        return offset

    def next_start(self, end: int) -> int:
        """Where the first range begins, at most `end`."""
        return min(end, self.ranges[0][0]) if self.ranges else end

    def have(self, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        return _inside(self.ranges, offsets)


class _Held(NamedTuple):
    """What one transaction has here."""

    holder: IdHolder
    widths: set[int]
    spans: Spans


class PendingIds:
    def __init__(self, topic: str, partition: int) -> None:
        self._where: dict[str, Any] = {"topic": topic, "partition": partition}
        self._held: dict[int, _Held] = {}  # by producer id: it has one transaction open at most
        self._undone: list[tuple[int, int]] = []  # ranges of aborted records past the last stable offset

    def add(self, seen: SeenIds, holder: IdHolder, ids: NDArray[np.uint64], width: int, base_offset: int) -> None:
        """Note what was appended. WindowFullError: some are noted."""
        held = self._held.get(holder.producer_id)
        if held is None:
            held = self._held[holder.producer_id] = _Held(holder, set(), Spans())
        held.widths.add(width)
        held.spans.add(base_offset, base_offset + len(ids) * 8 // width)
        seen.of(width).add_pending_many(holder.producer_id, ids, base_offset)

    def settle(self, seen: SeenIds, now_ms: int) -> None:
        """Let the outcomes of transactions take effect. WindowFullError: some ids are still pending."""
        for producer_id, held in list(self._held.items()):
            outcome = held.holder.outcome
            if outcome is None:
                continue
            for width in held.widths:
                if outcome:
                    seen.confirm(producer_id, width, now_ms)
                else:
                    seen.of(width).abort(producer_id)
            if not outcome:
                self._undone += held.spans.ranges
            del self._held[producer_id]

    def find(
        self, seen: SeenIds, holder: IdHolder | None, ids: NDArray[np.uint64], width: int
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """(indices of the ids that are pending for `holder`, the offsets of their records).

        ConcurrentTransactionsError: another transaction has one of them.
        """
        if not self._held:
            return np.empty(0, np.intp), np.empty(0, np.int64)
        offsets: NDArray[np.int64] = seen.of(width).pending_many(ids)
        at = np.flatnonzero(offsets != _NOT_PENDING)
        own = None if holder is None else self._held.get(holder.producer_id)
        if len(at) and (own is None or not own.spans.have(offsets[at]).all()):
            raise ConcurrentTransactionsError(
                "a transaction that is not over has a record with this id",
                hint="Send it again when that transaction is over",
                **self._where,
            )
        return at, offsets[at]

    def are_undone(self, offsets: NDArray[np.int64], stable_end: int) -> NDArray[np.bool_]:
        """Which records an abort undid, of those past the last stable offset."""
        self._undone = [one for one in self._undone if one[1] > stable_end]
        return _inside(self._undone, offsets)
