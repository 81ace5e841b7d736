"""What the group commit sees of partitions, segments and the file system."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class DurableTarget(Protocol):
    """A partition, as the committer sees it."""

    @property
    def topic_id(self) -> uuid.UUID: ...
    @property
    def partition(self) -> int: ...
    def advance_durable(self, next_offset: int) -> None:
        """Everything below next_offset is durable. Must accept a repeated call; must not take the partition's lock
        for longer than an update, nor call the committer."""


class FlushableSegment(Protocol):
    """What the committer uses of a segment. Thread-safe."""

    @property
    def base_offset(self) -> int: ...
    @property
    def flushed_size(self) -> int: ...
    def flush(self) -> None: ...


class SyncIo(Protocol):
    def mkdir(self, path: str, mode: int = 0o700) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def sync_filesystem(self, path: str) -> None: ...
    def _handle(self) -> Any: ...


OnCheckpoint = Callable[[Sequence[tuple[DurableTarget, int]]], None]
"""Gets (target, its next offset that lies synced in its segments) before the ring forgets it."""
