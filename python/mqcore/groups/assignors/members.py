"""What assignors see of a member, and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mqcore.groups.protocol import Subscription
from mqcore.types import TopicPartition

Assignment = dict[str, tuple[TopicPartition, ...]]


class Candidate(NamedTuple):
    """A member. instance_id: of a static one (KIP-345)."""

    member_id: str
    subscription: Subscription
    instance_id: str | None = None


def in_order(members: Iterable[Candidate]) -> list[Candidate]:
    """Members in the order that Kafka's assignors go by: static ones first, by instance id; so that a restart under
    the same instance id, with a new member id, changes nothing (AbstractPartitionAssignor.MemberInfo)."""
    return sorted(members, key=lambda one: (one.instance_id is None, one.instance_id or "", one.member_id))


def topics_of(counts: Mapping[str, int], members: Sequence[Candidate]) -> list[str]:
    """The topics that anybody subscribed and that are there, sorted."""
    return sorted({topic for member in members for topic in member.subscription.topics if topic in counts})


def result(members: Sequence[Candidate], owned: Mapping[str, Iterable[TopicPartition]]) -> Assignment:
    """Every member with its partitions, sorted."""
    return {member.member_id: tuple(sorted(owned.get(member.member_id, ()))) for member in members}
