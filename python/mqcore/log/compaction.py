"""Compaction: keep the last record of each key, beside running appends and reads.

A round reads the dirty segments into a map from key to last offset, then copies every segment below the round's end
without the records that are not their key's last, a group of segments into one, and swaps that in (segment_swap.py).

Invariants:
    1. The last record of each key below the round's end stays, with its offset and timestamp; a tombstone goes, after
       delete.retention.ms, as the last of its key. Keys are compared whole, never by a hash alone.
    2. Every batch is checked before a byte of it is used: damage ends the round with an error and changes nothing.
    3. A group is swapped in before the next one is copied, lowest offsets first: a tombstone never goes before the
       records that it hides.
    4. Readers keep the mappings that they have; who comes during a swap waits for it.
    5. The last batch of each group stays, even empty: a segment's file says which offsets it covers.

Sources: Kafka's LogCleaner.scala; KIP-534 (delete horizon), KIP-354 (lags), KIP-98 (producer state in batches).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mqcore import codecs
from mqcore._native import batch as native_batch
from mqcore._native import compact as native
from mqcore._native.segment import recover
from mqcore.errors import CorruptBatchError, InvalidConfigError, InvariantError, StorageError
from mqcore.log import compaction_plan, layout, seal, segment_swap
from mqcore.log.checkpoints import SegmentState
from mqcore.log.compaction_plan import Candidate, Plan
from mqcore.log.compaction_transactions import OpenTransactions
from mqcore.log.segments import UNKNOWN

if TYPE_CHECKING:
    from mqcore._native.segment import Mapping
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.segments import SegmentEntry

BATCH_BYTES_MAX = 256 << 20
WINDOW_BYTES = 4 << 20  # read, and throttled, at a time
WRITE_BYTES = 1 << 20
OFFSET_MAX = 1 << 62
_HEADER = struct.Struct(">qiibIHiqqqhii")
_CODEC, _TRANSACTIONAL, _CONTROL, _DELETE_HORIZON = 0x07, 0x10, 0x20, 0x40


class _Batch(NamedTuple):
    """The header of a batch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta


@dataclass(slots=True)
class Round:
    """What a round did. end: the offset up to which the log is clean now."""

    end: int = 0
    keys: int = 0
    segments_before: int = 0
    segments_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    records_read: int = 0
    records_written: int = 0


def candidates(entries: Sequence[SegmentEntry]) -> list[Candidate]:
    """The segments as the plan needs them. May open them for their timestamps."""
    return [
        Candidate(
            entry.base_offset,
            entry.next_offset,
            entry.size,
            entry.first_timestamp if entry.size else -1,
            entry.max_timestamp if entry.size else -1,
            entry.sealed and entry.damage is None,
        )
        for entry in entries
    ]


def plan(log: PartitionLog, *, cleaned: int, now_ms: int) -> Plan | None:
    """The round that could be run now, due or not; None if there is nothing to compact. cleaned: where the last one
    ended. Goes on first with a swap that an error interrupted: StorageError, DiskFullError."""
    log.finish_exchange()
    return compaction_plan.plan(
        candidates(log.segments),
        log.config,
        cleaned=cleaned,
        log_start=log.log_start_offset,
        limit=_limit(log),
        now_ms=now_ms,
    )


def _limit(log: PartitionLog) -> int:
    """Nothing at or past it may be compacted: it is not stable, not durable, or still in the journal's care."""
    offsets = log.offsets
    limit = min(offsets.last_stable, offsets.high_watermark)
    return min(limit, log.recovery_point) if log.host.syncs(log.config) else limit


