"""Read one partition in order: slices of segments become columns, compressed batches are inflated, errors get a place.

Invariants:
    1. Offsets handed out rise strictly, and no visible record between two of them is left out: control batches, data of
       aborted transactions and offsets that compaction removed are the only gaps.
    2. `position` is the offset of the next record to hand out, exactly, whatever was decoded ahead.
    3. Each batch's CRC is checked before one of its records is handed out, once per slice; batches must follow each
       other (their base offsets lie outside the CRC).
    4. An error says topic, partition, path, position and offset, moves nothing, and comes again at the next call.
    5. Between calls at most one slice (max_bytes, or one batch) and its columns are held; at the log's end none.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import numpy as np

from mqcore import codecs
from mqcore._native.arrow_layout import gather, validity, views
from mqcore._native.batch import check, header, inflated_header
from mqcore._native.columns import Columns, Record, RecordIterator, Values, decode
from mqcore.errors import CorruptBatchError, InvariantError, MQError, RecordTooLargeError, UnsupportedFormatError
from mqcore.log.layout import parse_segment_file
from mqcore.log.tail import LOST
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mqcore._native.segment import Segment
    from mqcore.log.segments import SegmentEntry

__all__ = [
    "Columns",
    "PartitionReader",
    "ReadableLog",
    "Record",
    "RecordIterator",
    "SliceLike",
    "Values",
    "first_at_or_after",
    "gather",
    "search_time",
    "validity",
    "views",
]

BATCH_HEADER_BYTES = 61
# One batch may inflate to this: above any batch that we take (limits.h), far below what a bomb of 1 MiB can claim.
INFLATED_BATCH_BYTES_MAX = 256 << 20
# Compressed batches are inflated together, like the slices that uncompressed ones come in, up to about this much.
INFLATED_RUN_BYTES = 1 << 20
# Decode at least so many records at a time, whatever is asked for: a call has a fixed cost.
RUN_RECORDS_MIN = 1000


class MappingLike(Protocol):
    """A buffer (as `memoryview` takes it) that knows its file."""

    @property
    def path(self) -> str: ...


class SliceLike(Protocol):
    """Whole batches of one segment: mapping[start:end]; compacted: offsets may have gaps."""

    @property
    def mapping(self) -> MappingLike: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def compacted(self) -> bool: ...


class ReadableLog(Protocol):
    """What a reader needs of a partition (`PartitionLog`). If it also has `aborted(from_offset, to_offset)`, a list of
    (producer id, first offset, last offset, …), read_committed leaves those transactions out."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    def read(self, offset: int, *, max_bytes: int = ..., isolation: IsolationLevel = ...) -> SliceLike | None: ...
    def visible_end(self, isolation: IsolationLevel = ...) -> int: ...


Log = TypeVar("Log", bound=ReadableLog, covariant=True)


