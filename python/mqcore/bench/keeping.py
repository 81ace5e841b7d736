"""What a store keeps beside records: state, offsets, ids, producers; speed and memory."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mqcore
from mqcore.bench.harness import Comparison, Row, Side, case
from mqcore.bench.material import TOPIC, fresh
from mqcore.types import TopicPartition

PAIRS, PER_TRANSACTION = 50_000, 1000
OFFSET_GOAL_NS, IDS_PER_S = 10_000, 4_096_000
PRODUCER_GOAL_BYTES = 256
IDS_GOAL_BYTES = 64 << 20
_ROUNDS = 7


def _pairs() -> list[list[tuple[bytes, bytes]]]:
    pairs = [(b"account-%08d" % (number * 7919 % PAIRS), b"%032d" % number) for number in range(PAIRS)]
    return [pairs[at : at + PER_TRANSACTION] for at in range(0, PAIRS, PER_TRANSACTION)]


def _lmdb(path: Path) -> Any:
    import lmdb

    return lmdb.open(str(path), map_size=1 << 30, sync=False, metasync=False, writemap=True, lib_version=0)


class _Directory:
    """Prepare and clean up of a side: something that is opened in a new directory each round."""

    def __init__(self, directory: Path, opener: Callable[[Path], Any]) -> None:
        self._directory, self._opener = directory, opener

    def prepare(self) -> Any:
        self._path = fresh(self._directory, "pairs")
        return self._opener(self._path)

    def clean_up(self, opened: Any) -> None:
        opened.close()
        shutil.rmtree(self._path)


def _store(path: Path) -> Any:
    store = mqcore.open(path, durability="os")
    with store.transaction("bench") as tx:
        tx.state("pairs")[b"first"] = b""
    return store


@case("state_put", goal=0.6, base="py-lmdb put")
def state_put(directory: Path) -> Comparison:
    """state[key] = value, 1,000 a transaction: noted in memory, appended to a changelog, applied to the view; LMDB takes
    them in the background. Against put in LMDB's own transactions of 1,000, no sync."""
    chunks = _pairs()

    def base(environment: Any) -> None:
        for chunk in chunks:
            with environment.begin(write=True) as transaction:
                put = transaction.put
                for key, value in chunk:
                    put(key, value)

    def ours(store: Any) -> None:
        for chunk in chunks:
            with store.transaction("bench") as tx:
                state = tx.state("pairs")
                for key, value in chunk:
                    state[key] = value

    peer, mine = _Directory(directory, _lmdb), _Directory(directory, _store)
    return Comparison(Side(base, peer.prepare, peer.clean_up), Side(ours, mine.prepare, mine.clean_up), PAIRS)


@case("state_get", goal=0.7, base="py-lmdb get")
def state_get(directory: Path) -> Comparison:
    """state.get(key), 1,000 a transaction, each noted as read so that the commit can compare it."""
    chunks = _pairs()
    environment, store = _lmdb(fresh(directory, "lmdb")), _store(fresh(directory, "store"))
    for chunk in chunks:
        with environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(chunk)
        with store.transaction("bench") as tx:
            tx.state("pairs").update(chunk)

    def base(_: Any) -> None:
        for chunk in chunks:
            with environment.begin() as transaction:
                get = transaction.get
                for key, _value in chunk:
                    get(key)

    def ours(_: Any) -> None:
        for chunk in chunks:
            with store.transaction("bench") as tx:
                get = tx.state("pairs").get
                for key, _value in chunk:
                    get(key)

    def close() -> None:
        environment.close()
        store.close()

    return Comparison(Side(base), Side(ours), PAIRS, close=close)