class Compaction:
    """Rounds of one store. One thread at a time. map_bytes: bound of the key map. pause: called with each number of
    bytes read or written; may sleep."""

    def __init__(self, *, map_bytes: int, pause: Callable[[int], None] | None = None) -> None:
        self._map_bytes, self._pause = map_bytes, pause or (lambda _: None)

    def run(self, log: PartitionLog, plan: Plan, now_ms: int) -> Round:
        """Run the planned round; what it did.

        Raises CorruptBatchError, StorageError, DiskFullError: groups that were swapped in before are done, nothing is
        lost, and a later round goes on.
        """
        # On disk before a byte moves: the journal holds what lies above them, and would write it to its old position.
        log.host.save_recovery_points()
        entries = [entry for entry in log.segments[:-1] if entry.next_offset <= plan.end]
        dirty = [entry for entry in entries if entry.next_offset > plan.first_dirty]
        if not dirty:
            return Round(end=plan.first_dirty)  # retention was faster
        keys = native.KeyMap(max_bytes=self._map_bytes)
        end = self._index(keys, log, dirty, plan.first_dirty)
        if end <= plan.first_dirty:
            raise InvalidConfigError(
                "the key map holds not even the keys of one batch",
                key="log.cleaner.dedupe.buffer.size",
                topic=log.topic,
                partition=log.partition,
                hint="Raise it",
            )
        taken = [entry for entry in entries if entry.base_offset < end]
        for entry in taken:
            log.check_seal(entry)  # what is wrong in it must not come out with a seal that is right
        ranges = compaction_plan.groups(
            [(entry.base_offset, entry.next_offset, entry.size) for entry in taken],
            segment_bytes=log.config.segment_bytes,
            index_bytes=log.config.segment_index_bytes,
        )
        grouped = [[entry for entry in taken[a:b] if entry.size] for a, b in ranges]
        last_offsets = self._last_of_producers(log) | {_last_offset(group[-1]) for group in grouped if group}
        done = Round(end=end, keys=len(keys))
        transactions = OpenTransactions()
        transactions.expect(log.aborted(0, OFFSET_MAX))
        for group, (a, b) in zip(grouped, ranges, strict=True):
            if group:
                copy = native.Filter(
                    keys,
                    end_offset=end,
                    round_end=end,
                    now_ms=now_ms,
                    delete_retention_ms=log.config.delete_retention_ms,
                    last_offsets=last_offsets,
                )
                self._clean(log, taken[a:b], copy, transactions, now_ms, done)
        return done

    # -- the key map ------------------------------------------------------------------------------------------------

    def _index(self, keys: native.KeyMap, log: PartitionLog, dirty: Sequence[SegmentEntry], first_dirty: int) -> int:
        """Read the dirty segments into the map until it is full; the offset up to which they are in it."""
        transactions, end = OpenTransactions(), first_dirty
        transactions.expect(log.aborted(dirty[0].base_offset, OFFSET_MAX))
        for entry in dirty:
            for mapping, position, stop in self._windows(log, entry, first_dirty):
                while position < stop:
                    position, read, full = keys.index_run(mapping, position, stop, first_dirty)
                    end = max(end, read)
                    if not full and position < stop:
                        size = native.check_batch(mapping, position, stop)
                        header = _header(mapping, position)
                        full = not self._index_special(keys, mapping, position, size, header, transactions, first_dirty)
                        end = end if full else max(end, header.last_offset + 1)
                        position += size
                    if full:
                        return end
            end = max(end, entry.next_offset)
        return end

    def _index_special(
        self,
        keys: native.KeyMap,
        mapping: Mapping,
        position: int,
        size: int,
        header: _Batch,
        transactions: OpenTransactions,
        first_dirty: int,
    ) -> bool:
        """A compressed, transactional or control batch; False: the map is full."""
        if header.attributes & _CONTROL:
            kind = native.control_type(memoryview(mapping)[position : position + size])
            transactions.marker(header.producer_id, header.last_offset, kind)
            return True
        if header.attributes & _TRANSACTIONAL and transactions.data(header.producer_id, header.last_offset):
            return True
        return keys.index_batch(_inflated(mapping, position, size, header), first_dirty)

    def _windows(self, log: PartitionLog, entry: SegmentEntry, offset: int = 0) -> Iterator[tuple[Mapping, int, int]]:
        """(mapping, start, stop) of whole batches, from the one that holds `offset` on; their pages are there."""
        segment, size = entry.segment(), entry.size
        log.host.open_segments.touch(segment)
        if not size:
            return
        mapping = segment.view(size)
        start = segment.lookup(offset) if offset > entry.base_offset else 0
        while start < size:
            stop = segment.lookup_batch_ends(start, WINDOW_BYTES, OFFSET_MAX)
            if stop <= start:
                raise CorruptBatchError("no whole batch", path=segment.path, position=start)
            mapping.populate(start, stop)
            self._pause(stop - start)
            yield mapping, start, stop
            start = stop

    def _last_of_producers(self, log: PartitionLog) -> set[int]:
        """Last offsets of the batches that hold a producer's last sequence, or, if it has only a marker in its epoch, of
        that: they stay, or a retry of what they held would be taken for new. Of producers that expired nothing stays."""
        last = log.last_offsets_of_producers()
        markers = {producer_id: -1 for producer_id, offset in last.items() if offset < 0}
        for entry in log.segments if markers else ():
            for mapping, start, stop in self._windows(log, entry):
                rows, problem = native_batch.scan(mapping, start, stop, check_crc=False)
                if problem is not None:
                    raise CorruptBatchError(problem.what, path=entry.segment().path, position=problem.position)
                rows = rows[(rows["attributes"] & _CONTROL) != 0]
                for producer_id, offset in zip(rows["producer_id"].tolist(), rows["last_offset"].tolist(), strict=True):
                    if producer_id in markers:
                        markers[producer_id] = offset
        return {*last.values(), *markers.values()} - {-1}

    # -- the copy ---------------------------------------------------------------------------------------------------

    def _clean(
        self,
        log: PartitionLog,
        group: Sequence[SegmentEntry],
        copy: native.Filter,
        transactions: OpenTransactions,
        now_ms: int,
        done: Round,
    ) -> None:
        """Copy a group of segments into one and swap it in."""
        io, base = log.host.io, group[0].base_offset
        before = sum(entry.size for entry in group)
        segment_swap.discard(io, log.directory, base)  # what an error left
        segment_swap.discard_swap(io, log.directory, base)
        work = segment_swap.work_directory(log.directory, base)
        io.mkdir(work)
        try:
            size = self._write(log, group, copy, transactions, now_ms, f"{work}/{layout.segment_name(base)}")
            state = self._check(log, work, group, size)
            done.records_read += copy.stats["records_read"]
            done.records_written += copy.stats["records_written"]
            done.bytes_before += before
            done.bytes_after += size
            done.segments_before += len(group)
            done.segments_after += 1
            if len(group) == 1 and size == before and copy.stats["records_read"] == copy.stats["records_written"]:
                segment_swap.discard(io, log.directory, base)  # the same bytes again: keep the file, and its digest
                return
            if not _swap(log, group, state):
                raise InvariantError("the segments changed during a compaction", path=log.directory)
        except BaseException:
            if base not in segment_swap.unfinished(log.directory):
                segment_swap.discard(io, log.directory, base)
            raise

    def _write(
        self,
        log: PartitionLog,
        group: Sequence[SegmentEntry],
        copy: native.Filter,
        transactions: OpenTransactions,
        now_ms: int,
        path: str,
    ) -> int:
        """Write what stays of the group to a file; its size. Synced."""
        io, written = log.host.io, 0

        def spill(least: int) -> None:
            nonlocal written
            if len(copy) >= least:
                data = copy.take()
                io.write_at(path, data, written)
                self._pause(len(data))
                written += len(data)

        for entry in group:
            for mapping, position, stop in self._windows(log, entry):
                while position < stop:
                    position = copy.run(mapping, position, stop, WRITE_BYTES)
                    spill(WRITE_BYTES)
                    if position < stop and not len(copy) >= WRITE_BYTES:
                        attributes = _header(mapping, position).attributes
                        if attributes & (_CODEC | _TRANSACTIONAL | _CONTROL):
                            size = native.check_batch(mapping, position, stop)
                            spill(1)  # a rewritten compressed batch is written by itself
                            data = _special(copy, mapping, position, size, transactions, now_ms)
                            if data:
                                io.write_at(path, data, written)
                                written += len(data)
                            position += size
        spill(1)
        io.sync_file(path)
        return written

    def _check(self, log: PartitionLog, work: str, group: Sequence[SegmentEntry], size: int) -> SegmentState:
        """Read back what was written, every CRC; make its indexes and digest. The state of the new segment."""
        io, base, config = log.host.io, group[0].base_offset, log.config
        found = recover(
            io,
            work,
            base,
            max_batch_bytes=BATCH_BYTES_MAX,
            allow_gaps=True,
            index_interval_bytes=config.index_interval_bytes,
            index_max_bytes=config.segment_index_bytes,
        )
        path = f"{work}/{layout.segment_name(base)}"
        if found.problem or found.valid_size != size or found.next_offset > group[-1].next_offset:
            raise StorageError(
                "a compacted segment does not read back as it was written",
                path=path,
                position=found.problem_position,
                problem=found.problem,
            )
        seal.write_digest(io, path, f"{work}/{layout.segment_name(base, layout.DIGEST)}", base, size, config.digest)
        return SegmentState(base, size, group[-1].next_offset, found.max_timestamp, UNKNOWN)


