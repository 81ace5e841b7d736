"""The EOS checker: plants ids in a source topic and tells from the sink (and a state) which were lost, doubled or moved.

    plant = Plant(run)
    plant.into(store, "in", 10_000)           # records with ids; the pipeline must pass each id on, in any form
    ... run the pipeline, kill it, run it again ...
    verdict = check(store, plant, source="in", sink="out", state="totals")
    assert verdict.passed, verdict

An id is found wherever it stands in a record of the sink: value, key or headers, as the text `eos-<run>-<partition>-<number>`.

Invariants:
    1. The truth is the plant's own record of what was acknowledged, kept outside of the store.
    2. Only read_committed counts: what an aborted transaction wrote is not there.
    3. A check of nothing (no id planted) does not pass.
Out of order: in one partition of the sink, a record of a source partition after a later one of the same partition.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqcore.types import IsolationLevel

_ID = re.compile(rb"eos-([0-9a-z]{1,16})-(\d{1,9})-(\d{1,18})")
EXAMPLES = 20  # of each kind that a verdict names

Id = tuple[int, int]  # source partition, number: rising by one in each partition
Place = tuple[int, int]  # partition, offset


@dataclass(frozen=True, slots=True)
class Seen:
    """One record of the sink."""

    partition: int
    offset: int
    id: Id | None


class Plant:
    """The ids of one run, and where in the source they were acknowledged."""

    def __init__(
        self, run: str | None = None, *, template: str = '{{"id": "{id}", "n": {n}}}', keys: int = 100
    ) -> None:
        """run: lower-case letters and digits; ids of other runs in the sink are left alone. template: of the values,
        with {id}, {n} (number) and {key}. keys: so many different keys, `k0` up."""
        self.run = secrets.token_hex(4) if run is None else run
        self._template, self._keys = template, keys
        self.placed: dict[Id, Place] = {}
        self._next: dict[int, int] = {}

    def into(self, store: Any, topic: str, count: int) -> None:
        """Append `count` records, spread over the partitions of a topic; returns when they are acknowledged."""
        partitions = store.partitions(topic)
        with store.producer() as producer:
            for at, partition in enumerate(partitions):
                share = count // len(partitions) + (at < count % len(partitions))
                if not share:
                    continue
                first = self._next.get(partition, 0)
                numbers = range(first, first + share)
                keys = [f"k{number % self._keys}".encode() for number in numbers]
                values = [self._value(partition, number) for number in numbers]
                ranges = producer.send_many(topic, values, keys=keys, partition=partition).result()
                offsets = (one.base_offset + step for one in ranges for step in range(one.count))
                for number, offset in zip(numbers, offsets, strict=True):
                    self.placed[partition, number] = partition, offset
                self._next[partition] = first + share

    def _value(self, partition: int, number: int) -> bytes:
        name = f"eos-{self.run}-{partition}-{number}"
        return self._template.format(id=name, n=number, key=f"k{number % self._keys}").encode()

    def find(self, *texts: bytes | None) -> Id | None:
        """The id of this run that stands in one of the texts."""
        for text in texts:
            for run, partition, number in _ID.findall(text or b""):
                if run.decode() == self.run:
                    return int(partition), int(number)
        return None

    def read(self, store: Any, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Seen]:
        """The committed records of a topic, in order, partition by partition, from the start or given offsets."""
        for partition, end in store.end_offsets(topic).items():
            with store.consumer(topic, start="earliest", isolation=IsolationLevel.READ_COMMITTED) as consumer:
                consumer.assign([partition])
                if start is not None:
                    consumer.seek(partition, start.get(partition, 0))
                while consumer.position(partition) < end:
                    batches = consumer.poll(timeout_s=0.0, max_records=10_000)
                    if not batches:
                        break
                    for batch in batches:
                        for record in batch.records():
                            found = self.find(record.value, record.key, *(value for _, value in record.headers))
                            yield Seen(partition, record.offset, found)


@dataclass(slots=True)
class Verdict:
    """What a check found. Counts; `examples`: kind -> the first findings in words, with offsets."""

    planted: int = 0
    read: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    unknown: int = 0
    source_lost: int = 0
    state_equal: bool | None = None  # None: no state was looked at
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, sentence: str) -> None:
        found = self.examples.setdefault(kind, [])
        if len(found) < EXAMPLES:
            found.append(sentence)

    @property
    def passed(self) -> bool:
        """Exactly once: nothing lost, nothing twice, nothing moved, the state as it must be; and something was there."""
        return self.at_least_once and not (self.duplicated or self.reordered or self.state_equal is False)

    @property
    def at_least_once(self) -> bool:
        """Nothing lost and nothing invented."""
        return self.planted > 0 and not (self.lost or self.source_lost or self.unknown)

    def to_json(self) -> dict[str, Any]:
        return {
            "planted": self.planted,
            "read": self.read,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "unknown": self.unknown,
            "source_lost": self.source_lost,
            "state_equal": self.state_equal,
            "passed": self.passed,
            "examples": self.examples,
        }


def check(
    store: Any,
    plant: Plant,
    *,
    source: str,
    sink: str,
    state: str | None = None,
    truth: Mapping[bytes, bytes] | None = None,
) -> Verdict:
    """Read source, sink and state of an open store, and hold them against the plant.

    state: a state (`tx.state`) whose digest must be that of its rebuild from the changelog, and equal `truth`, if given.
    """
    verdict = judge(plant, plant.read(store, sink))
    there = {seen.id for seen in plant.read(store, source)}
    for name, place in plant.placed.items():
        if name not in there:
            verdict.source_lost += 1
            verdict.note("source_lost", f"{_named(name)}: acknowledged at {source}-{_at(place)}, not there")
    if state is not None:
        _check_state(store, state, truth, verdict)
    return verdict


def judge(plant: Plant, sink: Iterable[Seen]) -> Verdict:
    """Hold what was read of the sink, each partition in order, against the plant."""
    verdict = Verdict(planted=len(plant.placed))
    places: dict[Id, Place] = {}
    last: dict[tuple[int, int], tuple[int, int]] = {}  # (sink, source partition) -> number, offset
    for seen in sink:
        if seen.id is None:
            continue
        verdict.read += 1
        here = seen.partition, seen.offset
        if seen.id not in plant.placed:
            verdict.unknown += 1
            verdict.note("unknown", f"{_named(seen.id)} at {_at(here)} was never planted")
            continue
        if seen.id in places:
            verdict.duplicated += 1
            verdict.note("duplicated", f"{_named(seen.id)} at {_at(places[seen.id])} and again at {_at(here)}")
            continue
        places[seen.id] = here
        source, number = seen.id
        before, offset = last.get((seen.partition, source), (-1, -1))
        if number < before:
            verdict.reordered += 1
            verdict.note("reordered", f"{_named(seen.id)} at {_at(here)}, after number {before} at offset {offset}")
        else:
            last[seen.partition, source] = number, seen.offset
    for name, place in plant.placed.items():
        if name not in places:
            verdict.lost += 1
            verdict.note("lost", f"{_named(name)}, in the source at {_at(place)}, is not in the sink")
    return verdict


def _check_state(store: Any, name: str, truth: Mapping[bytes, bytes] | None, verdict: Verdict) -> None:
    live = store.state(name)
    digest, pairs = live.digest(), dict(live.items())
    if not store.read_only:
        live.rebuild()
    verdict.state_equal = live.digest() == digest and (truth is None or pairs == truth)
    if live.digest() != digest:
        verdict.note("state", f"the state {name} is not what its changelog says")
    if truth is not None and pairs != truth:
        wrong = sorted(key for key in pairs.keys() | truth.keys() if pairs.get(key) != truth.get(key))
        for key in wrong[:EXAMPLES]:
            verdict.note("state", f"{key!r} is {pairs.get(key)!r}, must be {truth.get(key)!r}")


def _named(name: Id) -> str:
    return f"record {name[1]} of source partition {name[0]}"


def _at(place: Place) -> str:
    return f"partition {place[0]} offset {place[1]}"
