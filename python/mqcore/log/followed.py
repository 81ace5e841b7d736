"""A partition that another process writes, or wrote: PartitionLog's reading half.

Invariants:
    1. `offsets` is looked up anew at each call: the writer's marks, or what was provably kept when nobody writes.
    2. The last segment is open-ended: its file is longer than what may be read while the writer is in it, and reads are
       bounded by the high watermark alone, which is at the end of a batch that is there whole.
    3. Offsets never move back, whoever writes next.
Lock: `_lock` guards the look at the directory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mqcore.errors import MQError, StoreReadOnlyError
from mqcore.log import checkpoints, layout
from mqcore.log.checkpoints import SegmentState
from mqcore.log.offsets import Offsets
from mqcore.log.partition_log import NO_SLOT, PartitionLog
from mqcore.log.partition_ports import Appended
from mqcore.log.segments import OFFSET_DELTA_MAX, UNKNOWN, SegmentEntry
from mqcore.log.tail import LOST, Tail, tail_of
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from mqcore._native.segment import Segment
    from mqcore.log.read_only import ReadOnlyStore
    from mqcore.log.topics import TopicInfo

# A directory's time of change has the kernel's tick as its grain: a listing made this close to it may be too old.
_MTIME_GRAIN_NS = 50_000_000


class FollowedPartition(PartitionLog):
    """Made by ReadOnlyStore only."""

    def __init__(self, store: ReadOnlyStore, info: TopicInfo, number: int) -> None:
        super().__init__(store, info.name, info.topic_id, number, info.config)
        self._store = store
        self.cleaned = store.cleaned.get(checkpoints.PartitionKey(info.name, number), 0)
        self._generation = -1
        self._marks: tuple[int, ...] = ()
        # By which `tail` served last: `offsets` may lag behind them.
        self._tail_marks: tuple[int, int, int, int] | None = None
        self._listed: tuple[int, bool] = (-1, False)  # (time of change, whether the listing can be trusted)
        self._known = False

    # -- offsets ----------------------------------------------------------------------------------------------------

    @property
    def offsets(self) -> Offsets:
        marks = self._store.attached()
        if marks is None:
            if not self._known:
                with self._lock:
                    if not self._known:
                        self._take_left()
            if self._tail_marks is not None:
                with self._lock:
                    served, self._tail_marks = self._tail_marks, None
                    if served is not None:
                        self._take_marks(served)
            return self._offsets
        if self._generation != self._store.generation or self.slot == NO_SLOT:
            self._generation = self._store.generation
            self.slot = marks.slot(self.topic_id, self.partition)
            if self.slot == NO_SLOT:
                return self._offsets  # it holds nothing yet
        seen = marks.read(self.slot)
        if seen != self._marks:
            with self._lock:
                self._take_marks(seen)
        return self._offsets

    def _take_marks(self, seen: tuple[int, int, int, int]) -> None:
        log_start, high_watermark, last_stable, _ = seen
        before = self._offsets
        self._refresh(high_watermark)
        mark = max(before.high_watermark, high_watermark)
        stable = min(max(before.last_stable, last_stable), mark)
        # The log end is the writer's business: for a reader the log ends where it may read.
        self._offsets = Offsets(max(before.log_start, min(log_start, stable)), stable, mark, mark).checked()
        self._marks, self._known = seen, True

    def _take_left(self) -> None:
        states, offsets, open_ended = self._store.state_of(self)
        if open_ended and states:
            last = states[-1]
            states = [*states[:-1], last._replace(next_offset=last.base_offset + OFFSET_DELTA_MAX)]
        self._segments.replace(tuple(self._entry(state) for state in states))
        self._offsets, self._known = offsets, True

    def tail(self, segment: Segment, start: int, offset: int, max_bytes: int, isolation: IsolationLevel) -> Tail:
        """As PartitionLog's, by the marks alone: the directory is not looked at."""
        marks, before = self._store.attached(), self._offsets
        if marks is None or self._generation != self._store.generation or self.slot == NO_SLOT:
            return LOST
        seen = marks.read(self.slot)
        log_start, high_watermark, last_stable, _ = seen
        if high_watermark < before.high_watermark or last_stable < before.last_stable:
            return LOST
        self._tail_marks = seen
        now = Offsets(log_start, last_stable, high_watermark, high_watermark)
        return tail_of(self, now, segment, start, offset, max_bytes, isolation)

    def _look_again(self) -> None:
        # A file is gone or is another one: compaction moves no marks.
        self._marks, self._listed = (), (-1, False)

    # -- segments ---------------------------------------------------------------------------------------------------

    def _entry(self, state: SegmentState) -> SegmentEntry:
        try:
            damage = checkpoints.read_damage(self.host.io, f"{self.directory}/{layout.DAMAGED}")
        except MQError:
            damage = []
        known = next((one for one in damage if one.base_offset == state.base_offset), None)
        if known is not None:
            state = state._replace(size=known.position, next_offset=known.offset)
        return SegmentEntry(state, self._open_to_read, sealed=True, damage=known)

    def _open_to_read(self, state: SegmentState) -> Segment:
        return self._dir.open(state, self.config, writable=False)

    def _refresh(self, high_watermark: int) -> None:
        """See the files as they are now: `high_watermark` lies in them."""
        try:
            changed = os.stat(self.directory, follow_symlinks=False).st_mtime_ns
        except FileNotFoundError:
            return
        if (changed, True) != self._listed:
            now = self.host.clock.wall_ms() * 1_000_000
            self._listed = (changed, now - changed > _MTIME_GRAIN_NS)
            self._list_again()
        last = self._segments.last
        if last is not None and last.damage is None:
            last.grow(
                os.stat(f"{self.directory}/{layout.segment_name(last.base_offset)}", follow_symlinks=False).st_size
            )

    def _list_again(self) -> None:
        known = {entry.base_offset: entry for entry in self._segments.entries[:-1]}
        bases, entries = layout.list_segments(self.directory), []
        for index, base in enumerate(bases):
            last = index + 1 == len(bases)
            path = f"{self.directory}/{layout.segment_name(base)}"
            try:
                found = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # retention was faster
            if base in known and not last:
                inode, same_size = known[base].inode, known[base].size == found.st_size
                if inode == found.st_ino or (inode == 0 and same_size):
                    known[base].inode = found.st_ino
                    entries.append(known[base])
                    continue
                known[base].retire()  # compaction put another file in its place
            size = found.st_size
            end = base + OFFSET_DELTA_MAX if last else bases[index + 1]
            old = self._segments.last
            # An entry with an exact end is what a writer left before this one came: it would hide what is new.
            if last and old is not None and old.base_offset == base and old.next_offset == end:
                entries.append(old)
            else:
                entries.append(self._entry(SegmentState(base, size, end, UNKNOWN, UNKNOWN)))
                entries[-1].inode = found.st_ino
        self._segments.replace(tuple(entries))

    # -- not for readers ----------------------------------------------------------------------------------------------

    def append(self, batches: WriteableBuffer, *, from_outside: bool = False) -> Appended:
        raise self._refused()

    def delete_before(self, offset: int) -> None:
        raise self._refused()

    def roll(self) -> None:
        raise self._refused()

    def _refused(self) -> StoreReadOnlyError:
        return StoreReadOnlyError("the store is open for reading only", topic=self.topic, partition=self.partition)
