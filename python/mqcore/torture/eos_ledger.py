"""What a transactional pipeline was told, kept outside of it; and the checker that holds a store against it.

The pipeline copies `SOURCE` to `SINK` (partition by partition), counts each key in the state `TOTALS`, and moves money
between the accounts of the state `BANK`. A record is its id: `b"<source partition>/<offset>"`, so that every part of a
transaction can be compared with every other. Lines of the record, JSON, one each:
    {"k": "planted", "p": partition, "n": records in it}        acknowledged to the producer
    {"k": "done", "p": {partition: next offset}}                a commit that covers these returned
    {"k": "bad", "i": invariant, "s": sentence}                 the worker itself saw a promise broken

Invariants checked, of a store that is open, exactly once:
    I14, I15  the sink has each record below the group's committed offset once, in order, and nothing else
    I15       what `done` says is committed; I1: what `planted` says is there
    I18       the totals are the fold of exactly those records; a rebuild gives the same digest
    I19       the sum over all accounts is what it was
At least once: every record below the committed offset is in the sink.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mqcore.torture.ledger import Found
from mqcore.types import IsolationLevel, TopicPartition

SOURCE, SINK, GROUP = "in", "out", "g"
TOTALS, BANK = "totals", "bank"
ACCOUNTS, BALANCE = 8, 100
KEYS = 5
EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once", "at_least_once"


def value_of(partition: int, offset: int) -> bytes:
    return b"%d/%d" % (partition, offset)


def key_of(partition: int, offset: int) -> bytes:
    """Keys belong to one partition each: totals of different partitions are never in each other's way."""
    return b"%d:%d" % (partition, offset % KEYS)


@dataclass(slots=True)
class EosLedger:
    """The record, folded."""

    planted: Counter[int] = field(default_factory=Counter)
    done: Counter[int] = field(default_factory=Counter)
    bad: Found = field(default_factory=list)

    def add_lines(self, raw: bytes) -> None:
        """Whole lines; a last one that was cut short by a kill is left out."""
        for text in raw.split(b"\n")[:-1]:
            line = json.loads(text)
            if line["k"] == "planted":
                self.planted[line["p"]] = max(self.planted[line["p"]], line["n"])
            elif line["k"] == "done":
                for partition, offset in line["p"].items():
                    self.done[int(partition)] = max(self.done[int(partition)], offset)
            else:
                self.bad.append((line["i"], line["s"]))

    @property
    def acked_count(self) -> int:
        return sum(self.planted.values()) + sum(self.done.values())

    @property
    def promise(self) -> object:
        """Two ledgers of the same promise ask for the same store."""
        return tuple(sorted(self.planted.items())), tuple(sorted(self.done.items()))


@dataclass(slots=True)
class EosTally:
    """Counts of one check, for the report."""

    read: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    invisible: int = 0


def check(
    store: Any,
    ledger: EosLedger,
    tally: EosTally,
    *,
    guarantee: str = EXACTLY_ONCE,
    lossless: bool = True,
    whole: bool = False,
) -> Found:
    """Hold an open store (after recovery) against the record. lossless: False where acknowledged may be lost, but never torn;
    whole: everything planted must be through."""
    found, ledger.bad = ledger.bad, []
    if SOURCE not in store.topics() or SINK not in store.topics():
        return [*found, ("I1", "a topic is gone")] if lossless and ledger.acked_count else found
    ends = store.end_offsets(SOURCE)
    committed = {key.partition: one.offset for key, one in store.groups.fetch_offsets(GROUP).items()}
    for partition, end in ends.items():
        upto = committed.get(partition, 0)
        if lossless and end < ledger.planted[partition]:
            tally.lost += ledger.planted[partition] - end
            found.append(("I1", f"{ledger.planted[partition]} planted in partition {partition}, {end} are there"))
        if lossless and upto < ledger.done[partition]:
            found.append(
                ("I15", f"partition {partition}: {ledger.done[partition]} were committed, the group is at {upto}")
            )
        if whole and upto != end:
            found.append(("I11", f"partition {partition}: the group stopped at {upto} of {end}"))
        if upto > end:
            found.append(("I12", f"partition {partition}: the group is at {upto}, the source ends at {end}"))
        found += _check_sink(_offsets(store, partition), partition, upto, tally, guarantee == EXACTLY_ONCE)
    if guarantee == EXACTLY_ONCE:
        found += _check_totals(store, committed)
        found += check_bank(store.state(BANK))
    return found


