"""What a view knows beyond its table: changes in memory, in the order of their keys, over pairs that are stored.

Invariants:
    1. A change hides the stored pair of its key; one to None hides it for good.
    2. Keys are only ever added to a dict of changes, so its newest keys are its last ones (`KeyOrder` rests on it).
    3. A range is half open, [low, high); high None has no end. Keys compare as bytes do, as LMDB orders them.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mqcore.log.view_pairs import Reader

Pair = tuple[bytes, bytes]
Changes = Mapping[bytes, bytes | None]
"""{key: value}, None takes the key away."""
Memory = dict[bytes, bytes | None]

_INSERTS_MAX = 16  # new keys that are put in their place one by one; more are sorted in


def successor(prefix: bytes) -> bytes | None:
    """The first key after all that begin with prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def key_range(start: bytes, end: bytes | None, prefix: bytes) -> tuple[bytes, bytes | None]:
    """(low, high) of the keys of [start, end) that begin with prefix."""
    after = successor(prefix)
    high = end if after is None else after if end is None else min(end, after)
    return max(start, prefix), high


class KeyOrder:
    """The keys of one dict of changes, sorted as far as somebody asked. Safe to share between threads."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._lock = threading.Lock()

    def range(self, changes: Memory, low: bytes, high: bytes | None, *, reverse: bool = False) -> list[bytes]:
        """The keys of [low, high) in `changes`, in order. changes: the dict itself, or what a copy of it has become
        since or was before."""
        with self._lock:
            fresh = list(islice(reversed(changes), max(0, len(changes) - len(self._keys))))
            if len(fresh) <= _INSERTS_MAX:
                for key in fresh:
                    bisect.insort(self._keys, key)
            else:
                self._keys += fresh
                self._keys.sort()
            first = bisect.bisect_left(self._keys, low)
            last = len(self._keys) if high is None else bisect.bisect_left(self._keys, high)
            found = self._keys[first:last]
            older = len(changes) < len(self._keys)
        if older:
            found = [key for key in found if key in changes]
        return found[::-1] if reverse else found


class Layers(NamedTuple):
    """Changes over what is stored, newest first. frozen: being committed, {} otherwise. Each with its keys' order."""

    pending: Memory
    pending_order: KeyOrder
    frozen: Memory
    frozen_order: KeyOrder


def merged(stored: Iterator[Pair], keys: list[bytes], changes: Changes, *, reverse: bool = False) -> Iterator[Pair]:
    """The pairs of `stored` with `changes` over them, in order. keys: those of changes in the range, in order."""
    pair = next(stored, None)
    for key in keys:
        while pair is not None and (pair[0] > key if reverse else pair[0] < key):
            yield pair
            pair = next(stored, None)
        if pair is not None and pair[0] == key:
            pair = next(stored, None)
        value = changes[key]
        if value is not None:
            yield key, value
    while pair is not None:
        yield pair
        pair = next(stored, None)


def walk(layers: Layers, reader: Reader, low: bytes, high: bytes | None, *, reverse: bool = False) -> Iterator[Pair]:
    """The pairs of a range in layers over a reader. The caller sees to it that neither changes. Raises Damaged."""
    pairs = reader.scan(low, high, reverse=reverse)
    for changes, order in ((layers.frozen, layers.frozen_order), (layers.pending, layers.pending_order)):
        keys = order.range(changes, low, high, reverse=reverse) if changes else []
        if keys:
            pairs = merged(pairs, keys, changes, reverse=reverse)
    return pairs
