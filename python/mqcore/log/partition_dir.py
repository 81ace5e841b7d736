"""The files of one partition: its directory, its segments' files, its leader epochs.

Invariants:
    1. The directory is made at the first need, and its topic id is in it before any data is (and durable before it,
       where data is).
    2. On an error of `create` none of the new segment's files is left; where the disk refuses even that, an empty log
       stays, which `clear` removes before anything more is written (else the log would go on past its base).
    3. Removal unlinks the log first: an index without a log is litter, the reverse a rebuild.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

from mqcore._native.segment import Segment
from mqcore.errors import MQError, StorageError
from mqcore.log import checkpoints, layout
from mqcore.log.checkpoints import SegmentState
from mqcore.log.leader_epochs import LeaderEpochs

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.config.topic import TopicConfig


class PartitionDirectory:
    """path: STORE/topics/<topic>-<partition>. Not thread-safe: under the partition's lock, but for open and sync."""

    __slots__ = ("_dirty", "_io", "_litter", "_made", "_topic_id", "path", "there")

    def __init__(self, io: Io, path: str, topic_id: uuid.UUID, *, there: bool) -> None:
        self._io, self.path, self._topic_id = io, path, topic_id
        self.there = there
        self._made = False  # by us, and the topic id is not synced yet
        self._dirty = False  # names in it, or its own, are not synced yet
        self._litter = -1  # base offset of the segment that was made last, until it is known to be in use

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def make(self, *, sync: bool) -> None:
        """Have the directory. sync: make its name durable now, or leave that to `sync`."""
        if self.there:
            return
        if not layout.require_kind(self.path, "dir"):
            self._io.mkdir(self.path)
        checkpoints.write_topic_id(self._io, self.file(layout.PARTITION_METADATA), self._topic_id, durable=sync)
        self._made = not sync
        if sync:
            self._io.sync_dir(os.path.dirname(self.path))
        self._dirty = self._dirty or not sync
        self.there = True

    def create(self, base: int, config: TopicConfig, *, sync: bool) -> Segment:
        """Make the files of a new segment. sync: before data is written to it (a synced file whose name is lost is a
        lost file), or leave it to `sync`."""
        self._io_ready()
        self._litter = base
        try:
            segment = Segment.create(
                self._io,
                self.path,
                base,
                index_interval_bytes=config.index_interval_bytes,
                index_max_bytes=config.segment_index_bytes,
                segment_bytes=config.segment_bytes,
                preallocate=config.preallocate,
            )
            if sync:
                self._io.sync_dir(self.path)
        except FileExistsError as error:
            self._litter = -1
            raise StorageError("a segment's file is there already", path=self.path, offset=base) from error
        except BaseException:
            with contextlib.suppress(MQError, OSError):  # the first cause is what the caller must hear
                self.clear(-1)
            raise
        self._dirty = self._dirty or not sync
        return segment

    def clear(self, active: int) -> None:
        """Remove what a failed `create` could not take back, or one that an interrupt cut off from its caller. active:
        base offset of the active segment, which is no litter. Before `create`. Raises StorageError: write nothing then.
        """
        if self._litter not in (-1, active):
            self.remove(self._litter)
        self._litter = -1

    def open(self, state: SegmentState, config: TopicConfig, *, writable: bool) -> Segment:
        """The native handle of a segment that is there, with exactly the data that `state` says."""
        return Segment.open(
            self._io,
            self.path,
            state.base_offset,
            size=state.size,
            next_offset=state.next_offset,
            writable=writable,
            index_interval_bytes=config.index_interval_bytes,
            index_max_bytes=config.segment_index_bytes,
            segment_bytes=config.segment_bytes,
            preallocate=config.preallocate,
        )

    def remove(self, base: int) -> None:
        """Unlink the files of a segment."""
        for suffix in layout.SEGMENT_SUFFIXES:
            path = self.file(layout.segment_name(base, suffix))
            if layout.lstat_kind(path) == "file":
                self._io.unlink(path)

    def write_epochs(self, epochs: LeaderEpochs) -> None:
        """Write the leader epochs. A first epoch 0 from the first offset on is what a missing file means."""
        if epochs.entries != ((0, 0),):
            checkpoints.write_leader_epochs(self._io, self.file(layout.LEADER_EPOCHS), epochs)

    def write_damage(self, ranges: list[checkpoints.Damage]) -> None:
        checkpoints.write_damage(self._io, self.file(layout.DAMAGED), ranges)

    def sync(self) -> None:
        """Make the names durable that were left to this call."""
        if self._dirty:
            self._dirty = False
            if self._made:
                self._made = False
                self._io.sync_file(self.file(layout.PARTITION_METADATA))
            self._io.sync_dir(self.path)
            self._io.sync_dir(os.path.dirname(self.path))

    def _io_ready(self) -> None:
        assert self.there, "make() comes first"
