"""One segment of a partition log: <base offset, 20 digits>.log and its index files, laid out as Kafka's.

Offsets are record numbers, positions are bytes in the .log file, times are milliseconds since 1970.
Threads: one appends; any number read, flush and look up beside it. No use of an object from several threads crashes.
"""

from os import PathLike

from _typeshed import ReadableBuffer, WriteableBuffer

from mqcore._native.io import Io
from mqcore._native.producer_state import Producers

_Path = str | PathLike[str]

class Segment:
    """An open segment.

    Errors of all methods: DiskFullError, StorageError (path, errno, position); StoreClosedError after close, and for
    writes to a sealed or read-only segment. After a failed fsync the segment is `failed` for good: appends and flushes
    raise StorageError (Linux marks the failed pages clean: a second fsync would prove nothing).
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises TypeError: create and open make segments."""

    @classmethod
    def create(
        cls,
        io: Io,
        directory: _Path,
        base_offset: int,
        *,
        index_interval_bytes: int,
        index_max_bytes: int,
        segment_bytes: int,
        preallocate: bool,
    ) -> Segment:
        """Make the files of a new, empty segment (0600). The caller syncs the directory.

        FileExistsError: the .log file is there already. On an error no .log file is left behind.
        """

    @classmethod
    def open(
        cls,
        io: Io,
        directory: _Path,
        base_offset: int,
        *,
        size: int,
        next_offset: int,
        writable: bool,
        index_interval_bytes: int,
        index_max_bytes: int,
        segment_bytes: int,
        preallocate: bool,
    ) -> Segment:
        """Open a segment whose valid data ends at byte `size` and offset `next_offset` (as recover, a clean close or
        the writer's marks say). Touches no file: files are opened at the first use that needs them.
        """

    @property
    def path(self) -> str:
        """Path of the .log file."""
    @property
    def base_offset(self) -> int: ...
    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""
    @property
    def size(self) -> int:
        """Bytes of data; past them the file is not data."""
    @property
    def flushed_size(self) -> int:
        """Bytes that a flush made durable (after open: 0, nothing is known)."""
    @property
    def index_full(self) -> bool:
        """An index reached index_max_bytes: roll. (Appends go on, unindexed.)"""
    @property
    def max_timestamp(self) -> int:
        """The greatest max_timestamp of a batch, -1 in an empty segment."""
    @property
    def first_timestamp(self) -> int:
        """max_timestamp of the first batch (for time-based roll), -1 in an empty segment."""
    @property
    def failed(self) -> bool:
        """A flush failed: final."""
    @property
    def closed(self) -> bool: ...
    def append(
        self, batches: WriteableBuffer, base_offset: int, leader_epoch: int, append_time: int = -1
    ) -> tuple[int, int]:
        """Append whole v2 batches (back to back); return (position of the first byte, next offset).

        Patches `batches` in place: offsets from base_offset (>= next_offset) on, leader_epoch, and with append_time
        >= 0 the log-append time and CRC. CRCs are not checked (check_batches does). One gathered write; durable after
        flush. On an error the segment is as before, the buffer may be patched. InvariantError: the chunk would pass
        segment_bytes or an offset delta of 2**31-1 (roll first; one chunk of up to 2 GiB - 1 fits an empty segment).
        CorruptBatchError: the bytes are no whole batches. ValueError: empty, or base_offset too low.
        """

    def roomy(self, incoming: int, last_offset: int, timestamp: int, segment_bytes: int, segment_ms: int) -> bool:
        """Whether the segment surely takes the next `incoming` bytes, up to last_offset and of this largest timestamp:
        mqcore.log.segments.roll_reason has the last word where this says no."""

    def flush(self) -> None:
        """fdatasync of the .log file: data appended before the call is durable. May run beside an append."""

    def seal(self) -> None:
        """At roll: last time index entry, indexes written, spare space freed, all files synced; read-only then. Again:
        nothing."""

    def trim(self) -> None:
        """Before a roll: cut off what a failed append left and could not take back. Raises StorageError: write nothing
        past it, in no segment."""

    def write_indexes(self) -> None:
        """Write index entries that are still only in memory to their files (not synced)."""

    def lookup(self, offset: int) -> int:
        """Position of the batch that holds offset, or of the first batch after it; `size` if there is none."""

    def lookup_batch_ends(self, start: int, max_bytes: int, limit_offset: int) -> int:
        """End position of the whole batches from position start (a batch's first byte): at most max_bytes, but at
        least one batch, all with a last offset < limit_offset; `start` if the first one is not.
        """

    def tail(self, start: int, max_bytes: int, limit_offset: int) -> tuple[Mapping, int] | None:
        """(mapping, end) of what was appended behind `start`, where a reader was at the end of the data: bounds as
        lookup_batch_ends, after a look at the file's length (a reader's), populated. None: nothing more in this file.
        """

    def lookup_time(self, timestamp: int) -> int:
        """Base offset of the first batch whose max_timestamp >= timestamp, -1 if there is none."""

    def view(self, end: int) -> Mapping:
        """A read-only mapping that covers bytes [0, end) at least. The same object is reused while it suffices.

        ValueError: end > size.
        """

    def append_txn(self, producer_id: int, first_offset: int, last_offset: int, last_stable_offset: int) -> None:
        """Add an aborted transaction to the .txnindex file (made at the first one; durable after seal)."""

    def aborted(self, from_offset: int, to_offset: int) -> list[tuple[int, int, int, int]]:
        """Aborted transactions (producer id, first, last, last stable offset) that overlap [from_offset, to_offset).

        Only those whose marker lies in this segment: ask later segments too until one has last stable >= to_offset.
        """

    def truncate_to(self, offset: int) -> None:
        """Remove the batch that holds offset and all later ones, from the log and its indexes, durably.

        Where views of removed bytes were handed out, the log is copied and renamed, so that they stay readable.
        """

    def refresh(self, size: int, next_offset: int) -> None:
        """Read-only opener: the writer's published end moved. ValueError on a writable segment or a step back."""

    def release_fd(self) -> None:
        """Close the file descriptor (flushes first if dirty); reopened by need. Views stay valid."""

    def close(self) -> None:
        """Write the indexes, free spare space, close. Does not flush. Views stay valid. Idempotent."""

    def __enter__(self) -> Segment: ...
    def __exit__(self, *exc: object) -> None: ...

