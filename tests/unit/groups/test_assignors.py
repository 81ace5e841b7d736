"""Assignors keep Kafka's documented rules, for any members, subscriptions and former ownership."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import InvalidGroupError
from mqcore.groups.assignors import ASSIGNORS, Assignment, Candidate, find
from mqcore.groups.protocol import Subscription, partitions_of
from mqcore.types import TopicPartition

TOPICS = ("a", "b", "c")
counts_of = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 9), min_size=1)
Counts = dict[str, int]


@st.composite
def groups(draw: st.DrawFn, *, equal: bool = False) -> tuple[Counts, list[Candidate]]:
    """Topics, and members with subscriptions and what they say that they had: all or part of it, of some generation."""
    counts = draw(counts_of)
    names = draw(st.lists(st.text("xyz", min_size=1, max_size=3), min_size=1, max_size=6, unique=True))
    subscriptions = st.lists(st.sampled_from(TOPICS), min_size=1, unique=True).map(tuple)
    same = draw(subscriptions)
    members = []
    for name in names:
        topics = same if equal else draw(subscriptions)
        owned = draw(st.lists(st.builds(TopicPartition, st.sampled_from(TOPICS), st.integers(0, 9)), unique=True))
        generation = draw(st.integers(1, 3))
        instance = draw(st.none() | st.just("i" + name))
        members.append(Candidate(name, Subscription(topics, tuple(sorted(owned)), generation), instance))
    return counts, members


def wanted(counts: Counts, members: list[Candidate]) -> set[TopicPartition]:
    return set(partitions_of(counts, {topic for one in members for topic in one.subscription.topics}))


def given_out(assignment: Assignment) -> list[TopicPartition]:
    return [one for partitions in assignment.values() for one in partitions]


@given(st.sampled_from(sorted(ASSIGNORS)), groups(), st.randoms(use_true_random=False))
def test_each_partition_has_one_owner_who_subscribed_it(
    name: str, group: tuple[Counts, list[Candidate]], rng: random.Random
) -> None:
    counts, members = group
    assignor = find(name)
    assignment = assignor.assign(counts, members)
    assert set(assignment) == {one.member_id for one in members}
    assert max(Counter(given_out(assignment)).values(), default=0) <= 1
    if not assignor.cooperative:
        assert set(given_out(assignment)) == wanted(counts, members)
    for member in members:
        mine = assignment[member.member_id]
        assert list(mine) == sorted(mine)
        assert {one.topic for one in mine} <= set(member.subscription.topics)
    shuffled = list(members)
    rng.shuffle(shuffled)
    assert assignor.assign(counts, shuffled) == assignment


@given(groups())
def test_range_gives_runs_per_topic(group: tuple[Counts, list[Candidate]]) -> None:
    """n // m each, one more for the first n % m, consecutive, in the order of members."""
    counts, members = group
    assignment = ASSIGNORS["range"].assign(counts, members)
    ordered = sorted(members, key=lambda one: (one.instance_id is None, one.instance_id or "", one.member_id))
    for topic, count in counts.items():
        takers = [one for one in ordered if topic in one.subscription.topics]
        runs = [[p.partition for p in assignment[one.member_id] if p.topic == topic] for one in takers]
        if takers:
            assert [number for run in runs for number in run] == list(range(count))
            each, more = divmod(count, len(takers))
            assert [len(run) for run in runs] == [each + 1] * more + [each] * (len(takers) - more)


@given(groups(equal=True))
def test_round_robin_deals_one_by_one(group: tuple[Counts, list[Candidate]]) -> None:
    counts, members = group
    assignment = ASSIGNORS["roundrobin"].assign(counts, members)
    ordered = sorted(members, key=lambda one: (one.instance_id is None, one.instance_id or "", one.member_id))
    for at, partition in enumerate(sorted(wanted(counts, members))):
        assert partition in assignment[ordered[at % len(ordered)].member_id]


