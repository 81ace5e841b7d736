"""The four numbers of a partition and their moves. Pure.

Invariants:
    1. 0 <= log_start <= last_stable <= high_watermark <= log_end, always.
    2. None of the four ever moves back while a store is open (truncation belongs to recovery, before anyone reads).
    3. Readers see below high_watermark (read_committed: below last_stable) and never above: under fsync that is the
       durable mark, or an offset could come back with another record after a crash.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.errors import InvariantError


class Offsets(NamedTuple):
    """A snapshot: taken by one attribute read, so a reader needs no lock for four numbers that fit together."""

    log_start: int  # first offset still readable
    last_stable: int  # end of what read_committed sees
    high_watermark: int  # end of what read_uncommitted sees: the durable mark
    log_end: int  # the offset that the next record gets

    @classmethod
    def at(cls, log_start: int, log_end: int) -> Offsets:
        """A partition in which everything is visible: what an open leaves."""
        return cls(log_start, log_end, log_end, log_end).checked()

    def checked(self) -> Offsets:
        if not 0 <= self.log_start <= self.last_stable <= self.high_watermark <= self.log_end:
            raise InvariantError("offsets out of order", offsets=tuple(self))
        return self

    def appended(self, next_offset: int) -> Offsets:
        """Records up to next_offset were written; nobody sees them yet."""
        if next_offset < self.log_end:
            raise InvariantError("log end would move back", log_end=self.log_end, to=next_offset)
        return Offsets(self.log_start, self.last_stable, self.high_watermark, next_offset)

    def visible(self, next_offset: int, open_transaction: int | None = None) -> Offsets:
        """Records up to next_offset are durable, or need not be. open_transaction: first offset of the oldest open
        transaction, which holds the last stable offset back; None without one."""
        if next_offset > self.log_end:
            raise InvariantError("high watermark past the log end", log_end=self.log_end, to=next_offset)
        # max: rounds are published in order, but a late one must not take back what readers saw.
        mark = max(self.high_watermark, next_offset)
        stable = mark if open_transaction is None else min(mark, open_transaction)
        return Offsets(self.log_start, max(self.last_stable, stable), mark, self.log_end)

    def start_moved(self, log_start: int) -> Offsets:
        """Records below log_start are gone. Only what is visible may go."""
        if log_start > self.last_stable:
            raise InvariantError("log start past the last stable offset", last_stable=self.last_stable, to=log_start)
        return self._replace(log_start=max(self.log_start, log_start))
