"""One store: its directory, its topics and partitions, from open to close.

Invariants:
    1. One writer process (the lock); readers of other processes follow the marks page or see what is provably kept.
    2. Nothing is handed out before recovery is done (open_store.py).
    3. After close, and in a forked child, every call raises; views that were handed out stay valid.
    4. A clean close leaves nothing to recover: everything is synced, and clean-shutdown says what is there. If any of
       that fails, clean-shutdown is not written, and the next open recovers.
Locks: `_pass_lock` (one pass of maintenance at a time, none beside the close), then `_lock`, which serialises changes of
topics, the close and the steps of a pass but for the rounds of compaction; every other lock comes after them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from mqcore._native.io import Io
from mqcore.clock import Clock, SystemClock
from mqcore.config.keys import ConfigValue
from mqcore.config.store import StoreConfig
from mqcore.config.topic import TopicConfig
from mqcore.errors import (
    ForkedStoreError,
    MQError,
    StorageError,
    StoreClosedError,
    StoreReadOnlyError,
    UnknownTopicError,
)
from mqcore.log import checkpoints, fork_guard, layout
from mqcore.log.checkpoints import PartitionKey
from mqcore.log.layout import Layout
from mqcore.log.maintenance import Maintenance
from mqcore.log.maintenance_pass import Housekeeper
from mqcore.log.offsets import Offsets
from mqcore.log.open_report import OpenReport
from mqcore.log.open_segments import OpenSegments
from mqcore.log.opening import SYNC_EACH_MAX
from mqcore.log.os_errors import os_errors
from mqcore.log.partition_log import NO_SLOT, PartitionLog
from mqcore.log.partitions import Partitions
from mqcore.log.producer_ids import ProducerIds
from mqcore.log.removal import forget_offsets
from mqcore.log.report import MaintenanceReport
from mqcore.log.topics import METADATA_TOPIC, TopicInfo, TopicRegistry
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore.log.adopt import Adopted
    from mqcore.log.checkpoints import Session
    from mqcore.log.commit_ports import DurableTarget
    from mqcore.log.group_commit import GroupCommit
    from mqcore.log.lock import StoreLock
    from mqcore.log.marks import Marks
    from mqcore.log.retention import RetentionClock
    from mqcore.log.views import ViewEnvironment

logger = logging.getLogger("mqcore.store")


def durability_of(config: TopicConfig, store: Durability) -> Durability:
    """What acknowledged means for a topic: its own setting, else the store's. A store in memory has nothing better."""
    return store if store == Durability.MEMORY or not config.durability else Durability(config.durability)


