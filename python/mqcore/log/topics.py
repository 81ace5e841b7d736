"""The topics of a store: the fold of the internal topic `__metadata`, kept in memory, found fast at open by a view.

Invariants:
    1. A topic exists when the record that makes it is durable, and is gone when the one that deletes it is: memory
       follows the log, never leads it.
    2. A topic id names one topic for ever. A name made again after a delete has another id.
    3. A deleted topic's id stays known (`deleted()`) until its directories are gone (`forget`): a directory goes only
       against such a tombstone, and never because metadata is missing (R10).
    4. The partition count only grows; an id, a name and a creation time never change.
    5. A record that this version cannot read raises StoreFormatError: skipping it would lose a topic.

Records (key and value compact JSON, UTF-8, keys sorted; the key is the topic's id, so the topic compacts well):
    key    {"id": uuid, "kind": "topic", "v": 1}
    value  {"config": {key: text}    overrides only, Kafka's names and text forms
            "created_ms": int        wall clock, ms
            "deleted_ms": int|null   wall clock of the delete; from then on the topic is gone, its id still known
            "internal": bool         made by the store for itself; not listed, refuses users' writes
            "name": str, "partitions": int, "v": 1}
    value null: forgotten: the directories are gone too.
    key    {"kind": "producer-ids", "v": 1}
    value  {"next": int, "v": 1}     producer ids below it may have been given out
"""

from __future__ import annotations

import difflib
import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mqcore.clock import Clock, SystemClock
from mqcore.config.keys import ConfigValue
from mqcore.config.topic import TopicConfig
from mqcore.errors import (
    InvalidConfigError,
    InvalidTopicError,
    MQError,
    StoreFormatError,
    StoreReadOnlyError,
    TopicExistsError,
    UnknownTopicError,
)
from mqcore.log import internal_records, layout
from mqcore.log.views import Change, Lookup, SourceLog, View, ViewEnvironment

_VERSION = 1
PRODUCER_IDS_KEY = b'{"kind":"producer-ids","v":1}'
METADATA_CONFIG = TopicConfig.parse(
    {
        "cleanup.policy": "compact",
        "segment.bytes": 16 << 20,  # small, so that the sealed part, which alone is compacted, is most of it
    }
)
"""Settings of `__metadata` itself, the one topic that stands in no record."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is now. partitions: their count; they are numbered from 0. created_ms: wall clock."""

    name: str
    topic_id: uuid.UUID
    partitions: int
    config: TopicConfig
    created_ms: int = 0
    internal: bool = False


METADATA_TOPIC = TopicInfo(layout.METADATA_TOPIC, layout.METADATA_TOPIC_ID, 1, METADATA_CONFIG, internal=True)


@dataclass(frozen=True, slots=True)
class DeletedTopic:
    """A topic whose directories may still be there. deleted_ms: wall clock."""

    name: str
    topic_id: uuid.UUID
    partitions: int
    deleted_ms: int


class RegistryLog(SourceLog, Protocol):
    """What the registry needs of partition 0 of `__metadata` (PartitionLog)."""

    def append(self, batches: bytearray) -> Any:
        """Append whole batches; `.next_offset` of the result is the offset after them."""

    def wait_durable(self, next_offset: int, timeout_s: float | None = None) -> None: ...


