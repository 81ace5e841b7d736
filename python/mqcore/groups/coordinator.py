"""The coordinator of all groups of a store: members come and go, offsets are committed and fetched.

Invariants:
    1. Offsets are committed only by a member of the current generation, or from outside while the group has no members:
       checked and appended under the group's lock, so no generation ends between (I16).
    2. A committed offset is durable, as the store has it, before the call returns and before anybody sees it (R11).
    3. No lock is held while answers to members run: they are code of clients, which calls back.
    4. Groups without members are forgotten when there are many; their records are not.
Locks: `_lock` (which groups are in memory), then `Group.lock`, then the log's. Making the topic takes the store's own
lock, and so comes before all of them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mqcore.errors import InvalidGroupError, MQError, UnknownTopicError
from mqcore.groups.classic import NO_GENERATION, ClassicGroup, Now
from mqcore.groups.group import Group
from mqcore.groups.offsets import OffsetsTopic
from mqcore.groups.records import Committed, format_committed, format_group, format_group_key, format_offset_key
from mqcore.groups.states import GroupState, Join, Joined, Synced
from mqcore.groups.waiter import Waiter
from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore
    from mqcore.log.report import MaintenanceReport

logger = logging.getLogger("mqcore.groups")
GROUP_ID_BYTES_MAX = 1024
EXPIRY_S = 600.0  # Kafka's offsets.retention.check.interval.ms
SETTLE_S = 30.0  # how long a fetch waits for commits that are on their way
OffsetToCommit = int | tuple[int, str] | Committed
"""An offset, one with a text that goes with it, or all that there is to say."""


class Coordinator:
    """One per open store (client.embedded.Store.groups). Safe to share between threads."""

    def __init__(self, store: LogStore) -> None:
        self.store = store
        self.topic = OffsetsTopic(store)
        self._lock = threading.Lock()
        self._groups: dict[str, Group] = {}
        self._made = False  # the topic is there
        self._expired_s = store.clock.monotonic_s()

    def ready(self) -> None:
        """Have the topic, before any lock is taken; from then on maintenance looks after offsets that expire."""
        if not self._made:
            self.topic.make()
            self._made = True
            self.store.housekeeper.guests.append(self._maintain)
            self.store.views.hurry()

    def _maintain(self, _: MaintenanceReport) -> None:
        """A pass of maintenance: bring the views up to their logs; now and then look for offsets to expire."""
        self.topic.catch_up()
        now_s = self.store.clock.monotonic_s()
        if now_s - self._expired_s >= EXPIRY_S:
            self._expired_s = now_s
            from mqcore.groups.admin import expire

            expire(self, self.store.retention_clock.now_ms(), self.store.config.offsets_retention_minutes * 60_000)

    # -- members ----------------------------------------------------------------------------------------------------

    def join(self, group_id: str, join: Join) -> Waiter[Joined]:
        """See ClassicGroup.join. Also StoreReadOnlyError, StoreClosedError, InvalidGroupError (the id)."""
        with self.changing(group_id) as (group, now):
            return group.machine.join(join, now)

    def sync(
        self,
        group_id: str,
        member_id: str,
        generation: int,
        assignments: Mapping[str, bytes],
        instance_id: str | None = None,
    ) -> Waiter[Synced]:
        """See ClassicGroup.sync."""
        with self.changing(group_id) as (group, now):
            return group.machine.sync(member_id, generation, assignments, now, instance_id)

    def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None = None) -> None:
        """See ClassicGroup.heartbeat."""
        with self.changing(group_id) as (group, now):
            group.machine.heartbeat(member_id, generation, now, instance_id)

    def leave(self, group_id: str, member_id: str, reason: str = "", instance_id: str | None = None) -> None:
        """See ClassicGroup.leave."""
        with self.changing(group_id) as (group, now):
            group.machine.leave(member_id, reason, now, instance_id)

    def tick(self) -> float | None:
        """End sessions and phases whose time is over; seconds until the next one may be, None: nobody is in a group."""
        due = []
        with self._lock:
            groups = [group for group in self._groups.values() if group.machine.members]
        for group in groups:
            with contextlib.suppress(MQError), self.changing(group.machine.group_id) as (current, now):
                current.machine.tick(now)
                at_s = current.machine.next_s()
                if at_s is not None:
                    due.append(max(0.0, at_s - now.s))
        return min(due, default=None)

    @contextlib.contextmanager
    def changing(self, group_id: str) -> Iterator[tuple[Group, Now]]:
        """A group, locked, and the time. Afterwards what changed is written down, and who waited is answered."""
        self.ready()
        group = self._locked(group_id)
        answers: list[Callable[[], None]] = []
        try:
            yield group, self._now()
        finally:
            try:
                if group.machine.changed:
                    self._write(group)
                answers = group.machine.take_answers()
            finally:
                group.lock.release()
            for answer in answers:
                answer()
            if answers:
                self.wake(group_id)

    def _now(self) -> Now:
        clock = self.store.clock
        return Now(clock.monotonic_s(), clock.wall_ms())

    def _write(self, group: Group) -> None:
        """Write down who is in the group. Nobody waits for it: after a crash the members are gone, too."""
        group.machine.changed = False
        machine = group.machine
        try:
            record = (format_group_key(machine.group_id), format_group(machine.stored()))
            self.topic.append(machine.group_id, [record])
            self.topic.log(machine.group_id).commit_soon()
        except MQError as error:
            logger.warning("group %s: its members could not be written down: %s", machine.group_id, error)

    def wake(self, group_id: str) -> None:
        """Have consumers that sleep on the marks page look at their group: the same marks, published again."""
        with contextlib.suppress(MQError):
            log = self.topic.log(group_id)
            log.advance_durable(log.high_watermark)

    # -- offsets ----------------------------------------------------------------------------------------------------

    def commit_offsets(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, OffsetToCommit],
        *,
        member_id: str = "",
        generation: int = NO_GENERATION,
        instance_id: str | None = None,
    ) -> None:
        """Commit offsets: of the next record to read, each; durable on return. None given: only checks the member.

        member_id, generation: of the member that commits; the defaults: from outside, while nobody is in the group.
        Raises IllegalGenerationError, UnknownMemberError, FencedInstanceError, RebalanceInProgressError (wait for the
        new generation), UnknownTopicError, InvalidGroupError (a negative offset, a text too long), and what appends
        raise. Then nothing is committed; but a StorageError, and only that, leaves it open until the next open.
        """
        committed = self.checked(offsets)
        with self.changing(group_id) as (group, now):
            group.machine.check_commit(member_id, generation, now, instance_id)
            if not committed:
                return
            log = self.topic.log(group_id)
            records: list[tuple[bytes, bytes | None]] = [
                (format_offset_key(group_id, partition), format_committed(one)) for partition, one in committed.items()
            ]
            appended = self.topic.append(group_id, records)
            group.begin(committed)
        durable = False
        try:
            log.wait_durable(appended.next_offset)
            durable = True
        finally:
            group.doubtful |= not durable
            group.end(committed, appended.base_offset, durable=durable)

    def checked(self, offsets: Mapping[TopicPartition, OffsetToCommit]) -> dict[TopicPartition, Committed]:
        """Offsets as they are stored: with the id of their topic, and the time. Errors as commit_offsets."""
        now_ms = self.store.clock.wall_ms()
        return {partition: self._checked(partition, one, now_ms) for partition, one in offsets.items()}

    def _checked(self, partition: TopicPartition, given: OffsetToCommit, now_ms: int) -> Committed:
        info = self.store.topic(partition.topic)
        if not 0 <= partition.partition < info.partitions:
            raise UnknownTopicError(
                "unknown partition",
                hint=f"The topic has partitions 0 to {info.partitions - 1}",
                topic=partition.topic,
                partition=partition.partition,
            )
        if isinstance(given, Committed):
            offset, epoch, metadata = given.offset, given.leader_epoch, given.metadata
        else:
            offset, metadata = (given, "") if isinstance(given, int) else given
            epoch = -1
        if not 0 <= offset < 1 << 63:
            raise InvalidGroupError("an offset is 0 or more", topic=partition.topic, offset=offset)
        limit = self.store.config.offset_metadata_max_bytes
        if len(metadata.encode()) > limit:
            raise InvalidGroupError("the text with an offset is too long", topic=partition.topic, limit=limit)
        return Committed(offset, epoch, metadata, now_ms, info.topic_id)

    def fetch_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None, *, settled: bool = False
    ) -> dict[TopicPartition, Committed]:
        """How far the group has come; partitions without an offset, and those of topics that are gone, are left out.

        partitions: None for all. settled: first wait for commits that are on their way (whoever takes a partition over
        must); TimeoutExceededError after SETTLE_S.
        """
        group = self._locked(group_id)
        try:
            wanted = list(group.offsets if partitions is None else partitions)
            if settled:
                group.wait_settled(wanted, SETTLE_S)
                if partitions is None:
                    wanted = list(group.offsets)
            found = {}
            for partition in wanted:
                committed = group.offsets.get(partition)
                if committed is not None and self._of_this_topic(partition, committed):
                    found[partition] = committed
            return found
        finally:
            group.lock.release()

    def _of_this_topic(self, partition: TopicPartition, committed: Committed) -> bool:
        """Offsets of a topic that was deleted mean nothing in one made anew under its name."""
        try:
            topic_id = self.store.topic(partition.topic).topic_id
        except UnknownTopicError:
            return False
        return committed.topic_id == topic_id or committed.topic_id.int == 0

    # -- which groups are there ---------------------------------------------------------------------------------------

    def _locked(self, group_id: str) -> Group:
        """The group, with its lock held: from memory, else from its records, else new and empty."""
        while True:
            group = self._groups.get(group_id) or self._load(group_id)
            group.lock.acquire()
            try:
                if group.doubtful:
                    self._reread(group)
                if not group.gone:
                    return group
            except BaseException:
                group.lock.release()
                raise
            group.lock.release()

    def _load(self, group_id: str) -> Group:
        self.store.check_usable()
        check_group_id(group_id)
        stored, offsets = self.topic.load(group_id)
        config = self.store.config
        machine = ClassicGroup(
            group_id, members_max=config.group_max_size, initial_delay_ms=config.group_initial_rebalance_delay_ms
        )
        if stored is not None:
            machine.load(stored, self._now())
        with self._lock:
            group = self._groups.setdefault(group_id, Group(machine, offsets))
            if len(self._groups) > self.store.config.group_cache_max_groups:
                self._forget_idle(group)
        return group

    def _forget_idle(self, keep: Group) -> None:
        """Forget the idle tenth that was there longest. `_lock` is held: a group whose lock is taken is in use."""
        room = max(1, len(self._groups) // 10)
        for group_id, group in list(self._groups.items()):
            if room and group is not keep and group.lock.acquire(blocking=False):
                try:
                    if group.idle:
                        group.gone = True
                        del self._groups[group_id]
                        room -= 1
                finally:
                    group.lock.release()

    def _reread(self, group: Group) -> None:
        """After a commit of which nobody knows: what the log has counts, once it is durable. The group's lock is held."""
        with contextlib.suppress(MQError):
            log = self.topic.log(group.machine.group_id)
            end = log.log_end_offset
            log.wait_durable(end)
            group.replace(self.topic.load(group.machine.group_id)[1], end)

    def forget(self, group_id: str) -> None:
        """The group was deleted: whoever comes next begins anew. The group's lock is held."""
        group = self._groups.get(group_id)
        if group is not None:
            group.gone = True
            if group.machine.state == GroupState.EMPTY:
                group.machine.state = GroupState.DEAD
            with self._lock:
                self._groups.pop(group_id, None)

    def close(self) -> None:
        """Bring the views up to the log: the next open has little to read."""
        if not self.store.closed and not self.store.read_only:
            self.topic.catch_up()

    def in_memory(self, group_id: str) -> Group | None:
        """The group if it is in memory."""
        return self._groups.get(group_id)


def check_group_id(group_id: str) -> str:
    """Raises InvalidGroupError."""
    valid = isinstance(group_id, str) and bool(group_id)
    if valid:
        try:
            valid = len(group_id.encode()) <= GROUP_ID_BYTES_MAX
        except UnicodeEncodeError:
            valid = False
    if not valid:
        hint = f"A text of 1 to {GROUP_ID_BYTES_MAX} bytes of UTF-8"
        raise InvalidGroupError("invalid group id", hint=hint, group=repr(group_id)[:80])
    return group_id
