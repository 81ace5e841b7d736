"""The process under attack: random work on one store, every step told to the outside before or after it happens.

    python -P -m mqcore.torture.workload STORE RECORD --seed S --calls N [--durability fsync] [--state JSON]

RECORD is a path (a pipe, or a file that iotrace watches) that gets the lines of ledger.py. `--state` says where the numbers
of each partition go on (a worker that follows a killed one). Small segments and a small journal ring bring rolls, index
entries and ring laps within a few hundred calls."""

from __future__ import annotations

import argparse
import json
import os
import random
from typing import Any

import mqcore
from mqcore.torture import planted
from mqcore.torture.ledger import TOPIC, value

PARTITIONS = 3
TOPIC_CONFIG = {"segment.bytes": 16384, "index.interval.bytes": 512, "max.message.bytes": 8192}
STORE_CONFIG = {"journal.ring.bytes": 1 << 20}


class Worker:
    """One run of the workload on an open store."""

    def __init__(self, store: Any, record_fd: int, seed: int, sent: dict[int, int]) -> None:
        self.store, self._fd, self._seed = store, record_fd, seed
        self._rng = random.Random(seed)
        self.sent = sent
        self._extra: list[str] = []
        self._extra_number = 0
        self._positions: dict[int, int] = {}

    def tell(self, **line: Any) -> None:
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def setup(self) -> None:
        if TOPIC not in self.store.topics():
            self.store.create_topic(TOPIC, partitions=PARTITIONS, config=TOPIC_CONFIG)
        self.tell(k="topic", t=TOPIC)
        self.producer = self.store.producer(linger_ms=0)

    def _values(self, partition: int, count: int) -> list[bytes]:
        first = self.sent.get(partition, 0)
        self.tell(k="send", p=partition, s=first, n=count)
        self.sent[partition] = first + count
        return [value(partition, first + step) for step in range(count)]

    def send_and_wait(self) -> None:
        """One batch, acknowledged before the next step."""
        partition = self._rng.randrange(PARTITIONS)
        values = self._values(partition, self._rng.choice((1, 1, 3, 10, 40)))
        self._acknowledge(partition, values, self.producer.send_many(TOPIC, values, partition=partition))

    def _acknowledge(self, partition: int, values: list[bytes], delivery: Any) -> None:
        first = self.sent[partition] - len(values)
        done = 0
        delivery.result()
        for _, base_offset, count in delivery.ranges:
            self.tell(k="ack", p=partition, s=first + done, n=count, o=base_offset)
            done += count

    def send_everywhere(self) -> None:
        """A batch to every partition, then one flush: one journal round."""
        sent = []
        for partition in range(PARTITIONS):
            values = self._values(partition, self._rng.choice((1, 5, 20)))
            sent.append((partition, values, self.producer.send_many(TOPIC, values, partition=partition)))
        self.producer.flush()
        for partition, values, delivery in sent:
            self._acknowledge(partition, values, delivery)

    def send_each(self) -> None:
        """Single sends with a Delivery each."""
        partition = self._rng.randrange(PARTITIONS)
        first = self.sent.get(partition, 0)
        deliveries = [
            self.producer.send(TOPIC, each, partition=partition, key=b"k%d" % (first % 7))
            for each in self._values(partition, 5)
        ]
        for step, delivery in enumerate(deliveries):
            self.tell(k="ack", p=partition, s=first + step, n=1, o=delivery.result().offset)

    def read(self) -> None:
        """What a reader saw must stay: visible implies durable."""
        partition = self._rng.randrange(PARTITIONS)
        with self.store.consumer(TOPIC, start="earliest") as consumer:
            consumer.assign([partition])
            start = max(self._positions.get(partition, 0), self.store.begin_offsets(TOPIC)[partition])
            consumer.seek(partition, start)
            for batch in consumer.poll(timeout_s=0, max_records=50):
                for record in batch.records():
                    self.tell(k="seen", p=partition, s=int.from_bytes(record.value[8:16], "little"), o=record.offset)
                    self._positions[partition] = record.offset + 1

    def topics(self) -> None:
        """Another topic comes, an older one goes."""
        name = f"extra-{self._seed}-{self._extra_number}"
        self._extra_number += 1
        self.store.create_topic(name, partitions=1)
        self.tell(k="topic", t=name)
        self._extra.append(name)
        if len(self._extra) > 2:
            old = self._extra.pop(0)
            self.tell(k="deleting", t=old)
            self.store.delete_topic(old)
            self.tell(k="deleted", t=old)

    def trim(self) -> None:
        """Records before an offset are given up, as retention does."""
        partition = self._rng.randrange(PARTITIONS)
        begin, end = self.store.begin_offsets(TOPIC)[partition], self.store.end_offsets(TOPIC)[partition]
        if end - begin < 200:
            return
        offset = begin + (end - begin) // 3
        self.tell(k="trim", p=partition, o=offset)
        self.store.delete_before(TOPIC, {partition: offset})

    def maintain(self) -> None:
        """Checkpoints, views, retention, seals: what the background does, at a known step."""
        self.store.log.maintain()

    def run(self, calls: int) -> None:
        steps = [self.send_and_wait] * 8 + [self.send_everywhere] * 3 + [self.send_each] * 2 + [self.read] * 2
        steps += [self.topics, self.trim, self.maintain]
        for _ in range(calls):
            self._rng.choice(steps)()


def main() -> None:
    planted.apply_from_environment()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--state", default="{}")
    parser.add_argument("--reopen-every", type=int, default=0)
    arguments = parser.parse_args()
    record = os.open(arguments.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sent = {int(partition): number for partition, number in json.loads(arguments.state).items()}
    left, seed = arguments.calls, arguments.seed
    while left > 0:
        now = min(left, arguments.reopen_every or left)
        with mqcore.open(arguments.store, durability=arguments.durability, config=STORE_CONFIG) as store:
            worker = Worker(store, record, seed, sent)
            worker.setup()
            worker.run(now)
            worker.producer.close()
        left, seed = left - now, seed + 1_000_003
    os.close(record)


if __name__ == "__main__":
    main()