class TopicRegistry:
    """All topics of a store. Safe to share between threads: one lock guards the maps and the order of appends."""

    def __init__(
        self,
        log: RegistryLog,
        environment: ViewEnvironment,
        *,
        defaults: Mapping[str, ConfigValue] | None = None,
        clock: Clock | None = None,
        topics_max: int = 100_000,
        partitions_max: int = 100_000,
        read_only: bool = False,
    ) -> None:
        """defaults: topic keys of the store's settings (StoreConfig.topic_defaults). Call `load` first."""
        self._log, self._read_only = log, read_only
        self._defaults = dict(defaults or {})
        self._clock = clock or SystemClock()
        self._topics_max, self._partitions_max = topics_max, partitions_max
        self._lock = threading.RLock()
        self._view = View(environment, "topics", log, _fold)
        self._by_name: dict[str, TopicInfo] = {}
        self._by_id: dict[uuid.UUID, TopicInfo] = {}
        self._deleted: dict[uuid.UUID, DeletedTopic] = {}
        self._partitions = 0  # of all topics together
        self._next_producer_id = 0
        self._configs: dict[tuple[tuple[str, str], ...], TopicConfig] = {}  # topics share few settings: parsed once

    # -- reading ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Bring the view up to the log and fill the maps. Raises StoreFormatError, CorruptBatchError, StorageError."""
        with self._lock:
            self._view.catch_up()
            self._by_name, self._by_id, self._deleted, self._partitions = {}, {}, {}, 0
            for key, value in self._view.items():
                if key == PRODUCER_IDS_KEY:
                    self._next_producer_id = parse_producer_ids(value)
                else:
                    self._note(_parse_key(key), value)

    def refresh(self) -> bool:
        """Follow the log (a reader beside a living writer); return whether anything was new."""
        with self._lock:
            if not self._view.catch_up():
                return False
            self.load()
            return True

    def get(self, name: str) -> TopicInfo:
        """Return a topic, internal ones too. Raises UnknownTopicError with the nearest names."""
        info = self._by_name.get(name)
        if info is None:
            # Known names only: a hint must not cost a scan of a million names on each miss.
            near = difflib.get_close_matches(str(name), [*self.all()][:10_000], n=3)
            hint = ("Did you mean " + " or ".join(repr(n) for n in near) + "?") if near else ""
            raise UnknownTopicError("unknown topic", topic=str(name)[:300], hint=hint)
        return info

    def find(self, topic_id: uuid.UUID) -> TopicInfo | None:
        """Return the topic of an id, None if it is unknown or deleted."""
        return self._by_id.get(topic_id)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def all(self, *, internal: bool = False) -> dict[str, TopicInfo]:
        """Return {name: topic} sorted by name; internal=True: those of the store itself too (never `__metadata`)."""
        with self._lock:
            infos = (self._by_name[name] for name in sorted(self._by_name))
            return {info.name: info for info in infos if internal or not info.internal}

    def deleted(self) -> dict[uuid.UUID, DeletedTopic]:
        """Return the topics whose directories may go now: {id: what it was}."""
        with self._lock:
            return dict(self._deleted)

    # -- changing ---------------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, ConfigValue] | None = None,
        *,
        internal: bool = False,
        topic_id: uuid.UUID | None = None,
    ) -> TopicInfo:
        """Make a topic and return it once its record is durable. The caller makes the directories.

        topic_id: keeps the id of an adopted directory; None draws a new one. Raises InvalidTopicError (name or count
        outside Kafka's rules), TopicExistsError, InvalidConfigError, StoreReadOnlyError, StorageError.
        """
        layout.check_topic_name(name)
        parsed = TopicConfig.parse(config, self._defaults)
        with self._lock:
            self._check_writable()
            if name in self._by_name or name == METADATA_TOPIC.name:
                raise TopicExistsError("topic exists", topic=name)
            if topic_id is not None and (topic_id in self._by_id or topic_id in self._deleted):
                raise TopicExistsError("topic id is taken", topic=name, topic_id=topic_id)
            self._check_count(name, partitions, old=0)
            if len(self._by_name) >= self._topics_max:
                raise InvalidTopicError("too many topics", topic=name, limit=self._topics_max)
            info = TopicInfo(name, topic_id or uuid.uuid4(), partitions, parsed, self._clock.wall_ms(), internal)
            self._write(info.topic_id, _format(info))
            return info

    def delete(self, name: str) -> TopicInfo:
        """Delete a topic; durable on return. Its id stays in `deleted()` until `forget`. Raises UnknownTopicError."""
        with self._lock:
            self._check_writable()
            info = self.get(name)
            self._write(info.topic_id, _format(info, deleted_ms=self._clock.wall_ms()))
            return info

    def forget(self, topic_id: uuid.UUID) -> None:
        """Drop a deleted topic's tombstone: its directories are gone. Unknown ids are none of our business."""
        with self._lock:
            self._check_writable()
            if topic_id in self._deleted:
                self._write(topic_id, None)

    def alter(self, name: str, changes: Mapping[str, ConfigValue | None]) -> TopicInfo:
        """Change settings (None takes an override away) and return the topic; durable on return.

        Raises UnknownTopicError, InvalidConfigError.
        """
        with self._lock:
            self._check_writable()
            info = self.get(name)
            return self._change(replace(info, config=info.config.altered(changes, self._defaults)))

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """Raise the partition count to `total`. Raises UnknownTopicError, InvalidTopicError (not more than now)."""
        with self._lock:
            self._check_writable()
            info = self.get(name)
            if total <= info.partitions:
                raise InvalidTopicError("a topic's partitions only grow", topic=name, now=info.partitions, wanted=total)
            self._check_count(name, total, old=info.partitions)
            return self._change(replace(info, partitions=total))

    @property
    def next_producer_id(self) -> int:
        """The first that is not reserved; 0: none was."""
        return self._next_producer_id

    def reserve_producer_ids(self, count: int, *, least: int = 0) -> int:
        """Reserve `count` producer ids, from `least` on; return the first. They are never reserved again, once the record
        is durable: it is on return, under fsync."""
        with self._lock:
            self._check_writable()
            first = max(self._next_producer_id, least)
            self._append(PRODUCER_IDS_KEY, format_producer_ids(first + count))
            self._next_producer_id = first + count
            self._view.catch_up()
            return first

    def _change(self, info: TopicInfo) -> TopicInfo:
        self._write(info.topic_id, _format(info))
        return info

    def _check_writable(self) -> None:
        if self._read_only:
            raise StoreReadOnlyError("the store is open for reading only")

    def _check_count(self, name: str, partitions: int, old: int) -> None:
        # bool is an int in Python, and partitions=True a mistake.
        if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
            raise InvalidTopicError("a topic has at least one partition", topic=name, partitions=repr(partitions)[:40])
        total = self._partitions - old + partitions
        if total > self._partitions_max:
            raise InvalidTopicError(
                "too many partitions in this store", topic=name, partitions=partitions, limit=self._partitions_max
            )

    def _write(self, topic_id: uuid.UUID, value: bytes | None) -> None:
        """Append one record, wait until it is durable, then take it into memory (invariant 1)."""
        self._append(_format_key(topic_id), value)
        self._note(topic_id, value)
        self._view.catch_up()

    def _append(self, key: bytes, value: bytes | None) -> None:
        appended = self._log.append(internal_records.encode([(key, value)], self._clock.wall_ms()))
        self._log.wait_durable(appended.next_offset)

    def _note(self, topic_id: uuid.UUID, value: bytes | None) -> None:
        """Take the latest value of a topic into the maps."""
        old = self._by_id.pop(topic_id, None)
        if old is not None:
            self._by_name.pop(old.name, None)
            self._partitions -= old.partitions
        self._deleted.pop(topic_id, None)
        if value is None:
            return
        info, deleted_ms = _parse(topic_id, value, self._defaults, self._configs)
        if deleted_ms is not None:
            self._deleted[topic_id] = DeletedTopic(info.name, topic_id, info.partitions, deleted_ms)
        else:
            self._by_name[info.name] = self._by_id[topic_id] = info
            self._partitions += info.partitions


