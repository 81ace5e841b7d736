"""Configuration of a topic: Kafka's names, types, defaults and ranges, and a few keys of our own under `mqcore.`.

Invariants:
    1. One field a key; KEYS and the fields of TopicConfig agree (tests/unit/config/test_topic.py).
    2. `TopicConfig.parse(config.to_dict()) == config`: what is stored with a topic is exactly what was overridden.
    3. min.compaction.lag.ms <= max.compaction.lag.ms.

Source: apache/kafka LogConfig.java and TopicConfig.java (names, defaults, ranges), KIP-937 (timestamp bounds).
Keys that only a cluster or a tiered store gives a meaning are refused with the reason, not taken and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mqcore.config.keys import INT_MAX, LONG_MAX, ConfigValue, Key, parse_all, unknown_key
from mqcore.errors import InvalidConfigError

_DAY_MS = 24 * 60 * 60 * 1000
_CODECS = ("uncompressed", "gzip", "snappy", "lz4", "zstd", "producer")

_ALL = (
    Key("segment.bytes", "int", 1 << 30, "size at which the active segment rolls", "bytes", 14, INT_MAX),
    Key("segment.ms", "int", 7 * _DAY_MS, "age (by record time) at which it rolls", "ms", 1),
    Key("segment.jitter.ms", "int", 0, "largest random cut from segment.ms: not all roll at once", "ms", 0),
    Key("segment.index.bytes", "int", 10 << 20, "size of the offset index at which it rolls", "bytes", 4, INT_MAX),
    Key("index.interval.bytes", "int", 4096, "log bytes between two index entries", "bytes", 0, INT_MAX),
    Key("retention.ms", "int", 7 * _DAY_MS, "age at which a sealed segment goes; -1 never", "ms", -1),
    Key("retention.bytes", "int", -1, "size a partition is cut back to; negative: no bound", "bytes"),
    Key("cleanup.policy", "set", frozenset({"delete"}), "what old records go by", choices=("compact", "delete")),
    Key("compression.type", "string", "producer", "codec of stored batches; producer keeps what came", choices=_CODECS),
    Key("compression.gzip.level", "int", -1, "1 to 9; -1 is the library's choice", "", -1, 9),
    Key("compression.lz4.level", "int", 9, "1 to 17", "", 1, 17),
    Key("compression.zstd.level", "int", 3, "-131072 to 22", "", -131072, 22),
    Key("max.message.bytes", "int", (1 << 20) + 12, "largest record batch, as stored", "bytes", 0, INT_MAX),
    Key(
        "message.timestamp.type",
        "string",
        "CreateTime",
        "whose clock a record's timestamp shows: the producer's or the log's",
        choices=("CreateTime", "LogAppendTime"),
    ),
    Key("message.timestamp.before.max.ms", "int", LONG_MAX, "how far a create time may lie in the past", "ms", 0),
    # One hour since Kafka 4.0 (KIP-1030): a record of next year would keep its segment from retention until then.
    Key("message.timestamp.after.max.ms", "int", 3_600_000, "how far a create time may lie in the future", "ms", 0),
    Key("min.compaction.lag.ms", "int", 0, "age before which a record is not compacted away", "ms", 0),
    Key("max.compaction.lag.ms", "int", LONG_MAX, "age after which compaction must have looked at a record", "ms", 1),
    Key("delete.retention.ms", "int", _DAY_MS, "how long a compacted topic keeps tombstones and markers", "ms", 0),
    Key("min.cleanable.dirty.ratio", "float", 0.5, "share of uncompacted bytes that starts a compaction", "", 0, 1),
    Key("file.delete.delay.ms", "int", 60_000, "time between `.deleted` and the unlink of a file", "ms", 0),
    Key("preallocate", "bool", False, "take a segment's whole space when it is made"),
    Key(
        "mqcore.durability",
        "string",
        "",
        "empty: the store's",
        choices=("", "fsync", "os", "memory"),
    ),
    Key("mqcore.partitioner", "string", "default", "where a keyed record goes", choices=("default", "consistent")),
    Key("mqcore.dedup.window.ms", "int", 0, "how long a message id is remembered; 0: ids are not compared", "ms", 0),
    Key("mqcore.dedup.window.count", "int", -1, "about how many ids are remembered at most; -1: no bound", "", -1),
    Key("mqcore.dedup.max.bytes", "int", 64 << 20, "memory of a partition's ids", "bytes", 1 << 16, 1 << 40),
    Key("mqcore.digest", "string", "blake3", "digest of a sealed segment", choices=("blake3", "sha256")),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _ALL}

UNSUPPORTED: Mapping[str, str] = {
    "min.insync.replicas": "it needs replicas",
    "unclean.leader.election.enable": "it needs replicas",
    "leader.replication.throttled.replicas": "it needs replicas",
    "follower.replication.throttled.replicas": "it needs replicas",
    "flush.messages": "set mqcore.durability to fsync instead",
    "flush.ms": "set mqcore.durability to fsync instead",
    "remote.storage.enable": "there is no tiered storage",
    "remote.log.copy.disable": "there is no tiered storage",
    "remote.log.delete.on.disable": "there is no tiered storage",
    "local.retention.ms": "there is no tiered storage",
    "local.retention.bytes": "there is no tiered storage",
    "message.format.version": "the format is always v2",
    "message.downconversion.enable": "the format is always v2",
    "message.timestamp.difference.max.ms": "use message.timestamp.before.max.ms and message.timestamp.after.max.ms",
}
"""Kafka's keys that have no meaning here, each with the reason that the error gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """The effective settings of a topic. Make it with `parse`. Times in ms, sizes in bytes; -1: no bound."""

    segment_bytes: int = KEYS["segment.bytes"].default
    segment_ms: int = KEYS["segment.ms"].default
    segment_jitter_ms: int = KEYS["segment.jitter.ms"].default
    segment_index_bytes: int = KEYS["segment.index.bytes"].default
    index_interval_bytes: int = KEYS["index.interval.bytes"].default
    retention_ms: int = KEYS["retention.ms"].default
    retention_bytes: int = KEYS["retention.bytes"].default
    cleanup_policy: frozenset[str] = KEYS["cleanup.policy"].default
    compression_type: str = KEYS["compression.type"].default
    compression_gzip_level: int = KEYS["compression.gzip.level"].default
    compression_lz4_level: int = KEYS["compression.lz4.level"].default
    compression_zstd_level: int = KEYS["compression.zstd.level"].default
    max_message_bytes: int = KEYS["max.message.bytes"].default
    message_timestamp_type: str = KEYS["message.timestamp.type"].default
    message_timestamp_before_max_ms: int = KEYS["message.timestamp.before.max.ms"].default
    message_timestamp_after_max_ms: int = KEYS["message.timestamp.after.max.ms"].default
    min_compaction_lag_ms: int = KEYS["min.compaction.lag.ms"].default
    max_compaction_lag_ms: int = KEYS["max.compaction.lag.ms"].default
    delete_retention_ms: int = KEYS["delete.retention.ms"].default
    min_cleanable_dirty_ratio: float = KEYS["min.cleanable.dirty.ratio"].default
    file_delete_delay_ms: int = KEYS["file.delete.delay.ms"].default
    preallocate: bool = KEYS["preallocate"].default
    durability: str = KEYS["mqcore.durability"].default
    partitioner: str = KEYS["mqcore.partitioner"].default
    dedup_window_ms: int = KEYS["mqcore.dedup.window.ms"].default
    dedup_window_count: int = KEYS["mqcore.dedup.window.count"].default
    dedup_max_bytes: int = KEYS["mqcore.dedup.max.bytes"].default
    digest: str = KEYS["mqcore.digest"].default
    overrides: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(key, text) pairs set for this topic alone, sorted by key; the rest follow the store's defaults."""

    @classmethod
    def parse(
        cls, values: Mapping[str, ConfigValue] | None = None, defaults: Mapping[str, ConfigValue] | None = None
    ) -> TopicConfig:
        """Return the settings for a topic's overrides on top of a store's defaults (both: Kafka's names).

        Raises InvalidConfigError: unknown key (with the nearest name), a value out of range, two that conflict.
        """
        values = values or {}
        for name in values:
            if name in UNSUPPORTED:
                raise InvalidConfigError(f"config key has no meaning here: {UNSUPPORTED[name]}", key=name)
        fields = parse_all(defaults or {}, KEYS)
        own = parse_all(values, KEYS)
        fields.update(own)
        overrides = tuple(sorted((name, KEYS[name].format(own[KEYS[name].field])) for name in values))
        config = cls(**fields, overrides=overrides)
        if config.min_compaction_lag_ms > config.max_compaction_lag_ms:
            raise InvalidConfigError(
                "min.compaction.lag.ms is above max.compaction.lag.ms",
                key="min.compaction.lag.ms",
                value=config.min_compaction_lag_ms,
                limit=config.max_compaction_lag_ms,
            )
        return config

    def altered(
        self, changes: Mapping[str, ConfigValue | None], defaults: Mapping[str, ConfigValue] | None = None
    ) -> TopicConfig:
        """Return the settings after `changes` (None takes an override away), as IncrementalAlterConfigs does."""
        merged: dict[str, ConfigValue] = dict(self.overrides)
        for name, value in changes.items():
            if value is None:
                if name not in KEYS:
                    raise unknown_key(name, KEYS)
                merged.pop(name, None)
            else:
                merged[name] = value
        return TopicConfig.parse(merged, defaults)

    def to_dict(self) -> dict[str, str]:
        """Return the overrides as {Kafka's key: text}: what is stored with the topic."""
        return dict(self.overrides)

    def describe(self) -> dict[str, str]:
        """Return every key with its effective text."""
        return {key.name: key.format(self.value(key)) for key in _ALL}

    def value(self, key: Key) -> Any:
        """Return the typed value of a key."""
        return getattr(self, key.field)

    @property
    def compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        """True if segments go by age and size. A purely compacted topic keeps the last record of each key for ever."""
        return "delete" in self.cleanup_policy

    @property
    def segment_ms_effective(self) -> int:
        """The age at which a segment rolls: a compacted topic must roll in time for max.compaction.lag.ms (KIP-354)."""
        return min(self.segment_ms, self.max_compaction_lag_ms) if self.compacted else self.segment_ms