@case("offset_fetch", goal=1.0, base="10 µs")
def offset_fetch(directory: Path) -> Row:
    """The committed offset of one partition of a group, as its coordinator answers; there are a hundred partitions."""
    with mqcore.open(fresh(directory, "offsets"), durability="os") as store:
        store.create_topic(TOPIC, partitions=100)
        keys = [TopicPartition(TOPIC, number) for number in range(100)]
        store.groups.commit_offsets("ledger", dict.fromkeys(keys, 0))
        fetch, took = store.groups.fetch_offsets, []
        for _ in range(_ROUNDS):
            began = time.perf_counter_ns()
            for key in keys * 20:
                fetch("ledger", [key])
            took.append((time.perf_counter_ns() - began) / 2000)
    return _absolute("offset_fetch", OFFSET_GOAL_NS, took, "10 µs")


def _absolute(name: str, goal_ns: float, took_ns: list[float], base: str) -> Row:
    ns = statistics.median(took_ns)
    spread = goal_ns / max(took_ns), goal_ns / min(took_ns)
    return Row(name, goal_ns / ns, 1.0, base, rate_per_s=1e9 / ns, ns_per_msg=ns, spread=spread)


@case("snowflake", goal=0.99, base="4,096 ids a ms")
def snowflake(directory: Path) -> Row:
    """batch(4096): the scheme's own limit for one worker, which sleeps keep; next() reaches its own rate below it."""
    single, rates = mqcore.Snowflake(1), []
    began = time.perf_counter()
    for _ in range(100_000):
        single.next()
    one_s = (time.perf_counter() - began) / 100_000
    for worker in range(2, 2 + _ROUNDS):
        ids = mqcore.Snowflake(worker)
        ids.batch(20 * 4096)  # what may be borrowed is borrowed
        began = time.perf_counter()
        for _ in range(100):
            ids.batch(4096)
        rates.append(100 * 4096 / (time.perf_counter() - began))
    rate = statistics.median(rates)
    return Row(
        "snowflake",
        rate / IDS_PER_S,
        0.99,
        "4,096 ids a ms",
        rate_per_s=rate,
        ns_per_msg=1e9 / rate,
        spread=(min(rates) / IDS_PER_S, max(rates) / IDS_PER_S),
        extra={"next_ns": round(one_s * 1e9, 1)},
    )


# -- memory ---------------------------------------------------------------------------------------------------------

_RESIDENT = """
import gc, sys
import mqcore

def resident():
    gc.collect()
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
"""

_PRODUCERS = (
    _RESIDENT
    + """
store = mqcore.open(sys.argv[1], durability="os")
store.create_topic("t", partitions=1)
count = int(sys.argv[2])
producer = store.producer(idempotence=False)
def send():
    producer.set_identity(store.log.producer_ids.allocate(), 0, transactional=False)
    producer.send("t", b"x", partition=0)
    producer.flush()
for _ in range(1000):
    send()
before = resident()
for _ in range(count):
    send()
print((resident() - before) / count)
"""
)

_IDS = (
    _RESIDENT
    + """
store = mqcore.open(sys.argv[1], durability="os")
store.create_topic("t", partitions=1)
def use(first, last):
    for number in range(first, last):
        with store.transaction(f"once-{number}") as tx:
            tx.send("t", b"x")
use(0, 2000)
before = resident()
use(2000, 2000 + int(sys.argv[2]))
print(resident() - before)
"""
)


def _child(code: str, *arguments: object) -> float:
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr[-400:])
    return float(result.stdout.split()[-1])


@case("memory_producer", goal=1.0, base="256 B")
def memory_producer(directory: Path) -> Row:
    """Resident bytes for each producer that a partition remembers: its epoch and its last five batches."""
    used = _child(_PRODUCERS, fresh(directory, "producers"), 50_000)
    return Row("memory_producer", PRODUCER_GOAL_BYTES / used, 1.0, "256 B", extra={"bytes_per_producer": used})


@case("memory_ids", goal=1.0, base="64 MiB")
def memory_ids(directory: Path) -> Row:
    """What 100,000 transactional ids that are used once and never again leave in memory, producer state included."""
    used = max(_child(_IDS, fresh(directory, "ids"), 100_000), 1.0)
    extra = {"resident_mib": used / (1 << 20)}
    return Row("memory_ids", IDS_GOAL_BYTES / used, 1.0, "64 MiB", extra=extra)
