"""mqcore: an embedded, crash-safe, Kafka-format message log.

store = mqcore.open("data/")
store.create_topic("payments", partitions=20)
with store.producer() as producer:
    producer.send("payments", b"42.00", key=b"acct-7").result()
"""

from typing import Any as _Any

from mqcore import errors
from mqcore._version import __version__
from mqcore.client.embedded import Store
from mqcore.client.open import memory, open
from mqcore.errors import MQError
from mqcore.ids import Snowflake
from mqcore.processing.processor import Processor, processor
from mqcore.processing.progress import Progress
from mqcore.types import Durability, IsolationLevel, RecordMetadata, TopicPartition

__all__ = [
    "Durability",
    "IsolationLevel",
    "MQError",
    "Processor",
    "Progress",
    "RecordMetadata",
    "Snowflake",
    "Store",
    "TopicPartition",
    "__version__",
    "aio",
    "errors",
    "memory",
    "open",
    "processor",
]


def __getattr__(name: str) -> _Any:
    """`mqcore.aio` is imported when it is first used: asyncio costs a third of the package's own import."""
    if name == "aio":
        from importlib import import_module

        return import_module("mqcore.aio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
