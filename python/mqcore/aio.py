"""mqcore for asyncio: `store = await mqcore.aio.open("data/")`; the same verbs, awaited."""

from mqcore.client.aio import (
    AsyncBulkDelivery,
    AsyncConsumer,
    AsyncDelivery,
    AsyncProducer,
    AsyncStore,
    open,
)

__all__ = ["AsyncBulkDelivery", "AsyncConsumer", "AsyncDelivery", "AsyncProducer", "AsyncStore", "open"]
