"""One pass of a store's background work, in an order that lets an error of one kind not starve the others.

Invariants:
    1. A step looks at every partition, also at those that nobody asked for since the open, but makes a log only where
       there is something to do.
    2. Nothing goes by the wall clock alone (retention.RetentionClock).
    3. Each step holds the store's lock, which changes of topics wait for; a round of compaction, which may take minutes
       (its I/O is bounded), holds its partition's `compaction_lock` instead. It gives up when its topic is deleted or the
       store closes.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mqcore.errors import MQError, StoreClosedError
from mqcore.log import checkpoints, compaction, layout, removal, retention
from mqcore.log.checkpoints import PartitionKey, PartitionState
from mqcore.log.compaction import Compaction
from mqcore.log.os_errors import os_errors
from mqcore.log.report import MaintenanceReport
from mqcore.log.retention import SegmentFacts
from mqcore.log.seal import Pace, Sealer
from mqcore.log.segments import UNKNOWN
from mqcore.log.topics import METADATA_TOPIC
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore.log.compaction_plan import Plan
    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.topics import TopicInfo

# Bytes that one pass reads to make digests: a pass holds the lock that changes of topics wait for.
DIGEST_BUDGET_BYTES = 64 << 20
# Bytes of log that one pass compacts, the last round whole.
COMPACTION_BUDGET_BYTES = 256 << 20


class Housekeeper:
    """What a store's passes remember from one to the next. One thread at a time."""

    def __init__(self, store: LogStore, lock: threading.RLock) -> None:
        self._store, self._lock = store, lock
        self.guests: list[Callable[[MaintenanceReport], None]] = []  # steps of the parts above the log
        self._pace = Pace(store.config.log_cleaner_io_max_bytes_per_second)
        self._compaction = Compaction(map_bytes=store.config.log_cleaner_dedupe_buffer_size, pause=self._pause)
        self._compacting: PartitionLog | None = None
        self._stopping = False
        self._sealer = Sealer(store.io, Pace(store.config.seal_io_max_bytes_per_second))

    def run(self) -> MaintenanceReport:
        """Seal, checkpoint, delete by age and size, make digests, commit views, remove what was deleted.

        Every step runs; the first error is raised at the end.
        """
        report, errors = MaintenanceReport(), []
        steps: list[Callable[[MaintenanceReport], None]] = [
            self._seal,
            self._checkpoint,
            self._retain,
            self._expire_producers,
            self._compact,
            self._digest,
            *self.guests,
            self._commit_views,
            self._remove,
        ]
        for step in steps:
            try:
                lock = contextlib.nullcontext() if step == self._compact else self._lock
                with os_errors("maintenance", self._store.path), lock:
                    step(report)
            except MQError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return report

    def stop(self) -> None:
        """The store is closing: a round that is running gives up."""
        self._stopping = True

    def forget(self, log: PartitionLog) -> None:
        """A partition's files changed under their names."""
        self._sealer.forget(log)

    def _seal(self, report: MaintenanceReport) -> None:
        waiting, errors = self._store.to_seal, []
        for log in list(waiting):
            waiting.discard(log)  # first: what is rolled meanwhile is another pass's
            try:
                report.sealed += log.seal_rolled() if not log.deleted else 0
            except MQError as error:
                waiting.add(log)
                errors.append(error)
        if errors:
            raise errors[0]

    def _checkpoint(self, _: MaintenanceReport) -> None:
        if self._store.group is not None and self._store.durability != Durability.MEMORY:
            self._store.group.checkpoint()

    def _retain(self, report: MaintenanceReport) -> None:
        store = self._store
        clock = store.retention_clock
        now_ms = clock.now_ms()
        unsaved = clock.take_unsaved()
        if unsaved is not None and store.durability != Durability.MEMORY:
            store.session = replace(store.session, clock=unsaved)
            checkpoints.write_session(store.io, store.layout.path(layout.SESSION), store.session)
        for info, key, state in self._held():
            if not info.config.deletes or (info.config.retention_ms < 0 and info.config.retention_bytes < 0):
                continue
            log = store.partitions.get(key)
            if log is None and not _may_go(info, state, now_ms):
                continue
            gone = retention.apply(log or store.partitions.log_of(info, key.partition), clock)
            report.deleted += gone.segments if gone is not None else 0

    def _expire_producers(self, report: MaintenanceReport) -> None:
        """By the clock that no jump moves forward: a producer that is forgotten may store a record twice."""
        before_ms = self._store.retention_clock.now_ms() - self._store.config.producer_id_expiration_ms
        for log in self._store.partitions.logs():
            report.expired += log.expire_producers(before_ms)

    def _compact(self, report: MaintenanceReport) -> None:
        """One round each for the partitions that are due, the dirtiest first, within the pass's budget."""
        now_ms, left = self._store.retention_clock.now_ms(), COMPACTION_BUDGET_BYTES
        with self._lock:
            due = self._due(now_ms)
        for plan, log in due:
            if left <= 0:
                break
            with log.compaction_lock:
                self._compacting = log
                try:
                    done = self._compaction.run(log, plan, now_ms)
                    self._store.note_cleaned(log, done.end)
                except MQError:
                    if log.deleted:
                        continue
                    raise
            self._sealer.forget(log)
            report.compacted += 1
            left -= plan.clean_bytes + plan.dirty_bytes

    def _due(self, now_ms: int) -> list[tuple[Plan, PartitionLog]]:
        """The rounds that are due, the dirtiest first."""
        due = []
        for info, key, state in self._held():
            if info.config.compacted and len(state.segments) > 1:
                log = self._store.partitions.log_of(info, key.partition)
                plan = compaction.plan(log, cleaned=log.cleaned, now_ms=now_ms)
                if plan is not None and plan.is_due(info.config):
                    due.append((plan, log))
        return sorted(due, key=lambda one: (one[0].overdue, one[0].ratio), reverse=True)

    def _pause(self, size: int) -> None:
        """Called by a round with each number of bytes that it read or wrote."""
        if self._stopping:
            raise StoreClosedError("the store is closing", path=self._store.path)
        assert self._compacting is not None
        self._compacting.check_there()
        self._pace(size)

    def _digest(self, report: MaintenanceReport) -> None:
        if self._store.durability == Durability.MEMORY:
            return
        left = DIGEST_BUDGET_BYTES
        for log in self._store.partitions.logs():
            if left <= 0 or log.deleted:
                break
            read = self._sealer.seal(log, left)
            report.digested += read
            left -= read

    def _commit_views(self, report: MaintenanceReport) -> None:
        report.committed = self._store.views.commit()

    def _remove(self, report: MaintenanceReport) -> None:
        report.removed = removal.remove_condemned(self._store)

    def _held(self) -> Iterator[tuple[TopicInfo, PartitionKey, PartitionState]]:
        """The partitions of known topics that hold anything, `__metadata` among them: topics come and go for ever."""
        topics = {METADATA_TOPIC.name: METADATA_TOPIC, **self._store.registry.all(internal=True)}
        for key, state in self._store.partitions.states():
            info = topics.get(key.topic)
            if info is not None and info.topic_id == state.topic_id:
                yield info, key, state


def _may_go(info: TopicInfo, state: PartitionState, now_ms: int) -> bool:
    """Whether retention may have something to do, by the numbers of a clean close alone."""
    if any(segment.max_timestamp in (UNKNOWN, -1) for segment in state.segments):
        return True  # only the files can tell
    facts = [SegmentFacts(s.base_offset, s.next_offset, s.size, s.max_timestamp) for s in state.segments]
    facts = list(itertools.takewhile(lambda segment: segment.size > 0, facts))
    return retention.removal(facts, info.config, now_ms, state.log_end) is not None
