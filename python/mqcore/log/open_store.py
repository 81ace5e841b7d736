"""The steps of opening a store for writing, in their order; opening.py has each of them, and the reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mqcore.errors import MQError
from mqcore.log import checkpoints, layout, opening
from mqcore.log.checkpoints import PartitionKey, PartitionState, Session
from mqcore.log.layout import TRANSACTION_TOPIC
from mqcore.log.lock import StoreLock
from mqcore.log.marks import Marks, page_path
from mqcore.log.open_report import Finding
from mqcore.log.orphans import Orphans
from mqcore.log.recovery import JournalEntry
from mqcore.log.retention import RetentionClock
from mqcore.log.topics import METADATA_TOPIC, TopicRegistry
from mqcore.log.transaction_log import Decisions
from mqcore.log.views import ViewEnvironment
from mqcore.types import Durability

if TYPE_CHECKING:
    import uuid

    from mqcore.log.manager import LogStore
    from mqcore.log.topics import TopicInfo


class WriterOpening:
    """One open. `run` leaves the store ready, or raises with the lock still held: the caller abandons the store."""

    def __init__(self, store: LogStore) -> None:
        self._store, self._io, self._where, self._report = store, store.io, store.layout, store.recovery
        self._clean: Mapping[PartitionKey, PartitionState] | None = None
        self._points: dict[PartitionKey, int] = {}
        self._recoverer: opening.Recoverer

    def run(self) -> None:
        store, io, where, report = self._store, self._io, self._where, self._report
        started = store.clock.monotonic_s()
        opening.make_root(io, store.path)
        store.store_lock = StoreLock(where.path(layout.LOCK))
        store.store_id = opening.prepare(io, where, report, create=True).store_id
        session, self._clean = opening.read_left(io, where, report)
        self._recoverer = self._make_recoverer(session)
        self._set_epoch(session)
        # The journal of a store that is opened in another durability now may still hold what was acknowledged.
        if layout.require_kind(where.path(layout.JOURNAL), "dir"):
            group = store.group_commit()
            if group.damage:
                report.add(Finding("lost", where.path(layout.JOURNAL), group.damage))
        self._replay({METADATA_TOPIC.topic_id: METADATA_TOPIC}.get)
        self._load([(METADATA_TOPIC, 0)])
        self._open_registry()
        self._sort_directories()
        orphans = Orphans(io, where, report, self._points)
        self._replay(store.registry.find, orphans)
        orphans.finish()
        topics = store.registry.all(internal=True)
        decisions = topics.pop(TRANSACTION_TOPIC, None)
        if decisions is not None:
            self._load([(decisions, number) for number in range(decisions.partitions)])
        self._recoverer.bears_out = Decisions(store, decisions).bear_out
        self._load([(info, number) for info in topics.values() for number in range(info.partitions)])
        if not report.clean:
            store.save_recovery_points()
            if store.group is not None:
                store.group.checkpoint()  # nothing of it needs replay any more
        store.retention_clock = RetentionClock(store.clock, self._newest_ms(session), session.clock)
        store.session = Session(store.partitions.epoch, store.durability, store.retention_clock.state())
        opening.begin_session(io, where, store.session)
        # Last: readers of other processes find no marks until there is nothing left to recover.
        private = store.durability == Durability.MEMORY
        store.marks = Marks.create(store.store_id, None if private else page_path(store.store_id, store.path))
        store.publish_all()
        report.seconds = store.clock.monotonic_s() - started

    def _newest_ms(self, session: Session) -> int:
        """The newest record's timestamp: all that is known of the time where the last writer left nothing."""
        if session.clock is not None:
            return -1
        states = (state for _, state in self._store.partitions.states())
        return max((part.max_timestamp for state in states for part in state.segments[-1:]), default=-1)

    def _set_epoch(self, session: Session) -> None:
        self._report.epoch = max(0, session.epoch + (not self._report.clean))
        self._store.partitions.epoch = self._report.epoch

    def _make_recoverer(self, session: Session) -> opening.Recoverer:
        from mqcore.log.manager import durability_of

        store = self._store
        store.log_starts = opening.read_points(self._io, self._where.path(layout.LOG_STARTS), self._report)
        store.cleaned = opening.read_points(self._io, self._where.path(layout.CLEANED_OFFSETS), self._report)
        points = self._points = opening.read_points(self._io, self._where.path(layout.RECOVERY_POINTS), self._report)
        store.stale_names = {key.topic for key in (*points, *store.log_starts, *store.cleaned)}
        for key, state in (self._clean or {}).items():
            points[key] = max(points.get(key, 0), state.log_end)  # a clean close synced it all
        return opening.Recoverer(
            self._io,
            self._where,
            self._report,
            session=session,
            recovery_points=points,
            log_starts=store.log_starts,
            cleaned=store.cleaned,
            durability_of=durability_of,
            threads=store.config.num_recovery_threads_per_data_dir,
        )

    def _open_registry(self) -> None:
        store, views = self._store, self._where.path(layout.VIEWS)
        if store.durability == Durability.MEMORY:
            store.views = ViewEnvironment()
        else:
            if not layout.require_kind(views, "dir"):
                self._io.mkdir(views)
            store.views = ViewEnvironment(
                self._io,
                views,
                map_bytes=store.config.view_map_bytes,
                verify_bytes=store.config.view_verify_bytes,
                owner=store.store_id,
            )
        store.views.hurry = store._maintenance.hurry
        store.registry = TopicRegistry(
            store.partitions.log_of(METADATA_TOPIC, 0),
            store.views,
            defaults=store.config.topic_defaults,
            clock=store.clock,
            topics_max=store.config.max_topics,
            partitions_max=store.config.max_partitions,
        )
        store.registry.load()

    def _sort_directories(self) -> None:
        store = self._store
        known = {METADATA_TOPIC.name: METADATA_TOPIC, **store.registry.all(internal=True)}

        def is_ours(key: PartitionKey) -> bool:
            state = (self._clean or {}).get(key)
            return state is not None and opening.is_unchanged(self._where.partition_dir(*key), state)

        store.condemned += opening.sort_directories(
            self._io, self._where, self._report, known, store.registry.deleted(), is_ours
        )
        store.stale_names -= known.keys()
        for offsets in (store.log_starts, store.cleaned):
            for key in [key for key in offsets if key.topic not in known]:
                del offsets[key]  # of topics that are gone

    def _replay(self, find: Callable[[uuid.UUID], TopicInfo | None], orphans: Orphans | None = None) -> None:
        """Redo what the journal proves, of the topics that `find` knows. orphans: gets what is of no topic that is
        known or was deleted. After a clean close there is nothing."""
        if self._store.group is None or self._report.clean:
            return
        gone = {METADATA_TOPIC.topic_id, *(self._store.registry.deleted() if orphans is not None else ())}
        for entry in self._store.group.replay():
            info = find(entry.topic_id)
            if info is not None and entry.partition < info.partitions:
                self._recoverer.redo(
                    info,
                    entry.partition,
                    JournalEntry(
                        entry.segment_base,
                        entry.position,
                        entry.base_offset,
                        entry.next_offset,
                        entry.leader_epoch,
                        entry.data,
                    ),
                )
            elif orphans is not None and entry.topic_id not in gone:
                orphans.keep(entry)

    def _load(self, partitions: list[tuple[TopicInfo, int]]) -> None:
        """Take partitions as a clean close left them; recover those that it did not leave so."""
        store, doubtful = self._store, []
        for info, number in partitions:
            key = PartitionKey(info.name, number)
            state = None if self._clean is None else self._clean.get(key)
            if state is not None and state.topic_id == info.topic_id and self._is_unchanged(key, state):
                store.partitions.add_state(key, state)
            else:
                doubtful.append((info, number))
        recovered = self._recoverer.recover(doubtful) if doubtful else {}
        if recovered and self._report.clean:
            # Closed cleanly, and changed since by somebody else.
            self._report.clean = False
            self._report.epoch += 1
            store.partitions.epoch = self._report.epoch
        for info, number in doubtful:
            loaded = recovered.get(PartitionKey(info.name, number))
            if loaded is not None:
                log = store.partitions.add_recovered(info, number, loaded)
                if any(not entry.sealed for entry in log.segments[:-1]):
                    store.seal_later(log)

    def _is_unchanged(self, key: PartitionKey, state: PartitionState) -> bool:
        directory = self._where.partition_dir(*key)
        try:
            damaged = {one.base_offset for one in checkpoints.read_damage(self._io, f"{directory}/{layout.DAMAGED}")}
        except MQError:
            return False
        return opening.is_unchanged(directory, state, damaged)
