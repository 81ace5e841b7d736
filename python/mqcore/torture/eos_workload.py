"""The pipeline under attack: threads that consume, produce, count and move money in transactions, until all is through.

    python -P -m mqcore.torture.eos_workload --serve          a line of JSON (a Job) in, a forked life, a line out
    python -P -m mqcore.torture.eos_workload '{…a Job…}'      one life in this process

`--serve` saves each life the start of an interpreter. With iotrace.so preloaded the life dies at the n-th write-family call.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture import planted
from mqcore.torture.eos_ledger import (
    ACCOUNTS,
    BALANCE,
    BANK,
    EXACTLY_ONCE,
    GROUP,
    SINK,
    SOURCE,
    TOTALS,
    check_bank,
    key_of,
    keys_of,
    value_of,
)

TOPIC_CONFIG = {"segment.bytes": 16384, "index.interval.bytes": 512}
STORE_CONFIG = {
    "journal.ring.bytes": 1 << 20,
    "transaction.state.log.num.partitions": 3,
    "offsets.topic.num.partitions": 3,
    "group.initial.rebalance.delay.ms": 0,
    "maintenance.interval.ms": 100,
}
_ABORT_SHARE = 0.15
_LIFE_S_MAX = 120
_PASSING = (
    errors.AbortsTransactionError,
    errors.ConcurrentTransactionsError,
    errors.RebalanceInProgressError,
    errors.IllegalGenerationError,
    errors.UnknownMemberError,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One life, or several. plant: records to send to each source partition first; kill: the call to die at, 0 for none;
    lives: so often it is opened, done to the end, and closed."""

    store: str
    record: str
    seed: int = 0
    partitions: int = 3
    workers: int = 1
    guarantee: str = EXACTLY_ONCE
    durability: str = "os"
    plant: int = 0
    kill: int = 0
    lives: int = 1

    def to_line(self) -> str:
        return json.dumps(asdict(self))


class Life:
    """One run of a job on an open store."""

    def __init__(self, store: Any, job: Job, record_fd: int) -> None:
        self.store, self.job, self._fd = store, job, record_fd
        self._through = threading.Event()
        self.failed: list[BaseException] = []

    def tell(self, **line: Any) -> None:
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def setup(self) -> None:
        for topic in (SOURCE, SINK):
            if topic not in self.store.topics():
                self.store.create_topic(topic, partitions=self.job.partitions, config=TOPIC_CONFIG)
        if self.job.guarantee == EXACTLY_ONCE and not any(self.store.state(BANK).keys()):
            with self.store.transaction("banker") as tx:
                for number in range(ACCOUNTS):
                    tx.state(BANK)[b"%d" % number] = b"%d" % BALANCE

    def plant(self) -> None:
        with self.store.producer(linger_ms=0) as producer:
            for partition, first in self.store.end_offsets(SOURCE).items():
                values = [value_of(partition, first + step) for step in range(self.job.plant)]
                if values:
                    producer.send_many(SOURCE, values, partition=partition).result()
                    self.tell(k="planted", p=partition, n=first + len(values))

    def run(self) -> None:
        """Until every record of the source is through."""
        threads = [threading.Thread(target=self._work, args=(index,)) for index in range(self.job.workers)]
        if self.job.guarantee == EXACTLY_ONCE:
            threads.append(threading.Thread(target=self._audit))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, index: int) -> None:
        try:
            worker = Exactly if self.job.guarantee == EXACTLY_ONCE else AtLeast
            worker(self, index).run(self._through)
        except BaseException as error:
            self.failed.append(error)
        finally:
            self._through.set()

    def _audit(self) -> None:
        """I19 at every snapshot, while money moves."""
        try:
            while not self._through.is_set():
                with self.store.state(BANK).snapshot() as accounts:
                    for invariant, sentence in check_bank(accounts):
                        self.tell(k="bad", i=invariant, s=sentence)
                self._through.wait(0.002)
        except BaseException as error:
            self.failed.append(error)

    def is_through(self) -> bool:
        keys = keys_of(self.job.partitions)
        committed = self.store.groups.fetch_offsets(GROUP, keys)
        ends = self.store.end_offsets(SOURCE)
        # An empty partition has nothing to commit: a life may plant none, and one may have died before its records.
        done = {key.partition: offset.offset for key, offset in committed.items()}
        return all(done.get(partition, 0) >= end for partition, end in ends.items())


