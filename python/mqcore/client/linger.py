"""The thread that takes lingering records to their logs, though nobody sends more, flushes or waits.

Invariants:
    1. One thread per store, started by the first chunk that lingers, joined by `close`. It sleeps without a deadline
       while no producer has anything open: an idle store costs nothing.
    2. A producer is kept alive by this thread while it has records that are in no log yet.
    3. An error in one producer's tick is logged and does not keep the others waiting.
Lock: `_changed` guards the set of producers and the stop flag; nothing else is locked while it is held.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Protocol

log = logging.getLogger("mqcore.linger")


class Lingering(Protocol):
    """What has records that must not wait longer than their time."""

    def _linger_tick(self, now: float) -> float | None:
        """Hand over what is due at `now` (time.monotonic, s); return when to look again, None: not until armed."""


class Linger:
    """The thread, and whom it looks after."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._armed: set[Lingering] = set()
        self._thread: threading.Thread | None = None
        self._woken = False
        self._stopping = False

    def arm(self, producer: Lingering) -> None:
        """Look after this producer until a tick says that there is nothing left. After close: no effect."""
        with self._changed:
            if self._stopping:
                return
            self._armed.add(producer)
            self._woken = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mqcore-linger", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, producer: Lingering) -> None:
        """Forget a producer that was closed."""
        with self._changed:
            self._armed.discard(producer)

    def close(self) -> None:
        """Stop and join the thread. Producers are closed before: what they still hold is theirs to flush."""
        with self._changed:
            self._stopping = True
            self._armed.clear()
            self._changed.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        due: float | None = None
        while True:
            with self._changed:
                while not self._stopping and not self._woken:
                    left = None if due is None else due - monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if self._stopping:
                    return
                self._woken = False
                producers = list(self._armed)
            due = None
            for producer in producers:
                again = self._tick(producer)
                if again is not None:
                    due = again if due is None else min(due, again)
            producers.clear()  # invariant 2 ends with the tick

    def _tick(self, producer: Lingering) -> float | None:
        with self._changed:
            # Before the tick: whoever arms it during the tick puts it back.
            self._armed.discard(producer)
        again: float | None = None
        try:
            again = producer._linger_tick(monotonic())
        except Exception:
            log.exception("a producer's lingering records could not be handed over")
        if again is not None:
            with self._changed:
                if not self._stopping:
                    self._armed.add(producer)
        return again
