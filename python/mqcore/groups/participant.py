"""Offsets inside a transaction: committed with it, or not at all (KIP-98, KIP-447).

Invariants:
    1. Whether the member may commit is checked in `prepare`, in the same step as the append (I16): a member that lost
       its partitions meanwhile has its whole transaction aborted.
    2. Between `prepare` and the outcome the offsets are on their way: whoever takes the partitions over waits for it.
    3. Nobody sees the offsets before `applied`, and never after `aborted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mqcore.groups.classic import NO_GENERATION
from mqcore.groups.coordinator import Coordinator, OffsetToCommit
from mqcore.groups.group import Group
from mqcore.groups.offsets import OFFSETS_TOPIC
from mqcore.groups.records import Committed, format_committed, format_offset_key
from mqcore.ports import TransactionWriter
from mqcore.types import TopicPartition


@dataclass(frozen=True, slots=True)
class _OnTheWay:
    group: Group
    offsets: dict[TopicPartition, Committed]
    record_offset: int


@dataclass(slots=True)
class _Member:
    """Who commits, and what."""

    generation: int
    member_id: str
    instance_id: str | None
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)


class OffsetsInTransaction:
    """A participant of one transaction, for all groups whose offsets it carries."""

    def __init__(self, groups: Coordinator) -> None:
        self._groups = groups
        self._members: dict[str, _Member] = {}
        self._on_the_way: list[_OnTheWay] = []

    def add(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, OffsetToCommit],
        *,
        member_id: str = "",
        generation: int = NO_GENERATION,
        instance_id: str | None = None,
    ) -> None:
        """Have these offsets committed with the transaction; the last one of a partition counts, and the last member.

        Raises UnknownTopicError, InvalidGroupError at once; who may commit is checked at the end.
        """
        checked = self._groups.checked(offsets)
        self._groups.ready()
        member = self._members.setdefault(group_id, _Member(generation, member_id, instance_id))
        member.generation, member.member_id, member.instance_id = generation, member_id, instance_id
        member.offsets.update(checked)

    def prepare(self, tx: TransactionWriter) -> None:
        """Check the members and append their offsets. Raises IllegalGenerationError, UnknownMemberError,
        FencedInstanceError, RebalanceInProgressError: then the transaction aborts."""
        for group_id, member in self._members.items():
            with self._groups.changing(group_id) as (group, now):
                group.machine.check_commit(member.member_id, member.generation, now, member.instance_id)
                if not member.offsets:
                    continue
                keys = [format_offset_key(group_id, partition) for partition in member.offsets]
                values: list[bytes | None] = [format_committed(one) for one in member.offsets.values()]
                appended = tx.write(OFFSETS_TOPIC, self._groups.topic.partition(group_id), keys, values, now.ms)
                group.begin(member.offsets)
                self._on_the_way.append(_OnTheWay(group, member.offsets, appended.base_offset))

    def applied(self, tx: TransactionWriter) -> None:
        """The transaction is committed and durable: the offsets count."""
        self._end(durable=True)

    def aborted(self, tx: TransactionWriter) -> None:
        """The transaction is over without them."""
        self._end(durable=False)

    def _end(self, *, durable: bool) -> None:
        on_the_way, self._on_the_way = self._on_the_way, []
        for one in on_the_way:
            one.group.end(one.offsets, one.record_offset, durable=durable)