def _swap(log: PartitionLog, group: Sequence[SegmentEntry], state: SegmentState) -> bool:
    """Put the new segment in the place of the group; False: the group is not there any more."""
    io, base, directory = log.host.io, state.base_offset, log.directory
    bases = [entry.base_offset for entry in group]
    try:
        segment_swap.stage(io, directory, base)
    except BaseException:
        segment_swap.discard_swap(io, directory, base)
        raise
    done = log.exchange(group, state, lambda: segment_swap.finish(io, directory, base, bases))
    if not done:
        segment_swap.discard_swap(io, directory, base)
    return done


def _header(mapping: Mapping, position: int) -> _Batch:
    return _Batch._make(_HEADER.unpack_from(memoryview(mapping), position))


def _last_offset(entry: SegmentEntry) -> int:
    """The last offset of a segment's last batch."""
    segment = entry.segment()
    mapping = segment.view(entry.size)
    position = 0
    while True:
        stop = segment.lookup_batch_ends(position, WINDOW_BYTES, OFFSET_MAX)
        if stop >= entry.size:
            break
        position = stop
    mapping.populate(position, entry.size)
    rows, problem = native_batch.scan(mapping, position, entry.size, check_crc=False)
    if problem is not None:
        raise CorruptBatchError(problem.what, path=segment.path, position=problem.position)
    return int(rows["last_offset"][-1])


