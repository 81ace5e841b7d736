"""Stores for tests: open in milliseconds, gone at close; and what a kill leaves of one."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from mqcore.client.open import MEMORY
from mqcore.client.open import open as open_any
from mqcore.testing.clock import DrivenClock

if TYPE_CHECKING:
    from mqcore.client.embedded import Store


def open_store(path: str | os.PathLike[str] = MEMORY, *, clock: DrivenClock | None = None, **options: Any) -> Store:
    """A store on a clock that a test moves (a new one by default). options: as mqcore.open."""
    clock = DrivenClock() if clock is None else clock
    store = open_any(path, clock=clock, **options)
    clock.drive(store)
    return store


def kill(store: Store, image: str | os.PathLike[str]) -> str:
    """Let go of a store as kill -9 would, and return where what it leaves was copied to: `image`, a new directory.

    What was written is in the page cache, and survives; what a close would do is not done. The store cannot be used any
    more. Other threads must not be writing to it at that moment.
    """
    with store.log._pass_lock, store.log._lock:  # no pass of maintenance: it would rename files under the copy
        shutil.copytree(store.path, image, symlinks=True)
    store.abandon()
    return os.fspath(image)
