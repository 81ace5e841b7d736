"""mqcore: an embedded, crash-safe, Kafka-format message log.

store = mqcore.open("data/")
store.create_topic("payments", partitions=20)
with store.producer() as producer:
    producer.send("payments", b"42.00", key=b"acct-7").result()
"""

from mqcore import errors
from mqcore._version import __version__
from mqcore.client.embedded import Store
from mqcore.client.open import memory, open
from mqcore.errors import MQError
from mqcore.types import Durability, IsolationLevel, RecordMetadata, TopicPartition

__all__ = [
    "Durability",
    "IsolationLevel",
    "MQError",
    "RecordMetadata",
    "Store",
    "TopicPartition",
    "__version__",
    "errors",
    "memory",
    "open",
]
