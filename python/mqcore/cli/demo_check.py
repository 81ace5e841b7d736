"""What became of the events, read from outside: receipts against the source's offsets, state against the input's totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mqcore.cli.demo_load import Totals
from mqcore.cli.demo_worker import Plan
from mqcore.cli.output import counting
from mqcore.cli.stores import read_to_end
from mqcore.errors import InvariantError

Ids = NDArray[np.int64]


@dataclass(slots=True)
class Verdict:
    """out: receipts that read_committed sees. out_of_order: events of one source partition whose first receipts, in one
    partition of the receipts, are not in the order of the events."""

    out: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    state_equal: bool = False

    @property
    def is_exact(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order) and self.state_equal


def check(store: Any, plan: Plan, totals: Totals, *, quiet: bool) -> Verdict:
    """Read the receipts and the state of a pipeline that got through."""
    ends = store.end_offsets(plan.source)
    first = dict(zip(ends, np.cumsum([0, *ends.values()]).tolist(), strict=False))  # a partition's first event's number
    events = sum(ends.values())
    counts, verdict = np.zeros(events, np.int64), Verdict()
    for ids in _receipts(store, plan.receipts, first, quiet=quiet):
        if ids.size and not 0 <= ids.min() <= ids.max() < events:
            raise InvariantError("a receipt for an event that never was", topic=plan.receipts)
        verdict.out += ids.size
        verdict.out_of_order += out_of_order(ids, np.array(list(first.values())))
        counts += np.bincount(ids, minlength=events)
    verdict.lost = int((counts == 0).sum())
    verdict.duplicated = int(np.maximum(counts - 1, 0).sum())
    verdict.state_equal = totals_of(store, plan.name) == totals
    return verdict


def _receipts(store: Any, topic: str, first: dict[int, int], *, quiet: bool) -> list[Ids]:
    """For each partition of the receipts the numbers of their events, in order."""
    partitions = store.partitions(topic)
    found: dict[int, list[int]] = {number: [] for number in partitions}
    with (
        store.consumer(topic, start="earliest") as consumer,
        counting(f"check {topic}", total=sum(store.end_offsets(topic).values()), quiet=quiet) as bar,
    ):
        consumer.assign(partitions)
        for batch in read_to_end(store, consumer, topic, partitions):
            numbers = found[batch.partition]
            for value in batch.values.to_list():
                partition, offset, _ = value.split(b":", 2)
                numbers.append(first[int(partition)] + int(offset))
            bar.advance(len(batch))
    return [np.array(numbers, np.int64) for numbers in found.values()]


def out_of_order(ids: Ids, first: Ids) -> int:
    """How many first receipts come after one of a later event of the same source partition. first: where each source
    partition's numbers begin."""
    _, at = np.unique(ids, return_index=True)
    once = ids[np.sort(at)]
    source = np.searchsorted(first, once, side="right")
    order = np.argsort(source, kind="stable")
    once, source = once[order], source[order]
    return int(((np.diff(once) < 0) & (np.diff(source) == 0)).sum())


def totals_of(store: Any, state: str) -> Totals:
    """The state's running totals, added up over the source's partitions."""
    totals: Totals = {}
    for key, value in store.state(state).items():
        group = key.rpartition(b"/")[0]
        before, (count, amount) = totals.get(group, (0, 0)), map(int, value.split())
        totals[group] = before[0] + count, before[1] + amount
    return totals
