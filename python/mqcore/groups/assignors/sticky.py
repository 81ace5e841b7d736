"""Sticky: as balanced as the subscriptions allow, and otherwise as it was.

Rules (apache/kafka AbstractStickyAssignor.java, KIP-54, KIP-429, KIP-792):
    1. Balance: counts differ by one at most; where subscriptions forbid that, no partition can go from its owner to a
       member that subscribed it and has at least two fewer.
    2. Stickiness: with equal subscriptions, as many partitions stay where they are as rule 1 allows.
    3. Ownership of the highest generation counts; of one generation, a partition that two claim is nobody's.
    4. Cooperative: a partition that would go from one living member to another is given to nobody in this round. Its
       owner sees that it lost it, gives it up, joins again, and the next round gives it away: never two owners.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from mqcore.errors import StoreFormatError
from mqcore.groups.assignors.members import Assignment, Candidate, in_order, result, topics_of
from mqcore.groups.protocol import parse_sticky_data, partitions_of
from mqcore.types import TopicPartition

NAME = "sticky"
COOPERATIVE_NAME = "cooperative-sticky"

_Owned = dict[str, list[TopicPartition]]


def assign(counts: Mapping[str, int], members: Sequence[Candidate]) -> Assignment:
    """Rules 1 to 3. counts: topic -> partitions."""
    return result(members, _sticky(counts, members))


def assign_cooperatively(counts: Mapping[str, int], members: Sequence[Candidate]) -> Assignment:
    """Rules 1 to 4."""
    owner = {partition: member for member, partitions in _held(counts, members).items() for partition in partitions}
    claimed = {partition for member in members for partition in member.subscription.owned}
    owned = {
        # What two members claim is withheld as well: both give it up first (rule 3).
        member: [one for one in partitions if owner.get(one) == member or one not in claimed]
        for member, partitions in _sticky(counts, members).items()
    }
    return result(members, owned)


def _sticky(counts: Mapping[str, int], members: Sequence[Candidate]) -> _Owned:
    partitions = partitions_of(counts, topics_of(counts, members))
    held = _held(counts, members)
    if len({frozenset(topic for topic in one.subscription.topics if topic in counts) for one in members}) <= 1:
        return _level(partitions, held)
    return _balance(partitions, held, members)


def _held(counts: Mapping[str, int], members: Sequence[Candidate]) -> _Owned:
    """What each member may keep, members in order (rule 3)."""
    claims: dict[TopicPartition, tuple[int, list[str]]] = {}  # partition -> generation, who claims it
    ordered = in_order(members)
    for member in ordered:
        owned, generation = _claim(member)
        for partition in owned:
            there = partition.topic in member.subscription.topics and partition.partition < counts.get(
                partition.topic, 0
            )
            if not there:
                continue
            best = claims.get(partition)
            if best is None or generation > best[0]:
                claims[partition] = (generation, [member.member_id])
            elif generation == best[0] and member.member_id not in best[1]:
                best[1].append(member.member_id)
    held: _Owned = {member.member_id: [] for member in ordered}
    for partition, (_, who) in sorted(claims.items()):
        if len(who) == 1:
            held[who[0]].append(partition)
    return held


def _claim(member: Candidate) -> tuple[Sequence[TopicPartition], int]:
    """(what a member says that it has, in which generation); an eager member says it in its user data."""
    subscription = member.subscription
    if not subscription.owned and subscription.user_data:
        with contextlib.suppress(StoreFormatError):  # another client's: it has nothing, then
            return parse_sticky_data(subscription.user_data)
    return subscription.owned, subscription.generation


def _level(partitions: Sequence[TopicPartition], held: _Owned) -> _Owned:
    """Equal subscriptions: everybody keeps up to its share, the rest goes to those below theirs. Members in order."""
    least, more = divmod(len(partitions), len(held))
    # Those who have most may keep one more than the others: so the most stays.
    places = {member: place for place, member in enumerate(held)}
    fullest = sorted(held, key=lambda member: (-len(held[member]), places[member]))
    share = {member: least + (place < more) for place, member in enumerate(fullest)}
    kept = {member: mine[: share[member]] for member, mine in held.items()}
    taken = {partition for mine in kept.values() for partition in mine}
    free = iter([partition for partition in partitions if partition not in taken])
    for member, mine in kept.items():
        mine += [next(free) for _ in range(share[member] - len(mine))]
    return kept


def _balance(partitions: Sequence[TopicPartition], held: _Owned, members: Sequence[Candidate]) -> _Owned:
    """Different subscriptions: free partitions go to the emptiest, then partitions move while rule 1 is broken."""
    topics = {one.member_id: frozenset(one.subscription.topics) for one in members}
    takers = {
        topic: [member for member in held if topic in topics[member]] for topic in {one.topic for one in partitions}
    }
    owner = {partition: member for member, mine in held.items() for partition in mine}
    load = {member: len(mine) for member, mine in held.items()}
    # Partitions that few may take go first: the others can still make up for them.
    for partition in sorted(partitions, key=lambda one: (len(takers[one.topic]), one)):
        if partition not in owner:
            member = min(takers[partition.topic], key=load.__getitem__)
            owner[partition] = member
            load[member] += 1
    moved = True
    while moved:  # each move makes the sum of the squares of the counts smaller: it ends
        moved = False
        for partition in partitions:
            giver = owner[partition]
            member = min(takers[partition.topic], key=load.__getitem__)
            if load[member] + 1 < load[giver]:
                owner[partition] = member
                load[giver] -= 1
                load[member] += 1
                moved = True
    balanced: _Owned = {member: [] for member in held}
    for partition, member in owner.items():
        balanced[member].append(partition)
    return balanced