class Mapping:
    """Read-only bytes of a segment; memoryview(mapping) or numpy share them and keep them mapped."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises TypeError: Segment.view makes mappings."""

    @property
    def size(self) -> int:
        """Bytes that may be read: the greatest `end` asked for so far. A buffer has the size of its making."""
    @property
    def path(self) -> str: ...
    @property
    def exports(self) -> int:
        """Buffers handed out and not yet released."""
    def populate(self, start: int, end: int) -> None:
        """Bring bytes [start, end) into memory. StorageError (errno, position) for a bad sector or a truncated file:
        here, instead of a SIGBUS at the read.
        """
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...

class Recovered:
    """What recover found in a segment's .log file."""

    @property
    def kind(self) -> str:
        """ "clean", "torn" (the last batch is incomplete), "zeros" (only zero bytes follow) or "bad" (anything else)."""
    @property
    def valid_size(self) -> int:
        """Bytes up to the end of the last good batch before the problem."""
    @property
    def next_offset(self) -> int: ...
    @property
    def batches(self) -> int:
        """Good batches from from_position on."""
    @property
    def records(self) -> int: ...
    @property
    def max_timestamp(self) -> int:
        """Of the whole valid part, -1 if empty."""
    @property
    def offset_of_max_timestamp(self) -> int: ...
    @property
    def file_size(self) -> int: ...
    @property
    def problem(self) -> str:
        """What is wrong at problem_position, "" if nothing is."""
    @property
    def problem_position(self) -> int:
        """-1 if clean."""
    @property
    def valid_after(self) -> int:
        """Position of a good batch with a plausible offset after the problem, else -1. If there is one, the problem
        is damage inside the log and no torn tail.
        """
    @property
    def last_leader_epoch(self) -> int:
        """Of the last good batch, -1 if none."""
    @property
    def markers(self) -> list[tuple[int, int, int, int]]:
        """(offset, producer id, epoch, kind: 0 abort, 1 commit) of the transaction markers at or past markers_from."""

def recover(
    io: Io,
    directory: _Path,
    base_offset: int,
    *,
    from_position: int = 0,
    from_offset: int = -1,
    end_offset: int = 0,
    max_batch_bytes: int,
    allow_gaps: bool,
    index_interval_bytes: int = 4096,
    index_max_bytes: int = 10 << 20,
    sync_indexes: bool = True,
    write_indexes: bool = True,
    producers: Producers | None = None,
    markers_from: int | None = None,
) -> Recovered:
    """Check a segment's .log file and rebuild its index files for the valid part (write_indexes=False: write nothing).

    From from_position (a batch's first byte, whose base offset is from_offset; -1: unknown) on every header, CRC and,
    unless allow_gaps, the continuity of offsets is checked; before it only headers are read, for the index. end_offset:
    base offset of the next segment that holds data, 0: none; a batch that reaches it is a problem. The .log file is not
    changed: the caller cuts it (Io.truncate to valid_size) or reports damage. Index files are replaced atomically;
    sync_indexes=False leaves their durability to the caller (Io.sync_filesystem). producers: producer state as of
    from_position, carried on through the valid part: without it the abort of a transaction that began before keeps the
    entry that the old .txnindex has. markers_from: list the markers at or past it.
    Raises FileNotFoundError, StorageError (a bad sector). Damage is not an exception: see Recovered.
    """

def check_batches(batches: ReadableBuffer, *, max_batch_bytes: int, walk: bool) -> int:
    """Validate a chunk from outside: headers, CRCs, dense offsets, with walk each record of uncompressed batches.

    Returns the number of offsets that it takes. CorruptBatchError, RecordTooLargeError (a batch over max_batch_bytes),
    UnsupportedFormatError (message format 0 or 1).
    """

def allocate_fail_at(n: int) -> bool:
    """Tests: the n-th allocation of this module's core in this thread from now on fails (0: none). False: the build
    cannot (it needs MQCORE_CFLAGS=-DMQCORE_ALLOC_FAULT).
    """
