"""The asyncio face of a consumer in a group.

Invariants:
    1. The loop is never blocked by the group: joining and heartbeats wait in no thread of the loop, commits run in the
       store's pool. Only who takes over a partition of which a commit is on its way waits for it, for a disk's time.
    2. A task that waits in this consumer counts as one that polls (max_poll_interval_s).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mqcore.client.aio import AsyncConsumer
from mqcore.client.consumer import Partition
from mqcore.types import TopicPartition

if TYPE_CHECKING:
    from mqcore.client.aio import AsyncStore
    from mqcore.client.group_consumer import GroupConsumer
    from mqcore.client.membership import GroupMetadata
    from mqcore.groups.coordinator import OffsetToCommit


class AsyncGroupConsumer(AsyncConsumer):
    """Made by `AsyncStore.group_consumer`. Everything else as AsyncConsumer and GroupConsumer have it."""

    def __init__(self, store: AsyncStore, consumer: GroupConsumer, *, follow: bool) -> None:
        super().__init__(store, consumer, follow=follow)
        self._member = consumer
        consumer._waits_for_group = False

    @property
    def group(self) -> str:
        return self._member.group

    async def commit(self, offsets: dict[Any, OffsetToCommit] | None = None) -> None:
        """See GroupConsumer.commit. In a task that was cancelled the commit goes on."""
        await self._store.run(self._member.commit, offsets)

    async def committed(self, *partitions: Partition) -> dict[TopicPartition, int | None]:
        """See GroupConsumer.committed."""
        return self._member.committed(*partitions)

    async def lag(self, *partitions: Partition) -> dict[TopicPartition, int]:
        """See GroupConsumer.lag."""
        return await self._store.run(self._member.lag, *partitions)

    def group_metadata(self) -> GroupMetadata:
        """See GroupConsumer.group_metadata."""
        return self._member.group_metadata()

    async def _wait(self, published: asyncio.Future[None], deadline: float | None) -> bool:
        self._member._calls += 1
        try:
            return await super()._wait(published, deadline)
        finally:
            self._member._end_call()

    async def close(self) -> None:
        """See GroupConsumer.close; its callbacks and its last commit run in the store's pool."""
        await self._store.run(self._consumer.close)
        await super().close()
