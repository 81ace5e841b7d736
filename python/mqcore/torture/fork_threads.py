"""T8: forks at twenty points of a store's life, 64 threads on one store, and interpreters that end with everything open.

1. fork (fork_points.py): the child's calls raise ForkedStoreError, its life changes nothing, it can read the store with an
   open of its own; the parent goes on, and what was acknowledged is there afterwards.
2. threads: one producer, one consumer and one store object under 64 threads that send, flush, poll, look up, roll and
   maintain; what was acknowledged is held against a record of it at the end, and nobody read what was not durable.
3. exit: an interpreter ends with live threads and unclosed objects, in any order: exit code 0, no traceback, and what it
   was told is acknowledged is there.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.attack import environment, open_and_check, workplace
from mqcore.torture.fork_points import POINTS
from mqcore.torture.ledger import TOPIC, Ledger, identify, value
from mqcore.torture.report import Report
from mqcore.torture.workload import STORE_CONFIG

THREADS, PARTITIONS = 64, 16
OPERATIONS_PER_FAULT = 50_000  # twenty forks of a full run: a million operations
_CONFIG = {"segment.bytes": 1 << 20, "max.message.bytes": 65536}
_TIMEOUT_S = 120


def run(
    seed: int,
    faults: int,
    progress: Callable[[int], None] = lambda _: None,
    operations: int | None = None,
    exits: bool = True,
) -> Report:
    """`faults` forks, the points in turn and the durabilities too; then threads (operations: of all of them), then exits."""
    report = Report("fork-threads", seed, durability="fsync and os, by turns", faults_wanted=faults)
    with workplace() as place:
        for number in range(faults):
            point = POINTS[number % len(POINTS)].__name__
            _fork(place / f"fork-{number}", point, ("fsync", "os")[(number + number // len(POINTS)) % 2], report)
            report.faults_injected["fork"] += 1
            progress(number + 1)
        total = faults * OPERATIONS_PER_FAULT if operations is None else operations
        _Threads(place / "threads", seed, report).run(total)
        for name in EXITS if exits else ():
            _exit(place / f"exit-{name}", name, report)
            report.faults_injected["exit"] += 1
    return report


def _fork(path: Path, point: str, durability: str, report: Report) -> None:
    command = [sys.executable, "-P", "-m", "mqcore.torture.fork_points", str(path), point, durability]
    try:
        result = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        report.violate("I29", f"{point}: the parent hangs after the fork")
        return
    if result.returncode != 0 or "Traceback" in result.stderr:
        report.violate("I3", f"{point}: status {result.returncode}: {result.stderr[-300:]}")
    try:
        told = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        report.violate("I3", f"{point}: nothing said: {result.stdout[-300:]}")
        return
    report.absorb(("R-fork", f"{sentence} [{point}, {durability}]") for sentence in told["child"])
    ledger = Ledger()
    for partition, acked in told["acked"].items():
        for offset, number in acked:
            ledger.add({"k": "ack", "p": int(partition), "s": number, "n": 1, "o": offset})
        ledger.sent[int(partition)] = 1 << 30
    report.acked += ledger.acked_count
    report.absorb((i, f"{s} [{point}]") for i, s in open_and_check(path, ledger, report, durability=durability))


class _Threads:
    """64 threads on the same objects. Each thread has a partition in turn, and numbers of its own there."""

    def __init__(self, path: Path, seed: int, report: Report) -> None:
        self._path, self._report, self._seed = path, report, seed
        self._ledger = Ledger()
        self._lock = threading.Lock()  # guards the ledger and the report
        self._sequence = [threading.Lock() for _ in range(PARTITIONS)]  # the order of numbers in a partition

    def run(self, operations: int) -> None:
        with mqcore.open(self._path, durability="fsync", config=STORE_CONFIG) as store:
            store.create_topic(TOPIC, partitions=PARTITIONS, config=_CONFIG)
            producer = store.producer(linger_ms=1)
            consumer = store.consumer(TOPIC, start="earliest", on_out_of_range="earliest")
            work = [
                threading.Thread(target=self._guarded, args=(n, operations // THREADS, store, producer, consumer))
                for n in range(THREADS)
            ]
            for thread in work:
                thread.start()
            for thread in work:
                thread.join(600)
            if any(thread.is_alive() for thread in work):
                self._violate("I29", "threads hang")
                return
            producer.close()
        report = self._report
        report.acked += self._ledger.acked_count
        report.notes["thread_operations"] = operations // THREADS * THREADS
        report.absorb(open_and_check(self._path, self._ledger, report, durability="fsync", go_on=True))

    def _violate(self, invariant: str, sentence: str) -> None:
        with self._lock:
            self._report.violate(invariant, sentence)

    def _guarded(self, number: int, operations: int, store: Any, producer: Any, consumer: Any) -> None:
        try:
            self._work(random.Random(f"{self._seed}/{number}"), number, operations, store, producer, consumer)
        except BaseException as error:
            self._violate("I3", f"a thread died: {type(error).__name__}: {error}")

    def _work(self, rng: random.Random, number: int, operations: int, store: Any, producer: Any, consumer: Any) -> None:
        partition, left = number % PARTITIONS, operations
        while left > 0:
            count = min(left, rng.choice((1, 5, 50, 200)))
            kind = rng.random()
            if kind < 0.75:
                self._send(partition, count, producer, wait=kind < 0.3)
            elif kind < 0.95:
                self._read(store, consumer, count)
            elif kind < 0.97:
                store.log.partition(TOPIC, partition).roll()
            elif kind < 0.98:
                store.log.maintain()
            else:
                producer.flush()
            left -= count

    def _send(self, partition: int, count: int, producer: Any, *, wait: bool) -> None:
        """Send some records; every other time with one call. The order is kept by a lock of ours, the waits are not."""
        with self._sequence[partition]:
            with self._lock:
                first = self._ledger.sent[partition]
                self._ledger.sent[partition] = first + count
            values = [value(partition, first + step) for step in range(count)]
            if count % 2:
                deliveries = [producer.send(TOPIC, each, partition=partition) for each in values]
            else:
                bulk = producer.send_many(TOPIC, values, partition=partition)
        if not wait:
            return
        if count % 2:
            acked = [(delivery.result().offset, 1) for delivery in deliveries]
        else:
            acked = [(base, n) for _, base, n in bulk.result()]
        with self._lock:
            for offset, n in acked:
                self._ledger.add({"k": "ack", "p": partition, "s": first, "n": n, "o": offset})
                first += n

    def _read(self, store: Any, consumer: Any, count: int) -> None:
        for batch in consumer.poll(timeout_s=0, max_records=count):
            log = store.log.partition(TOPIC, batch.partition)
            durable = store.log.marks.read(log.slot)[1]  # read after the poll: it only grows
            if batch.next_offset > durable:
                self._violate("R11", f"offset {batch.next_offset - 1} read, {durable} is durable")
            for raw in batch.values:
                identity = identify(bytes(raw))
                if identity is None or identity[0] != batch.partition:
                    self._violate("I4", f"wrong bytes in partition {batch.partition}")


# -- interpreters that end as they are --------------------------------------------------------------------------------

_PRELUDE = """
import atexit, json, sys, threading, time
import mqcore
store = mqcore.open(sys.argv[1], durability="fsync")
store.create_topic("t")
producer = store.producer(linger_ms=5)
consumer = store.consumer("t")
print(json.dumps(producer.send("t", b"acknowledged").result().offset), flush=True)
def sends():
    try:
        while True:
            producer.send("t", b"x").result()
    except (mqcore.errors.MQError, RuntimeError):
        pass
