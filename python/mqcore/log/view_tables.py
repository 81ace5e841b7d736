"""Where the views of a store keep their key-value pairs: one LMDB environment, or memory.

Invariants:
    1. A commit is one LMDB transaction, synced: the changes of all views and the positions they reached, or nothing.
    2. No pair leaves here unchecked (view_pairs.py).
    3. Only a file that passed a check is handed to liblmdb, which follows page numbers blindly and takes the process
       down over a flipped one (measured). What passes: the digest that a clean close left, or, without one, the walk
       of `lmdb.verify`, which reads the file as bytes. What fails, or is too large to walk, is removed: it is rebuilt
       from the logs.
    4. One process opens the environment: the store's writer, under the store's lock. Readers fold the logs into memory
       (`MemoryTables`). So no reader slot is ever left behind, and lock.mdb, made anew each time, is never believed.

Layout of keys in the one unnamed LMDB database (its keys end at 511 bytes), numbers big-endian:
    0x00 name              -> u32 number of the view
    0x01 number            -> position: store id xor topic id (16), leader epoch i32, offset i64
    0x02 number key        -> value
    0x03 number blake3(key)-> u32 length, key, value         for keys over KEY_BYTES_MAX
each value preceded by u32 crc32c(LMDB key, rest).
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import os
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import blake3
import lmdb

from mqcore.log import layout
from mqcore.log.os_errors import EXHAUSTED, errno_in, os_errors, translated
from mqcore.log.overlay import Changes, Pair
from mqcore.log.view_pairs import (
    LONG_PAIR,
    PAIR,
    READERS_MAX,
    U32,
    Damaged,
    LmdbPairs,
    NoPairs,
    Reader,
    checked,
    pack,
    storage_error,
    stored_key_of,
    unpack,
)

if TYPE_CHECKING:
    from mqcore._native.io import Io

try:  # py-lmdb 3 brings the walker; without it every unclean environment is rebuilt
    from lmdb import verify as lmdb_verify
except ImportError:  # pragma: no cover
    lmdb_verify = None  # type: ignore[assignment]

DATA, LOCK, CLEAN = "data.mdb", "lock.mdb", "clean"
LOCK_BYTES = 128 + 64 * READERS_MAX  # of LMDB's lock table
_INTERRUPTS_MAX = 10  # signals that one call of LMDB may meet
_T = TypeVar("_T")
_DROP_CHUNK = 10_000  # pairs removed in one transaction: bounds LMDB's list of dirty pages
_NAME, _POSITION = b"\0", b"\1"
_POSITION_FORMAT = struct.Struct(">16siq")
# The wheel holds two liblmdb whose file formats differ: 0 is the 0.9 series. Older wheels hold only that one.
_LIBRARY: dict[str, Any] = {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}


class Position(NamedTuple):
    """How far into its log a view has come. offset: the next one to apply; leader_epoch: that of the record before.

    source: which log that is (`source_of`).
    """

    source: uuid.UUID
    leader_epoch: int
    offset: int


def source_of(store_id: bytes, topic_id: uuid.UUID) -> uuid.UUID:
    """The one name of a log among those of all stores: `__metadata` has the same topic id in each."""
    return uuid.UUID(int=int.from_bytes(store_id, "big") ^ topic_id.int)


class Tables(Protocol):
    def reader(self, view: str) -> Reader:
        """What is stored of a view at this moment; close it."""

    def position(self, view: str) -> Position | None: ...
    def commit(self, views: Sequence[tuple[str, Changes, Position]]) -> None: ...
    def drop(self, view: str) -> None: ...
    def close(self) -> None: ...


class _MemoryPairs:
    """Pairs that nobody changes any more."""

    def __init__(self, pairs: dict[bytes, bytes]) -> None:
        self.pairs = pairs
        self.get = pairs.get
        self._keys: list[bytes] | None = None

    def scan(self, low: bytes, high: bytes | None, *, reverse: bool = False) -> Iterator[Pair]:
        if self._keys is None:
            self._keys = sorted(self.pairs)
        first = bisect.bisect_left(self._keys, low)
        last = len(self._keys) if high is None else bisect.bisect_left(self._keys, high)
        keys = self._keys[first:last]
        return ((key, self.pairs[key]) for key in (reversed(keys) if reverse else keys))

    def raw(self) -> tuple[Callable[[bytes], bytes | None], bytes]:
        return self.get, b""

    def close(self) -> None:
        pass


class MemoryTables:
    """Tables for `:memory:` stores, read-only opens and tests: gone when closed."""

    def __init__(self) -> None:
        self._pairs: dict[str, _MemoryPairs] = {}
        self._positions: dict[str, Position] = {}

    def reader(self, view: str) -> Reader:
        return self._pairs.get(view) or NoPairs()

    def position(self, view: str) -> Position | None:
        return self._positions.get(view)

    def commit(self, views: Sequence[tuple[str, Changes, Position]]) -> None:
        for view, changes, position in views:
            before = self._pairs.get(view)
            pairs = dict(before.pairs) if before is not None else {}  # a copy: readers keep theirs
            for key, value in changes.items():
                if value is None:
                    pairs.pop(key, None)
                else:
                    pairs[key] = value
            self._pairs[view] = _MemoryPairs(pairs)
            self._positions[view] = position

    def drop(self, view: str) -> None:
        self._pairs.pop(view, None)
        self._positions.pop(view, None)

    def close(self) -> None:
        self._pairs, self._positions = {}, {}


class _LmdbReader:
    """What the pairs of an open environment say."""

    def __init__(self, env: Any, directory: str) -> None:
        self._env, self._directory = env, directory
        self._numbers: dict[str, bytes] = {}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._env.begin(buffers=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise storage_error(error, self._directory) from error

    def load_numbers(self) -> None:
        with self._reading() as txn, txn.cursor() as cursor:
            found = cursor.set_range(_NAME)
            while found and bytes(cursor.key()[:1]) == _NAME:
                key = bytes(cursor.key())
                self._numbers[key[1:].decode("utf-8", "replace")] = checked(key, cursor.value())
                found = cursor.next()

    def _number(self, view: str) -> bytes | None:
        return self._numbers.get(view)

    def reader(self, view: str) -> Reader:
        """Raises StorageError: too many readers at a time, …"""
        number = self._number(view)
        if number is None:
            return NoPairs()
        try:
            return LmdbPairs(self._env.begin(), number, self._directory)
        except lmdb.Error as error:
            raise storage_error(error, self._directory) from error

    def position(self, view: str) -> Position | None:
        """Return how far the view has come, None if nowhere. Raises Damaged."""
        number = self._number(view)
        if number is None:
            return None
        key = _POSITION + number
        with self._reading() as txn:
            found = txn.get(key)
            return None if found is None else _unpack_position(checked(key, found))

    def check_pairs(self) -> None:
        """Check every pair there is. Raises Damaged at the first that fails."""
        with self._reading() as txn, txn.cursor() as cursor:
            for stored_key, found in cursor:
                unpack(bytes(stored_key), found)


class LmdbTables(_LmdbReader):
    """Tables in STORE/views. Reads from any thread; commits and drops under the caller's lock."""

    def __init__(self, io: Io, directory: str, *, map_bytes: int, verify_bytes: int) -> None:
        """Open, or make, the environment of a directory that exists.

        map_bytes: address space, fixed for the life of this object. verify_bytes: the largest file that is walked
        after an unclean close. `dropped` says why what was there had to go, "" if it did not.
        Raises StorageError, StoreFormatError (a link or directory in a file's place).
        """
        self._io, self._directory = io, directory
        self.dropped, vouched = check_file(directory, verify_bytes)
        self._remove(CLEAN, LOCK, *([DATA] if self.dropped else []))
        super().__init__(self._open(map_bytes), directory)
        try:
            if not vouched:
                # The walk knows pages, not bytes: a flipped key sorts elsewhere, and would merely be missed.
                self.check_pairs()
            self.load_numbers()
        except Damaged as damage:
            self._env.close()
            self.dropped = str(damage)
            self._remove(LOCK, DATA)
            self._env, self._numbers = self._open(map_bytes), {}
        except BaseException:
            self._env.close()  # a second environment of one file in one process is refused
            raise

    def _remove(self, *names: str) -> None:
        removed = False
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._io.unlink(os.path.join(self._directory, name))
                removed = True
        if removed:
            # Before the first write: a mark of a clean close must not outlive a crash and vouch for later pages.
            self._io.sync_dir(self._directory)

    def _open(self, map_bytes: int) -> Any:
        # LMDB maps its lock table for writing and only sets its length: on a full disk the first write to the hole is
        # a SIGBUS. Written here, it has its blocks, or the error is one that can be caught.
        self._io.write_at(os.path.join(self._directory, LOCK), bytes(LOCK_BYTES), 0)
        # sync and metasync stay on: without them a power loss can leave a corrupt file, not just an old one.
        return self._uninterrupted(
            lambda: lmdb.open(
                self._directory, map_size=map_bytes, mode=0o600, readahead=False, max_readers=READERS_MAX, **_LIBRARY
            )
        )

    def _uninterrupted(self, call: Callable[[], _T]) -> _T:
        """`call`, again where a signal interrupted it (LMDB repeats only some of its system calls); an error is ours."""
        for left in reversed(range(_INTERRUPTS_MAX)):
            try:
                return call()
            except lmdb.Error as error:
                if left == 0 or errno_in(str(error)) != errno.EINTR:
                    raise storage_error(error, self._directory) from error
        raise AssertionError("the last turn returns or raises")

    # -- changing ---------------------------------------------------------------------------------------------------

    def commit(self, views: Sequence[tuple[str, Changes, Position]]) -> None:
        """Write the changes and positions of all views in one synced transaction.

        Raises StorageError, DiskFullError: then nothing is changed.
        """
        self._numbers = self._uninterrupted(lambda: self._commit(views))

    def _commit(self, views: Sequence[tuple[str, Changes, Position]]) -> dict[str, bytes]:
        """One transaction; the numbers of the views after it."""
        numbers = dict(self._numbers)
        with self._env.begin(write=True) as txn:
            for view, changes, position in views:
                number = numbers.get(view)
                if number is None:
                    last = max((U32.unpack(n)[0] for n in numbers.values()), default=0)
                    numbers[view] = number = U32.pack(last + 1)
                    txn.put(_NAME + view.encode(), pack(_NAME + view.encode(), number))
                for key, value in changes.items():
                    stored_key = stored_key_of(number, key)
                    if value is None:
                        txn.delete(stored_key)
                    elif stored_key[:1] == PAIR:
                        txn.put(stored_key, pack(stored_key, value))
                    else:
                        txn.put(stored_key, pack(stored_key, U32.pack(len(key)) + key + value))
                txn.put(
                    _POSITION + number,
                    pack(_POSITION + number, _POSITION_FORMAT.pack(position[0].bytes, *position[1:])),
                )
        return numbers

    def drop(self, view: str) -> None:
        """Take a view away: its position in the first transaction, so that a crash half way leaves none believed."""
        number = self._number(view)
        if number is None:
            return
        self._uninterrupted(lambda: self._drop_position(number))
        for kind in (PAIR, LONG_PAIR):
            while self._uninterrupted(functools.partial(self._drop_some, kind + number)):
                pass

    def _drop_position(self, number: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.delete(_POSITION + number)

    def _drop_some(self, head: bytes) -> bool:
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            for _ in range(_DROP_CHUNK):
                if not cursor.set_range(head) or not cursor.key().startswith(head):
                    return False
                cursor.delete()
        return True

    def close(self) -> None:
        """Close, and leave the digest of the file that the next open checks. Raises StorageError."""
        self._env.close()
        path = os.path.join(self._directory, DATA)
        with os_errors("cannot read the views back", path):
            digest, size = _digest(path)
        self._io.write_atomic(os.path.join(self._directory, CLEAN), _format_mark(digest, size))

    def abandon(self) -> None:
        """Close without a digest, as a crash leaves it (tests, and a close after a failed commit)."""
        self._env.close()


def read_view(directory: str, view: str) -> tuple[Position, dict[bytes, bytes]] | None:
    """Return a view's position and pairs, None if it is not there; changes nothing. For a file that passed `check_file`
    and that no process has open. Raises Damaged, StorageError."""
    try:
        # One file, without lock.mdb: a check must not make files.
        env = lmdb.open(
            os.path.join(directory, DATA), subdir=False, readonly=True, lock=False, readahead=False, **_LIBRARY
        )
    except lmdb.Error as error:
        if not os.path.exists(os.path.join(directory, DATA)):
            return None
        raise storage_error(error, directory) from error
    try:
        reader = _LmdbReader(env, directory)
        reader.check_pairs()
        reader.load_numbers()
        position = reader.position(view)
        return None if position is None else (position, dict(reader.reader(view).scan(b"", None)))
    finally:
        env.close()


def check_file(directory: str, verify_bytes: int) -> tuple[str, bool]:
    """Return (why the environment must not be opened or "", whether a digest vouches for each byte). Reads only."""
    path = os.path.join(directory, DATA)
    for name in (DATA, LOCK, CLEAN):
        layout.require_kind(os.path.join(directory, name), "file")
    try:
        size = os.stat(path).st_size
        mark = _read_mark(os.path.join(directory, CLEAN))
        if mark:
            digest, size = _digest(path)
            same = mark == _format_mark(digest, size)
            return ("", True) if same else ("the digest of the clean close differs", False)
        if size == 0:
            return "the file is empty", False
        if lmdb_verify is None or size > verify_bytes:
            return f"not closed cleanly, and {size} bytes are too many to walk", False
        problems: list[str] = lmdb_verify.verify(directory)  # type: ignore[no-untyped-call]
        return (f"damaged: {problems[0]}" if problems else ""), False
    except FileNotFoundError:
        return "", True
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise translated(error, "cannot check the views", path) from error
        return f"unreadable: {error.strerror}", False
    except Exception as error:  # the walker promises findings, not a taxonomy of exceptions; any of them means "no"
        return f"damaged: {error}", False


def _read_mark(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(200)
    except FileNotFoundError:
        return b""


def _format_mark(digest: str, size: int) -> bytes:
    return f"blake3 {digest} {size}\n".encode()


def _digest(path: str) -> tuple[str, int]:
    """Return (BLAKE3 in hex, size) of a file; read in pieces, never mapped: a bad sector is an error, not a SIGBUS."""
    hasher, size = blake3.blake3(), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
            size += len(piece)
    return hasher.hexdigest(), size


def _unpack_position(value: bytes) -> Position:
    source, leader_epoch, offset = _POSITION_FORMAT.unpack(value)
    return Position(uuid.UUID(bytes=source), leader_epoch, offset)
