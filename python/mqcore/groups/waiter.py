"""What a call returns that cannot be answered yet: the embedded client blocks on it, a front awaits it.

Invariants:
    1. A waiter gets one answer, a value or an error; the first counts.
    2. Callbacks run once, in the thread that answers (or at once, if the answer is there), with no lock of a group held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mqcore.errors import MQError, TimeoutExceededError

Answer = TypeVar("Answer")


class Waiter(Generic[Answer]):
    """One answer to come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: Answer | None = None
        self._error: MQError | None = None
        self._done = False
        self._callbacks: list[Callable[[Waiter[Answer]], None]] = []

    @property
    def done(self) -> bool:
        return self._done

    def answer(self, value: Answer | None, error: MQError | None = None) -> None:
        """Give the answer, and run the callbacks."""
        with self._changed:
            if self._done:
                return
            self._value, self._error, self._done = value, error, True
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for callback in callbacks:
            callback(self)

    def on_done(self, callback: Callable[[Waiter[Answer]], None]) -> None:
        """Call this with the waiter once it is answered; at once if it is."""
        with self._changed:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def result(self, timeout_s: float | None = 0.0) -> Answer:
        """The answer, after at most timeout_s (None: for ever). Raises its error, TimeoutExceededError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, timeout_s):
                raise TimeoutExceededError("no answer of the group yet")
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value