def _inflated(mapping: Mapping, position: int, size: int, header: _Batch) -> memoryview | bytes:
    """The batch without compression."""
    view = memoryview(mapping)[position : position + size]
    codec = header.attributes & _CODEC
    if codec == 0:
        return view
    records = codecs.decompress(codec, view[_HEADER.size :], limit=BATCH_BYTES_MAX)
    return native_batch.inflated_header(mapping, position, len(records)) + bytes(records)


def _special(
    copy: native.Filter, mapping: Mapping, position: int, size: int, transactions: OpenTransactions, now_ms: int
) -> bytes:
    """What stays of a compressed, transactional or control batch; b"" if nothing does."""
    header = _header(mapping, position)
    batch = _inflated(mapping, position, size, header)
    flags = native.MAY_EMPTY if copy.stays(header.last_offset) else 0
    if header.attributes & _CONTROL:
        may_go = transactions.marker(header.producer_id, header.last_offset, native.control_type(batch))
        expired = bool(header.attributes & _DELETE_HORIZON) and header.base_timestamp <= now_ms
        flags |= native.DISCARD if may_go and expired else native.KEEP
        flags |= native.HORIZON if may_go else 0
    elif header.attributes & _TRANSACTIONAL and transactions.data(header.producer_id, header.last_offset):
        flags |= native.DISCARD
    outcome = copy.batch(batch, flags)
    made = copy.take()
    codec = header.attributes & _CODEC
    if codec == 0 or outcome in ("dropped", "emptied"):
        return made
    if outcome == "copied":
        return bytes(memoryview(mapping)[position : position + size])
    return native.compressed(made, codecs.compress(codec, memoryview(made)[_HEADER.size :]), codec)
