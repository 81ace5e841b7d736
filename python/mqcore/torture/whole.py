"""A transaction that can be told apart from all others, and whether a store has all of it or nothing.

Transaction number n writes the record b"n" into each of the sink's partitions, sets the key b"n" of a state, adds one to its
counter, and commits the offset n of its group. The pieces are read back by number: I14, I15, I18, I20."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from mqcore.torture.ledger import Found
from mqcore.types import IsolationLevel, TopicPartition

SINK, SINK_PARTITIONS = "out", 2
SOURCE = "in"
STATE, COUNTER = "pieces", b"count"


def setup(store: Any) -> None:
    """Topics, and enough records in the source for the offsets."""
    store.create_topic(SINK, partitions=SINK_PARTITIONS)
    store.create_topic(SOURCE)
    with store.producer() as producer:
        producer.send_many(SOURCE, [b"x"] * 50_000).result()
    with store.transaction("setup") as tx:
        tx.state(STATE)[COUNTER] = b"0"


def fill(tx: Any, number: int, group: str | None = None) -> None:
    """All that transaction `number` does before its end."""
    for partition in range(SINK_PARTITIONS):
        tx.send(SINK, b"%d" % number, partition=partition)
    state = tx.state(STATE)
    state[b"%d" % number] = b"here"
    state[COUNTER] = b"%d" % (int(state[COUNTER]) + 1)
    tx.commit_offsets({TopicPartition(SOURCE, 0): number}, group=group or f"group-{number}")


def pieces(store: Any) -> Counter[int]:
    """number -> how many pieces of that transaction read_committed sees."""
    found: Counter[int] = Counter()
    with store.consumer(SINK, start="earliest", isolation=IsolationLevel.READ_COMMITTED) as consumer:
        while batches := consumer.poll(timeout_s=0, max_records=100_000):
            for batch in batches:
                found.update(int(record.value) for record in batch.records())
    return found


def check(store: Any, committed: Iterable[int], unknown: Iterable[int] = ()) -> Found:
    """committed: these must be there, whole; unknown: these may be, whole; nothing else."""
    found: Found = []
    wanted, perhaps = set(committed), set(unknown)
    records = pieces(store)
    state = dict(store.state(STATE).items())
    there = {int(key) for key in state if key != COUNTER}
    for number in records.keys() | there | wanted:
        parts = records[number], number in there, _offset(store, number) == number
        if parts == (SINK_PARTITIONS, True, True):
            if number not in wanted and number not in perhaps:
                found.append(("I15", f"transaction {number} was not committed, and is there"))
        elif parts == (0, False, False):
            found.append(("I15", f"transaction {number} was committed, and is not there"))
        else:
            found.append(("I14", f"transaction {number} is torn: {parts[0]} of {SINK_PARTITIONS} records, "
                                 f"state {parts[1]}, offset {parts[2]}"))  # fmt: skip
    if int(state[COUNTER]) != len(there):
        found.append(("I18", f"{len(there)} transactions counted to {state[COUNTER]!r}"))
    return found + check_nothing_open(store)


def check_nothing_open(store: Any) -> Found:
    """I20: no transaction holds a reader back."""
    found: Found = []
    for log in store.log.partitions.logs():
        for producer_id, one in log.open_transactions().items():
            found.append(("I20", f"{log.topic}-{log.partition}: open since {one.first_offset}, producer {producer_id}"))
    return found


def _offset(store: Any, number: int) -> int:
    key = TopicPartition(SOURCE, 0)
    committed = store.groups.fetch_offsets(f"group-{number}", [key])
    return committed[key].offset if key in committed else -1
