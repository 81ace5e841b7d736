"""The records of `__consumer_offsets`, in Kafka's own form, so that its tools read them.

Keys (apache/kafka OffsetCommitKey.json, GroupMetadataKey.json), not flexible:
    int16 version 1 (0 is read too), group text, topic text, partition int32      -> how far a group has come
    int16 version 2, group text                                                  -> a group's members
Values (OffsetCommitValue.json v4, GroupMetadataValue.json v4; older versions are read), flexible (KIP-482):
    offset int64, leader epoch int32, metadata text, commit time int64 (ms), tag 0: topic id
    protocol type text, generation int32, protocol text, leader text, state time int64 (ms), members: member id,
    instance id, client id, client host: text, rebalance and session time-out int32 (ms), subscription, assignment: bytes
A null value takes its key away.

Invariants:
    1. `parse_*(format_*(x)) == x`; bytes of other versions and damaged bytes raise StoreFormatError, never anything else.
    2. Offsets carry the id of their topic: those of a deleted topic never count for one made again under its name.
The last causes of rebalances ride along in a tagged field of our own, which Kafka's decoders pass over.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from mqcore.errors import StoreFormatError
from mqcore.groups.wire import Reader, Writer
from mqcore.types import TopicPartition

_OFFSET_KEY, _GROUP_KEY = 1, 2
_OFFSET_VALUE, _GROUP_VALUE = 4, 4
_TAG_TOPIC_ID = 0
_TAG_CAUSES = 7001  # ours
NO_TOPIC_ID = uuid.UUID(int=0)


class OffsetKey(NamedTuple):
    group: str
    topic: str
    partition: int


class GroupKey(NamedTuple):
    group: str


@dataclass(frozen=True, slots=True)
class Committed:
    """How far a group has come in a partition. offset: of the next record it reads. leader_epoch: -1 unknown.
    commit_ms: wall clock. topic_id: NO_TOPIC_ID if the record has none."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = -1
    topic_id: uuid.UUID = NO_TOPIC_ID


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a rebalance began. at_ms: wall clock. generation: the one that it ended."""

    at_ms: int
    generation: int
    reason: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class StoredMember:
    """A member as the record has it. subscription, assignment: the consumer protocol's bytes (groups.protocol)."""

    member_id: str
    instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    session_timeout_ms: int = -1
    subscription: bytes = b""
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group as the record has it: empty if it has no members. state_ms: since when, wall clock."""

    protocol_type: str = ""
    generation: int = 0
    protocol: str | None = None
    leader: str | None = None
    state_ms: int = -1
    members: tuple[StoredMember, ...] = ()
    causes: tuple[Cause, ...] = ()


def offsets_prefix(group: str) -> bytes:
    """What the keys of all offsets of a group begin with."""
    return bytes(Writer().int16(_OFFSET_KEY).text(group))


def format_offset_key(group: str, partition: TopicPartition) -> bytes:
    return bytes(Writer().int16(_OFFSET_KEY).text(group).text(partition.topic).int32(partition.partition))


def format_group_key(group: str) -> bytes:
    return bytes(Writer().int16(_GROUP_KEY).text(group))


def parse_key(key: bytes) -> OffsetKey | GroupKey | None:
    """The key of a record; None: of a kind that this version does not know (a group of another protocol)."""
    reader = Reader(key)
    version = reader.int16()
    if version in (0, _OFFSET_KEY):
        return OffsetKey(reader.text(), reader.text(), reader.int32())
    return GroupKey(reader.text()) if version == _GROUP_KEY else None


def format_committed(committed: Committed) -> bytes:
    writer = Writer().int16(_OFFSET_VALUE).int64(committed.offset).int32(committed.leader_epoch)
    writer.compact_text(committed.metadata).int64(committed.commit_ms)
    known = committed.topic_id != NO_TOPIC_ID
    return bytes(writer.tagged({_TAG_TOPIC_ID: committed.topic_id.bytes} if known else {}))


def parse_committed(value: bytes) -> Committed:
    reader = Reader(value)
    version = reader.int16()
    if not 0 <= version <= _OFFSET_VALUE:
        raise _unknown("offset", version)
    offset = reader.int64()
    leader_epoch = reader.int32() if version >= 3 else -1
    metadata = reader.compact_text() if version >= 4 else reader.text()
    commit_ms = reader.int64()
    topic_id = reader.tagged().get(_TAG_TOPIC_ID) if version >= 4 else None
    known = topic_id is not None and len(topic_id) == 16
    return Committed(offset, leader_epoch, metadata, commit_ms, uuid.UUID(bytes=topic_id) if known else NO_TOPIC_ID)


def format_group(group: StoredGroup) -> bytes:
    writer = Writer().int16(_GROUP_VALUE).compact_text(group.protocol_type).int32(group.generation)
    writer.compact_text(group.protocol).compact_text(group.leader).int64(group.state_ms)
    writer.varint(len(group.members) + 1)
    for member in group.members:
        writer.compact_text(member.member_id).compact_text(member.instance_id)
        writer.compact_text(member.client_id).compact_text(member.client_host)
        writer.int32(member.rebalance_timeout_ms).int32(member.session_timeout_ms)
        writer.compact_bytes(member.subscription).compact_bytes(member.assignment).tagged({})
    causes = [[cause.at_ms, cause.generation, cause.reason, cause.member] for cause in group.causes]
    return bytes(writer.tagged({_TAG_CAUSES: json.dumps(causes).encode()} if causes else {}))


def parse_group(value: bytes) -> StoredGroup:
    reader = Reader(value)
    version = reader.int16()
    if not 0 <= version <= _GROUP_VALUE:
        raise _unknown("group", version)
    if version < 4:
        return _parse_old_group(reader, version)
    protocol_type, generation = reader.compact_text(), reader.int32()
    protocol, leader, state_ms = reader.compact_nullable_text(), reader.compact_nullable_text(), reader.int64()
    members = []
    for _ in range(reader.compact_count(13)):
        member = StoredMember(
            reader.compact_text(),
            reader.compact_nullable_text(),
            reader.compact_text(),
            reader.compact_text(),
            reader.int32(),
            reader.int32(),
            reader.compact_bytes(),
            reader.compact_bytes(),
        )
        reader.tagged()
        members.append(member)
    causes = _parse_causes(reader.tagged().get(_TAG_CAUSES, b"[]"))
    return StoredGroup(protocol_type, generation, protocol, leader, state_ms, tuple(members), causes)


def _parse_old_group(reader: Reader, version: int) -> StoredGroup:
    protocol_type, generation = reader.text(), reader.int32()
    protocol, leader = reader.nullable_text(), reader.nullable_text()
    state_ms = reader.int64() if version >= 2 else -1
    members = []
    for _ in range(reader.count(12)):
        member_id = reader.text()
        instance_id = reader.nullable_text() if version >= 3 else None
        client_id, client_host = reader.text(), reader.text()
        rebalance_ms = reader.int32() if version >= 1 else -1
        session_ms = reader.int32()
        subscription, assignment = reader.nullable_bytes() or b"", reader.nullable_bytes() or b""
        members.append(
            StoredMember(
                member_id, instance_id, client_id, client_host, rebalance_ms, session_ms, subscription, assignment
            )
        )
    return StoredGroup(protocol_type, generation, protocol, leader, state_ms, tuple(members))


def _parse_causes(raw: bytes) -> tuple[Cause, ...]:
    """A courtesy to `explain`: what cannot be read is left out, the group is there all the same."""
    try:
        return tuple(
            Cause(int(at_ms), int(generation), str(reason), str(member))
            for at_ms, generation, reason, member in json.loads(raw)
        )
    except (ValueError, TypeError, RecursionError):
        return ()


def _unknown(kind: str, version: int) -> StoreFormatError:
    return StoreFormatError(
        f"a group's {kind} record has a version that this mqcore does not know",
        hint="It was written by a newer version.",
        version=version,
    )
