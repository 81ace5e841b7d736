"""The reading half of a partition: its numbers, and slices of its segments.

Invariants:
    1. Nothing at or above the visible end is handed out (R11). Readers take no lock, unless a segment was taken from
       under them.
    2. Where offsets may have gaps, a sealed segment is compared with its digest before its first read.
    3. A handle that was closed meanwhile is looked up again: retention and compaction change which segments there are.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from mqcore._native import batch as native_batch
from mqcore.errors import (
    CorruptBatchError,
    OffsetOutOfRangeError,
    StorageError,
    StoreClosedError,
    StoreFormatError,
    UnknownTopicError,
)
from mqcore.log import layout, read_errors, seal, segment_swap
from mqcore.log.offsets import Offsets
from mqcore.log.partition_ports import PartitionHost, Slice
from mqcore.log.tail import Tail, tail_of
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from mqcore._native.segment import Segment
    from mqcore.config.topic import TopicConfig
    from mqcore.log.aborted import Aborted, AbortedTransactions
    from mqcore.log.segments import SegmentEntry, SegmentSet

READ_COMMITTED = IsolationLevel.READ_COMMITTED


class ReadablePartition:
    """What PartitionLog has for readers. The attributes are PartitionLog's."""

    host: PartitionHost
    topic: str
    partition: int
    config: TopicConfig
    directory: str
    cleaned: int
    deleted: bool
    _segments: SegmentSet
    _offsets: Offsets
    _aborted: AbortedTransactions
    _lock: threading.Lock

    # -- offsets and segments ---------------------------------------------------------------------------------------

    @property
    def offsets(self) -> Offsets:
        """The four numbers, as of one moment."""
        return self._offsets

    @property
    def log_start_offset(self) -> int:
        return self.offsets.log_start

    @property
    def last_stable_offset(self) -> int:
        return self.offsets.last_stable

    @property
    def high_watermark(self) -> int:
        return self.offsets.high_watermark

    @property
    def log_end_offset(self) -> int:
        return self.offsets.log_end

    @property
    def segments(self) -> tuple[SegmentEntry, ...]:
        """The segments' numbers, ascending; opens nothing."""
        return self._segments.entries

    @property
    def size(self) -> int:
        """Bytes of data in all segments."""
        return self._segments.size

    def visible_end(self, isolation: IsolationLevel = READ_COMMITTED) -> int:
        """The first offset that a reader does not see."""
        offsets = self.offsets
        return offsets.last_stable if isolation == READ_COMMITTED else offsets.high_watermark

    def check_there(self) -> None:
        """Under `_lock`: for good, as far as what follows is concerned. A close and a delete take it after they began."""
        self.host.check_usable()
        if self.deleted:
            raise UnknownTopicError("the topic was deleted", topic=self.topic, partition=self.partition)

    # -- read -------------------------------------------------------------------------------------------------------

    def read(
        self, offset: int, *, max_bytes: int = 1 << 20, isolation: IsolationLevel = READ_COMMITTED
    ) -> Slice | None:
        """Whole batches from the one that holds `offset` (or the next after it) on: at most max_bytes, but at least
        one batch, and nothing at or past the visible end. None: nothing there yet.

        Raises OffsetOutOfRangeError (below the log start or past the log end), CorruptBatchError (a damaged range:
        seek past `next_offset` in its `where`), StorageError. Takes no lock.
        """
        for _ in range(3):
            self.check_there()
            offsets = self.offsets
            end = offsets.last_stable if isolation == READ_COMMITTED else offsets.high_watermark
            if not offsets.log_start <= offset <= offsets.log_end:
                raise read_errors.out_of_range("offset out of range", self, offset, offsets)
            if offset >= end:
                return None
            try:
                return self._read(offset, max_bytes, end)
            except (FileNotFoundError, StoreClosedError, StorageError) as error:
                self._look_again_after(error)
            except CorruptBatchError as error:
                raise read_errors.placed(error, self, offset) from error
        raise StorageError("segment files are missing", path=self.directory, offset=offset)

    def _read(self, offset: int, max_bytes: int, end: int) -> Slice | None:
        for entry in self._segments.from_offset(offset):
            if entry.base_offset >= end:
                return None
            compacted = entry.compacted or self.config.compacted or self.cleaned > 0
            if compacted and not entry.checked and entry is not self._segments.last:
                self.check_seal(entry)
            segment = entry.segment()
            self.host.open_segments.touch(segment)
            start = segment.lookup(offset)
            if start < segment.size:
                stop = segment.lookup_batch_ends(start, max_bytes, end)
                if stop <= start:
                    return None
                mapping = segment.view(stop)
                mapping.populate(start, stop)
                return Slice(mapping, start, stop, compacted, segment)
            if entry.damage is not None and offset < entry.damage.next_offset:
                raise read_errors.damaged(self.directory, entry.damage)
        return None

    def tail(self, segment: Segment, start: int, offset: int, max_bytes: int, isolation: IsolationLevel) -> Tail:
        """What follows position `start` of a segment that was read up to there and to `offset`: see `tail_of`."""
        return tail_of(self, self._offsets, segment, start, offset, max_bytes, isolation)

    def check_seal(self, entry: SegmentEntry) -> None:
        """Compare a segment with its digest, once: base offsets lie outside the CRC, and where compaction left gaps no
        batch vouches for the next one's. Without a digest: nothing.

        Raises CorruptBatchError (the batches themselves are good: what is wrong lies in their offsets), StorageError,
        FileNotFoundError (another segment has its place).
        """
        path, base = f"{self.directory}/{layout.segment_name(entry.base_offset)}", entry.base_offset
        digest_path = f"{self.directory}/{layout.segment_name(base, layout.DIGEST)}"
        try:
            digest, file = seal.read_digest(digest_path), os.stat(path, follow_symlinks=False)
        except StoreFormatError:
            digest = None  # `verify` reports it
        if digest is not None and digest.size == entry.size:
            try:
                found = seal.hash_file(path, digest.size, digest.algorithm)
            except StorageError as error:
                if read_errors.is_gone(error):
                    raise
                found = digest.digest  # a bad sector: whoever reads it is told
            if found != digest.digest and self._holds_good_batches(entry):
                # Its new digest has its name a moment before a compacted segment has its own.
                swap = f"{self.directory}/{segment_swap.swap_name(base)}"
                replaced = entry.retired or layout.lstat_kind(swap) or os.stat(path).st_ino != file.st_ino
                if replaced or seal.read_digest(digest_path) != digest:
                    raise FileNotFoundError(f"segment {base} was replaced")
                raise read_errors.not_as_sealed(path, entry)
        entry.checked = True

    def _holds_good_batches(self, entry: SegmentEntry) -> bool:
        """Else whoever reads the bad one is told, and the others can be read."""
        mapping = entry.segment().view(entry.size)
        mapping.populate(0, entry.size)
        return native_batch.scan(mapping, 0, entry.size, check_crc=True)[1] is None

    def _look_again_after(self, error: Exception) -> None:
        """Retention or compaction took a segment before we used it: look again when they are through."""
        if not read_errors.is_gone(error):
            raise error
        with self._lock:
            self._look_again()

    def _look_again(self) -> None:
        """A segment was not what it was taken for: forget what is remembered of the files."""

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first visible record at or after timestamp_ms; None if there is none."""
        from mqcore.log.reader import search_time

        for _ in range(3):
            self.host.check_usable()
            try:
                log_start = self.offsets.log_start  # first: brings a follower's segments up to date
                return search_time(self, self._segments.entries, log_start, timestamp_ms)
            except OffsetOutOfRangeError:  # retention moved the log start meanwhile
                continue
            except (FileNotFoundError, StoreClosedError, StorageError) as error:
                self._look_again_after(error)
        raise StorageError("segment files are missing", path=self.directory)

    def aborted(self, from_offset: int, to_offset: int) -> list[Aborted]:
        """The aborted transactions that overlap [from_offset, to_offset): what read_committed leaves out."""
        return self._aborted.overlapping(self._segments.entries, from_offset, to_offset)
