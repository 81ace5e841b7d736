"""T14: transactional ids that are used once and never again, a tenth of them in the middle of a transaction.

Ids in memory, resident memory, open files and threads stay bounded; a group beside them commits and keeps its generation; what
was killed is aborted, and one that comes back under an old id goes on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqcore.testing import DrivenClock, open_store
from mqcore.torture import whole
from mqcore.torture.report import Report
from mqcore.torture.soak import sample
from mqcore.types import TopicPartition

_CACHED_MAX = 200
_CONFIG = {"transactional.ids.cached.max": _CACHED_MAX, "transaction.state.log.num.partitions": 5}
_TIMEOUT_S = 5.0
_EACH = 500  # ids between two looks
# Growth from a tenth of the way to its end: bytes of memory, descriptors, threads. On top, what partitions remember of
# each producer for a day.
_MOST = (24 << 20, 8, 0)
_PRODUCER_BYTES = 256
_KEY = TopicPartition(whole.SOURCE, 0)


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` ids, each used once."""
    report = Report("ids", seed, usual_durability="memory", durability="memory", faults_wanted=faults)
    clock = DrivenClock()
    with open_store(clock=clock, config=_CONFIG) as store, _member(store) as member:
        member.poll(timeout_s=1.0)
        generation = member.group_metadata().generation
        first = None
        for number in range(1, faults + 1):
            _use(store, number, report)
            if number % _EACH == 0 or number == faults:
                clock.advance(_TIMEOUT_S + 10)
                _look(store, member, number, report)
                gc.collect()
                now = sample(Path(store.path))
                if first is None and number * 10 >= faults:
                    first = now
                progress(number)
        if member.group_metadata().generation != generation:
            report.violate(
                "T14", f"the group beside went from generation {generation} to {member.group_metadata().generation}"
            )
        assert first is not None
        for name, before, after, most in zip(
            ("resident memory", "descriptors", "threads"), first, now, _MOST, strict=False
        ):
            report.notes[name] = [before, after]
            if after - before > most + (_PRODUCER_BYTES * faults if name == "resident memory" else 0):
                report.violate("I28", f"{name} grew from {before} to {after} over {faults} ids")
        _come_back(store, faults, report)
        clock.advance(2 * 86_400)
        left = sum(len(log.producers()) for log in store.log.partitions.logs())
        report.notes["producers after two days"] = left
        if left:
            report.violate("I28", f"{left} producers are remembered two days after their last record")
    return report


def _member(store: Any) -> Any:
    whole.setup(store)
    return store.consumer(whole.SINK, group="beside", start="earliest")


def _use(store: Any, number: int, report: Report) -> None:
    """An id's only transaction; every tenth is left alone in the middle."""
    report.faults_injected["id"] += 1
    tx = store.transaction(f"once-{number}", timeout_s=_TIMEOUT_S)
    tx.send(whole.SINK, b"%d" % number, partition=number % 2)
    if number % 10 == 0:
        tx._sender.append_all()
        report.faults_injected["killed"] += 1
    else:
        tx.commit()
        report.acked += 1


def _look(store: Any, member: Any, number: int, report: Report) -> None:
    coordinator = store.broker.transactions
    if len(coordinator._ids) > _CACHED_MAX + _EACH // 10:  # open ones are not forgotten before the next begin
        report.violate("I28", f"{len(coordinator._ids)} ids are in memory after {number}")
    if coordinator.running:
        report.violate("I20", f"{len(coordinator.running)} transactions are open past their time-out")
    report.absorb(whole.check_nothing_open(store))
    while batches := member.poll(timeout_s=0, max_records=10_000):
        report.read += sum(map(len, batches))
    member.commit()


def _come_back(store: Any, faults: int, report: Report) -> None:
    """Old ids, killed and not, begin again."""
    if report.read != report.acked:
        report.violate("I14", f"{report.acked} records are committed, {report.read} were read")
    for number in (1, 10, faults - 1, faults - faults % 10):
        with store.transaction(f"once-{number}") as tx:
            tx.send(whole.SINK, b"again", partition=0)
