"""Transactions under attack: random ones, every step told to the outside, and the check of what a crash leaves of them.

    python -P -m mqcore.torture.txn_workload STORE RECORD --seed S --transactions N [--durability fsync]

Lines of the record, one JSON object each: {"k": kind, "i": number of the transaction}, with kind
    begin (p: {partition: records}, s: whether state is changed), committing, committed, aborting
A record's value is "number:" and filling. Small segments, journal ring and rounds bring rolls, checkpoints and rounds that are
synced in their segments within a few dozen transactions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture import planted
from mqcore.torture.attack import read_all
from mqcore.torture.ledger import Found
from mqcore.torture.report import Report

TOPIC, STATE, PARTITIONS = "events", "last", 4
TOPIC_CONFIG = {"segment.bytes": 65_536, "index.interval.bytes": 512}
STORE_CONFIG = {
    "journal.ring.bytes": 1 << 20,
    "journal.max.round.bytes": 16_384,
    "transaction.state.log.num.partitions": 2,
}
IDS = ("teller-1", "teller-2")


class Worker:
    """One run on an open store."""

    def __init__(self, store: Any, record_fd: int, seed: int) -> None:
        self._store, self._fd, self._rng = store, record_fd, random.Random(seed)
        self._number = 0

    def tell(self, kind: str, number: int, **more: Any) -> None:
        os.write(self._fd, json.dumps({"k": kind, "i": number, **more}).encode() + b"\n")

    def run(self, transactions: int) -> None:
        if TOPIC not in self._store.topics():
            self._store.create_topic(TOPIC, partitions=PARTITIONS, config=TOPIC_CONFIG)
        group = self._store.log.group
        if group is not None:
            # Else the flusher takes the data of a large round, and its decision never shares one.
            group.kick = lambda: None
        while self._number < transactions:
            names = self._rng.sample(IDS, self._rng.choice((1, 1, 2)))  # two open at once: markers interleave
            opened = [self._begin(name) for name in names]
            self._rng.shuffle(opened)
            for tx, number in opened:
                self._end(tx, number)
            if self._rng.random() < 0.1:
                self._store.log.maintain()

    def _begin(self, name: str) -> tuple[Any, int]:
        number, rng = self._number, self._rng
        self._number += 1
        where = {p: rng.choice((1, 2, 5)) for p in rng.sample(range(PARTITIONS), rng.randint(1, PARTITIONS))}
        with_state = rng.random() < 0.5
        self.tell("begin", number, p=where, s=with_state)
        tx = self._store.transaction(name)
        delivery = None
        for partition, count in where.items():
            filling = b"." * rng.choice((10, 10, 5000))
            delivery = tx.send_many(TOPIC, [b"%d:" % number + filling] * count, partition=partition)
        if rng.random() < 0.3 and delivery is not None:
            delivery.result()  # on the disk long before the commit
        if with_state:
            tx.state(STATE)[b"%d" % number] = b"%d" % number
        return tx, number

    def _end(self, tx: Any, number: int) -> None:
        if self._rng.random() < 0.2:
            self.tell("aborting", number)
            tx.abort()
        else:
            self.tell("committing", number)
            tx.commit()
            self.tell("committed", number)


class Told:
    """The record, folded: what was said of each transaction, by kind."""

    def __init__(self) -> None:
        self.of: dict[int, dict[str, Any]] = defaultdict(dict)
        self.promise = 0  # lines

    def add_lines(self, raw: bytes) -> None:
        """Whole lines; a last one that was cut short is left out."""
        for line in raw.split(b"\n")[:-1]:
            said = json.loads(line)
            self.of[said["i"]][said["k"]] = said
            self.promise += 1

    @property
    def acked_count(self) -> int:
        return sum("committed" in said for said in self.of.values())


def check(
    path: Path, ledger: Told, report: Report, *, durability: str, lossless: bool = True, go_on: bool = False
) -> Found:
    """Open a store after a crash and hold it against the record: each transaction whole or not there, in every partition and
    in the state; what was acknowledged there, what was aborted not; nothing left open."""
    told = ledger.of
    try:
        with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
            found = _check(store, told) if TOPIC in store.topics() else _none_acknowledged(told)
            if go_on and not found and TOPIC in store.topics():
                found += _go_on(store)
            return found
    except errors.MQError as error:
        return [("I3", f"{type(error).__name__}: {error}")]


def _none_acknowledged(told: dict[int, dict[str, Any]]) -> Found:
    return [("I15", f"committed transaction {i} is gone") for i, said in told.items() if "committed" in said]


def _check(store: Any, told: dict[int, dict[str, Any]]) -> Found:
    found: Found = []
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    for partition in range(PARTITIONS):
        offsets = store.log.partition(TOPIC, partition).offsets
        if offsets.last_stable != offsets.log_end:
            return [*found, ("I20", f"partition {partition} is held back: {tuple(offsets)}")]
        for _, raw in read_all(store, TOPIC, partition):
            seen[int(bytes(raw).partition(b":")[0])][partition] += 1
    state = {int(key) for key, _ in store.state(STATE).items()} if STATE in store.broker.states.names() else set()
    for number in sorted({*told, *seen, *state}):
        said = told.get(number, {})
        wanted = {int(p): n for p, n in said["begin"]["p"].items()} if "begin" in said else {}
        with_state = bool(said.get("begin", {}).get("s"))
        here, there = dict(seen.get(number, {})), number in state
        whole = here == wanted and there == with_state
        if not whole and (here or there):
            found.append(("I14", f"transaction {number} is torn: {here} of {wanted}, state {there} of {with_state}"))
        if (here or there) and "committing" not in said:
            found.append(("I15", f"transaction {number} is seen, and was not committed"))
        if "committed" in said and not whole:
            found.append(("I15", f"committed transaction {number} is gone"))
    return found


def _go_on(store: Any) -> Found:
    """The store lives: both ids commit, and are read."""
    found: Found = []
    for name in IDS:
        with store.transaction(name) as tx:
            tx.send(TOPIC, b"1000000:", partition=0)
    *_, (_, last) = read_all(store, TOPIC, 0)
    if bytes(last) != b"1000000:":
        found.append(("I15", "a transaction after the recovery is not seen"))
    return found


def main() -> None:
    planted.apply_from_environment()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transactions", type=int, default=20)
    parser.add_argument("--durability", default="fsync")
    arguments = parser.parse_args()
    record = os.open(arguments.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with mqcore.open(arguments.store, durability=arguments.durability, config=STORE_CONFIG) as store:
        Worker(store, record, arguments.seed).run(arguments.transactions)
    os.close(record)


if __name__ == "__main__":
    main()
