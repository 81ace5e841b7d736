"""A token bucket: so many records a second on the average, bursts up to a bound.

Invariants:
    1. Over any span of t seconds at most rate * t + burst records are let through, plus the size of one batch: a batch
       is let through whole, and what it takes too much is paid by a longer wait of the next.
    2. Nobody waits with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class TokenBucket:
    """Shared by the workers of one run. Thread-safe."""

    def __init__(self, rate: float, *, burst: float | None = None, now: Callable[[], float]) -> None:
        """rate: tokens a second. burst: tokens that may be saved up; None: those of a tenth of a second.
        now: seconds, monotonic."""
        if rate <= 0:
            raise ValueError(f"rate must be above 0, not {rate}")
        self.rate, self.burst = rate, rate / 10 if burst is None else burst
        self._now, self._lock = now, threading.Lock()
        self._paid_until = now() - self.burst / rate  # the time up to which tokens are spent

    def take(self, tokens: int) -> float:
        """Take tokens, now and for good; seconds to wait before they may be used."""
        with self._lock:
            now = self._now()
            wait = max(0.0, self._paid_until - now)
            self._paid_until = max(self._paid_until, now - self.burst / self.rate) + tokens / self.rate
            return wait
