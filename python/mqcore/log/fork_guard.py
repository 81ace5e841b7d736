"""What a forked child inherits of its parent's open stores: nothing that works.

A child that wrote, or that only closed things in good order, would write to its parent's files: offsets twice, index
tails twice, LMDB damaged. So in the child each store is marked, its lock descriptor closed, and everything else kept
untouched until the process ends.

Invariant: nothing in the child runs the parent's objects down: they are kept alive on purpose.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    def forked(self) -> object:
        """Mark the store in the child; return what must never be finalised there."""


_open: weakref.WeakSet[Any] = weakref.WeakSet()
_kept: list[object] = []


def watch(store: Forkable) -> None:
    """Have `store.forked()` called in children of this process from now on."""
    _open.add(store)


def forget(store: Forkable) -> None:
    """`store` is closed."""
    _open.discard(store)


def open_stores() -> list[Any]:
    """The stores that are open in this process."""
    return list(_open)


def _in_child() -> None:
    for store in list(_open):
        _kept.append(store)
        _kept.append(store.forked())
    _open.clear()


os.register_at_fork(after_in_child=_in_child)
