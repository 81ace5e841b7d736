"""The demo's first part: every event goes into the source topic, is read back, and is compared with what was sent.

The books that come out of it (events, digests, totals a group) are made from the input alone, in the parent process:
they are the truth that the pipelines are measured by.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mqcore.cli.demo_source import Digests, Event, Meter
from mqcore.cli.output import counting
from mqcore.cli.stores import open_to_write
from mqcore.errors import InvariantError, StoreFormatError

TOPIC = "flights"
# The events have their own times, years ago and months apart: the default retention would delete them at once, and the
# default segment age would make a file a week, both rightly so.
TOPIC_CONFIG = {"retention.ms": -1, "segment.ms": 10 * 365 * 86_400_000}

Totals = dict[bytes, tuple[int, int]]
"""{group: (events, sum of their amounts)}"""


@dataclass(slots=True)
class Written:
    """What the producing side knows. latencies_ms: from a group's first send to its acknowledgement, one a group."""

    meter: Meter
    digests: Digests = field(default_factory=Digests)
    totals: Totals = field(default_factory=dict)
    records: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def enter(self, events: list[Event]) -> None:
        """Enter acknowledged events into the books."""
        for key, value, _ in events:
            self.digests.add(key, value)
            self.payload_bytes += len(value) + len(key or b"")
            group, amount = self.meter(key, value)
            count, total = self.totals.get(group, (0, 0))
            self.totals[group] = count + 1, total + amount
        self.records += len(events)


def prepare(path: Path, durability: str, partitions: int) -> Any:
    """The demo's store with an empty source topic. Refuses a directory that is something else."""
    if path.exists() and any(path.iterdir()) and not (path / "meta.json").exists():
        raise StoreFormatError(
            "the directory is not empty and no store", hint="Name another with --store", path=str(path)
        )
    store = open_to_write(path, durability)
    if TOPIC in store.topics():
        store.delete_topic(TOPIC)
    store.create_topic(TOPIC, partitions=partitions, config=TOPIC_CONFIG)
    return store


def write(
    store: Any, events: Iterable[Event], meter: Meter, group_size: int, *, total: int | None, quiet: bool
) -> Written:
    """Send every event; after each group wait until it is acknowledged. On the clock: sending and waiting alone."""
    written = Written(meter)
    remaining = iter(events)
    with store.producer() as producer, counting("write", total=total, quiet=quiet) as counter:
        send = producer.send
        while group := list(islice(remaining, group_size)):
            began = time.perf_counter()
            for key, value, timestamp_ms in group:
                send(TOPIC, value, key=key, timestamp=timestamp_ms)
            producer.flush()
            took = time.perf_counter() - began
            written.seconds += took
            written.latencies_ms.append(1000 * took)
            written.enter(group)
            counter.advance(len(group))
    return written


def read_back(store: Any, written: Written, *, quiet: bool) -> tuple[float, Digests]:
    """Read the topic partition by partition and compare with what was written; return (seconds of reading, digests).

    Raises InvariantError for the first difference: a record lost, doubled, out of order, changed, or a key in two
    partitions.
    """
    ends, found, seconds = store.end_offsets(TOPIC), Digests(), 0.0
    home: dict[bytes, int] = {}
    with store.consumer(TOPIC, start="earliest") as consumer:
        consumer.assign(sorted(ends))
        position = dict.fromkeys(ends, 0)
        with counting("read", total=sum(ends.values()), quiet=quiet) as counter:
            while counter.count < sum(ends.values()):
                began = time.perf_counter()
                batches = consumer.poll(timeout_s=5.0, max_records=10_000)
                read = [
                    (batch.partition, batch.offsets.tolist(), batch.keys.to_list(), batch.values.to_list())
                    for batch in batches
                ]
                seconds += time.perf_counter() - began
                if not read:
                    raise InvariantError("records are missing", read=counter.count, written=written.records)
                for partition, *columns in read:
                    check_batch(partition, list(zip(*columns, strict=True)), position, home, found)
                    counter.advance(len(columns[0]))
    if found.count != written.records:
        raise InvariantError("another number of records", read=found.count, written=written.records)
    difference = written.digests.difference(found)
    if difference is not None:
        raise InvariantError("a key's values differ or are out of order", key=difference)
    return seconds, found


def check_batch(
    partition: int,
    records: list[tuple[int, bytes | None, bytes]],
    position: dict[int, int],
    home: dict[bytes, int],
    found: Digests,
) -> None:
    """Offsets are dense, a key lives in one partition; enter each record into the reading side's books."""
    for offset, key, value in records:
        if offset != position[partition]:
            raise InvariantError("a gap in the offsets", partition=partition, offset=offset, wanted=position[partition])
        position[partition] += 1
        if key is not None and home.setdefault(key, partition) != partition:
            raise InvariantError("a key in two partitions", key=key.decode(errors="replace"), partition=partition)
        found.add(key, value)