def _offsets(store: Any, partition: int) -> Iterator[int]:
    """The source offsets that the sink has of a partition, in the order of the sink."""
    end = store.end_offsets(SINK)[partition]
    with store.consumer(SINK, start="earliest", isolation=IsolationLevel.READ_COMMITTED) as consumer:
        consumer.assign([partition])
        while consumer.position(partition) < end:
            batches = consumer.poll(timeout_s=0, max_records=10_000)
            if not batches:
                return
            for batch in batches:
                for record in batch.records():
                    number, _, offset = record.value.partition(b"/")
                    yield int(offset) if int(number) == partition else -1


def _check_sink(offsets: Iterator[int], partition: int, upto: int, tally: EosTally, exactly: bool) -> Found:
    found: Found = []
    seen: Counter[int] = Counter()
    last = -1
    for offset in offsets:
        tally.read += 1
        seen[offset] += 1
        if seen[offset] > 1:
            tally.duplicated += 1
            if exactly:
                found.append(("I14", f"record {offset} of partition {partition} is {seen[offset]} times in the sink"))
        elif offset < last:
            tally.reordered += exactly
            if exactly:
                found.append(("I7", f"record {offset} of partition {partition} after {last} in the sink"))
        last = max(last, offset)
    missing = [offset for offset in range(upto) if offset not in seen]
    if missing:
        tally.lost += len(missing)
        found.append(("I15", f"{len(missing)} records of partition {partition} below the group's offset {upto} are not "
                             f"in the sink, the first {missing[0]}"))  # fmt: skip
    early = [offset for offset in seen if not 0 <= offset < upto]
    if early and exactly:
        found.append(("I14", f"{len(early)} records of partition {partition} are in the sink, the first {min(early)}, "
                             f"but the group is at {upto}"))  # fmt: skip
    return found


def truth(committed: dict[int, int]) -> dict[bytes, bytes]:
    """The totals after these offsets."""
    counts: Counter[bytes] = Counter()
    for partition, upto in committed.items():
        for first in range(min(KEYS, upto)):
            counts[key_of(partition, first)] += (upto - first + KEYS - 1) // KEYS
    return {key: b"%d" % count for key, count in counts.items()}


def _check_totals(store: Any, committed: dict[int, int]) -> Found:
    state = store.state(TOTALS)
    there, wanted, digest = dict(state.items()), truth(committed), state.digest()
    found: Found = []
    if there != wanted:
        wrong = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
        found.append(("I18", f"{len(wrong)} totals are wrong: {wrong[0]!r} is {there.get(wrong[0])!r}, "
                             f"must be {wanted.get(wrong[0])!r}"))  # fmt: skip
    if not store.read_only:
        state.rebuild()
        if state.digest() != digest:
            found.append(("I18", "a rebuild of the totals gives another digest"))
    return found


def check_bank(accounts: Any) -> Found:
    """I19, of a state or a snapshot of it; empty before the first transaction."""
    balances = [int(balance) for _, balance in accounts.items()]
    if balances and (len(balances) != ACCOUNTS or sum(balances) != ACCOUNTS * BALANCE):
        return [("I19", f"{len(balances)} accounts have {sum(balances)}, must be {ACCOUNTS} with {ACCOUNTS * BALANCE}")]
    return []


def keys_of(partitions: int) -> list[TopicPartition]:
    return [TopicPartition(SOURCE, number) for number in range(partitions)]