def _fold(record: internal_records.InternalRecord, _: Lookup) -> list[Change]:
    """The view holds the latest value of each id; a null value takes it away."""
    return [] if record.key is None else [(record.key, record.value)]


def format_record(info: TopicInfo) -> tuple[bytes, bytes]:
    """Return key and value of the record of `__metadata` that makes a topic."""
    return _format_key(info.topic_id), _format(info)


def parse_record(key: bytes, value: bytes) -> tuple[TopicInfo, DeletedTopic | None]:
    """Return the topic of a record of `__metadata`, and what is left of it if it was deleted.

    Raises StoreFormatError.
    """
    info, deleted_ms = _parse(_parse_key(key), value, {})
    return info, None if deleted_ms is None else DeletedTopic(info.name, info.topic_id, info.partitions, deleted_ms)


def format_producer_ids(next_id: int) -> bytes:
    """Return the value of the record that reserves all producer ids below next_id; its key is PRODUCER_IDS_KEY."""
    return _dump({"v": _VERSION, "next": next_id})


def parse_producer_ids(value: bytes) -> int:
    """Return the first producer id that is not reserved. Raises StoreFormatError."""
    next_id = _load(value).get("next")
    if type(next_id) is not int or not 0 <= next_id < 1 << 63:
        raise StoreFormatError("producer ids out of range")
    return next_id


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _format_key(topic_id: uuid.UUID) -> bytes:
    return _dump({"v": _VERSION, "kind": "topic", "id": str(topic_id)})


