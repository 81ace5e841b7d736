"""A state inside a transaction: reads see the transaction's own changes over one moment's state.

Invariants:
    1. Nothing is written before the commit: changes are a dict, appended in `prepare` (store.py).
    2. What was read is noted, keys and ranges, so that the commit can compare it; also what was not there.
    3. After the transaction ended, every call raises InvalidTransactionStateError.
One thread at a time, as the transaction itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from mqcore.errors import InvalidTransactionStateError, RecordTooLargeError
from mqcore.log.overlay import KeyOrder, Memory, Pair, key_range, merged
from mqcore.log.view_pairs import KEY_BYTES_MAX, TransactedMap
from mqcore.state.changelog import check_key, check_value
from mqcore.state.store import in_range

if TYPE_CHECKING:
    from mqcore.state.store import Commit, StateStore

_PAGE = 1000  # pairs that a scan reads, and notes as read, at a time


class TransactionState(TransactedMap):
    """`tx.state(name)`: a map of bytes to bytes, ordered by key. Made by StateStores.in_transaction."""

    def __init__(self, store: StateStore) -> None:
        room = store.value_room
        super().__init__(store.view, store.clock, KEY_BYTES_MAX, room)
        self._store, self._room = store, room
        self._order = KeyOrder()
        self._ranges_read: list[list[bytes | None]] = []  # low (never None) and high of each
        self._commit: Commit | None = None
        self.stamp = store.enter(self)

    def __repr__(self) -> str:
        return f"<TransactionState {self._store.name} {len(self.changes)} changes{' over' if self.over else ''}>"

    @property
    def name(self) -> str:
        return self._store.name

    # -- reading ----------------------------------------------------------------------------------------------------

    def _look_again(self, key: Any) -> bytes | None:
        self._check()
        key, store = check_key(key), self._store
        if key in self.changes:
            return self.changes[key]
        while True:
            self.stamp = stamp = store.refresh(self, key)
            value = store.view.get(key)
            if store.clock.stamp == stamp:  # nothing was applied since: it belongs to what was read earlier
                self.keys_read.add(key)
                return value

    def items(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes = b"",
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Pair]:
        """The pairs with start <= key < end that begin with prefix, in order of their keys, at most `limit`.

        Own changes up to the call are in it, later ones are not. Raises StateConflictError, StorageError.
        """
        self._check()
        low, high = key_range(start, end, prefix)
        keys = self._order.range(self.changes, low, high, reverse=reverse)
        own = {key: self.changes[key] for key in keys}
        pairs = self._scan(low, high, reverse, _PAGE if limit is None else max(1, min(_PAGE, limit + len(keys))))
        return islice(merged(pairs, keys, own, reverse=reverse), limit)

    def keys(self, start: bytes = b"", end: bytes | None = None, **options: Any) -> Iterator[bytes]:
        """The keys of `items`."""
        return (key for key, _ in self.items(start, end, **options))

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def _scan(self, low: bytes, high: bytes | None, reverse: bool, page_pairs: int) -> Iterator[Pair]:
        """What is committed of a range, page by page; each page is noted before it is handed out."""
        span: list[bytes | None] = [low, low]  # what was read so far: nothing
        self._ranges_read.append(span)
        start, end = low, high  # of what is left
        while True:
            page = self._page(start, end, reverse, page_pairs)
            whole = len(page) < page_pairs
            if reverse:
                span[:] = [low if whole else page[-1][0], high]
            else:
                span[:] = [low, high if whole else page[-1][0] + b"\0"]
            yield from page
            if whole:
                return
            if reverse:
                end = page[-1][0]
            else:
                start = page[-1][0] + b"\0"

    def _page(self, low: bytes, high: bytes | None, reverse: bool, pairs: int) -> list[Pair]:
        store = self._store
        while True:
            self._check()
            if store.clock.stamp != self.stamp:
                self.stamp = store.refresh(self)
            page = store.view.scan(low, high, reverse=reverse, limit=pairs)
            if store.clock.stamp == self.stamp:
                return page

    # -- writing ----------------------------------------------------------------------------------------------------

    def _set_checked(self, key: Any, value: Any) -> None:
        self._check()
        self.changes.update((self._checked(key, value),))

    def _checked(self, key: Any, value: Any) -> tuple[bytes, bytes]:
        key, value = check_key(key), check_value(value)
        if len(value) + len(key) > self._room:
            raise RecordTooLargeError("a state's pair is too large", size=len(key) + len(value), limit=self._room)
        return key, value

    def pop(self, key: bytes, default: Any = None) -> Any:
        """Take a key away and return its value, `default` without one."""
        value: bytes | None = self.get(key)
        if value is None:
            return default
        self.changes[check_key(key)] = None
        return value

    def update(self, pairs: Any) -> None:
        """Set many pairs: a mapping, or (key, value) tuples. None of them if one is refused."""
        self._check()
        self.changes.update([self._checked(key, value) for key, value in dict(pairs).items()])

    # -- the end (Participant) --------------------------------------------------------------------------------------

    def saw(self, changes: Memory) -> bool:
        """Whether this transaction read or wrote what these changes change."""
        keys = changes.keys()
        return (
            not keys.isdisjoint(self.keys_read)
            or not keys.isdisjoint(self.changes.keys())
            or (bool(self._ranges_read) and in_range(changes, self._ranges_read))
        )

    def prepare(self, tx: Any) -> None:
        """Compare and append; the store-wide commit lock is held. Raises StateConflictError."""
        self._check()
        self._commit = self._store.prepare(self, tx)
        self.over = True

    def applied(self, tx: Any) -> None:
        """The transaction is durable."""
        if self._commit is not None:
            self._store.applied(self._commit)
        self._finish()

    def aborted(self, tx: Any) -> None:
        if self._commit is not None:
            self._store.aborted(self._commit)
        self._finish()

    def _finish(self) -> None:
        self.finish()
        self._commit, self._ranges_read = None, []
        self._store.leave(self)

    def _check(self) -> None:
        if self.over:
            raise self._ended()

    def _ended(self) -> InvalidTransactionStateError:
        return InvalidTransactionStateError("the transaction of this state has ended", state=self._store.name)
