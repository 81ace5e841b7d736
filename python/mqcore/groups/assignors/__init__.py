"""Assignors: which member of a group reads which partition. Pure functions of what the members say of themselves.

Invariants of every assignor here (the property tests of tests/unit/groups/test_assignors.py):
    1. Each partition of a topic that somebody subscribed has exactly one owner (cooperative: at most one, see sticky).
    2. Nobody gets a partition of a topic that it did not subscribe.
    3. The result depends on the arguments alone, not on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mqcore.errors import InvalidGroupError
from mqcore.groups.assignors import range as range_
from mqcore.groups.assignors import roundrobin, sticky
from mqcore.groups.assignors.members import Assignment, Candidate
from mqcore.groups.protocol import Subscription, format_sticky_data
from mqcore.types import TopicPartition

__all__ = ["ASSIGNORS", "Assignment", "Assignor", "Candidate", "find"]


@dataclass(frozen=True, slots=True)
class Assignor:
    """name: as members and Kafka know it. cooperative: members keep what they have while they join (KIP-429)."""

    name: str
    cooperative: bool
    assign: Callable[[Mapping[str, int], Sequence[Candidate]], Assignment]
    """(topic -> partitions, members) -> member id -> partitions, sorted; every member is in it."""

    def subscription(self, topics: Sequence[str], owned: Sequence[TopicPartition], generation: int) -> Subscription:
        """What a member says of itself. owned: what it has, or (eager) had until just now, in `generation`."""
        if self.cooperative:
            return Subscription(tuple(topics), tuple(owned), generation)
        data = format_sticky_data(owned, generation) if self.name == sticky.NAME else None
        return Subscription(tuple(topics), user_data=data)


ASSIGNORS: Mapping[str, Assignor] = {
    one.name: one
    for one in (
        Assignor(range_.NAME, False, range_.assign),
        Assignor(roundrobin.NAME, False, roundrobin.assign),
        Assignor(sticky.NAME, False, sticky.assign),
        Assignor(sticky.COOPERATIVE_NAME, True, sticky.assign_cooperatively),
    )
}


def find(name: str) -> Assignor:
    """The assignor of this name. InvalidGroupError names those that are there."""
    found = ASSIGNORS.get(name)
    if found is None:
        raise InvalidGroupError("unknown assignor", hint=f"There are {', '.join(ASSIGNORS)}", assignor=str(name)[:80])
    return found