def _format(info: TopicInfo, deleted_ms: int | None = None) -> bytes:
    return _dump(
        {
            "v": _VERSION,
            "name": info.name,
            "partitions": info.partitions,
            "config": info.config.to_dict(),
            "created_ms": info.created_ms,
            "deleted_ms": deleted_ms,
            "internal": info.internal,
        }
    )


def _parse_key(key: bytes) -> uuid.UUID:
    fields = _load(key)
    if fields.get("kind") != "topic":
        raise StoreFormatError("unknown kind of metadata record", kind=repr(fields.get("kind"))[:80])
    try:
        return uuid.UUID(str(fields["id"]))
    except (KeyError, ValueError):
        raise StoreFormatError("metadata record without a topic id") from None


def _parse(
    topic_id: uuid.UUID,
    value: bytes,
    defaults: Mapping[str, ConfigValue],
    known: dict[tuple[tuple[str, str], ...], TopicConfig] | None = None,
) -> tuple[TopicInfo, int | None]:
    """Return the topic of a record's value, and when it was deleted. known: settings parsed before, added to.

    Raises StoreFormatError.
    """
    fields = _load(value)
    try:
        name, partitions, created_ms = fields["name"], fields["partitions"], fields["created_ms"]
        deleted_ms, internal = fields["deleted_ms"], fields["internal"]
        layout.check_topic_name(name)  # it becomes a path: a damaged or hostile record must not leave the store
        if type(partitions) is not int or not 1 <= partitions < 1 << 31 or type(created_ms) is not int:
            raise StoreFormatError("partitions or created_ms out of range")
        if not (deleted_ms is None or type(deleted_ms) is int) or type(internal) is not bool:
            raise StoreFormatError("deleted_ms or internal out of range")
        overrides = tuple(fields["config"].items())
        config = known.get(overrides) if known is not None else None
        if config is None:
            config = TopicConfig.parse(fields["config"], defaults)
            if known is not None:
                known[overrides] = config
    except InvalidConfigError as error:
        raise StoreFormatError(
            f"a topic has a setting that this version does not know: {error.what}",
            hint="It was written by a newer version of mqcore.",
            topic_id=topic_id,
            **error.where,
        ) from error
    except (KeyError, TypeError, AttributeError, MQError) as error:
        raise StoreFormatError("unreadable metadata record", topic_id=topic_id, reason=str(error)[:200]) from error
    return TopicInfo(name, topic_id, partitions, config, created_ms, internal), deleted_ms


def _load(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise StoreFormatError("a metadata record is not JSON") from None
    if not isinstance(fields, dict) or fields.get("v") != _VERSION:
        raise StoreFormatError("a metadata record has a version that this mqcore does not know")
    return fields
