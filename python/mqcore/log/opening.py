"""Opening a store: the order of the steps (each idempotent; a crash between any two is recovered like any other).

    1. lock    2. meta.json: is this a store, of our format?    3. session.json, clean-shutdown: how it was left
    4. journal: what it proves of `__metadata`, then that log, then the topics that it names
    5. after a crash, each partition: redo from the journal, scan, cut or note damage (recovery.py); all in parallel
    6. what was kept is synced, recovery points are written
    7. the new session is written, clean-shutdown removed: from here on the store is open for writing
    8. unknown directories go to quarantine, those of deleted topics go (their tombstone says so)

Invariants:
    1. Nothing is deleted because metadata is missing (R10): a directory goes against a tombstone with its id only.
    2. Step 7 comes after step 6: the old session's durability decides what may be cut until all that is kept is synced.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mqcore.errors import StorageError, StoreFormatError, StoreReadOnlyError
from mqcore.log import checkpoints, layout, segment_swap
from mqcore.log.checkpoints import Meta, PartitionKey, PartitionState, Session
from mqcore.log.layout import TRANSACTION_TOPIC, Layout
from mqcore.log.open_report import Finding, OpenReport
from mqcore.log.recovery import BearsOut, JournalEntry, Loaded, PartitionRecovery, unused
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.config.topic import TopicConfig
    from mqcore.log.topics import DeletedTopic, TopicInfo

SYNC_EACH_MAX = 8  # more new or changed files than this: one syncfs is cheaper than an fsync each
# What a crash in the middle of making a store leaves: not yet a store, and nobody's data.
_UNFINISHED = {layout.LOCK, layout.TOPICS, layout.META + ".tmp"}


def prepare(io: Io, where: Layout, report: OpenReport, *, create: bool) -> Meta:
    """Make sure that the directory is a store of our format; make one in an empty directory if `create`.

    Raises StoreFormatError: another version, no store, links where files should be. Call with the lock held, or for a
    reader.
    """
    meta = checkpoints.read_meta(io, where.path(layout.META))
    if meta is None:
        names = set(os.listdir(where.root))
        foreign = sorted(names - _UNFINISHED)
        if foreign or (layout.TOPICS in names and os.listdir(where.topics)):
            raise StoreFormatError(
                "not a store: it has no meta.json but holds other files",
                hint="Give an empty or new directory. (One that Kafka wrote: `mqcore topic adopt`)",
                path=where.root,
                found=", ".join((foreign or [layout.TOPICS])[:5]),
            )
        if not create:
            raise StoreFormatError("not a store: no meta.json", hint="Check the path", path=where.root)
        _make_topics(io, where)
        meta = Meta(uuid.uuid4().bytes)
        checkpoints.write_meta(io, where.path(layout.META), meta)
        report.created = True
    for name in (layout.TOPICS, layout.VIEWS, layout.JOURNAL, layout.QUARANTINE):
        layout.require_kind(where.path(name), "dir")
    if create:
        _make_topics(io, where)
    return meta


def _make_topics(io: Io, where: Layout) -> None:
    """Have the directory of the partitions, durably: before meta.json makes this a store, and again where it went
    (what was in it is missed by recovery point, partition by partition)."""
    if not layout.require_kind(where.topics, "dir"):
        io.mkdir(where.topics)
        io.sync_dir(where.root)


def read_left(io: Io, where: Layout, report: OpenReport) -> tuple[Session, dict[PartitionKey, PartitionState] | None]:
    """How the last writer left the store: its session, and its partitions if it closed cleanly."""
    try:
        clean = checkpoints.read_clean_shutdown(io, where.path(layout.CLEAN_SHUTDOWN))
    except StoreFormatError as error:
        report.add(Finding("rebuilt", where.path(layout.CLEAN_SHUTDOWN), error.what))
        clean = None
    path = where.path(layout.SESSION)
    try:
        session = checkpoints.read_session(io, path)
    except StoreFormatError as error:
        # Under `os` less is ever cut: without knowing, keep more.
        report.add(Finding("rebuilt", path, error.what))
        session = Session(epoch=_epoch_above_all(io, where), durability=Durability.OS)
    report.clean = clean is not None or (session is None and report.created)
    return session or Session(epoch=-1), clean


def _epoch_above_all(io: Io, where: Layout) -> int:
    """An epoch that no partition has used, when the session file is damaged."""
    latest = 0
    for name in os.listdir(where.topics):
        path = os.path.join(where.topics, name, layout.LEADER_EPOCHS)
        try:
            latest = max(latest, checkpoints.read_leader_epochs(io, path).latest)
        except StoreFormatError:
            continue
    return latest


def read_points(io: Io, path: str, report: OpenReport) -> dict[PartitionKey, int]:
    """Recovery points or log starts; none if the file is damaged: then more is scanned."""
    try:
        return checkpoints.read_offsets(io, path)
    except StoreFormatError as error:
        report.add(Finding("rebuilt", path, error.what))
        return {}


def is_unchanged(directory: str, state: PartitionState, damaged: Iterable[int] = ()) -> bool:
    """Whether a partition's segments are as the clean close noted them: a file that was cut, removed or added since
    then sends the partition through recovery."""
    known = {segment.base_offset: segment.size for segment in state.segments}
    try:
        if layout.list_segments(directory) != sorted(known) or segment_swap.unfinished(directory):
            return False
        for base, size in known.items():
            found = os.stat(f"{directory}/{layout.segment_name(base)}", follow_symlinks=False).st_size
            if found != size and not (base in damaged and found > size):
                return False
    except FileNotFoundError:
        return False
    return True


class Recoverer:
    """Recovery of the partitions of one store: redo what the journal holds, entry by entry, then run."""

    def __init__(
        self,
        io: Io,
        where: Layout,
        report: OpenReport,
        *,
        session: Session,
        recovery_points: Mapping[PartitionKey, int],
        log_starts: Mapping[PartitionKey, int],
        cleaned: Mapping[PartitionKey, int],
        durability_of: Callable[[TopicConfig, Durability], Durability],
        threads: int,
    ) -> None:
        """session: the one that ended. recovery_points: below them all is synced.
        cleaned: how far compaction came: those partitions have gaps. durability_of: of a topic's data,
        given its settings and the store's durability in that session."""
        self._io, self._where, self._report, self._session = io, where, report, session
        self._points, self._starts, self._threads = recovery_points, log_starts, threads
        self._cleaned = cleaned
        self._durability_of = durability_of
        self._lock = threading.Lock()
        self._work: dict[PartitionKey, PartitionRecovery] = {}
        self.bears_out: BearsOut | None = None  # once `__transaction_state` is recovered

    def redo(self, info: TopicInfo, partition: int, entry: JournalEntry) -> None:
        """Write what a journal entry proves durable, if the segment lacks it. Oldest entries first."""
        self._of(info, partition).redo(entry, info.topic_id)

    def recover(self, partitions: Iterable[tuple[TopicInfo, int]]) -> dict[PartitionKey, Loaded]:
        """Recover each of `partitions` of which there is anything: a directory, a journal entry, or a recovery point
        (without a directory it was taken away, and its offsets must not be given out again). What was kept is synced.
        """
        work = []
        for info, partition in partitions:
            key = PartitionKey(info.name, partition)
            known = key in self._work or self._points.get(key, 0) or self._starts.get(key, 0)
            if known or layout.require_kind(self._where.partition_dir(info.name, partition), "dir"):
                work.append((key, self._of(info, partition)))
        if len(work) <= 1 or self._threads <= 1:
            done = {key: recovery.run() for key, recovery in work}
        else:
            with ThreadPoolExecutor(min(self._threads, len(work)), thread_name_prefix="mqcore-recovery") as pool:
                done = dict(pool.map(lambda job: (job[0], job[1].run()), work))
        self._sync([path for loaded in done.values() for path in loaded.touched])
        return done

    def _of(self, info: TopicInfo, partition: int) -> PartitionRecovery:
        key = PartitionKey(info.name, partition)
        recovery = self._work.get(key)
        if recovery is None:
            recovery = self._work[key] = PartitionRecovery(
                self._io,
                self._where.partition_dir(info.name, partition),
                info.name,
                partition,
                self._report,
                recovery_point=self._points.get(key, 0),
                log_start=self._starts.get(key, 0),
                durability=self._durability_of(info.config, self._session.durability),
                compacted=info.config.compacted or key in self._cleaned,
                index_interval_bytes=info.config.index_interval_bytes,
                index_max_bytes=info.config.segment_index_bytes,
                report_lock=self._lock,
                only_proven=info.name == TRANSACTION_TOPIC,
                bears_out=lambda *marker: self.bears_out is None or self.bears_out(*marker),
            )
        return recovery

    def _sync(self, paths: list[str]) -> None:
        """Make durable what recovery kept, before anybody reads it (R11)."""
        if not paths:
            return
        if len(paths) > SYNC_EACH_MAX:
            self._io.sync_filesystem(self._where.root)
            return
        for path in paths:
            self._io.sync_file(path)
        for directory in sorted({os.path.dirname(path) for path in paths} | {self._where.topics}):
            self._io.sync_dir(directory)


