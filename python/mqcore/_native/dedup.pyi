from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_State = Literal["new", "duplicate", "pending"]

class Dedup:
    """The 64-bit ids (Snowflakes: 41 bits of ms, 10 of worker, 12 of sequence) that were seen in a window of time.

    epoch_ms: millisecond 0 of the ids, ms since 1970 (default 2020-01-01). bucket_ms: ids are kept, and expire, in
    buckets of that many ms: a power of two up to 1,024. max_bytes: bound on memory, at least 64 KiB. ValueError.
    Any thread may call; calls take turns. Set ids after their records are appended, never before.
    """

    def __new__(cls, *, epoch_ms: int = ..., bucket_ms: int = 256, max_bytes: int = ...) -> Self: ...
    def test_and_set(self, id: int, offset: int = -1, /) -> bool:
        """Whether the id was seen before (or is pending); it is now. offset: of its record in the log.
        WindowFullError: the cap is reached, nothing changed."""

    def test_and_set_many(self, ids: Buffer, base_offset: int = -1, /) -> NDArray[np.bool_]:
        """The same for a contiguous buffer of 64-bit integers, shape (n,); record i has offset base_offset + i.
        More than 8,192 ids run without the GIL: the buffer must not change meanwhile. WindowFullError: `done` in its
        `where` says how many of the first ids were set."""

    def contains(self, id: int, /) -> bool:
        """Whether the id was seen or is pending."""

    def __contains__(self, id: int, /) -> bool: ...
    def contains_many(self, ids: Buffer, /) -> NDArray[np.bool_]: ...
    def find(self, id: int, /) -> tuple[_State, int, int]:
        """(state, min_offset, max_offset): where in the log the id's first record lies; -1 if unknown."""

    def find_many(self, ids: Buffer, /) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(min_offset, max_offset) of each id, shape (n,): -1 unknown, -2 the id was never seen."""

    def add_pending(self, tag: int, id: int, offset: int = -1, /) -> bool:
        """Note an id of an open transaction (tag: its producer id, unsigned 64-bit). True: seen or pending already,
        nothing changed. WindowFullError."""

    def add_pending_many(self, tag: int, ids: Buffer, base_offset: int, /) -> None:
        """Note ids of an open transaction, none of which is seen or pending; id i has offset base_offset + i.
        WindowFullError: `done` says how many of the first ids were noted."""

    def pending_many(self, ids: Buffer, /) -> NDArray[np.int64]:
        """The offset of each id that is pending, shape (n,); -2: it is not."""

    def confirm(self, tag: int, /) -> int:
        """The transaction committed: its ids are set; how many. WindowFullError: call again after expire."""

    def abort(self, tag: int, /) -> int:
        """The transaction aborted: its ids were never seen; how many."""

    def expire(self, before_ms: int, /) -> int:
        """Drop the buckets that end at or before before_ms (ms since 1970); how many ids left."""

    def pack(self, before_ms: int = ..., /) -> None:
        """Pack the buckets that end at or before before_ms (default: all) into their smallest form. All but the last
        few are packed by themselves; a late id opens its bucket again."""

    def stats(self) -> dict[str, Any]:
        """ids, pending, bytes_used, max_bytes, buckets, buckets_open, oldest_ms, newest_ms (ms since 1970, or -1)."""

    def __len__(self) -> int:
        """Ids that are set; pending ones are not."""

    @property
    def bytes_used(self) -> int: ...
    def serialize(self) -> bytes:
        """A snapshot, pending ids included."""

    @classmethod
    def deserialize(cls, snapshot: Buffer, *, max_bytes: int = ...) -> Self:
        """The set that a snapshot holds. CorruptBatchError, UnsupportedFormatError (another version),
        WindowFullError (larger than max_bytes): never a wrong set."""

class Dedup128:
    """The 128-bit ids that were seen in a window of time: of arrival, in ms since 1970, as the caller gives it.
    A hit gives the first record's offset. Otherwise as Dedup."""

    def __new__(cls, *, max_bytes: int = ...) -> Self: ...
    def test_and_set(self, id: Buffer, now_ms: int, offset: int = -1, /) -> bool:
        """id: 16 bytes (ValueError otherwise), such as uuid.UUID.bytes."""

    def test_and_set_many(self, ids: Buffer, now_ms: int, base_offset: int = -1, /) -> NDArray[np.bool_]:
        """ids: n * 16 bytes."""

    def find(self, id: Buffer, /) -> tuple[_State, int]:
        """(state, offset of the first record with this id, -1 if unknown)."""

    def find_many(self, ids: Buffer, /) -> NDArray[np.int64]:
        """The offset of the first record with each of the ids (n * 16 bytes): -1 unknown, -2 the id was never seen."""

    def __contains__(self, id: Buffer, /) -> bool: ...
    def add_pending(self, tag: int, id: Buffer, offset: int = -1, /) -> bool: ...
    def add_pending_many(self, tag: int, ids: Buffer, base_offset: int, /) -> None:
        """Note ids of an open transaction, none of which is seen or pending; id i has offset base_offset + i.
        WindowFullError: `done` says how many of the first ids were noted."""

    def pending_many(self, ids: Buffer, /) -> NDArray[np.int64]:
        """The offset of each id that is pending, shape (n,); -2: it is not."""

    def confirm(self, tag: int, now_ms: int, /) -> int: ...
    def abort(self, tag: int, /) -> int: ...
    def expire(self, before_ms: int, /) -> int:
        """Forget what arrived before before_ms; how many ids."""

    def stats(self) -> dict[str, Any]:
        """ids, pending, bytes_used, max_bytes."""

    def __len__(self) -> int: ...
    @property
    def bytes_used(self) -> int: ...
    def serialize(self) -> bytes: ...
    @classmethod
    def deserialize(cls, snapshot: Buffer, *, max_bytes: int = ...) -> Self: ...
