"""What is put into a real Kafka, and what a client that is not ours reads back from it: the truth to compare with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.compat.kafka.broker import Kafka, create_topic

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
EPOCH_MS = 1_700_000_000_000
SEGMENT_BYTES = 1 << 20  # the least that Kafka 4 takes


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as a client sees it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def producer(kafka: Kafka, **extra: Any) -> Any:
    from confluent_kafka import Producer

    settings = {
        "bootstrap.servers": kafka.bootstrap,
        "linger.ms": 20,
        "enable.idempotence": True,
        "acks": "all",
        "log_level": 3,
    }
    return Producer(settings | {name.replace("_", "."): value for name, value in extra.items()})


def record(number: int) -> dict[str, Any]:
    """The number-th record: some without key, some without value (tombstones), some with headers, of many sizes."""
    filler = hashlib.sha512(b"%d" % number).hexdigest().encode() * 4  # printable, and hard to compress
    value = None if number % 41 == 7 else b"value-%06d-" % number + filler[: number * 37 % 500]
    return {
        "key": None if number % 5 == 0 else b"key-%d" % (number % 97),
        "value": value,
        "timestamp": EPOCH_MS + 10 * number,
        "headers": [("number", b"%d" % number), ("empty", b""), ("null", None)] if number % 3 == 0 else [],
    }


def fill_codecs(kafka: Kafka, topic: str = "codecs", count: int = 12_000) -> None:
    """One topic, several segments, a share of the records in each codec, one after the other."""
    create_topic(kafka, topic, {"segment.bytes": str(SEGMENT_BYTES), "compression.type": "producer"})
    share = count // len(CODECS)
    for place, codec in enumerate(CODECS):
        client = producer(kafka, compression_type=codec)
        for number in range(place * share, (place + 1) * share):
            client.produce(topic, partition=0, **record(number))
            client.poll(0)
        assert client.flush(60) == 0


def fill_append_time(kafka: Kafka, topic: str = "appendtime", count: int = 500) -> None:
    """Log-append time: the broker stamps the batches."""
    create_topic(kafka, topic, {"message.timestamp.type": "LogAppendTime"})
    client = producer(kafka, compression_type="lz4")
    for number in range(count):
        client.produce(topic, partition=0, **record(number))
    assert client.flush(60) == 0


def fill_transactions(kafka: Kafka, topic: str = "transactions", rounds: int = 8, size: int = 50) -> None:
    """Transactions in turn committed and aborted, then plain records: control batches and an aborted index."""
    create_topic(kafka, topic, {"segment.bytes": str(SEGMENT_BYTES)})
    client = producer(kafka, transactional_id="interop")
    client.init_transactions(60)
    for number in range(rounds):
        client.begin_transaction()
        for step in range(size):
            client.produce(topic, partition=0, **record(number * size + step))
        client.flush(60)
        if number % 2:
            client.abort_transaction(60)
        else:
            client.commit_transaction(60)
    plain = producer(kafka)
    for number in range(size):
        plain.produce(topic, partition=0, **record(number))
    assert plain.flush(60) == 0


def fill_compacted(kafka: Kafka, topic: str = "compacted", keys: int = 60, seconds: float = 60) -> None:
    """A compacted topic after the cleaner ran: gaps between offsets, and of the first producer, all of whose keys were
    written again, the header of its last batch alone (Kafka keeps it for the sequence number)."""
    config = {"segment.bytes": str(SEGMENT_BYTES), "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
    create_topic(kafka, topic, config)
    first = producer(kafka)
    for number in range(keys):
        first.produce(topic, key=b"key-%d" % number, value=b"first", partition=0, timestamp=EPOCH_MS + number)
    assert first.flush(60) == 0
    second = producer(kafka)
    for number in range(8000):
        one = record(number)
        key = b"key-%d" % (number % keys)
        second.produce(topic, key=key, value=one["value"], partition=0, timestamp=one["timestamp"])
    assert second.flush(60) == 0
    (oldest, *_) = sorted(kafka.partition(topic).glob("*.log"))
    before, until = oldest.stat().st_size, time.monotonic() + seconds
    while oldest.stat().st_size == before:
        assert time.monotonic() < until, "Kafka's cleaner did not run"
        time.sleep(0.1)


def read_all(kafka: Kafka, topic: str, *, isolation: str = "read_committed") -> list[Seen]:
    """Every record that librdkafka reads, from the first offset to the end."""
    return list(_read(kafka, topic, isolation))


def _read(kafka: Kafka, topic: str, isolation: str) -> Iterator[Seen]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    settings = {
        "bootstrap.servers": kafka.bootstrap,
        "group.id": "interop",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": isolation,
    }
    client = Consumer(settings)
    try:
        client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        while True:
            message = client.poll(30)
            assert message is not None, f"no answer for {topic} in 30 s"
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                return
            headers = tuple((name, value) for name, value in message.headers() or [])
            yield Seen(message.offset(), message.timestamp()[1], message.key(), message.value(), headers)
    finally:
        client.close()