def begin_session(io: Io, where: Layout, session: Session) -> None:
    """From here on the store may be written: the next open finds no clean-shutdown, and this session's durability."""
    checkpoints.write_session(io, where.path(layout.SESSION), session)
    path = where.path(layout.CLEAN_SHUTDOWN)
    if layout.require_kind(path, "file"):
        io.unlink(path)
        io.sync_dir(where.root)


def sort_directories(
    io: Io,
    where: Layout,
    report: OpenReport,
    topics: Mapping[str, TopicInfo],
    deleted: Mapping[uuid.UUID, DeletedTopic],
    is_ours: Callable[[PartitionKey], bool],
) -> list[str]:
    """Look at each directory in topics/: those of no known topic go to quarantine, those of deleted topics are renamed
    on their way out. is_ours: other evidence than its topic id says that the directory is that partition's.
    Returns the directories that may be removed."""
    condemned = []
    for name in sorted(os.listdir(where.topics)):
        path = os.path.join(where.topics, name)
        if layout.is_deleted_dir(name):
            layout.require_kind(path, "dir")
            condemned.append(path)  # renamed against a tombstone before
            continue
        parsed = layout.parse_partition_dir(name)
        if parsed is None or layout.lstat_kind(path) != "dir":
            _quarantine(io, where, report, path, "not a partition directory")
            continue
        info = topics.get(parsed[0])
        key = PartitionKey(*parsed)
        belongs = info is not None and key.partition < info.partitions
        try:
            topic_id, reason = checkpoints.read_topic_id(io, os.path.join(path, layout.PARTITION_METADATA)), ""
        except StoreFormatError as error:
            topic_id, reason = None, error.what
        if belongs and info is not None and topic_id == info.topic_id:
            continue
        if topic_id is not None and topic_id in deleted:
            target = unused(os.path.join(where.topics, layout.deleted_dir_name(*parsed, topic_id)))
            io.rename(path, target)
            condemned.append(target)
        elif belongs and info is not None and (topic_id is None or is_ours(key)):
            # Without an id the name is all there is to go by: a crash between making the directory and the file leaves
            # it so (then it holds nothing), and so does a flipped bit, in which case its segments may tell.
            checkpoints.write_topic_id(io, os.path.join(path, layout.PARTITION_METADATA), info.topic_id)
            report.add(Finding("rebuilt", path, reason or "another topic id", *parsed))
        else:
            _quarantine(io, where, report, path, reason or f"topic id {topic_id} is not known")
    return condemned


def _quarantine(io: Io, where: Layout, report: OpenReport, path: str, reason: str) -> None:
    quarantine = where.path(layout.QUARANTINE)
    if not layout.require_kind(quarantine, "dir"):
        io.mkdir(quarantine)
    target = unused(os.path.join(quarantine, os.path.basename(path)))
    io.rename(path, target)
    io.sync_dir(where.topics)
    io.sync_dir(quarantine)
    report.add(Finding("quarantined", target, reason))


def make_root(io: Io, path: str) -> None:
    """Make the store's directory, and those above it, if it is not there."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for one in reversed(missing):
        try:
            io.mkdir(one)
        except FileExistsError:
            continue
        except (PermissionError, StorageError) as error:
            if isinstance(error, StorageError) and error.where.get("errno") not in ("EROFS", "EACCES", "EPERM"):
                raise
            why = error.what if isinstance(error, StorageError) else error.strerror
            raise StoreReadOnlyError(
                f"cannot make the store's directory: {why}",
                hint="Name a place that can be written; a store that is there can be opened with read_only=True",
                path=one,
            ) from error
        io.sync_dir(os.path.dirname(one))
