"""The demo's pipeline as a process of its own, the one that is killed: it owns the store and consumes in threads.

    source topic -> running totals a group and partition (state) + a receipt an event (topic)

Invariants:
    1. A receipt names the event that it is for by partition and offset: lost and duplicated ones can be counted.
    2. It says "batch N" on standard output before N events are processed, and "done" with its figures after the last.
    3. It knows nothing of kills: it starts from what the store holds, whatever happened before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import mqcore
from mqcore.cli.demo_source import METERS

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the pipeline. name: of its group, its state and, after "receipts-", its output topic."""

    store: str
    durability: str
    source: str
    guarantee: str
    name: str
    meter: str
    workers: int = 2
    batch_records: int = 5000

    @property
    def receipts(self) -> str:
        return f"receipts-{self.name}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def pipeline(plan: Plan, say: Say) -> Any:
    """The processor: what it reads, changes and sends is one transaction, or (at least once) several steps."""
    meter = METERS[plan.meter]

    @mqcore.processor(source=plan.source, group=plan.name, guarantee=plan.guarantee, batch_records=plan.batch_records)
    def account(batch: Any, tx: Any) -> None:
        say(f"batch {len(batch)}")
        state, partition = tx.state(plan.name), batch.partition
        totals: dict[bytes, tuple[int, int]] = {}
        groups, receipts = [], []
        for offset, key, value in zip(
            batch.offsets.tolist(), batch.keys.to_list(), batch.values.to_list(), strict=True
        ):
            group, amount = meter(key, value)
            if group in totals:
                count, total = totals[group]
            else:
                count, total = map(int, state.get(state_key(group, partition), b"0 0").split())
            count, total = totals[group] = count + 1, total + amount
            groups.append(group)
            receipts.append(b"%d:%d:%d:%d:%s" % (partition, offset, count, total, group))
        tx.send_many(plan.receipts, receipts, keys=groups)
        for group, (count, total) in totals.items():
            state[state_key(group, partition)] = b"%d %d" % (count, total)

    return account


def state_key(group: bytes, partition: int) -> bytes:
    """An airline flies in many partitions; the worker that has a partition is the only one that changes its keys."""
    return b"%s/%d" % (group, partition)


class Pace:
    """When which batch was begun: the rate of a run without its start and its end."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._moments: list[tuple[float, int]] = []

    def __call__(self, line: str) -> None:
        self._moments.append((time.perf_counter(), int(line.split()[1])))
        self._say(line)

    @property
    def rate_per_s(self) -> float:
        """Events a second between the first batch's begin and the last one's, commits included; 0.0: too few."""
        if len(self._moments) < 3:
            return 0.0
        (began, _), (ended, last) = self._moments[0], self._moments[-1]
        return (sum(count for _, count in self._moments) - last) / max(ended - began, 1e-9)


def say(line: str) -> None:
    """One write a line: a kill leaves no half of it in a buffer."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    pace = Pace(say)
    with mqcore.open(plan.store, durability=plan.durability) as store:
        store.run(pipeline(plan, pace), workers=plan.workers, until="caught_up")
    say(f"done {pace.rate_per_s:.0f}")


if __name__ == "__main__":
    main()
