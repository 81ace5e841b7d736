"""The thread that ends transactions whose time is up.

Invariants:
    1. It is started by the first transaction, parks while none is open, and is joined by `stop`.
    2. Time is the coordinator's clock: the thread only decides when to look. It looks at least once a TICK_S while
       something is open, so that a clock of tests may be moved.
Lock: `_changed` guards the flags; nothing else is locked while it is held.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from mqcore.errors import MQError

if TYPE_CHECKING:
    from mqcore.transactions.coordinator import Coordinator

logger = logging.getLogger("mqcore.transactions")

TICK_S = 1.0
IDLE_TICKS = 5  # parked after so many without an open transaction: one commit after another wakes nobody


class Timer:
    """is_idle: the thread does not look; `wake` has it look."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = weakref.ref(coordinator)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.is_idle = True

    def wake(self) -> None:
        with self._changed:
            if self._stopping:
                return
            self.is_idle = False
            if self._thread is None:
                # A daemon: the store's close joins it; a plain one would keep a forgotten store's process alive.
                self._thread = threading.Thread(target=self._run, name="mqcore-transactions", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def stop(self) -> None:
        """End the thread. Again: nothing."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        quiet, wait_s = 0, TICK_S
        while True:
            with self._changed:
                if not self._stopping and quiet >= IDLE_TICKS:
                    quiet, self.is_idle = 0, True
                    if not self._is_busy():  # who began before this line was not told to wake us
                        self._changed.wait()
                    self.is_idle = False
                elif not self._stopping:
                    self._changed.wait(wait_s)
                if self._stopping:
                    return
            coordinator = self._coordinator()
            if coordinator is None:
                return
            quiet = 0 if coordinator.is_busy else quiet + 1
            try:
                coordinator.tend()
            except MQError as error:
                logger.warning("transactions: %s", error)
            wait_s = min(TICK_S, max(0.01, coordinator.left_s()))
            del coordinator

    def _is_busy(self) -> bool:
        coordinator = self._coordinator()
        return coordinator is not None and coordinator.is_busy