@given(groups())
def test_sticky_is_balanced(group: tuple[Counts, list[Candidate]]) -> None:
    """No partition could go from its owner to a subscriber with at least two fewer."""
    counts, members = group
    assignment = ASSIGNORS["sticky"].assign(counts, members)
    for owner, partitions in assignment.items():
        for partition in partitions:
            for other in members:
                if partition.topic in other.subscription.topics:
                    assert len(assignment[other.member_id]) + 1 >= len(assignment[owner])


@given(groups(equal=True))
def test_sticky_moves_no_more_than_balance_needs(group: tuple[Counts, list[Candidate]]) -> None:
    """With equal subscriptions: everybody keeps all it had up to its share, counts differ by one at most."""
    counts, members = group
    held = ownership(counts, members)
    assignment = ASSIGNORS["sticky"].assign(counts, members)
    total = len(wanted(counts, members))
    least, more = divmod(total, len(members))
    sizes = sorted(len(mine) for mine in assignment.values())
    assert sizes == [least] * (len(members) - more) + [least + 1] * more
    kept = sum(len(set(assignment[member]) & held[member]) for member in held)
    fullest = sorted((len(mine) for mine in held.values()), reverse=True)
    best = sum(min(had, least + (place < more)) for place, had in enumerate(fullest))
    assert kept == best


def ownership(counts: Counts, members: list[Candidate]) -> dict[str, set[TopicPartition]]:
    """Who truly had what: the claim of the highest generation, nobody's if two make it."""
    held: dict[str, set[TopicPartition]] = {one.member_id: set() for one in members}
    for partition in wanted(counts, members):
        claims = [
            (one.subscription.generation, one.member_id)
            for one in members
            if partition in one.subscription.owned and partition.topic in one.subscription.topics
        ]
        best = [who for generation, who in claims if generation == max(claims)[0]]
        if len(best) == 1:
            held[best[0]].add(partition)
    return held


@given(groups())
def test_cooperative_never_takes_from_a_living_owner_and_ends_where_sticky_does(
    group: tuple[Counts, list[Candidate]],
) -> None:
    """KIP-429: round one gives nobody what another one holds; when all gave up what they lost, round two is complete."""
    counts, members = group
    assignor = ASSIGNORS["cooperative-sticky"]
    first = assignor.assign(counts, members)
    for member in members:
        for partition in first[member.member_id]:
            assert not any(
                partition in other.subscription.owned and partition not in ownership(counts, members)[member.member_id]
                for other in members
                if other is not member
            )
    second = [
        Candidate(one.member_id, Subscription(one.subscription.topics, first[one.member_id], 4), one.instance_id)
        for one in members
    ]
    final = assignor.assign(counts, second)
    third = [
        one._replace(subscription=Subscription(one.subscription.topics, final[one.member_id], 5)) for one in second
    ]
    final = assignor.assign(counts, third)
    assert set(given_out(final)) == wanted(counts, members)


@given(groups())
def test_a_settled_sticky_group_stays_as_it_is(group: tuple[Counts, list[Candidate]]) -> None:
    counts, members = group
    for name in ("sticky", "cooperative-sticky"):
        assignment = ASSIGNORS["sticky"].assign(counts, members)
        again = [
            Candidate(
                one.member_id,
                find(name).subscription(one.subscription.topics, assignment[one.member_id], 7),
                one.instance_id,
            )
            for one in members
        ]
        assert find(name).assign(counts, again) == assignment


def test_a_static_member_keeps_its_place_under_a_new_member_id() -> None:
    old = [Candidate("m-2", Subscription(("a",)), "second"), Candidate("m-1", Subscription(("a",)), "first")]
    new = [Candidate("m-0", Subscription(("a",)), "second"), old[1]]
    assert ASSIGNORS["range"].assign({"a": 4}, old)["m-2"] == ASSIGNORS["range"].assign({"a": 4}, new)["m-0"]


def test_an_unknown_assignor_names_those_that_are_there() -> None:
    with pytest.raises(InvalidGroupError, match="roundrobin"):
        find("rang")
