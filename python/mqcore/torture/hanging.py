"""T13: a client that goes away in the middle of a transaction, in every way there is; and what it wrote that comes too late.

By its time-out plus ten seconds, or by the next open, nothing holds a reader back (I20), nothing of it is seen (I15), and a
batch of it that comes afterwards is refused and changes nothing (I9)."""

from __future__ import annotations

import gc
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mqcore import errors
from mqcore.testing import open_store
from mqcore.testing.stores import kill
from mqcore.torture import whole
from mqcore.torture.attack import workplace
from mqcore.torture.report import Report

WAYS = ("forgotten", "asleep", "killed", "closed")
_TIMEOUT_S = 30.0
_PER_STORE = 25
_CONFIG = {"transaction.state.log.num.partitions": 3, "offsets.topic.num.partitions": 3}


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` clients that go away."""
    report = Report("hanging", seed, usual_durability="os", durability="os", faults_wanted=faults)
    rng = random.Random(seed)
    with workplace() as place:
        number = 0
        while number < faults and not report.violations:
            number = _one_store(
                place / f"store-{number}", rng, number, min(faults, number + _PER_STORE), report, progress
            )
    return report


def _one_store(
    path: Path, rng: random.Random, number: int, until: int, report: Report, progress: Callable[[int], None]
) -> int:
    store = open_store(path, durability="os", config=_CONFIG)
    whole.setup(store)
    committed = []
    while number < until and not report.violations:
        number += 1
        with store.transaction(f"neighbour-{number % 3}") as tx:
            whole.fill(tx, 2 * number)
        committed.append(2 * number)
        way = rng.choice(WAYS)
        store, late = _go_away(store, way, 2 * number + 1, path.with_name(f"store-after-{number}"))
        report.faults_injected[way] += 1
        report.absorb((i, f"{way}: {s}") for i, s in whole.check(store, committed))
        _too_late(store, late, way, report)
        progress(number)
    report.absorb(whole.check(store, committed))
    report.acked += len(committed)
    store.close()
    shutil.rmtree(path, ignore_errors=True)
    return number


def _go_away(store: Any, way: str, number: int, image: Path) -> tuple[Any, Any]:
    """Begin, write, and vanish; the store afterwards, and what is left of the handle."""
    tx = store.transaction("vanishing", timeout_s=_TIMEOUT_S)
    whole.fill(tx, number)
    sender = tx._sender
    assert sender is not None
    sender.append_all()  # in the log, without an end
    where = tx.producer_id, tx.epoch
    if way == "killed":
        clock, path = store.log.clock, kill(store, image)
        return open_store(path, clock=clock, durability="os", config=_CONFIG), where
    if way == "closed":
        clock, path = store.log.clock, store.path
        store.close()
        return open_store(path, clock=clock, durability="os", config=_CONFIG), where
    if way == "forgotten":
        del tx, sender
        gc.collect()
        store.log.clock.advance(_TIMEOUT_S + 10)
        return store, where
    store.log.clock.advance(_TIMEOUT_S + 10)
    return store, tx


def _too_late(store: Any, late: Any, way: str, report: Report) -> None:
    """What it sends after its end is refused."""
    ends = _ends(store)
    try:
        if isinstance(late, tuple):
            _raw(store, *late)
        else:
            late.send(whole.SINK, b"7", partition=0)
        report.violate("I9", f"{way}: a late batch was taken")
    except (errors.InvalidProducerEpochError, errors.TransactionTimedOutError, errors.OutOfOrderSequenceError):
        pass
    if _ends(store) != ends:
        report.violate("I9", f"{way}: a refused batch changed the log")


def _ends(store: Any) -> list[int]:
    return [store.log.partition(whole.SINK, number).log_end_offset for number in range(whole.SINK_PARTITIONS)]


def _raw(store: Any, producer_id: int, epoch: int) -> None:
    """A transactional batch as it comes from a connection that was slow. Raises why it is refused."""
    producer = store.producer(linger_ms=0, idempotence=False)
    producer.set_identity(producer_id, epoch, transactional=True)
    try:
        producer.send(whole.SINK, b"7", partition=0).result(5)
    finally:
        with suppress(errors.MQError):
            producer.close()
