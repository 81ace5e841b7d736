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
from mqcore.state.changelog import check_key, check_value
from mqcore.state.store import in_range

if TYPE_CHECKING:
    from mqcore.state.store import Commit, StateStore

_PAGE = 1000  # pairs that a scan reads, and notes as read, at a time


class TransactionState:
    """`tx.state(name)`: a map of bytes to bytes, ordered by key. Made by StateStores.of."""

    def __init__(self, store: StateStore) -> None:
        self._store, self._get = store, store.view.get
        self.changes: Memory = {}
        self._order = KeyOrder()
        self._keys_read: set[bytes] = set()
        self._ranges_read: list[list[bytes | None]] = []  # low (never None) and high of each
        self._room = store.value_room
        self._over = False
        self._commit: Commit | None = None
        self.stamp = 0
        self.stamp = store.enter(self)

    def __repr__(self) -> str:
        return f"<TransactionState {self._store.name} {len(self.changes)} changes{' over' if self._over else ''}>"

    @property
    def name(self) -> str:
        return self._store.name

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: bytes, default: Any = None) -> Any:
        """The value of a key, `default` without one. Raises StateConflictError, StorageError."""
        value = self._look(key)
        return default if value is None else value

    def __getitem__(self, key: bytes) -> bytes:
        """As get. KeyError without a value."""
        value = self._look(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: bytes) -> bool:
        return self._look(key) is not None

    def _look(self, key: bytes) -> bytes | None:
        if key in self.changes and not self._over:
            return self.changes[key]
        store = self._store
        while not self._over:
            if not store.in_progress and store.stamp == self.stamp:
                value = self._get(key)
                # The stamp is as before: nothing was applied since, so this belongs to what was read earlier.
                if store.stamp == self.stamp:
                    self._keys_read.add(key)
                    return value
            check_key(key)
            self.stamp = stamp = store.refresh(self, key)
            value = self._get(key)
            if store.stamp == stamp:
                self._keys_read.add(key)
                return value
        raise self._ended()

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
            if store.stamp != self.stamp:
                self.stamp = store.refresh(self)
            page = store.view.scan(low, high, reverse=reverse, limit=pairs)
            if store.stamp == self.stamp:
                return page

    # -- writing ----------------------------------------------------------------------------------------------------

    def __setitem__(self, key: bytes, value: bytes) -> None:
        """Set a pair. Raises RecordTooLargeError (key over 480 bytes; pair over the changelog's max.message.bytes)."""
        if self._over:
            raise self._ended()
        if type(key) is not bytes or len(key) > 480:
            key = check_key(key)
        if type(value) is not bytes:
            value = check_value(value)
        if len(value) + len(key) > self._room:
            raise RecordTooLargeError("a state's pair is too large", size=len(key) + len(value), limit=self._room)
        self.changes[key] = value

    def __delitem__(self, key: bytes) -> None:
        """Take a key away. KeyError if it has no value."""
        self[key]
        self.changes[check_key(key)] = None

    def pop(self, key: bytes, default: Any = None) -> Any:
        """Take a key away and return its value, `default` without one."""
        value = self._look(key)
        if value is None:
            return default
        self.changes[check_key(key)] = None
        return value

    def update(self, pairs: Any) -> None:
        """Set many pairs: a mapping, or (key, value) tuples. None of them if one is refused."""
        checked = {check_key(key): check_value(value) for key, value in dict(pairs).items()}
        self._check()
        for key, value in checked.items():
            if len(value) + len(key) > self._room:
                raise RecordTooLargeError("a state's pair is too large", size=len(key) + len(value), limit=self._room)
        self.changes.update(checked)

    # -- the end (Participant) --------------------------------------------------------------------------------------

    def saw(self, changes: Memory) -> bool:
        """Whether this transaction read or wrote what these changes change."""
        keys = changes.keys()
        return (
            not keys.isdisjoint(self._keys_read)
            or not keys.isdisjoint(self.changes.keys())
            or (bool(self._ranges_read) and in_range(changes, self._ranges_read))
        )

    def prepare(self, tx: Any) -> None:
        """Compare and append; the store-wide commit lock is held. Raises StateConflictError."""
        self._check()
        self._commit = self._store.prepare(self, tx)
        self._over = True

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
        self._over, self._commit = True, None
        self._store.leave(self)
        self.changes, self._keys_read, self._ranges_read = {}, set(), []

    def _check(self) -> None:
        if self._over:
            raise self._ended()

    def _ended(self) -> InvalidTransactionStateError:
        return InvalidTransactionStateError("the transaction of this state has ended", state=self._store.name)
