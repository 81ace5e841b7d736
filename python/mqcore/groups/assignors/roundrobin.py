"""Round robin: all partitions of all topics dealt out one by one.

Rule (apache/kafka RoundRobinAssignor.java): partitions sorted by topic and number, members in order, in a circle; who
did not subscribe the topic at hand is passed over. With equal subscriptions, counts differ by one at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mqcore.groups.assignors.members import Assignment, Candidate, in_order, result, topics_of
from mqcore.groups.protocol import partitions_of
from mqcore.types import TopicPartition

NAME = "roundrobin"


def assign(counts: Mapping[str, int], members: Sequence[Candidate]) -> Assignment:
    """See the rule above. counts: topic -> partitions."""
    owned: dict[str, list[TopicPartition]] = defaultdict(list)
    ordered = in_order(members)
    at = 0
    for partition in partitions_of(counts, topics_of(counts, members)):
        while partition.topic not in ordered[at % len(ordered)].subscription.topics:
            at += 1
        owned[ordered[at % len(ordered)].member_id].append(partition)
        at += 1
    return result(members, owned)
