"""The pairs of one view as LMDB holds them: their keys, checksums and order.

Invariants:
    1. No pair leaves here unchecked: each carries the CRC-32C of its key and value; one that fails raises Damaged.
    2. Pairs come in the order of their keys, those whose key is too long for LMDB among them.

Layout: see view_tables.py.
"""

from __future__ import annotations

import errno
import heapq
import struct
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import blake3
import lmdb

from mqcore._native.crc32c import crc32c
from mqcore._native.views import Clock as Clock
from mqcore._native.views import Front as Front
from mqcore._native.views import TransactedMap as TransactedMap
from mqcore.errors import StorageError
from mqcore.log.os_errors import disk_error, errno_in
from mqcore.log.overlay import Pair

KEY_BYTES_MAX = 480  # + kind and number stays below LMDB's 511
READERS_MAX = 1022  # snapshots and transactions that read at the same time
PAIR, LONG_PAIR = b"\2", b"\3"
U32 = struct.Struct(">I")


class Damaged(Exception):
    """A stored pair fails its check. Never leaves the package: its catcher rebuilds the view."""


class Reader(Protocol):
    """The pairs of one view, all as of one moment. One thread at a time."""

    def get(self, key: bytes) -> bytes | None: ...
    def scan(self, low: bytes, high: bytes | None, *, reverse: bool = False) -> Iterator[Pair]:
        """The pairs of [low, high) (overlay.py) in order."""

    def raw(self) -> tuple[Callable[[bytes], bytes | None], bytes]:
        """(get, head): see View.stored_reader."""

    def close(self) -> None:
        """Let the pages go that this reader kept. Again: nothing. Iterators end with it."""


class NoPairs:
    """A view that has nothing stored."""

    def get(self, key: bytes) -> bytes | None:
        return None

    def scan(self, low: bytes, high: bytes | None, *, reverse: bool = False) -> Iterator[Pair]:
        return iter(())

    def raw(self) -> tuple[Callable[[bytes], bytes | None], bytes]:
        return self.get, b""

    def close(self) -> None:
        pass


class LmdbPairs:
    """A view's pairs in one read transaction, owned from now on. Raises Damaged, StorageError."""

    def __init__(self, txn: Any, number: bytes, directory: str) -> None:
        self._txn, self._number, self._directory = txn, number, directory
        self._head = PAIR + number

    def get(self, key: bytes) -> bytes | None:
        stored_key = stored_key_of(self._number, key)
        try:
            found = self._txn.get(stored_key)
        except lmdb.Error as error:
            raise storage_error(error, self._directory) from error
        return None if found is None else unpack(stored_key, found)[1]

    def scan(self, low: bytes, high: bytes | None, *, reverse: bool = False) -> Iterator[Pair]:
        long = sorted(pair for pair in self._walk(LONG_PAIR + self._number, b"", None) if _within(pair[0], low, high))
        # A bound that is cut to what LMDB takes is the same bound for keys that are no longer than that.
        if len(low) > KEY_BYTES_MAX:
            low = low[:KEY_BYTES_MAX] + b"\0"
        if high is not None and len(high) > KEY_BYTES_MAX:
            high = high[:KEY_BYTES_MAX] + b"\0"
        short = self._walk_back(low, high) if reverse else self._walk(self._head, low, high)
        try:
            yield from heapq.merge(short, long[::-1] if reverse else long, reverse=reverse) if long else short
        except lmdb.Error as error:
            raise storage_error(error, self._directory) from error

    def _walk(self, head: bytes, low: bytes, high: bytes | None) -> Iterator[Pair]:
        end = None if high is None else head + high
        with self._txn.cursor() as cursor:
            found = cursor.set_range(head + low)
            while found:
                stored_key = bytes(cursor.key())
                if not stored_key.startswith(head) or (end is not None and stored_key >= end):
                    return
                yield unpack(stored_key, cursor.value())
                found = cursor.next()

    def _walk_back(self, low: bytes, high: bytes | None) -> Iterator[Pair]:
        start = self._head + low
        after = PAIR + U32.pack(U32.unpack(self._number)[0] + 1) if high is None else self._head + high
        with self._txn.cursor() as cursor:
            found = cursor.prev() if cursor.set_range(after) else cursor.last()
            while found:
                stored_key = bytes(cursor.key())
                if stored_key < start or not stored_key.startswith(self._head):
                    return
                yield unpack(stored_key, cursor.value())
                found = cursor.prev()

    def raw(self) -> tuple[Callable[[bytes], bytes | None], bytes]:
        return self._txn.get, self._head

    def close(self) -> None:
        self._txn.abort()


def _within(key: bytes, low: bytes, high: bytes | None) -> bool:
    return low <= key and (high is None or key < high)


def stored_key_of(number: bytes, key: bytes) -> bytes:
    if len(key) <= KEY_BYTES_MAX:
        return PAIR + number + key
    return LONG_PAIR + number + blake3.blake3(key).digest()


def pack(stored_key: bytes, value: bytes) -> bytes:
    """The value as it is stored."""
    return U32.pack(crc32c(value, crc32c(stored_key))) + value


def checked(stored_key: bytes, found: Any) -> bytes:
    """Return a stored value without its checksum. Raises Damaged."""
    value = bytes(found[4:])
    if len(found) < 4 or U32.unpack(found[:4])[0] != crc32c(value, crc32c(stored_key)):
        raise Damaged(f"a pair fails its checksum (key {stored_key[:40].hex()})")
    return value


def unpack(stored_key: bytes, found: Any) -> Pair:
    """Return key and value of a stored pair. Raises Damaged."""
    value = checked(stored_key, found)
    if stored_key[:1] != LONG_PAIR:
        return stored_key[5:], value
    end = 4 + U32.unpack(value[:4])[0]  # the checksum has vouched for the lengths
    return value[4:end], value[end:]


def storage_error(error: lmdb.Error, path: str) -> Exception:
    """Return ours for LMDB's: its message holds the system's reason as text."""
    reason = str(error)
    if isinstance(error, lmdb.ReadersFullError):
        hint = "Close snapshots and transactions that are not needed any more."
        return StorageError("too many readers of the views at a time", hint=hint, limit=READERS_MAX, path=path)
    if isinstance(error, lmdb.MapFullError):
        return StorageError("the views have reached their size limit", hint="Raise view.map.bytes.", path=path)
    number = errno.ENOSPC if isinstance(error, lmdb.DiskError) else errno_in(reason)
    if number:
        return disk_error("the store's views", number, path)
    return StorageError(f"the views cannot be used: {reason[:200]}", path=path)
