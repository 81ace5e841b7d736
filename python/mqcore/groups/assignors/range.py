"""Range: each topic by itself, cut into runs, one a member.

Rule (apache/kafka RangeAssignor.java): the members that subscribed a topic, in order, get consecutive partitions of it;
n partitions and m members make n // m each, and one more for the first n % m. So partition 3 of two topics with as many
partitions goes to one member: joins by key work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mqcore.groups.assignors.members import Assignment, Candidate, in_order, result, topics_of
from mqcore.types import TopicPartition

NAME = "range"


def assign(counts: Mapping[str, int], members: Sequence[Candidate]) -> Assignment:
    """See the rule above. counts: topic -> partitions."""
    owned: dict[str, list[TopicPartition]] = defaultdict(list)
    ordered = in_order(members)
    for topic in topics_of(counts, members):
        takers = [one.member_id for one in ordered if topic in one.subscription.topics]
        each, more = divmod(counts[topic], len(takers))
        begin = 0
        for place, member_id in enumerate(takers):
            end = begin + each + (place < more)
            owned[member_id] += [TopicPartition(topic, number) for number in range(begin, end)]
            begin = end
    return result(members, owned)
