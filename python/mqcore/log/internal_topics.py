"""Topics that the store makes for itself, at their first use, and where in them a name's records lie."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mqcore.errors import TopicExistsError, UnknownTopicError
from mqcore.log.topics import METADATA_TOPIC

if TYPE_CHECKING:
    from mqcore.config.keys import ConfigValue
    from mqcore.log.manager import LogStore
    from mqcore.log.topics import TopicInfo


def ensure(store: LogStore, name: str, partitions: int, config: Mapping[str, ConfigValue]) -> TopicInfo:
    """The internal topic of this name; made, durably, if it is not there (then with these partitions and settings).

    Raises StoreReadOnlyError, StorageError.
    """
    try:
        return store.topic(name)
    except UnknownTopicError:
        store.check_writable()
        with contextlib.suppress(TopicExistsError):  # somebody else was first
            store.registry.create(name, partitions, config, internal=True)
        if not store.syncs(METADATA_TOPIC.config):
            # Worth one sync under os too: with the name all of the topic's records would be lost.
            store.partitions.log_of(METADATA_TOPIC, 0).flush()
        return store.topic(name)


def partition_of(name: str, partitions: int) -> int:
    """The partition for a group or transactional id: Java's String.hashCode, made positive, modulo the count
    (apache/kafka GroupMetadataManager.partitionFor, TransactionStateManager.partitionFor)."""
    code = 0
    for (unit,) in struct.iter_unpack(">H", name.encode("utf-16-be", "surrogatepass")):
        code = (31 * code + unit) & 0xFFFFFFFF
    if code >= 1 << 31:
        code = (1 << 32) - code
    return (
        0 if code == 1 << 31 else code
    ) % partitions  # Kafka's Utils.abs gives 0 for the one without a positive twin
