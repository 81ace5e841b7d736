"""The thread that takes lingering records to their logs, though nobody sends more, flushes or waits.

Invariants:
    1. One thread, started by the first chunk that lingers, joined by `close`. It sleeps without a deadline while no
       producer has anything open: an idle store costs nothing.
    2. A producer is kept alive by this thread while it has records that are in no log yet.
    3. An error in one producer's tick is logged and does not keep the others waiting.
    4. The interpreter does not end while a thread has not begun: CPython 3.11 crashes if it begins then (gh-104690).
Lock: `_lock` guards the due times and the stop flag; nothing else is locked while it is held.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import math
import os
import threading
import weakref
from time import monotonic
from typing import Protocol

log = logging.getLogger("mqcore.linger")

START_S = 5.0  # nobody waits longer for a thread that has not begun


class Lingering(Protocol):
    """What has records that must not wait longer than their time."""

    def _linger_tick(self, now: float) -> float | None:
        """Hand over what is due at `now` (time.monotonic, s); return when to look again, None: not until armed."""


class Linger:
    """The thread, and whom it looks after."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may send, and so arm, at any time
        # Entered and left by `_lock` itself: Condition.__exit__ is Python, and keeps the lock where memory runs out.
        self._changed = threading.Condition(self._lock)
        self._due: dict[Lingering, float] = {}  # producer -> when to look at it (time.monotonic, s)
        self._waiting_until = 0.0  # what the thread sleeps for; in the past while it is awake
        self._ended: threading.Event | None = None  # set by the thread as the last thing it does; None: no thread yet
        self._ident = 0
        self._begun = threading.Event()  # the thread runs, or ran
        self._stopping = False

    def arm(self, producer: Lingering, delay_s: float) -> None:
        """Look at this producer in delay_s, then until a tick says that nothing is left. After close: no effect."""
        due = monotonic() + delay_s
        with self._lock:
            if self._stopping or self._due.get(producer, math.inf) <= due:
                return
            self._due[producer] = due
            if self._ended is None:
                ended, self._begun = threading.Event(), threading.Event()
                _started.add(self)
                # Not threading.Thread: its start() waits until the thread runs, which a send on a busy machine should
                # not. Like a daemon thread it does not keep the interpreter alive.
                self._ident = _thread.start_new_thread(self._run, (self._begun, ended))
                self._ended = ended
            elif due < self._waiting_until:
                self._changed.notify()

    def remove(self, producer: Lingering) -> None:
        """Forget a producer that was closed."""
        with self._lock:
            self._due.pop(producer, None)

    def close(self) -> None:
        """Stop and join the thread. Producers are closed before: what they still hold is theirs to flush."""
        with self._lock:
            self._stopping = True
            self._due.clear()
            self._changed.notify()
            ended = self._ended
        # A thread that found no memory for its first frame never runs; one that is late finds the flag.
        if ended is not None and self._ident != threading.get_ident() and self._begun.wait(START_S):
            ended.wait()

    def _run(self, begun: threading.Event, ended: threading.Event) -> None:
        try:
            begun.set()
            while True:
                producer = self._next()
                if producer is None:
                    return
                self._tick(producer)
                del producer  # invariant 2 ends with the tick
        finally:
            if not self._stopping:
                self._ended = None  # it dies of an error (no memory): the next arm starts another
            ended.set()

    def _next(self) -> Lingering | None:
        """Sleep until a producer is due and take it off the list; None: stop."""
        with self._lock:
            while not self._stopping:
                first = min(self._due, key=self._due.__getitem__, default=None)
                now = monotonic()
                self._waiting_until = math.inf if first is None else self._due[first]
                if first is not None and self._waiting_until <= now:
                    del self._due[first]  # before the tick: whoever arms it during the tick puts it back
                    self._waiting_until = 0.0
                    return first
                left = None if first is None else self._waiting_until - now
                del first
                self._changed.wait(left)
            return None

    def _tick(self, producer: Lingering) -> None:
        try:
            again = producer._linger_tick(monotonic())
        except Exception:
            log.exception("a producer's lingering records could not be handed over")
            again = monotonic() + 1.0  # what it holds is not given up
        if again is not None:
            with self._lock:
                if not self._stopping:
                    self._due[producer] = min(again, self._due.get(producer, math.inf))


_started: weakref.WeakSet[Linger] = weakref.WeakSet()
os.register_at_fork(after_in_child=_started.clear)  # their threads are the parent's


@atexit.register
def _wait_for_starts() -> None:
    for linger in list(_started):
        linger._begun.wait(START_S)
