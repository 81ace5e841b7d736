"""How long to wait before the next attempt: exponential back-off with full jitter. Pure.

Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the "full jitter" rule, under which
workers that failed together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """first_s: the mean wait before the second attempt is half of it; max_s: no wait is longer. Seconds."""

    first_s: float = 0.1
    max_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.max_s:
            raise ValueError(f"back-off must be 0 <= first <= max, not {self.first_s} and {self.max_s}")

    def wait_s(self, failures: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after `failures` failures in a row (1 or more). draw: uniform in [0, 1)."""
        # The exponent is bounded: a float overflows at 2 ** 1024, and max_s was reached long before.
        ceiling: float = min(self.max_s, self.first_s * 2 ** min(failures - 1, 64))
        return ceiling * draw()