class Worker:
    """One member of the group, in its own thread."""

    def __init__(self, life: Life, index: int) -> None:
        self.life, self.index, self.store = life, index, life.store
        self.rng = random.Random(f"{life.job.seed}/{index}")

    def run(self, through: threading.Event) -> None:
        with self.store.consumer(SOURCE, group=GROUP, start="earliest") as self.consumer:
            while not through.is_set():
                try:
                    batches = self.consumer.poll(timeout_s=0.01, max_records=self.rng.choice((1, 5, 20, 60)))
                    if not batches:
                        if self.life.is_through():
                            through.set()
                        continue
                    self.process(batches)
                except _PASSING:
                    with suppress(*_PASSING):
                        self.consumer.seek_to_committed()

    def process(self, batches: list[Any]) -> None:
        raise NotImplementedError

    def told(self, batches: list[Any]) -> None:
        self.life.tell(k="done", p={batch.partition: batch.next_offset for batch in batches})


class Exactly(Worker):
    """Records, totals, money and offsets in one transaction; some are aborted."""

    def process(self, batches: list[Any]) -> None:
        with self.store.transaction(f"worker-{self.index}") as tx:
            totals = tx.state(TOTALS)
            for batch in batches:
                for record in batch.records():
                    key = key_of(batch.partition, record.offset)
                    tx.send(SINK, record.value, partition=batch.partition)
                    totals[key] = b"%d" % (int(totals.get(key, b"0")) + 1)
            self._move_money(tx.state(BANK))
            tx.commit_offsets(self.consumer)
            if self.rng.random() < _ABORT_SHARE:
                raise errors.TransactionAbortedError("the worker changed its mind")
        self.told(batches)

    def _move_money(self, bank: Any) -> None:
        giver, taker = (b"%d" % number for number in self.rng.sample(range(ACCOUNTS), 2))
        amount = self.rng.randrange(1, 10)
        bank[giver] = b"%d" % (int(bank[giver]) - amount)
        bank[taker] = b"%d" % (int(bank[taker]) + amount)


class AtLeast(Worker):
    """Offsets after the records are acknowledged."""

    def process(self, batches: list[Any]) -> None:
        with self.store.producer(linger_ms=0) as producer:
            for batch in batches:
                producer.send_many(SINK, [record.value for record in batch.records()], partition=batch.partition)
        if self.rng.random() < _ABORT_SHARE:
            raise errors.RebalanceInProgressError("the worker forgot what it did")
        self.consumer.commit()
        self.told(batches)


def live(job: Job) -> None:
    """One life, from open to close."""
    record = os.open(job.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with mqcore.open(job.store, durability=job.durability, config=STORE_CONFIG) as store:
        life = Life(store, job, record)
        life.setup()
        life.plant()
        life.run()
        if life.failed:
            raise life.failed[0]
    os.close(record)


def _arm(job: Job) -> None:
    if job.kill:
        kill = ctypes.CDLL(None).mqtrace_kill
        kill.argtypes, kill.restype = [ctypes.c_char_p, ctypes.c_uint64], None
        kill(os.path.abspath(job.store).encode(), job.kill)


def _serve() -> None:
    for line in sys.stdin:
        job = Job(**json.loads(line))
        child = os.fork()
        if child == 0:
            status = 1
            signal.alarm(_LIFE_S_MAX)  # what hangs is no result
            try:
                _arm(job)
                live(job)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def main() -> None:
    planted.apply_from_environment()
    if sys.argv[1] == "--serve":
        _serve()
    else:
        job = Job(**json.loads(sys.argv[1]))
        for number in range(job.lives):
            live(replace(job, seed=job.seed + number))


if __name__ == "__main__":
    main()
