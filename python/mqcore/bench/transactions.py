"""Transactions: what they cost beside the same without them, and what a commit costs by itself.

What binds: beside its data a commit appends PREPARE, a marker a partition and COMPLETE, each a call into the log; under
`fsync` all of it is one journal record and one flush."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import mqcore
from mqcore.bench.harness import Comparison, Row, Side, case
from mqcore.bench.material import COUNT, TOPIC, VALUE_BYTES, NewStore, fresh

PLAIN = "the same without transactions"
ID = "bench"
COMMIT_GOAL_NS = 30_000
_COMMIT_ROUNDS, _COMMITS = 7, 500
_FSYNC_ROUNDS, _FSYNCS = 5, 100


def _produce(directory: Path, per_commit: int, count: int = COUNT) -> Comparison:
    rows = np.frombuffer(os.urandom(count * VALUE_BYTES), np.uint8).reshape(count, VALUE_BYTES)
    chunks = [rows[at : at + per_commit] for at in range(0, count, per_commit)]

    def base(producer: Any) -> None:
        for chunk in chunks:
            producer.send_many(TOPIC, chunk)
            producer.flush()

    def ours(_: Any) -> None:
        for chunk in chunks:
            with store.store.transaction(ID) as tx:
                tx.send_many(TOPIC, chunk)

    store, plain = _Transactional(directory), NewStore(directory)
    return Comparison(Side(base, plain.prepare, plain.clean_up), Side(ours, store.prepare, store.clean_up), count)


class _Transactional(NewStore):
    """A new store in which one transaction was: as the first record of a partition, the first one makes files."""

    def prepare(self) -> Any:
        prepared = super().prepare()
        with self.store.transaction(ID) as tx:
            for partition in range(self._partitions):
                tx.send(TOPIC, b"first", partition=partition)
        return prepared


@case("eos_10000", goal=0.95, base=PLAIN)
def eos_10000(directory: Path) -> Comparison:
    """Transactions of 10,000 records, one partition; without them the same records, flushed as often."""
    return _produce(directory, 10_000)


@case("eos_1000", goal=0.75, base=PLAIN)
def eos_1000(directory: Path) -> Comparison:
    """The same with 1,000 a transaction: two control records and a marker to 100 KiB of values."""
    return _produce(directory, 1_000)


@case("commit_cpu", goal=1.0, base="30 µs")
def commit_cpu(directory: Path) -> Row:
    """Processor time of a transaction of one record, from `store.transaction` to its commit: four appends and their
    bookkeeping, most of it Python's frames."""
    value, lengths, commits, cpu = bytes(VALUE_BYTES), [], [], time.process_time_ns
    store = _Transactional(directory)
    store.prepare()
    transaction = store.store.transaction
    try:
        for _ in range(_COMMIT_ROUNDS):
            began = cpu()
            for _call in range(_COMMITS):
                len(value)
            lengths.append((cpu() - began) / _COMMITS)
            began = cpu()
            for _call in range(_COMMITS):
                with transaction(ID) as tx:
                    tx.send(TOPIC, value)
            commits.append((cpu() - began) / _COMMITS)
    finally:
        store.clean_up(None)
    took = statistics.median(commits)
    return Row(
        "commit_cpu",
        COMMIT_GOAL_NS / took,
        1.0,
        "30 µs",
        rate_per_s=1e9 / took,
        ns_per_msg=took,
        spread=(COMMIT_GOAL_NS / max(commits), COMMIT_GOAL_NS / min(commits)),
        extra={"cpu_us": round(took / 1000, 2), "len_ns": round(statistics.median(lengths), 1)},
    )


@cache  # both rows are one measurement
def _fsync_latencies(directory: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Nanoseconds of (append of 4 KiB and fdatasync of one file, commits of 100 records over 20 partitions), a list a
    round."""
    block, value = os.urandom(4096), bytes(VALUE_BYTES)
    synced, committed = [], []
    path = fresh(directory, "store")
    fd = os.open(fresh(directory, "plain"), os.O_RDWR | os.O_CREAT, 0o600)
    with mqcore.open(path, durability="fsync") as store:
        store.create_topic(TOPIC, partitions=20)

        def commit() -> None:
            with store.transaction(ID) as tx:
                for number in range(100):
                    tx.send(TOPIC, value, partition=number % 20)

        def sync() -> None:
            os.write(fd, block)
            os.fdatasync(fd)

        commit()
        for _ in range(_FSYNC_ROUNDS):
            synced.append(_each(sync, _FSYNCS))
            committed.append(_each(commit, _FSYNCS))
    os.close(fd)
    shutil.rmtree(path)
    return synced, committed


def _each(function: Any, times: int) -> list[int]:
    took, clock = [], time.perf_counter_ns
    for _ in range(times):
        began = clock()
        function()
        took.append(clock() - began)
    return took


def _fsync_row(directory: Path, name: str, percent: int, goal: float) -> Row:
    synced, committed = _fsync_latencies(directory)
    base, ours = ([float(np.percentile(one, percent)) for one in side] for side in (synced, committed))
    ratios = [theirs / mine for theirs, mine in zip(base, ours, strict=True)]
    took = statistics.median(ours)
    return Row(
        name,
        statistics.median(ratios),
        goal,
        "4 KiB + fdatasync",
        rate_per_s=1e9 / took,
        ns_per_msg=took,
        base_ns_per_msg=statistics.median(base),
        spread=(min(ratios), max(ratios)),
        extra={
            f"{side}_p{point}_us": round(float(np.percentile(np.concatenate(rounds), point)) / 1000, 1)
            for side, rounds in (("base", synced), ("ours", committed))
            for point in (50, 99)
        },
    )


@case("commit_fsync", goal=0.5, base="4 KiB + fdatasync")
def commit_fsync(directory: Path) -> Row:
    """A commit of 100 records over 20 partitions, median: one journal record, one flush; within two flushes."""
    return _fsync_row(directory, "commit_fsync", 50, 0.5)


@case("commit_fsync_p99", goal=0.2, base="4 KiB + fdatasync")
def commit_fsync_p99(directory: Path) -> Row:
    """The same at the 99th percentile, of either side: within five flushes."""
    return _fsync_row(directory, "commit_fsync_p99", 99, 0.2)
