"""What a consumer read can be sent as it lies there: the same keys and values arrive, no bytes object is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import mqcore

RECORDS: list[tuple[bytes | None, bytes | None]] = [
    (None if n % 5 == 0 else b"k%d" % n, None if n % 7 == 0 else b"" if n % 11 == 0 else b"v" * (n % 300) + b"%d" % n)
    for n in range(1000)
]


@pytest.fixture(params=["uncompressed", "lz4"])
def store(request: pytest.FixtureRequest) -> Iterator[mqcore.Store]:
    """Compressed batches lie in private memory, others in the mapped segment."""
    with mqcore.memory() as store:
        store.create_topic("in", config={"compression.type": request.param})
        for partitions in (1, 3):
            store.create_topic(f"out{partitions}", partitions=partitions)
        with store.producer() as producer:
            for key, value in RECORDS:
                producer.send("in", value, key=key)
        yield store


def read(store: mqcore.Store, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    def plain(view: Any) -> bytes | None:
        return None if view is None else bytes(view)

    with store.consumer(topic, follow=False) as consumer:
        return [(plain(record.key), plain(record.value)) for record in consumer]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("max_records", [1, 333, 10_000])
def test_keys_and_values_arrive(store: mqcore.Store, partitions: int, max_records: int) -> None:
    topic = f"out{partitions}"
    with store.consumer("in", follow=False) as consumer, store.producer() as producer:
        for batch in consumer.batches(max_records=max_records):
            producer.send_many(topic, batch.values, keys=batch.keys)
    # By repr: null and empty are told apart, whatever order partitions come in.
    assert sorted(read(store, topic), key=repr) == sorted(RECORDS, key=repr)
    if partitions == 1:
        assert read(store, topic) == RECORDS


def test_slices_values_alone_and_keys_that_are_all_null(store: mqcore.Store) -> None:
    with store.consumer("in", follow=False) as consumer, store.producer() as producer:
        (batch,) = consumer.poll(max_records=10_000)
        producer.send_many("out1", batch[100:250].values)
        producer.send_many("out1", batch[:1].values, keys=batch[:1].keys)
        producer.send_many("out1", batch[5:5].values)
    assert read(store, "out1") == [(None, value) for _, value in [*RECORDS[100:250], RECORDS[0]]]


def test_the_counts_must_agree(store: mqcore.Store) -> None:
    with store.consumer("in", follow=False) as consumer, store.producer() as producer:
        (batch,) = consumer.poll(max_records=100)
        with pytest.raises(ValueError, match="100 values and 3 keys"):
            producer.send_many("out1", batch.values, keys=batch[:3].keys)


def test_in_a_transaction_and_with_ids(store: mqcore.Store) -> None:
    store.alter_topic("out3", {"mqcore.dedup.window.ms": 60_000})
    with store.consumer("in", follow=False) as consumer:
        (batch,) = consumer.poll(max_records=100)
        with store.transaction("t") as tx:
            tx.send_many("out1", batch.values, keys=batch.keys)
        with store.producer() as producer:
            producer.send_many("out3", batch.values, ids=mqcore.Snowflake(worker=1).batch(len(batch)))
    assert read(store, "out1") == RECORDS[:100]
    assert len(read(store, "out3")) == 100
