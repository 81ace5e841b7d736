"""`__consumer_offsets`: the log of what groups committed and of who is in them, and its views.

Invariants:
    1. All records of a group lie in one partition (internal_topics.partition_of), in the order of their commits.
    2. A partition that was never written has no view and no files.
    3. A view is the fold of its partition: the latest value of each key (views.py keeps it so, whatever crashes).
Lock: `_lock` guards which views there are; a leaf but for the locks of views.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mqcore.errors import UnknownTopicError
from mqcore.groups.records import (
    Committed,
    GroupKey,
    StoredGroup,
    format_group_key,
    offsets_prefix,
    parse_committed,
    parse_group,
    parse_key,
)
from mqcore.log import internal_topics
from mqcore.log.internal_records import encode
from mqcore.log.views import View
from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.partition_ports import Appended

OFFSETS_TOPIC = "__consumer_offsets"
# Small segments: only what is sealed is compacted, and a commit is some hundred bytes.
TOPIC_CONFIG: Mapping[str, str | int] = {
    "cleanup.policy": "compact",
    "segment.bytes": 16 << 20,
    "compression.type": "uncompressed",
}


class OffsetsTopic:
    """The topic of one open store, made by the first write."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._views: dict[int, View] = {}

    @property
    def there(self) -> bool:
        return self._partitions() > 0

    def _partitions(self) -> int:
        """0: the topic is not there yet."""
        try:
            return self._store.topic(OFFSETS_TOPIC).partitions
        except UnknownTopicError:
            return 0

    def make(self) -> None:
        """Have the topic; durable on return. The caller holds no lock that maintenance takes."""
        internal_topics.ensure(
            self._store, OFFSETS_TOPIC, self._store.config.offsets_topic_num_partitions, TOPIC_CONFIG
        )

    def partition(self, group: str) -> int:
        """The partition of a group. UnknownTopicError: the topic is not there."""
        return internal_topics.partition_of(group, self._store.topic(OFFSETS_TOPIC).partitions)

    def log(self, group: str) -> PartitionLog:
        """The log that a group's records go to."""
        return self._store.partition(OFFSETS_TOPIC, self.partition(group))

    def append(self, group: str, records: Sequence[tuple[bytes, bytes | None]]) -> Appended:
        """Append a group's records as one batch; wait_durable of `log(group)` comes next."""
        return self.log(group).append(encode(records, self._store.clock.wall_ms()))

    def load(self, group: str) -> tuple[StoredGroup | None, dict[TopicPartition, Committed]]:
        """A group as its records have it: its members if it was written down, and its offsets."""
        view = self._view(self.partition(group)) if self.there else None
        if view is None:
            return None, {}
        view.catch_up()
        raw = view.get(format_group_key(group))
        offsets = {}
        for key, value in view.items(offsets_prefix(group)):
            parsed = parse_key(key)
            if parsed is not None and not isinstance(parsed, GroupKey) and parsed.group == group:
                offsets[TopicPartition(parsed.topic, parsed.partition)] = parse_committed(value)
        return (parse_group(raw) if raw is not None else None), offsets

    def names(self) -> list[str]:
        """All groups that left anything, sorted."""
        return sorted(
            {parsed.group for view in self._written() for key, _ in view.items() if (parsed := parse_key(key))}
        )

    def catch_up(self) -> None:
        """Bring the views up to their logs, so that maintenance can commit them and an open has little to read."""
        with self._lock:
            views = list(self._views.values())
        for view in views:
            view.catch_up()

    def _written(self) -> Iterator[View]:
        for number in range(self._partitions()):
            view = self._view(number)
            if view is not None:
                view.catch_up()
                yield view

    def _view(self, number: int) -> View | None:
        """The view of a partition; None: nothing was ever written to it."""
        with self._lock:
            view = self._views.get(number)
            if view is None and self._store.bounds(OFFSETS_TOPIC, number)[1] > 0:
                log = self._store.partition(OFFSETS_TOPIC, number)
                view = View(self._store.views, f"{OFFSETS_TOPIC}-{number}", log, None)
                self._views[number] = view
            return view


def latest(offsets: Mapping[TopicPartition, Committed]) -> int:
    """The time (wall clock, ms) of the last commit among these; -1 for none."""
    return max((one.commit_ms for one in offsets.values()), default=-1)