class PartitionReader(Generic[Log]):
    """Reads one partition from an offset on. Not for several threads at once.

    offset: where to begin. max_bytes: of a slice; a larger batch is read all the same. copy: read from private memory:
    what is handed out then pins no mapping, and no later truncation or bad sector can reach it.
    """

    def __init__(
        self,
        log: Log,
        offset: int = 0,
        *,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
        max_bytes: int = 1 << 20,
        copy: bool = False,
        check_crc: bool = True,
    ) -> None:
        self.log, self.isolation, self.max_bytes, self.copy, self.check_crc = log, isolation, max_bytes, copy, check_crc
        self.seek(offset)

    def seek(self, offset: int) -> None:
        """Go to an offset, without a check: the next `read` says if it is out of range."""
        self._fetch = offset  # of what is not decoded yet
        self._expected = -1  # base offset of the next batch, where the batch before it vouches for that
        self._rest: Columns | None = None  # decoded, not handed out
        self._segment: weakref.ref[Segment] | None = None  # of the last slice
        self._path = ""  # its file
        self._tail = -1  # position in it behind what was decoded, while nothing else is known to follow
        self._drop()

    def _drop(self) -> None:
        self._source: Buffer | None = None
        self._at = self._end = self._shift = 0  # in the source; shift: where the source begins in the file
        self._compacted = False
        self._aborted: Sequence[tuple[int, ...]] | None = None  # None: not asked for yet

    @property
    def position(self) -> int:
        """Offset of the next record to hand out (or of a gap before it)."""
        return self._rest.first_offset if self._rest is not None else self._fetch

    def read(self, max_records: int = 10_000) -> Columns | None:
        """The next records, at most max_records (> 0) and never none; None at the visible end.

        Raises OffsetOutOfRangeError; CorruptBatchError (a damaged range: seek past it, or repair); StorageError.
        """
        while self._rest is None:
            if self._source is None and not self._open_slice():
                return None
            columns = self._decode(max(max_records, RUN_RECORDS_MIN))
            self._fetch = columns.next_offset
            if len(columns):
                self._rest = columns
            if self._at >= self._end:
                self._tail = -1 if self._compacted or self._segment is None else self._at + self._shift
                self._drop()
        taken = self._rest
        if len(taken) > max_records:
            self._rest = taken.slice(max_records, len(taken))
            return taken.slice(0, max_records)
        self._rest = None
        return taken

    def unread(self, columns: Columns) -> None:
        """Hand out again, first of all, what the last read handed out, or its end (a window up to its last record)."""
        if not len(columns):
            return
        if columns.next_offset != self.position:
            raise ValueError("only the end of what was read last can be given back")
        if self._rest is None:
            self._rest = columns
        else:  # two windows: simplest is to decode again
            self.seek(columns.first_offset)

    def _open_slice(self) -> bool:
        if self._tail >= 0 and (more := self._open_tail()) is not None:
            return more
        found = self.log.read(self._fetch, max_bytes=self.max_bytes, isolation=self.isolation)
        if found is None:
            return False
        segment = getattr(found, "segment", None)
        self._segment = None if segment is None else weakref.ref(segment)
        self._source, self._at, self._end = cast("Buffer", found.mapping), found.start, found.end
        self._shift, self._path, self._compacted = 0, found.mapping.path, found.compacted
        if self._expected < 0 and found.start == 0 and not found.compacted:
            # A segment's name vouches for its first batch, as the batch before does for others.
            name = parse_segment_file(os.path.basename(self._path))
            self._expected = -1 if name is None else name.base_offset
        self._take_copy()
        return True

    def _open_tail(self) -> bool | None:
        """The slice behind the last one, where nothing but appends happened since. False: nothing is there yet. None:
        only a whole look can tell."""
        start, segment = self._tail, self._segment() if self._segment is not None else None
        if segment is None:
            return None
        found = self.log.tail(segment, start, self._fetch, self.max_bytes, self.isolation)  # type: ignore[attr-defined]
        if not found:
            return None if found is LOST else False
        self._source, self._at, (_, self._end) = found[0], start, found
        self._shift = 0
        self._take_copy()
        return True

    def _take_copy(self) -> None:
        if self.copy:
            start, end = self._at, self._end
            self._source = bytes(memoryview(cast("Buffer", self._source))[start:end])
            self._at, self._end, self._shift = 0, end - start, start

    def _decode(self, max_records: int) -> Columns:
        """The next run of the slice. Moves on past it; an error moves nothing."""
        assert self._source is not None  # read() opened the slice
        try:
            columns, at = self._columns(self._source, self._at, self._end, max_records, self.check_crc)
            if not len(columns) and columns.compressed_next and at == self._at:
                columns, at = self._inflate(self._source, max_records)
        except (CorruptBatchError, RecordTooLargeError, UnsupportedFormatError) as error:
            raise self._placed(error) from error
        if at <= self._at:
            raise InvariantError("a read did not move on", path=self._path, position=self._at + self._shift)
        self._at, self._expected = at, columns.expected_offset
        return columns

    def _columns(self, source: Buffer, at: int, end: int, max_records: int, check_crc: bool) -> tuple[Columns, int]:
        columns, position = decode(
            source,
            at,
            end,
            min_offset=self._fetch,
            max_records=max_records,
            check_crc=check_crc,
            first_offset=self._expected,
            contiguous=not self._compacted,
            aborted=self._aborted or (),
            topic=self.log.topic,
            partition=self.log.partition,
        )
        if columns.transactional and self._aborted is None and self.isolation == IsolationLevel.READ_COMMITTED:
            # Asked only now: most topics never see a transaction, and the list costs a look at index files.
            find = getattr(self.log, "aborted", None)
            self._aborted = () if find is None else find(self._fetch, self.log.visible_end(self.isolation))
            if self._aborted:
                return self._columns(source, at, end, max_records, check_crc)
        return columns, position

    def _inflate(self, source: Buffer, max_records: int) -> tuple[Columns, int]:
        """Inflate the compressed batches that come next into plain ones, and decode those: one decoder for all.

        Returns the columns and the position in the source of the first batch that they do not cover.
        """
        view = memoryview(source)
        parts: list[Buffer] = []
        starts, positions = [0], [self._at]  # of batch i: in the inflated bytes, and in the source
        records = 0
        while positions[-1] < self._end and starts[-1] < INFLATED_RUN_BYTES:
            at = positions[-1]
            try:
                head = header(source, at, self._end)
                if head.codec == 0 or (parts and records + head.record_count > max_records):
                    break
                check(source, at, at + head.size)
                body = codecs.decompress(
                    head.codec, view[at + BATCH_HEADER_BYTES : at + head.size], limit=INFLATED_BATCH_BYTES_MAX
                )
                parts += [inflated_header(source, at, len(body)), body]
            except MQError:
                if not parts:
                    raise
                break  # what comes before it is sound; the next call begins here and fails
            records += head.record_count
            starts.append(starts[-1] + BATCH_HEADER_BYTES + len(body))
            positions.append(at + head.size)
        try:
            columns, end = self._columns(b"".join(parts), 0, starts[-1], max_records, False)
        except CorruptBatchError as error:  # in the first batch, always: a later one would have ended the run
            error.where["position"] = self._at
            raise
        return columns, positions[bisect_left(starts, end)]

    def _placed(self, error: MQError) -> CorruptBatchError:
        """The error of a decoder, with the place in the store. Whatever stored bytes are wrong in, they are damaged."""
        position, offset = error.where.get("position"), error.where.get("offset")
        return CorruptBatchError(
            error.what,
            hint="Run `mqcore log verify`, then `mqcore log repair`",
            topic=self.log.topic,
            partition=self.log.partition,
            path=self._path,
            position=(self._at if position is None else position) + self._shift,
            offset=self._fetch if offset is None else offset,
        )


