"""The consumer protocol: what members tell the leader (subscriptions) and what it tells them (assignments), as bytes.

Kafka's ConsumerProtocolSubscription v3 and ConsumerProtocolAssignment v3 (apache/kafka clients/src/main/resources/common/
message), so that members of other clients understand each other and Kafka's tools show who has what.

Invariants: `parse_*(format_*(x)) == x`; other bytes raise StoreFormatError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mqcore.groups.wire import Reader, Writer
from mqcore.types import TopicPartition

_VERSION = 3
NO_GENERATION = -1


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a member wants and has. owned: what it keeps while it joins; generation: of that ownership (KIP-792)."""

    topics: tuple[str, ...]
    owned: tuple[TopicPartition, ...] = ()
    generation: int = NO_GENERATION
    user_data: bytes | None = None


def format_subscription(subscription: Subscription) -> bytes:
    writer = Writer().int16(_VERSION).int32(len(subscription.topics))
    for topic in subscription.topics:
        writer.text(topic)
    writer.nullable_bytes(subscription.user_data)
    _write_partitions(writer, subscription.owned)
    return bytes(writer.int32(subscription.generation).text(None))


def parse_subscription(data: bytes) -> Subscription:
    reader = Reader(data)
    version = reader.int16()
    topics = tuple(reader.text() for _ in range(reader.count(2)))
    user_data = reader.nullable_bytes()
    owned = _read_partitions(reader) if version >= 1 else ()
    generation = reader.int32() if version >= 2 else NO_GENERATION
    return Subscription(topics, owned, generation, user_data)


def format_assignment(partitions: Iterable[TopicPartition]) -> bytes:
    writer = Writer().int16(_VERSION)
    _write_partitions(writer, partitions)
    return bytes(writer.nullable_bytes(None))


def parse_assignment(data: bytes) -> tuple[TopicPartition, ...]:
    """The partitions, sorted; b"" is none: what a leader leaves out gets nothing."""
    if not data:
        return ()
    reader = Reader(data)
    reader.int16()
    return _read_partitions(reader)


def format_sticky_data(owned: Iterable[TopicPartition], generation: int) -> bytes:
    """What a member of the eager sticky assignor had: it gave all up before it joins (StickyAssignorUserData v1)."""
    writer = Writer()
    _write_partitions(writer, owned)
    return bytes(writer.int32(generation))


def parse_sticky_data(data: bytes) -> tuple[tuple[TopicPartition, ...], int]:
    reader = Reader(data)
    owned = _read_partitions(reader)
    return owned, reader.int32() if reader.left >= 4 else NO_GENERATION


def _write_partitions(writer: Writer, partitions: Iterable[TopicPartition]) -> None:
    by_topic: dict[str, list[int]] = {}
    for topic, number in sorted((one.topic, one.partition) for one in partitions):
        by_topic.setdefault(topic, []).append(number)
    writer.int32(len(by_topic))
    for topic, numbers in by_topic.items():
        writer.text(topic).int32(len(numbers))
        for number in numbers:
            writer.int32(number)


def _read_partitions(reader: Reader) -> tuple[TopicPartition, ...]:
    found = []
    for _ in range(reader.count(6)):
        topic = reader.text()
        found += [TopicPartition(topic, reader.int32()) for _ in range(reader.count(4))]
    return tuple(sorted(found))


def partitions_of(counts: Mapping[str, int], topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of these topics, sorted. counts: topic -> partitions; a topic that is not there has none."""
    return [TopicPartition(topic, number) for topic in sorted(set(topics)) for number in range(counts.get(topic, 0))]