class LogStore:
    """An open store. Made by `open`. Safe to share between threads."""

    def __init__(self, path: str, durability: Durability, io: Io, clock: Clock, config: StoreConfig) -> None:
        self.path, self.durability, self.io, self.clock, self.config = path, durability, io, clock, config
        self.read_only = False
        self.layout, self.store_id = Layout(path), b""
        self.recovery = OpenReport()
        self.open_segments = OpenSegments(config.max_open_files)
        self.partitions = Partitions(self)
        self.marks: Marks
        self.retention_clock: RetentionClock  # maintenance alone uses it
        self.session: Session
        self.registry: TopicRegistry
        self.views: ViewEnvironment
        self.group: GroupCommit | None = None
        self.store_lock: StoreLock | None = None
        self.log_starts: dict[PartitionKey, int] = {}
        self.cleaned: dict[PartitionKey, int] = {}  # up to where compaction came
        self.condemned: list[str] = []  # directories of deleted topics
        self.stale_names: set[str] = set()  # deleted topics of which the offset files may still say something
        self._pass_lock, self._lock = threading.Lock(), threading.RLock()
        # Of `group` alone, a leaf: partitions are made under their own lock; maintenance holds _lock and takes theirs.
        self._group_lock = threading.Lock()
        # What is written last must be what was known last; two writers of one file would share a temporary one.
        self._points_lock, self._starts_lock = threading.Lock(), threading.Lock()
        self._maintenance = Maintenance(self, config.maintenance_interval_ms / 1000)
        self.housekeeper = Housekeeper(self, self._lock)
        self.producer_ids = ProducerIds.of(self)
        self.to_seal: weakref.WeakSet[PartitionLog] = weakref.WeakSet()  # they have rolled segments without their seal
        self._closed = self._forked = self._ready = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self.read_only else "open"
        return f"<LogStore {self.path} {self.durability} {state}>"

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_forked(self) -> bool:
        """This process is a forked child of the one that opened the store."""
        return self._forked

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = Durability.FSYNC,
        read_only: bool = False,
        io: Io | None = None,
        clock: Clock | None = None,
        config: Mapping[str, ConfigValue] | None = None,
    ) -> LogStore:
        """Open the store in a directory; make it if the directory is new or empty.

        read_only: beside a living writer its records are followed; without one, what is provably kept is served, and
        nothing is written. config: keys of StoreConfig.
        Raises StoreLockedError, StoreFormatError, StoreReadOnlyError, InvalidConfigError, StorageError.
        """
        from mqcore.log.open_store import WriterOpening
        from mqcore.log.read_only import ReadOnlyStore

        made = ReadOnlyStore if read_only else cls
        store = made(
            os.path.realpath(path),
            Durability(durability),
            io or Io(),
            clock or SystemClock(),
            StoreConfig.parse(config),
        )
        try:
            with os_errors("cannot open the store", store.path):
                if isinstance(store, ReadOnlyStore):
                    store.look()
                else:
                    WriterOpening(store).run()
        except BaseException:
            store.abandon()
            raise
        store._ready = True
        fork_guard.watch(store)
        store.recovery.log(store.path)
        if store.condemned or store.to_seal:
            store._maintenance.hurry()
        return store

    def __enter__(self) -> Self:
        self.check_usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- topics -----------------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, TopicInfo]:
        """The topics by name, sorted; the store's own are not among them."""
        self.check_usable()
        return self.registry.all()

    def topic(self, name: str) -> TopicInfo:
        """A topic. UnknownTopicError names the nearest ones."""
        self.check_usable()
        return METADATA_TOPIC if name == METADATA_TOPIC.name else self.registry.get(name)

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, ConfigValue] | None = None
    ) -> TopicInfo:
        """Make a topic; durable on return. Directories and files come with the first records.

        Raises TopicExistsError, InvalidTopicError, InvalidConfigError, StoreReadOnlyError.
        """
        self.check_writable()
        with self._lock:
            forget_offsets(self, name)
            info = self.registry.create(name, partitions, config)
            self._sync_registry()
            return info

    def alter_topic(self, name: str, config: Mapping[str, ConfigValue | None]) -> TopicInfo:
        """Change settings (None takes an override away); durable on return, in force for the next append."""
        self.check_writable()
        with self._lock:
            before = self.topic(name)
            info = self.registry.alter(name, config)
            for number in range(info.partitions):
                log = self.partitions.get(PartitionKey(name, number))
                if log is not None:
                    # What was written under the old durability is synced first: recovery goes by the new one.
                    if before.config.durability != info.config.durability and self.durability != Durability.MEMORY:
                        log.flush()
                    log.reconfigure(info.config)
            if before.config.durability != info.config.durability:
                self.save_recovery_points()
            self._sync_registry()
            return info

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """Raise the partition count to `total`; durable on return."""
        self.check_writable()
        with self._lock:
            info = self.registry.add_partitions(name, total)
            self._sync_registry()
            return info

    def delete_topic(self, name: str) -> None:
        """Delete a topic; durable on return. Its files go in the background; views that readers hold stay valid."""
        self.check_writable()
        with self._lock:
            if name == METADATA_TOPIC.name:
                raise UnknownTopicError("this topic is the store's own", topic=name)
            info = self.registry.delete(name)
            self.stale_names.add(name)
            self._sync_registry()
            for number in range(info.partitions):
                self._condemn(info, number)
        self._maintenance.hurry()

    def adopt(self, directory: str, topic: str | None = None, partition: int | None = None) -> Adopted:
        """Take in a partition directory that Apache Kafka wrote: see mqcore.log.adopt."""
        from mqcore.log.adopt import adopt

        self.check_writable()
        with self._lock:
            return adopt(self, directory, topic, partition)

    def _condemn(self, info: TopicInfo, number: int) -> None:
        """Take a partition of a deleted topic out of use; the tombstone is durable."""
        log = self.partitions.drop(PartitionKey(info.name, number))
        if log is not None:
            log.mark_deleted()
            with log.compaction_lock:
                pass  # a round that is running gives up at its next step: the directory's name may be used again
            if self.group is not None:
                self.group.discard(log)
        self.log_starts.pop(PartitionKey(info.name, number), None)
        self.cleaned.pop(PartitionKey(info.name, number), None)
        path = self.layout.partition_dir(info.name, number)
        if layout.require_kind(path, "dir"):
            target = os.path.join(self.layout.topics, layout.deleted_dir_name(info.name, number, info.topic_id))
            self.io.rename(path, target)
            self.condemned.append(target)

    def _sync_registry(self) -> None:
        """Under fsync the registry's own wait made its record durable. Elsewhere a topic is worth one sync all the
        same: they are few, and losing one loses all its records."""
        log = self.partitions.log_of(METADATA_TOPIC, 0)
        if self.durability == Durability.OS:
            log.flush()

    # -- partitions -------------------------------------------------------------------------------------------------

    def partition(self, topic: str, partition: int) -> PartitionLog:
        """The log of a partition. UnknownTopicError: no such topic, or not that many partitions."""
        self.check_usable()
        log = self.partitions.get(PartitionKey(topic, partition))
        if log is not None:
            return log
        info = self.topic(topic)
        if not 0 <= partition < info.partitions:
            raise UnknownTopicError(
                "unknown partition",
                hint=f"The topic has partitions 0 to {info.partitions - 1}",
                topic=topic,
                partition=partition,
            )
        return self.partitions.log_of(info, partition)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(log start, high watermark) of a partition, without opening anything of it."""
        self.check_usable()
        return self.partitions.bounds(PartitionKey(topic, partition))

    # -- what partitions ask of their store (PartitionHost) -----------------------------------------------------------

    def check_usable(self) -> None:
        if self._forked:
            raise ForkedStoreError(
                "the store was opened by the parent process",
                hint="Open it in the child with read_only=True, or fork before opening",
                path=self.path,
            )
        if self._closed:
            raise StoreClosedError("the store is closed", path=self.path)

    def check_current(self, info: TopicInfo) -> None:
        if info is not METADATA_TOPIC and self.registry.find(info.topic_id) is None:
            raise UnknownTopicError("the topic was deleted", topic=info.name)

    def check_writable(self) -> None:
        self.check_usable()
        if self.read_only:
            raise StoreReadOnlyError("the store is open for reading only", path=self.path)
        if self.group is not None and self.group.failed:
            raise StoreReadOnlyError(
                "a commit failed, and this process must not trust the disk again",
                hint="Close the store, check the disk, open it again: recovery keeps what was acknowledged",
                path=self.path,
                errno=self.group.failed_errno,
            )

    def group_commit(self) -> GroupCommit:
        """The store's group commit, opened at the first need."""
        with self._group_lock:
            if self.group is None:
                from mqcore.log.group_commit import GroupCommit

                self.group = GroupCommit.open(
                    self.io,
                    self.layout.path(layout.JOURNAL),
                    self.store_id,
                    ring_bytes=self.config.journal_ring_bytes,
                    max_round_bytes=self.config.journal_max_round_bytes,
                    on_checkpoint=self._checkpointed,
                    read_only=self.read_only,
                )
            return self.group

    def _checkpointed(self, points: Sequence[tuple[DurableTarget, int]]) -> None:
        """The group commit synced these; it frees its ring when their recovery points are on disk."""
        for log, next_offset in points:
            assert isinstance(log, PartitionLog)
            log.checkpointed(next_offset)
        self.save_recovery_points()

    def group_for(self, config: TopicConfig) -> GroupCommit | None:
        durable = durability_of(config, self.durability) == Durability.FSYNC
        return self.group_commit() if durable and not self.read_only else None

    def syncs(self, config: TopicConfig) -> bool:
        return durability_of(config, self.durability) == Durability.FSYNC

    def publish(self, log: PartitionLog, offsets: Offsets) -> None:
        if not self._ready:
            return  # publish_all comes at the end of the open
        self.take_slot(log)
        self.marks.publish(log.slot, offsets.log_start, offsets.high_watermark, offsets.last_stable, offsets.log_end)

    def take_slot(self, log: PartitionLog) -> None:
        if self._ready and log.slot == NO_SLOT:
            log.slot = self.marks.slot(log.topic_id, log.partition)

    def publish_all(self) -> None:
        """Give every partition that holds anything its place on the marks page."""
        for key, state in self.partitions.states():
            log = self.partitions.get(key)
            slot = self.marks.slot(state.topic_id, key.partition)
            if log is not None:
                log.slot = slot
            self.marks.publish(slot, state.log_start, state.log_end, state.stable_end, state.log_end)

    def seal_later(self, log: PartitionLog) -> None:
        self.to_seal.add(log)
        if self._ready:
            self._maintenance.hurry()

    def log_start_moved(self, log: PartitionLog) -> None:
        self.log_starts[PartitionKey(log.topic, log.partition)] = log.log_start_offset
        self.save_log_starts()

    def save_log_starts(self) -> None:
        if self.durability != Durability.MEMORY:
            with self._starts_lock:
                checkpoints.write_offsets(self.io, self.layout.path(layout.LOG_STARTS), dict(self.log_starts))

    # -- background -------------------------------------------------------------------------------------------------

    def maintain(self) -> MaintenanceReport:
        """One pass of seals, checkpoints, retention, compaction, digests and view commits. The maintenance thread
        runs it by itself. Raises the first error that a step met; the others ran all the same."""
        self.check_writable()
        with self._pass_lock:
            self.check_writable()
            return self.housekeeper.run()

    def save_recovery_points(self) -> None:
        """Write what is known to be synced: what recovery need not scan, and must not cut."""
        if self.durability != Durability.MEMORY:
            with self._points_lock:
                path = self.layout.path(layout.RECOVERY_POINTS)
                checkpoints.write_offsets(self.io, path, self.partitions.recovery_points())

    def note_cleaned(self, log: PartitionLog, offset: int) -> None:
        """Compaction came up to `offset`. The file is written after the segments are in place: a round that is done
        again costs time, one that is believed and was not done would leave old records for ever."""
        log.cleaned = self.cleaned[PartitionKey(log.topic, log.partition)] = offset
        self.save_cleaned()

    def save_cleaned(self) -> None:
        if self.durability != Durability.MEMORY:
            checkpoints.write_offsets(self.io, self.layout.path(layout.CLEANED_OFFSETS), dict(self.cleaned))

    # -- closing ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync everything, note that nothing needs recovery, let go. Again: nothing. Views stay valid.

        Raises the first error that was met; the store is closed all the same, and the next open recovers.
        """
        if self._forked:
            return  # the parent's: nothing of it may be touched here
        with self._lock:
            if self._closed:
                return
        self.housekeeper.stop()
        self._maintenance.stop()
        with self._pass_lock, self._lock:
            if self._closed:
                return
            self._closed = True
            fork_guard.forget(self)
            try:
                if not self.read_only:
                    with os_errors("cannot close the store", self.path):
                        self._close_writer()
            finally:
                self.abandon()

    def _close_writer(self) -> None:
        for log in self.partitions.logs():
            log.settle()  # no append is running, and none begins any more
        if self.group is not None:
            failed, cause = self.group.failed, self.group.failed_errno
            self.group.close()
            if failed:  # a later sync may succeed and prove nothing (R2): the next open looks for itself
                raise StorageError("closed as after a crash, for a commit failed", path=self.path, errno=cause)
        self.views.close()
        if self.durability == Durability.MEMORY:
            return
        logs = self.partitions.logs()
        changed = [log for log in logs if log.written or log in self.to_seal]
        if len(changed) > SYNC_EACH_MAX:
            self.io.sync_filesystem(self.path)  # one for all
        for log in changed:
            log.flush(synced=len(changed) > SYNC_EACH_MAX)
        for log in logs:
            log.close(write_indexes=True)
        self.io.sync_filesystem(self.path)  # the indexes
        self.save_recovery_points()
        states = dict(self.partitions.states())
        checkpoints.write_clean_shutdown(self.io, self.layout.path(layout.CLEAN_SHUTDOWN), states)

    def abandon(self) -> None:
        """Let go without a word to the disk: what a crash does, but for the descriptors."""
        self._closed = True
        self.housekeeper.stop()
        self._maintenance.stop()
        with contextlib.ExitStack() as last:  # from the end: the lock goes whatever the others raise
            if self.store_lock is not None:
                last.callback(self.store_lock.close)
            if not self.read_only and hasattr(self, "marks"):
                last.callback(self.marks.close)
            last.callback(self._abandon_partitions)
            if hasattr(self, "views"):
                last.callback(self.views.abandon)
            if self.group is not None:
                last.callback(self.group.abandon)

    def _abandon_partitions(self) -> None:
        for log in self.partitions.logs():
            try:
                log.close(write_indexes=False)
            except MQError as error:
                logger.warning("closing %s-%d: %s", log.topic, log.partition, error)
        self.open_segments.clear()

    def forked(self) -> object:
        """In a forked child: no call works any more, the lock is the parent's alone."""
        self._forked = True
        if self.store_lock is not None:
            self.store_lock.forked()
        if not self.read_only and hasattr(self, "marks"):
            self.marks.abandon()
        self.views.forked()
        return self.__dict__.copy()


@atexit.register
def _close_all() -> None:
    """At interpreter exit: stores that nobody closed are closed cleanly, and their threads joined."""
    for store in fork_guard.open_stores():
        try:
            store.close()
        except MQError as error:
            logger.error("closing %s at exit: %s", store.path, error)