def first_at_or_after(
    log: ReadableLog,
    offset: int,
    timestamp_ms: int,
    *,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first visible record from `offset` on whose timestamp is timestamp_ms or later.

    None if there is none. Timestamps need not rise: the first in offset order counts, as Kafka's ListOffsets has it.
    """
    reader = PartitionReader(log, offset, isolation=isolation)
    while (columns := reader.read()) is not None:
        late = np.flatnonzero(columns.timestamps >= timestamp_ms)
        if len(late):
            return int(columns.offsets[late[0]]), int(columns.timestamps[late[0]])
    return None


def search_time(
    log: ReadableLog, entries: Sequence[SegmentEntry], log_start: int, timestamp_ms: int
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first visible record at or after timestamp_ms in these segments of the log."""
    for entry in entries:
        if entry.max_timestamp < timestamp_ms or entry.next_offset <= log_start:
            continue
        candidate = entry.segment().lookup_time(timestamp_ms)
        if candidate < 0:
            continue
        found = first_at_or_after(log, max(candidate, log_start), timestamp_ms)
        if found is not None:
            return found
    return None


def latest_values(log: ReadableLog, offset: int) -> Iterator[tuple[int, int, dict[bytes, bytes | None]]]:
    """(records, offset after them, {key: value, None for a tombstone}) of the committed records from `offset` on, a
    run of batches at a time; compressed ones too. Raises CorruptBatchError, OffsetOutOfRangeError, StorageError."""
    reader = PartitionReader(log, offset, copy=True)
    while (columns := reader.read()) is not None:
        changes: dict[bytes | None, bytes | None] = dict(
            zip(columns.keys.iter_bytes(), columns.values.iter_bytes(), strict=True)
        )
        changes.pop(None, None)  # a record without a key says nothing about one
        yield len(columns), columns.next_offset, changes  # type: ignore[misc]
