"""Configuration of a store: its own keys, and defaults for its topics under Kafka's broker names (`log.*`).

Invariants:
    1. One field a key; KEYS and the fields of StoreConfig agree.
    2. Every bound that the store keeps on memory, files and threads is a key here, with a default for a laptop.
    3. `topic_defaults` holds only keys of TopicConfig, already checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mqcore.config import topic
from mqcore.config.keys import INT_MAX, ConfigValue, Key, parse_all, unknown_key
from mqcore.errors import InvalidConfigError

_MIB = 1 << 20

_ALL = (
    Key("journal.ring.bytes", "int", 64 * _MIB, "size of the journal's ring of files", "bytes", _MIB, 1 << 40),
    Key(
        "journal.max.round.bytes",
        "int",
        4 * _MIB,
        "rounds above it go to the segments",
        "bytes",
        4096,
        1 << 30,
    ),
    Key("max.open.files", "int", 512, "file descriptors for segments; past it idle ones are released", "", 16, INT_MAX),
    Key("max.partitions", "int", 100_000, "partitions of all topics together", "", 1, 10_000_000),
    Key("max.topics", "int", 100_000, "topics, internal ones not counted", "", 1, 10_000_000),
    Key("maintenance.interval.ms", "int", 10_000, "time between two passes of retention and compaction", "ms", 1),
    Key("view.commit.interval.ms", "int", 1_000, "longest time a change of a view stays in memory only", "ms", 1),
    Key(
        "view.map.bytes",
        "int",
        64 << 30,
        "address space of the views (sparse, fixed)",
        "bytes",
        _MIB,
        1 << 46,
    ),
    Key(
        "view.verify.bytes",
        "int",
        1024 * _MIB,
        "largest views file walked after a crash",
        "bytes",
        0,
    ),
    Key("log.start.checkpoint.interval.ms", "int", 60_000, "time between two writes of the log start offsets", "ms", 1),
    Key("log.cleaner.dedupe.buffer.size", "int", 128 * _MIB, "key map of one compaction", "bytes", _MIB, 1 << 40),
    Key("log.cleaner.io.max.bytes.per.second", "int", 64 * _MIB, "bound on compaction's I/O", "bytes", 4096),
    Key("seal.io.max.bytes.per.second", "int", 256 * _MIB, "bound on the reads that make seal digests", "bytes", 4096),
    Key(
        "transaction.state.log.num.partitions",
        "int",
        50,
        "partitions of __transaction_state, when it is made",
        "",
        1,
        10_000,
    ),
    Key(
        "transaction.max.timeout.ms",
        "int",
        900_000,
        "longest time-out that a transaction may ask for",
        "ms",
        1,
        INT_MAX,
    ),
    Key(
        "transactional.id.expiration.ms",
        "int",
        604_800_000,
        "an id without a transaction for so long is forgotten",
        "ms",
        1,
    ),
    Key("transactional.ids.cached.max", "int", 10_000, "ids kept in memory between their transactions", "", 1, INT_MAX),
    Key("num.recovery.threads.per.data.dir", "int", 4, "threads that scan segments at open", "", 1, 256),
    Key(
        "max.producers.per.partition", "int", 100_000, "producers remembered; the idlest goes first", "", 16, 10_000_000
    ),
    Key("producer.id.expiration.ms", "int", 86_400_000, "how long an idle producer is remembered", "ms", 1),
    Key("offsets.topic.num.partitions", "int", 50, "partitions of __consumer_offsets, when it is made", "", 1, 10_000),
    Key(
        "offsets.retention.minutes", "int", 10_080, "how long offsets outlive their group's last member", "", 1, INT_MAX
    ),
    Key(
        "offset.metadata.max.bytes", "int", 4096, "longest text that goes with a committed offset", "bytes", 0, INT_MAX
    ),
    Key("group.max.size", "int", 10_000, "members of one group", "", 1, INT_MAX),
    Key("group.initial.rebalance.delay.ms", "int", 0, "an empty group's wait for more members", "ms", 0, INT_MAX),
    Key("group.cache.max.groups", "int", 10_000, "groups kept in memory without members", "", 1, INT_MAX),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _ALL}

SYNONYMS: Mapping[str, str] = {
    "log.segment.bytes": "segment.bytes",
    "log.roll.ms": "segment.ms",
    "log.roll.jitter.ms": "segment.jitter.ms",
    "log.index.size.max.bytes": "segment.index.bytes",
    "log.index.interval.bytes": "index.interval.bytes",
    "log.retention.ms": "retention.ms",
    "log.retention.bytes": "retention.bytes",
    "log.cleanup.policy": "cleanup.policy",
    "log.cleaner.delete.retention.ms": "delete.retention.ms",
    "log.cleaner.min.compaction.lag.ms": "min.compaction.lag.ms",
    "log.cleaner.max.compaction.lag.ms": "max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio": "min.cleanable.dirty.ratio",
    "log.message.timestamp.type": "message.timestamp.type",
    "log.message.timestamp.before.max.ms": "message.timestamp.before.max.ms",
    "log.message.timestamp.after.max.ms": "message.timestamp.after.max.ms",
    "log.segment.delete.delay.ms": "file.delete.delay.ms",
    "log.preallocate": "preallocate",
    "compression.type": "compression.type",
    "compression.gzip.level": "compression.gzip.level",
    "compression.lz4.level": "compression.lz4.level",
    "compression.zstd.level": "compression.zstd.level",
    "message.max.bytes": "max.message.bytes",
    "mqcore.partitioner": "mqcore.partitioner",
    "mqcore.digest": "mqcore.digest",
}
"""Broker key -> topic key (apache/kafka ServerTopicConfigSynonyms.java): the topics' defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """The settings of one store, for as long as it is open (they are not stored). Make it with `parse`."""

    journal_ring_bytes: int = KEYS["journal.ring.bytes"].default
    journal_max_round_bytes: int = KEYS["journal.max.round.bytes"].default
    max_open_files: int = KEYS["max.open.files"].default
    max_partitions: int = KEYS["max.partitions"].default
    max_topics: int = KEYS["max.topics"].default
    maintenance_interval_ms: int = KEYS["maintenance.interval.ms"].default
    view_commit_interval_ms: int = KEYS["view.commit.interval.ms"].default
    view_map_bytes: int = KEYS["view.map.bytes"].default
    view_verify_bytes: int = KEYS["view.verify.bytes"].default
    log_start_checkpoint_interval_ms: int = KEYS["log.start.checkpoint.interval.ms"].default
    log_cleaner_dedupe_buffer_size: int = KEYS["log.cleaner.dedupe.buffer.size"].default
    log_cleaner_io_max_bytes_per_second: int = KEYS["log.cleaner.io.max.bytes.per.second"].default
    seal_io_max_bytes_per_second: int = KEYS["seal.io.max.bytes.per.second"].default
    transaction_state_log_num_partitions: int = KEYS["transaction.state.log.num.partitions"].default
    transaction_max_timeout_ms: int = KEYS["transaction.max.timeout.ms"].default
    transactional_id_expiration_ms: int = KEYS["transactional.id.expiration.ms"].default
    transactional_ids_cached_max: int = KEYS["transactional.ids.cached.max"].default
    num_recovery_threads_per_data_dir: int = KEYS["num.recovery.threads.per.data.dir"].default
    max_producers_per_partition: int = KEYS["max.producers.per.partition"].default
    producer_id_expiration_ms: int = KEYS["producer.id.expiration.ms"].default
    offsets_topic_num_partitions: int = KEYS["offsets.topic.num.partitions"].default
    offsets_retention_minutes: int = KEYS["offsets.retention.minutes"].default
    offset_metadata_max_bytes: int = KEYS["offset.metadata.max.bytes"].default
    group_max_size: int = KEYS["group.max.size"].default
    group_initial_rebalance_delay_ms: int = KEYS["group.initial.rebalance.delay.ms"].default
    group_cache_max_groups: int = KEYS["group.cache.max.groups"].default
    topic_defaults: Mapping[str, str] = field(default_factory=dict)
    """{topic key: text}: pass it to TopicConfig.parse as `defaults`."""

    @classmethod
    def parse(cls, values: Mapping[str, ConfigValue] | None = None) -> StoreConfig:
        """Return the settings. values: keys of this store, or Kafka's broker keys for topic defaults (SYNONYMS).

        Raises InvalidConfigError: unknown key (with the nearest name), a value out of range.
        """
        own: dict[str, ConfigValue] = {}
        defaults: dict[str, ConfigValue] = {}
        for name, value in (values or {}).items():
            if name in KEYS:
                own[name] = value
            elif name in SYNONYMS:
                defaults[SYNONYMS[name]] = value
            elif name in topic.KEYS:
                broker = next((b for b, t in SYNONYMS.items() if t == name), "")
                hint = f"For all topics of the store set {broker!r}." if broker else "Set it on the topic."
                raise InvalidConfigError("this is a topic's key", key=name, hint=hint)
            else:
                raise unknown_key(name, [*KEYS, *SYNONYMS])
        checked = topic.TopicConfig.parse(defaults).to_dict()
        return cls(**parse_all(own, KEYS), topic_defaults=checked)
