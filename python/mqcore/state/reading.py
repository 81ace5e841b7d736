"""What is read of a state, or of a compacted topic, outside of transactions: committed pairs, as of one moment.

Invariants:
    1. Only what is durable and committed is shown (R11), and each answer is one moment's.
    2. A snapshot never changes, and ends by itself after `max_age_s`: it keeps pages of the views' file from reuse.
    3. `digest` depends on the pairs alone: a rebuild, another machine, another way there give the same.
"""

from __future__ import annotations

import heapq
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import blake3

from mqcore.log.overlay import Pair, key_range

if TYPE_CHECKING:
    from mqcore.log.view_snapshot import ViewSnapshot
    from mqcore.log.views import View

MAX_AGE_S = 60.0
_LENGTH = struct.Struct(">I")
_HASHED_AT_ONCE = 1 << 20


class Readable(ABC):
    """Ordered pairs, to be read."""

    @abstractmethod
    def _find(self, key: bytes) -> bytes | None: ...
    @abstractmethod
    def _walk(self, low: bytes, high: bytes | None, reverse: bool, limit: int | None) -> Iterator[Pair]: ...

    def get(self, key: bytes, default: Any = None) -> Any:
        """The value of a key (bytes), `default` without one. Raises StorageError, StoreClosedError."""
        value = self._find(key)
        return default if value is None else value

    def __getitem__(self, key: bytes) -> bytes:
        """As get. KeyError without a value."""
        value = self._find(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def items(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes = b"",
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Pair]:
        """The pairs with start <= key < end that begin with prefix, in order of their keys, at most `limit`."""
        low, high = key_range(start, end, prefix)
        return self._walk(low, high, reverse, limit)

    def keys(self, start: bytes = b"", end: bytes | None = None, **options: Any) -> Iterator[bytes]:
        """The keys of `items`."""
        return (key for key, _ in self.items(start, end, **options))

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()


class Snapshot(Readable):
    """Pairs as of one moment. A context manager that closes. Past its time it raises StoreClosedError."""

    def __init__(self, parts: Sequence[ViewSnapshot], first: Any = None) -> None:
        """parts: one a partition. first: key -> index of the part that is asked first."""
        self._parts, self._first = parts, first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what it keeps. Again: nothing."""
        for part in self._parts:
            part.close()

    def _find(self, key: bytes) -> bytes | None:
        return find(self._parts, self._first, key)

    def _walk(self, low: bytes, high: bytes | None, reverse: bool, limit: int | None) -> Iterator[Pair]:
        if len(self._parts) == 1:
            return self._parts[0].scan(low, high, reverse=reverse, limit=limit)
        return islice(self._merged(low, high, reverse), limit)

    def _merged(self, low: bytes, high: bytes | None, reverse: bool) -> Iterator[Pair]:
        """A key that several partitions have comes once, with the value that `get` gives."""
        walks = [part.scan(low, high, reverse=reverse) for part in self._parts]
        last: bytes | None = None
        for key, value in heapq.merge(*walks, key=lambda pair: pair[0], reverse=reverse):
            if key != last:
                last = key
                found = self._find(key) if self._first is not None else value
                yield key, value if found is None else found

    def digest(self) -> str:
        """BLAKE3, in hex, of all pairs in order: length (4 bytes, big-endian) and bytes of key, then of value."""
        return digest_of(self.items())


def find(parts: Sequence[Any], first: Any, key: bytes) -> bytes | None:
    """The value of a key in the first part that has one, the one that it belongs to before the others."""
    if not parts:
        return None
    if len(parts) == 1 or first is None:
        value: bytes | None = parts[0].get(key)
        return value
    at = first(key)
    for index in (at, *(i for i in range(len(parts)) if i != at)):
        value = parts[index].get(key)
        if value is not None:
            return value
    return None


def digest_of(pairs: Iterable[Pair]) -> str:
    """See Snapshot.digest."""
    hasher, buffer = blake3.blake3(), bytearray()
    for key, value in pairs:
        buffer += _LENGTH.pack(len(key)) + key + _LENGTH.pack(len(value)) + value
        if len(buffer) >= _HASHED_AT_ONCE:
            hasher.update(bytes(buffer))
            buffer.clear()
    hasher.update(bytes(buffer))
    return hasher.hexdigest()


class Live(Readable):
    """Pairs that follow what is committed."""

    @abstractmethod
    def _views(self) -> Sequence[View]:
        """Up to what is committed now; none while nothing was ever written."""

    def _first(self, key: bytes) -> int:
        return 0

    def _find(self, key: bytes) -> bytes | None:
        return find(self._views(), self._first, key)

    def _walk(self, low: bytes, high: bytes | None, reverse: bool, limit: int | None) -> Iterator[Pair]:
        with self.snapshot() as snapshot:
            yield from snapshot._walk(low, high, reverse, limit)

    def snapshot(self, max_age_s: float = MAX_AGE_S) -> Snapshot:
        """All pairs as of now, for at most so long; close it."""
        return Snapshot([view.snapshot(max_age_s) for view in self._views()], self._first)

    def digest(self) -> str:
        """See Snapshot.digest."""
        with self.snapshot() as snapshot:
            return snapshot.digest()

    def rebuild(self) -> None:
        """Drop what is stored and fold the log again: the same pairs, the same digest. Readers wait meanwhile."""
        for view in self._views():
            view.rebuild("asked for")
