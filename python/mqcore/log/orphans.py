"""What the journal proves of partitions that no topic has any more: written into their files in quarantine.

Where `__metadata` was lost, its topics' directories go to quarantine (opening.sort_directories); the last records of them
may be in the journal alone, which forgets them at the next checkpoint. So they are put where they belong first: an
adoption of the directory finds them (R10).

Invariants:
    1. Each step can be done again: a crash in the middle leaves the journal as it was.
    2. All is synced, and reported, before `finish` returns.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mqcore.errors import MQError
from mqcore.log import checkpoints, layout
from mqcore.log.checkpoints import PartitionKey
from mqcore.log.open_report import Finding, OpenReport
from mqcore.log.recovery import read_at, unused

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.log.group_commit import JournalEntry
    from mqcore.log.layout import Layout

_NUMBERED = re.compile(r"\.[0-9]+\Z")  # of recovery.unused


class Orphans:
    """One open's. Entries oldest first."""

    def __init__(self, io: Io, where: Layout, report: OpenReport, points: Mapping[PartitionKey, int]) -> None:
        """points: below them all is synced in the segments, which may have been compacted since."""
        self._io, self._root, self._report, self._points = io, where.path(layout.QUARANTINE), report, points
        self._found: dict[tuple[uuid.UUID, int], str] = {}
        self._bytes: dict[tuple[uuid.UUID, int], int] = {}
        self._files: set[str] = set()

    def keep(self, entry: JournalEntry) -> None:
        """Write an entry's bytes to its segment, if it lacks them. Raises StorageError."""
        if entry.data is None:
            return  # synced in its segment
        key = (entry.topic_id, entry.partition)
        directory = self._found.get(key) or self._find(*key) or self._make(*key)
        self._found[key] = directory
        parsed = layout.parse_partition_dir(_NUMBERED.sub("", os.path.basename(directory)))
        if parsed is not None and entry.next_offset <= self._points.get(PartitionKey(*parsed), 0):
            return
        path = os.path.join(directory, layout.segment_name(entry.segment_base))
        if layout.require_kind(path, "file") and read_at(path, entry.position, len(entry.data)) == entry.data:
            return
        self._io.write_at(path, entry.data, entry.position)
        self._bytes[key] = self._bytes.get(key, 0) + len(entry.data)
        self._files.add(path)

    def finish(self) -> None:
        for path in sorted(self._files):
            self._io.sync_file(path)
        for directory in sorted({os.path.dirname(path) for path in self._files}):
            self._io.sync_dir(directory)
        for key, size in self._bytes.items():
            reason = f"the journal's last records of topic id {key[0]}, which is not known, are in it"
            self._report.add(Finding("quarantined", self._found[key], reason, partition=key[1], size=size))

    def _find(self, topic_id: uuid.UUID, partition: int) -> str:
        """The directory of a partition in quarantine, "" if it is not there."""
        names = os.listdir(self._root) if layout.require_kind(self._root, "dir") else []
        for name in sorted(names):
            parsed = layout.parse_partition_dir(_NUMBERED.sub("", name))
            path = os.path.join(self._root, name)
            if parsed is None or parsed[1] != partition or layout.lstat_kind(path) != "dir":
                continue
            try:
                if checkpoints.read_topic_id(self._io, os.path.join(path, layout.PARTITION_METADATA)) == topic_id:
                    return path
            except MQError:
                continue
        return ""

    def _make(self, topic_id: uuid.UUID, partition: int) -> str:
        """Its directory is lost too: one of its id's name, which is a topic's as well."""
        path = unused(os.path.join(self._root, f"{topic_id}-{partition}"))
        for directory in (self._root, path):
            if not layout.require_kind(directory, "dir"):
                self._io.mkdir(directory)
                self._io.sync_dir(os.path.dirname(directory))
        checkpoints.write_topic_id(self._io, os.path.join(path, layout.PARTITION_METADATA), topic_id)
        return path