def polls():
    try:
        while True:
            consumer.poll(timeout_s=0.01)
    except (mqcore.errors.MQError, RuntimeError):
        pass
"""
EXITS: dict[str, str] = {
    "nothing-closed": "producer.send('t', b'late')",
    "records-under-way": "deliveries = [producer.send('t', b'late') for _ in range(10000)]",
    "daemon-sends": "threading.Thread(target=sends, daemon=True).start(); time.sleep(0.05)",
    "daemon-polls": "threading.Thread(target=polls, daemon=True).start(); time.sleep(0.05)",
    "many-daemons": "[threading.Thread(target=f, daemon=True).start() for f in (sends, polls) * 8]; time.sleep(0.1)",
    "waiting-daemon": "threading.Thread(target=lambda: consumer.poll(timeout_s=None), daemon=True).start()",
    "store-forgotten-first": "producer.send('t', b'late'); del store; import gc; gc.collect(); del consumer, producer",
    "producer-forgotten-first": "producer.send('t', b'late'); del producer; import gc; gc.collect(); del consumer",
    "a-cycle": "class C: pass\nc = C(); c.c = c; c.all = store, producer, consumer; del store, producer, consumer",
    "views-in-hand": "batch = consumer.poll(timeout_s=1)[0]; views = list(batch.values); sys.modules['keep'] = views",
    "iterator-in-hand": "it = iter(consumer); next(it)",
    "closed-by-atexit": "atexit.register(store.close); producer.send('t', b'late')",
    "sys-exit-in-with": "with producer: producer.send('t', b'late'); sys.exit(0)",
    "plain-thread": "threading.Thread(target=lambda: [producer.send('t', b'y').result() for _ in range(200)]).start()",
    "asyncio-left": "import asyncio, mqcore.aio\nasync def m():\n  producer.send('t', b'late')\nasyncio.run(m())",
}


def _exit(path: Path, name: str, report: Report) -> None:
    command = [sys.executable, "-P", "-X", "dev", "-W", "ignore", "-c", _PRELUDE + EXITS[name], str(path)]
    try:
        result = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        report.violate("I29", f"exit {name}: the interpreter does not end")
        return
    if result.returncode != 0 or "Traceback" in result.stderr or "Fatal" in result.stderr:
        # Whole: a crash's report begins with the thread that crashed and ends with a list of modules.
        report.violate("I3", f"exit {name}: status {result.returncode}: {result.stderr}")
    try:
        with mqcore.open(path, config=STORE_CONFIG) as store, store.consumer("t", follow=False) as consumer:
            first = next(iter(consumer), None)
            if first is None or first.value != b"acknowledged":
                report.lost += 1
                report.violate("I1", f"exit {name}: the acknowledged record is gone")
            # An append that was under way beside the close leaves a tail for the next open to scan: nothing is lost by it.
            if not store.recovery.clean and "sends" not in EXITS[name]:
                report.violate("I28", f"exit {name}: a store that nobody closed was not closed at exit")
    except errors.MQError as error:
        report.violate("I3", f"exit {name}: {error}")
