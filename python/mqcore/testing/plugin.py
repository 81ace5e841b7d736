"""The pytest plugin (entry point `mqcore`): a store in milliseconds, and the clock that it lives by.

Invariant: nothing is left behind by a test, however it ends: no thread, file, port or descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqcore.client.embedded import Store
from mqcore.testing.clock import DrivenClock
from mqcore.testing.stores import open_store


@pytest.fixture
def mqcore_clock() -> DrivenClock:
    """Time that stands still until `mqcore_clock.advance(60)`: what was due has happened when that returns."""
    return DrivenClock()


@pytest.fixture
def mqcore_store(mqcore_clock: DrivenClock) -> Iterator[Store]:
    """An empty store in memory, by `mqcore_clock`; closed after the test."""
    with open_store(clock=mqcore_clock) as store:
        yield store
