"""A consumer in a group: which partitions it reads is the group's decision, and how far it came the group remembers.

Invariants:
    1. A partition is read only between its assignment and its revocation, from its committed offset, else from where
       `start` says. Its position is dropped with it: nothing is handed out twice within a generation, and what was
       decoded ahead of a revocation is not handed out at all.
    2. Revocation happens in the user's thread, between two records or batches, before the group goes on without it
       (KIP-429: cooperative members give up only what another one gets).
    3. commit() never commits above what was handed out (I12), and only as the current generation (I16).
    4. Liveness never depends on the user's thread: heartbeats come from the store's (heartbeats.py). The user's thread
       must only come back within max_poll_interval_s.
Locks: `_progress_lock` (one thread at a time goes through a rebalance; held while the user's callbacks run), then
`Consumer._lock`. Neither is held while the coordinator is called, but for `_progress_lock`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mqcore.client.consumer import Consumer, LogLike, Partition, Start
from mqcore.client.heartbeats import Heartbeats
from mqcore.client.membership import GroupMetadata, Membership, Phase, Watched
from mqcore.errors import (
    InvalidGroupError,
    MQError,
    RebalanceInProgressError,
    UnknownMemberError,
    UnknownTopicError,
)
from mqcore.groups.assignors import find
from mqcore.groups.coordinator import Coordinator, OffsetToCommit, check_group_id
from mqcore.groups.lag import count_readable
from mqcore.log.reader import RecordIterator
from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.client.batches import Batch
    from mqcore.client.consumer import MarksLike
    from mqcore.log.manager import LogStore
    from mqcore.log.reader import Columns

Callback = Callable[["GroupConsumer", list[TopicPartition]], None]

AUTO_COMMIT_S = 5.0  # Kafka's auto.commit.interval.ms
_STEPS_MAX = 16  # of one look at the group: more would be a loop
_COMMIT_TRIES = 3


class GroupConsumer(Consumer, Watched):
    """Made by `store.consumer(..., group="…")`; a context manager that closes. See Consumer for topics and options.

    group: 1 to 1,024 bytes of UTF-8. assignor: "range", "roundrobin", "sticky" or "cooperative-sticky" (members keep
        what nobody else gets while the group rebalances); all members speak the same.
    start: where a partition begins of which the group has committed nothing: "earliest", "latest" or ms since 1970;
        partitions that appear later begin at their beginning.
    group_instance_id: a static member (KIP-345): it may go and come back within its session without a rebalance.
    session_timeout_s: of the heartbeats, which the store sends; only a stopped process or a lost consumer misses them.
    max_poll_interval_s: longest time between two calls (or two records of an iteration); then the group goes on without
        this consumer, until it comes back. None: for ever.
    on_assigned, on_revoked, on_lost: called as f(consumer, partitions) in the thread that polls or iterates. on_revoked
        may still commit; on_lost (the membership ended without a revocation) may not. Not called with no partitions.
    auto_commit: commit what was handed out, every five seconds, at revocation and at close.
    """

    def __init__(
        self,
        store: LogStore,
        *topics: str | re.Pattern[str] | Iterable[str | re.Pattern[str]],
        group: str,
        coordinator: Coordinator,
        heartbeats: Heartbeats,
        assignor: str = "range",
        group_instance_id: str | None = None,
        client_id: str = "mqcore",
        session_timeout_s: float = 45.0,
        max_poll_interval_s: float | None = 300.0,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        auto_commit: bool = False,
        **options: Any,
    ) -> None:
        """Raises InvalidGroupError, UnknownTopicError, ValueError, StoreReadOnlyError (a group writes)."""
        check_group_id(group)
        if session_timeout_s <= 0 or (max_poll_interval_s is not None and max_poll_interval_s <= 0):
            raise ValueError("session_timeout_s and max_poll_interval_s must be more than 0")
        store.check_writable()
        self.group = group
        self._log_store, self._heartbeats, self._coordinator = store, heartbeats, coordinator
        self._max_poll_s = max_poll_interval_s
        self._on_assigned, self._on_revoked, self._on_lost = on_assigned, on_revoked, on_lost
        self._auto_commit = auto_commit
        self._progress_lock = threading.RLock()
        self._progressing = False
        self._topics_changed = False
        self._at_first: set[TopicPartition] | None = None  # partitions that were there when we began
        self._committed: dict[TopicPartition, int] = {}  # as far as we know
        self._calls = 0  # of poll and iterations that are running
        self._seen: tuple[float, int] = (store.clock.monotonic_s(), -1)  # last sign of progress, and its position
        self._auto_committed_s = self._seen[0]
        self._waits_for_group = True  # aio never blocks
        self._membership = Membership(
            coordinator,
            group,
            find(assignor),
            self,
            client_id=client_id,
            instance_id=group_instance_id,
            session_timeout_s=session_timeout_s,
            rebalance_timeout_s=86_400.0 if max_poll_interval_s is None else max_poll_interval_s,
        )
        super().__init__(store, *topics, **options)
        self._at_first = set(self._subscription.partitions())
        heartbeats.add(self._membership)

    # -- reading --------------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float | None = 1.0, max_records: int = 1000) -> list[Batch]:
        """As Consumer.poll; also takes part in rebalances, and runs the callbacks of this consumer.

        Also raises FencedInstanceError (another consumer has our group_instance_id), InvalidGroupError (the members
        speak other assignors), and what the callbacks raise.
        """
        self._begin_call()
        try:
            return super().poll(timeout_s, max_records)
        finally:
            self._end_call()

    def _next(self, max_records: int, wait_s: float | None, records: RecordIterator | None = None) -> Columns | None:
        self._begin_call()
        try:
            if wait_s == 0.0 and not self._follow and self._waits_for_group:
                self._await_assignment()
            return super()._next(max_records, wait_s, records)
        finally:
            self._end_call()

    def _begin_call(self) -> None:
        self._check_open()
        self._calls += 1
        try:
            if self._auto_commit:
                self._commit_by_time()
            if self._membership.attention:
                self._progress()
        except BaseException:
            self._end_call()
            raise

    def _end_call(self) -> None:
        self._calls -= 1
        self._seen = (self._log_store.clock.monotonic_s(), -1)

    def _sleep(self, marks: MarksLike, seen: int, deadline: float | None) -> bool:
        if self._membership.attention and self._progress():
            return True
        slept = super()._sleep(marks, seen, deadline)
        if self._membership.attention:
            self._progress()
        return slept

    def _await_assignment(self) -> None:
        """An iteration that ends at the log's end begins when the group knows what it is of."""
        deadline = time.monotonic() + self._membership.rebalance_timeout_s
        while self._membership.phase != Phase.IN and not self._closed and time.monotonic() < deadline:
            self._membership.wait_settled(0.5)
            if self._membership.attention:
                self._progress()

    # -- the group ------------------------------------------------------------------------------------------------------

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Not for a consumer in a group: InvalidGroupError."""
        raise InvalidGroupError(
            "a consumer in a group gets its partitions from the group",
            hint="Leave group= out to assign partitions by hand",
            group=self.group,
        )

    def _progress(self) -> bool:
        """Go through what the group wants of us now; whether there was anything."""
        with self._progress_lock:
            if self._progressing:
                return False  # a callback of the user's polls
            self._progressing = True
            try:
                self._membership.attention = False  # before looking
                steps = 0
                while steps < _STEPS_MAX and self._step():
                    steps += 1
                return steps > 0
            except BaseException:
                self._membership.attention = True  # it is not done
                raise
            finally:
                self._progressing = False

    def _step(self) -> bool:
        member = self._membership
        if self._closed:
            return False
        if member.fatal is not None:
            self._lose()
            raise member.fatal
        if member.lost is not None:
            self._lose()
            member.forget()
            return True
        if self._topics_changed:
            self._topics_changed = False
            member.want("the topics that it subscribed have changed", forced=True)
        if member.must_join:
            self._rejoin()
            return True
        fresh = member.fresh
        if fresh is not None:
            self._take(set(fresh))
            member.taken(fresh)
            return True
        return False

    def _rejoin(self) -> None:
        """Give up what must be given up first, then join."""
        member = self._membership
        with self._lock:
            owned = tuple(sorted(self._readers))
            topics = list(self._subscription.topics)
        kept = [key for key in owned if key.topic in topics] if member.assignor.cooperative else []
        self._revoke(set(owned) - set(kept))
        member.join(topics, kept if member.assignor.cooperative else owned)

    def _take(self, assigned: set[TopicPartition]) -> None:
        """Take an assignment over: give up what is not in it, begin what is new."""
        with self._lock:
            owned = set(self._readers)
        gone = owned - assigned
        self._revoke(gone)
        added = sorted(assigned - owned)
        begun = self._begin(added) if added else []
        if begun and self._on_assigned is not None:
            self._on_assigned(self, begun)
        if gone and self._membership.assignor.cooperative:
            self._membership.want("it gave up partitions that another member gets", forced=True)

    def _begin(self, added: list[TopicPartition]) -> list[TopicPartition]:
        """Make readers, each where the group is, else where `start` says. Commits on their way are waited for: they
        are the last owner's, and mean that it has done that far."""
        committed = self._coordinator.fetch_offsets(self.group, added, settled=True)
        begun = []
        for key in added:
            with suppress(UnknownTopicError):  # deleted since the leader looked: the next look at the topics tells
                log: LogLike = self._store.partition(key.topic, key.partition)
                found = committed.get(key)
                offset = found.offset if found is not None else self._offset_of(log, self._start_of(key))
                reader = self._reader_at(key, log, offset)
                with self._lock:
                    self._readers[key] = reader
                    if found is not None:
                        self._committed[key] = found.offset
                begun.append(key)
        return begun

    def _start_of(self, key: TopicPartition) -> Start:
        """A partition that came later begins at its beginning, whatever `start` says: nobody has read it."""
        return self._start if self._at_first is None or key in self._at_first else "earliest"

    def _revoke(self, partitions: set[TopicPartition]) -> None:
        """Give partitions up: the callback may commit, then positions are dropped."""
        if not partitions:
            return
        try:
            with self._lock:
                self._give_back()
            if self._auto_commit:
                self._commit_quietly()
            if self._on_revoked is not None:
                self._on_revoked(self, sorted(partitions))
        finally:
            self._drop(partitions)

    def _lose(self) -> None:
        """The membership ended: others may have our partitions already."""
        with self._lock:
            lost = set(self._readers)
            self._drop(lost)
        if lost and self._on_lost is not None:
            self._on_lost(self, sorted(lost))

    def _give_all_up(self) -> None:
        """At the end: a member gives its partitions up, one that was put out has lost them."""
        self._progressing = True
        try:
            if self._membership.lost is None and self._membership.fatal is None:
                self._revoke(set(self._readers))
            else:
                self._lose()
        finally:
            self._progressing = False

    def _drop(self, partitions: set[TopicPartition]) -> None:
        with self._lock:
            self._give_back()
            for key in partitions:
                self._readers.pop(key, None)
                self._committed.pop(key, None)
                self._paused.discard(key)

    def _follow_subscription(self, start: Start) -> None:
        """Topics came or went: the group decides anew. What is deleted is read no more."""
        if self._at_first is None:
            return  # the constructor
        wanted = self._subscription.partitions()
        for key, reader in list(self._readers.items()):
            if wanted.get(key) != reader.log.topic_id:
                self._drop({key})
        self._topics_changed = self._membership.attention = True

    # -- for the heartbeat thread -----------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._in_flight is not None:
            with self._lock:
                self._give_back()

    def _overdue(self) -> str:
        if self._max_poll_s is None or self._calls:
            return ""
        now_s = self._log_store.clock.monotonic_s()
        flight = self._in_flight
        at = flight.records.next_offset if flight is not None else -1
        since_s, seen_at = self._seen
        if at != seen_at:
            self._seen = (now_s, at)  # the iteration moved
            return ""
        return f"no poll for {self._max_poll_s:g} s" if now_s - since_s > self._max_poll_s else ""

    def _look_at_topics(self) -> None:
        with self._lock:
            if not self._closed and self._subscription.refresh(self._store):
                self._follow_subscription(self._start)

    # -- offsets ----------------------------------------------------------------------------------------------------------

    def commit(self, offsets: dict[Any, OffsetToCommit] | None = None) -> None:
        """Commit how far this consumer has come; durable on return.

        offsets: {partition: offset of the next record to read, or (offset, text)}; None: behind what was handed out
        last, of every partition it reads (in a loop over records: behind the one in hand).
        Raises IllegalGenerationError, UnknownMemberError (both: the group went on without us; nothing is committed, poll
        again, go on from there), RebalanceInProgressError (poll, then again), FencedInstanceError, UnknownTopicError (a
        partition that this consumer does not read), StorageError.
        """
        self._check_open()
        for left in reversed(range(_COMMIT_TRIES)):
            wanted = self._to_commit(offsets)
            member = self._membership.metadata
            if not member.member_id:
                if wanted or offsets:
                    raise UnknownMemberError("this consumer is not in its group", hint="Poll first", group=self.group)
                return
            try:
                self._coordinator.commit_offsets(
                    self.group,
                    wanted,
                    member_id=member.member_id,
                    generation=member.generation,
                    instance_id=member.instance_id,
                )
            except RebalanceInProgressError:
                # The leader is about to say who gets what: it waits for nobody's user.
                if not left or not self._membership.wait_settled(self._membership.rebalance_timeout_s):
                    raise
                continue
            with self._lock:
                for key, given in wanted.items():
                    if key in self._readers and isinstance(given, int):
                        self._committed[key] = given
            return

    def _to_commit(self, offsets: dict[Any, OffsetToCommit] | None) -> dict[TopicPartition, OffsetToCommit]:
        with self._lock:
            if offsets is not None:
                return {self._key(partition): offset for partition, offset in offsets.items()}
            at = {key: self.position(key) for key in self._readers}
            return {key: offset for key, offset in at.items() if self._committed.get(key) != offset}

    def _commit_by_time(self) -> None:
        now_s = self._log_store.clock.monotonic_s()
        if now_s - self._auto_committed_s >= AUTO_COMMIT_S:
            self._auto_committed_s = now_s
            self._commit_quietly()

    def _commit_quietly(self) -> None:
        """A commit that nobody asked for: what the group refuses is read again by whoever has it now."""
        with suppress(UnknownMemberError, RebalanceInProgressError):
            try:
                self.commit()
            except MQError as error:
                if not error.aborts_transaction:
                    raise

    def progress(self) -> tuple[dict[TopicPartition, int], GroupMetadata]:
        """({partition: offset behind what was handed out last}, who we are), of one moment: what a transaction commits."""
        with self._progress_lock, self._lock:
            return {key: self.position(key) for key in self._readers}, self._membership.metadata

    def seek_to_committed(self, *partitions: Partition) -> None:
        """Go back to where the group is, else to where `start` says (after a transaction was aborted); none named: in all
        partitions. What was read since is handed out again."""
        with self._lock:
            keys = sorted(self._keys(partitions))
        found = self._coordinator.fetch_offsets(self.group, keys, settled=True)
        with self._lock:
            self._give_back()
            for key in keys:
                reader = self._readers.get(key)
                if reader is not None:  # not revoked meanwhile
                    start = self._start_of(key)
                    reader.seek(found[key].offset if key in found else self._offset_of(reader.log, start))

    def committed(self, *partitions: Partition) -> dict[TopicPartition, int | None]:
        """{partition: the offset that the group has committed, None without one}; none named: of all that are read."""
        with self._lock:
            keys = [self._key(one, assigned=False) for one in partitions] or sorted(self._readers)
        found = self._coordinator.fetch_offsets(self.group, keys)
        return {key: found[key].offset if key in found else None for key in keys}

    def lag(self, *partitions: Partition) -> dict[TopicPartition, int]:
        """{partition: records that this consumer will be handed before its end}; none named: of all that are read.

        Counted, not subtracted: control markers, aborted records and what retention or compaction took are no lag.
        """
        with self._lock:
            at = {key: (self._readers[key].log, self.position(key)) for key in sorted(self._keys(partitions))}
        return {key: count_readable(log, offset, self._isolation).records for key, (log, offset) in at.items()}

    def group_metadata(self) -> GroupMetadata:
        """Who we are in the group now: what fences the offsets of a transaction."""
        return self._membership.metadata

    # -- the end ------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give up all partitions (on_revoked; auto_commit commits), leave the group, and let go of all slices. A static
        member stays in its group until its session ends, for it may come back."""
        if self._closed or self._log_store.is_forked:
            super().close()
            return
        try:
            with self._progress_lock:
                if not self._log_store.closed and not self._progressing:
                    self._give_all_up()
        finally:
            super().close()
            self._heartbeats.remove(self._membership)
            with suppress(MQError):
                self._membership.leave("the consumer was closed")
