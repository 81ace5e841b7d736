"""A clock that stands still until a test moves it, and then has everything happen that the time would have brought.

Invariants:
    1. `advance` returns after what was due has happened: time-outs of transactions and sessions, retention, compaction.
    2. Time passes for a group's members as it does in life: their heartbeats go on, unless a test stalls them.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from mqcore.clock import ManualClock

if TYPE_CHECKING:
    from mqcore.client.embedded import Store


class DrivenClock(ManualClock):
    """Give it to `mqcore.open(clock=)` and `drive` the store; `open_store` does both. One thread moves it."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        super().__init__(wall_ms)
        self._stores: weakref.WeakSet[Store] = weakref.WeakSet()

    def drive(self, store: Store) -> None:
        """Have `advance` do this store's work that is due. The store must have been opened with this clock."""
        self._stores.add(store)

    def advance(self, seconds: float, *, stalled: bool = False) -> None:
        """Let time pass. stalled: nothing of this process ran meanwhile, as in a long pause: members miss heartbeats.

        Raises ValueError (time does not go back: `jump` sets the wall clock alone), and what maintenance raises.
        """
        if seconds < 0:
            raise ValueError("time does not go back; jump() sets the wall clock")
        stores = [store for store in self._stores if not store.closed]
        left = float(seconds)
        while left > 0:
            step = left if stalled else min([left, *(store.tending_interval_s for store in stores)])
            super().advance(step)
            left -= step
            for store in stores:
                store.tend(heartbeats=not stalled)
        for store in stores:
            store.log.maintain()
