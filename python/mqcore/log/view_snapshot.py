"""A view as of one moment, for a limited time.

Invariants:
    1. What it shows never changes: later changes are made on a copy of what it holds.
    2. Past its deadline, or after the close, it raises instead: it keeps pages of the views' file from reuse.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Self

from mqcore.errors import StorageError, StoreClosedError
from mqcore.log.overlay import Layers, Pair, walk
from mqcore.log.view_pairs import Damaged, Reader

if TYPE_CHECKING:
    from mqcore.log.views import View

_PAGE = 1000  # pairs read under the lock at a time


class ViewSnapshot:
    """Made by View.snapshot. Safe to share between threads; a context manager that closes."""

    def __init__(self, view: View, layers: Layers, reader: Reader, offset: int, deadline: float) -> None:
        """offset: up to which the log is folded here. deadline: time.monotonic, s."""
        self.offset, self.deadline = offset, deadline
        self._view, self._layers, self._reader = view, layers, reader
        self._lock = threading.Lock()  # guards the reader, a leaf
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what it keeps. Again: nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._reader.close()

    def _check(self) -> None:
        if self._closed or time.monotonic() > self.deadline:
            raise StoreClosedError(
                "the snapshot is closed, or its time is over", hint="Take a new one", view=self._view.name
            )

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None without one. Raises StoreClosedError, StorageError."""
        for changes in (self._layers.pending, self._layers.frozen):
            if key in changes:
                return changes[key]
        try:
            with self._lock:
                self._check()
                return self._reader.get(key)
        except Damaged as damage:
            raise self._damaged(damage) from None

    def scan(
        self, low: bytes, high: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[Pair]:
        """The first `limit` pairs of [low, high) in order. Raises StoreClosedError, StorageError."""
        left = limit
        while left is None or left > 0:
            want = _PAGE if left is None else min(_PAGE, left)
            try:
                with self._lock:
                    self._check()
                    found = walk(self._layers, self._reader, low, high, reverse=reverse)
                    page = list(islice(found, want))
            except Damaged as damage:
                raise self._damaged(damage) from None
            yield from page
            if len(page) < want:
                return
            left = None if left is None else left - want
            if reverse:
                high = page[-1][0]
            else:
                low = page[-1][0] + b"\0"

    def _damaged(self, damage: Damaged) -> StorageError:
        """What is stored is bad: rebuild the view; this snapshot's own pages stay bad."""
        self.close()
        self._view.rebuild(str(damage))
        return StorageError(
            "the snapshot met a damaged page; the state was rebuilt from its log", hint="Take a new one"
        )
