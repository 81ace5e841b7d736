"""Memory of an open store: anonymous and shared resident bytes (RssAnon + RssShmem) of a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mqcore.bench.harness import Row, case
from mqcore.bench.material import fresh

FULL_NEEDS_BYTES = 15 * 10**9

_COMMON = """
import sys
import mqcore

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
"""

_PARTITIONS = (
    _COMMON
    + """
store = mqcore.open(sys.argv[1], durability="os")
store.create_topic("wide", partitions=1000)
with store.producer() as producer:
    for partition in range(1000):
        producer.send("wide", b"x" * 100, partition=partition)
print(resident())
"""
)

_READER = (
    _COMMON
    + """
import numpy as np
total = int(sys.argv[2])
store = mqcore.open(sys.argv[1], durability="os")
store.create_topic("long", partitions=1, config={"segment.bytes": 256 << 20})
rows = np.zeros((50_000, 100), np.uint8)
with store.producer() as producer:
    for _ in range(total // (50_000 * 109)):
        producer.send_many("long", rows)
expected = store.end_offsets("long")[0]
consumer, count, worst = store.consumer("long", start="earliest"), 0, 0
before = resident()
while count < expected:
    for batch in consumer.poll(max_records=10_000):
        count += len(batch)
        batch.values.to_numpy()
    worst = max(worst, resident())
print(worst)
"""
)


def _child(code: str, *arguments: object) -> float:
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(result.stderr[-400:])
    return float(result.stdout.split()[-1])


def _row(name: str, limit_bytes: int, used: float) -> Row:
    return Row(name, limit_bytes / used, 1.0, f"{limit_bytes >> 20} MiB", extra={"resident_mib": used / (1 << 20)})


@case("memory_1000_partitions", goal=1.0, base="100 MiB")
def memory_1000_partitions(directory: Path) -> Row:
    """An open store of 1,000 partitions with a record each, interpreter and libraries included."""
    return _row("memory_1000_partitions", 100 << 20, _child(_PARTITIONS, fresh(directory, "wide")))


@case("memory_reader", goal=1.0, base="64 MiB")
def memory_reader(directory: Path) -> Row:
    """A reader that walks a topic of 2 GiB, of 10 GiB with `MQCORE_BENCH_FULL=1` and 15 GB free: the mapping is the
    kernel's, so the size of the topic does not matter."""
    full = os.environ.get("MQCORE_BENCH_FULL") == "1" and shutil.disk_usage(directory).free >= FULL_NEEDS_BYTES
    row = _row("memory_reader", 64 << 20, _child(_READER, fresh(directory, "long"), (10 if full else 2) << 30))
    row.extra["topic_gib"] = 10 if full else 2
    return row
