"""Pipelines: consume, process, produce, with offsets, exactly once; and a consumer that leaves copies out."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import mqcore
from mqcore.bench.harness import Comparison, Row, Side, case
from mqcore.bench.material import COUNT, TOPIC, filled_store, fresh, values
from mqcore.types import TopicPartition

PER_COMMIT = 10_000
RECORD_GOAL_NS = 200
_RECORD_ROUNDS = 7
_number = itertools.count()


class _Round:
    """Prepare and clean up of a side that writes: a new output topic whose first record is there; and of ours a group's
    only member, which has its partition."""

    def __init__(self, store: Any, *, consumes: bool) -> None:
        self._store, self._consumes = store, consumes
        self.consumer: Any = None

    def prepare(self) -> str:
        number = next(_number)
        topic = f"out-{number}"
        self._store.create_topic(topic)
        with self._store.producer() as producer:
            producer.send(topic, b"first", partition=0)
        if self._consumes:
            self.consumer = self._store.consumer(TOPIC, group=f"group-{number}", start="earliest")
            while not self.consumer.assignment:
                self.consumer.poll(timeout_s=0.01, max_records=1)
            self.consumer.seek(TopicPartition(TOPIC, 0), 0)
        return topic

    def clean_up(self, topic: str) -> None:
        if self._consumes:
            self.consumer.close()
        self._store.delete_topic(topic)

    def process(self, function: Any, count: int) -> None:
        """Exactly once, a transaction for each 10,000 records; function(batch, tx)."""
        consumer = self.consumer
        while count:
            with self._store.transaction("pipeline") as tx:
                for batch in consumer.poll(timeout_s=1.0, max_records=PER_COMMIT):
                    function(batch, tx)
                    count -= len(batch)
                tx.commit_offsets(consumer)


@case("pipeline_batch", goal=0.7, base="read + append of arrays")
def pipeline_batch(directory: Path) -> Comparison:
    """Batches of 10,000 go on as they are, with their offsets, in one transaction each; the base reads and sends the
    same Arrow arrays without group and transaction."""
    count = 5 * COUNT
    store = filled_store(directory, values(count))
    theirs, mine = _Round(store, consumes=False), _Round(store, consumes=True)

    def base(topic: str) -> None:
        with store.consumer(TOPIC, follow=False) as consumer, store.producer() as producer:
            for batch in consumer.batches(max_records=PER_COMMIT):
                producer.send_many(topic, batch.to_arrow().column("value"))

    def ours(topic: str) -> None:
        mine.process(lambda batch, tx: tx.send_many(topic, batch.to_arrow().column("value")), count)

    return Comparison(
        Side(base, theirs.prepare, theirs.clean_up), Side(ours, mine.prepare, mine.clean_up), count, close=store.close
    )


@case("pipeline_record", goal=1.0, base="200 ns a record")
def pipeline_record(directory: Path) -> Row:
    """A Python function a record: what the pipeline adds (record object, value, send, commit) to the function in a bare
    loop over the same values."""
    items = values()
    store = filled_store(directory, items)
    mine = _Round(store, consumes=True)

    def function(value: bytes) -> bytes:
        return value[::-1]

    def bare() -> None:
        for value in items:
            function(value)

    def ours(topic: str) -> None:
        def each(batch: Any, tx: Any) -> None:
            send = tx.send
            for record in batch:
                send(topic, function(record.value))

        mine.process(each, COUNT)

    base, side = Side(lambda _: bare()), Side(ours, mine.prepare, mine.clean_up)
    added, took = [], []
    for number in range(_RECORD_ROUNDS + 1):
        base_s, ours_s = base.time(), side.time()
        if number:  # the first round warms up
            added.append((ours_s - base_s) / COUNT * 1e9)
            took.append(ours_s)
    store.close()
    ns = statistics.median(added)
    return Row(
        "pipeline_record",
        RECORD_GOAL_NS / ns,
        1.0,
        "200 ns a record",
        rate_per_s=COUNT / statistics.median(took),
        ns_per_msg=statistics.median(took) / COUNT * 1e9,
        spread=(RECORD_GOAL_NS / max(added), RECORD_GOAL_NS / min(added)),
        extra={"added_ns": round(ns, 1)},
    )


@case("consumer_dedup", goal=0.9, base="the same without dedup=")
def consumer_dedup(directory: Path) -> Comparison:
    """Records with message ids, read as bytes: with dedup= each batch's ids are looked up in one native call."""
    store = mqcore.open(fresh(directory, "ids"), durability="os")
    store.create_topic(TOPIC)
    items, ids = values(), mqcore.Snowflake(1).batch(COUNT)
    with store.producer() as producer:
        for at in range(0, COUNT, PER_COMMIT):
            producer.send_many(TOPIC, items[at : at + PER_COMMIT], ids=ids[at : at + PER_COMMIT])

    def read(**options: Any) -> Side:
        def run(_: Any) -> None:
            with store.consumer(TOPIC, follow=False, **options) as consumer:
                for batch in consumer.batches(max_records=PER_COMMIT):
                    for _value in batch.values.iter_bytes():
                        pass

        return Side(run)

    return Comparison(read(), read(dedup=True), COUNT, close=store.close)
