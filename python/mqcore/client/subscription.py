"""Which topics a consumer reads: names, and patterns that also take in topics that appear later.

Invariant: a name stays subscribed when its topic is deleted (it may come again); a pattern never takes in a topic of
the store's own (`topics()` does not list them).
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.log.topics import TopicInfo

# The list of topics is looked at when nothing else is to do, and no more often than this: it may be long.
REFRESH_S = 0.05


class TopicSource(Protocol):
    def topics(self) -> Mapping[str, TopicInfo]: ...
    def topic(self, name: str) -> TopicInfo: ...


class Subscription:
    """Names and patterns, and the topics that they mean now."""

    def __init__(self, topics: Iterable[str | re.Pattern[str] | Iterable[str | re.Pattern[str]]]) -> None:
        """topics: names, compiled patterns, strings that begin with "^", or lists of these. ValueError: none given."""
        self.names: list[str] = []
        self.patterns: list[re.Pattern[str]] = []
        for item in topics:
            for one in [item] if isinstance(item, str | re.Pattern) else item:
                if isinstance(one, re.Pattern):
                    self.patterns.append(one)
                elif one.startswith("^"):
                    self.patterns.append(re.compile(one))
                else:
                    self.names.append(one)
        if not self.names and not self.patterns:
            raise ValueError("name at least one topic or pattern")
        self.topics: dict[str, tuple[uuid.UUID, int]] = {}  # name -> topic id, partitions
        self._looked = -1.0

    def require(self, source: TopicSource) -> None:
        """Look for the first time: a name must be there (a typing error must not wait for ever). UnknownTopicError."""
        for name in self.names:
            source.topic(name)
        self.refresh(source, at_once=True)

    def refresh(self, source: TopicSource, *, at_once: bool = False) -> bool:
        """Look at the store's topics again (at_once: even if the last look was just now); whether anything changed."""
        now = time.monotonic()
        if not at_once and now - self._looked < REFRESH_S:
            return False
        self._looked = now
        there = source.topics()
        found = {name: (there[name].topic_id, there[name].partitions) for name in self.names if name in there}
        for name, info in there.items() if self.patterns else ():
            if any(pattern.match(name) for pattern in self.patterns):
                found[name] = (info.topic_id, info.partitions)
        changed = found != self.topics
        self.topics = found
        return changed

    def partitions(self) -> dict[TopicPartition, uuid.UUID]:
        """The partitions meant now, each with the id of its topic."""
        return {
            TopicPartition(name, number): topic_id
            for name, (topic_id, count) in self.topics.items()
            for number in range(count)
        }
