"""Keys and values of `__consumer_offsets` read back as they were written; damaged ones are StoreFormatError, no more."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import StoreFormatError
from mqcore.groups import protocol, records
from mqcore.groups.records import Cause, Committed, GroupKey, OffsetKey, StoredGroup, StoredMember
from mqcore.log import internal_topics
from mqcore.types import TopicPartition

text = st.text(max_size=20)
int32, int64 = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
partitions = st.lists(st.builds(TopicPartition, text, st.integers(0, 99)), max_size=8, unique=True).map(sorted)
members = st.builds(
    StoredMember, text, st.none() | text, text, text, int32, int32, st.binary(max_size=40), st.binary(max_size=40)
)
causes = st.builds(Cause, int64, int32, text, text)
groups = st.builds(
    StoredGroup,
    text,
    int32,
    st.none() | text,
    st.none() | text,
    int64,
    st.lists(members, max_size=3).map(tuple),
    st.lists(causes, max_size=3).map(tuple),
)


@given(st.builds(Committed, int64, int32, text, int64, st.uuids() | st.just(records.NO_TOPIC_ID)))
def test_offsets_read_back(committed: Committed) -> None:
    assert records.parse_committed(records.format_committed(committed)) == committed


@given(groups)
def test_groups_read_back(group: StoredGroup) -> None:
    assert records.parse_group(records.format_group(group)) == group


@given(text, text, st.integers(0, 1 << 30))
def test_keys_read_back(group: str, topic: str, number: int) -> None:
    key = records.format_offset_key(group, TopicPartition(topic, number))
    assert records.parse_key(key) == OffsetKey(group, topic, number)
    assert key.startswith(records.offsets_prefix(group))
    assert records.parse_key(records.format_group_key(group)) == GroupKey(group)
    assert records.parse_key(b"\0\7abc") is None  # a kind of a newer Kafka: none of ours


@given(partitions, st.lists(text, max_size=4), int32, st.none() | st.binary(max_size=20))
def test_the_consumer_protocol_reads_back(
    owned: list[TopicPartition], topics: list[str], generation: int, data: bytes | None
) -> None:
    subscription = protocol.Subscription(tuple(topics), tuple(owned), generation, data)
    assert protocol.parse_subscription(protocol.format_subscription(subscription)) == subscription
    assert protocol.parse_assignment(protocol.format_assignment(owned)) == tuple(owned)
    assert protocol.parse_sticky_data(protocol.format_sticky_data(owned, generation)) == (tuple(owned), generation)


PARSERS = [
    records.parse_committed,
    records.parse_group,
    records.parse_key,
    protocol.parse_subscription,
    protocol.parse_assignment,
    protocol.parse_sticky_data,
]


@given(st.sampled_from(PARSERS), st.binary(max_size=80))
def test_no_bytes_do_more_than_be_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(StoreFormatError):
        parse(data)


@given(groups, st.data())
def test_no_flipped_or_cut_group_does_more_than_be_refused(group: StoredGroup, data: st.DataObject) -> None:
    raw = bytearray(records.format_group(group))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(StoreFormatError):
        records.parse_group(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def test_older_versions_are_read() -> None:
    """What Kafka 2 and 3 wrote: offsets v0, v1, v3; groups v0, v3."""
    parse = records.parse_committed
    assert parse(b"\0\0" + (5).to_bytes(8) + b"\0\1m" + (7).to_bytes(8)) == Committed(5, -1, "m", 7)
    assert parse(b"\0\1" + (5).to_bytes(8) + b"\0\0" + (7).to_bytes(8) + (9).to_bytes(8)) == Committed(5, -1, "", 7)
    assert parse(b"\0\3" + (5).to_bytes(8) + (2).to_bytes(4) + b"\0\0" + (7).to_bytes(8)) == Committed(5, 2, "", 7)
    member = b"\0\1m\0\1c\0\1h" + (30).to_bytes(4) + b"\0\0\0\1s\0\0\0\1a"
    old = b"\0\0\0\10consumer" + (3).to_bytes(4) + b"\0\5range\0\1m" + (1).to_bytes(4) + member
    expected = StoredMember("m", None, "c", "h", -1, 30, b"s", b"a")
    assert records.parse_group(old) == StoredGroup("consumer", 3, "range", "m", -1, (expected,))


@pytest.mark.parametrize(
    ("group", "hash_code"), [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", -(1 << 31))]
)
def test_the_partition_is_kafkas(group: str, hash_code: int) -> None:
    """Utils.abs(group.hashCode()) % partitions; the smallest int has no positive twin and becomes 0."""
    expected = 0 if hash_code == -(1 << 31) else abs(hash_code)
    assert internal_topics.partition_of(group, 50) == expected % 50


def test_topic_ids_keep_their_bytes() -> None:
    topic_id = uuid.UUID(int=0x0102030405060708090A0B0C0D0E0F10)
    assert records.format_committed(Committed(1, topic_id=topic_id)).endswith(b"\1\0\x10" + topic_id.bytes)
