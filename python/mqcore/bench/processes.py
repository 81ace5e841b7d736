"""What needs a second process: opening after a kill, and following another process's appends."""

from __future__ import annotations

import json
import mmap
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mqcore.bench.harness import Comparison, Row, Side, case
from mqcore.bench.material import TOPIC, fresh

RTT = "loopback round trip"  # 100 bytes, median

_FILL = """
import os, signal, sys
import numpy as np
import mqcore
store = mqcore.open(sys.argv[1], durability="os")
store.create_topic("bench", partitions=1, config={"segment.bytes": 2**31 - 1, "segment.index.bytes": 16 << 20})
rows = np.frombuffer(os.urandom(100 * 50_000), np.uint8).reshape(50_000, 100)
producer = store.producer()
for _ in range(int(sys.argv[2]) // (50_000 * 109)):
    producer.send_many("bench", rows)
producer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""

_OPEN = """
import os, signal, sys, time
import mqcore
began = time.perf_counter()
store = mqcore.open(sys.argv[1], durability="os")
took = time.perf_counter() - began
assert sum(store.end_offsets("bench").values()) > 0
print(took, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _python(code: str, *arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if result.returncode != -signal.SIGKILL:
        raise RuntimeError(f"child ended with {result.returncode}: {result.stderr[-400:]}")
    return result.stdout


@case("recover", goal=0.5, base="CRC32C (awscrt)")
def recover(directory: Path, total_bytes: int = 1 << 30) -> Comparison:
    """Open after kill -9 with 1 GB in one segment, cached: every header and checksum, indexes rebuilt; then killed
    again, so that each round finds an unclean store."""
    from awscrt import checksums

    path = fresh(directory, "killed")
    _python(_FILL, path, total_bytes)
    (log,) = (path / "topics" / f"{TOPIC}-0").glob("*.log")
    with open(log, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    view = memoryview(mapped)

    def base(_: Any) -> None:
        for at in range(0, len(view), 1 << 30):
            checksums.crc32c(view[at : at + (1 << 30)])

    def run(_: Any) -> float:
        return float(_python(_OPEN, path))

    return Comparison(Side(base), Side(run), len(view) // 109, rounds=5)


_ECHO = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := connection.recv(4096):
    connection.sendall(data)
"""

_FOLLOW = """
import struct, sys, time, json
import mqcore
store = mqcore.open(sys.argv[1], read_only=True)
consumer = store.consumer("bench", start="latest")
consumer.poll(timeout_s=0)
print("ready", flush=True)
seen = []
for record in consumer:
    now = time.perf_counter_ns()
    value = record.value
    if value == b"end":
        break
    seen.append(now - struct.unpack_from("<q", value)[0])
print(json.dumps(seen), flush=True)
"""


def _round_trips(count: int) -> list[int]:
    """Nanoseconds of loopback round trips of 100 bytes to another process, paced as the appends are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen([sys.executable, "-c", _ECHO, str(server.getsockname()[1])])
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message, took = bytes(100), []
        for _ in range(count):
            time.sleep(0.0005)
            began = time.perf_counter_ns()
            connection.sendall(message)
            connection.recv(4096)
            took.append(time.perf_counter_ns() - began)
        connection.close()
        child.wait()
    return took


def _followed(directory: Path, count: int) -> list[int]:
    """Nanoseconds from before send() to the record in another process's hands."""
    import struct

    import mqcore

    path = fresh(directory, "followed")
    with mqcore.open(path, durability="os") as store:
        store.create_topic(TOPIC, partitions=1)
        producer = store.producer()
        producer.send(TOPIC, b"first").result()
        child = subprocess.Popen([sys.executable, "-P", "-c", _FOLLOW, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        pad = bytes(92)
        for _ in range(count):
            time.sleep(0.0005)
            producer.send(TOPIC, struct.pack("<q", time.perf_counter_ns()) + pad).result()
        producer.send(TOPIC, b"end").result()
        seen: list[int] = json.loads(child.stdout.readline())
        child.wait()
        producer.close()
    shutil.rmtree(path)
    return seen


def _percentile(values: list[int], share: float) -> float:
    return float(sorted(values)[min(len(values) - 1, int(len(values) * share))])


def _latency_row(directory: Path, name: str, share: float, goal: float) -> Row:
    base, ours = [], []
    trips: list[int] = []
    follows: list[int] = []
    for _ in range(3):  # interleaved, the medians of three
        trip, follow = _round_trips(1000), _followed(directory, 1000)
        trips += trip
        follows += follow
        base.append(_percentile(trip, 0.5))
        ours.append(_percentile(follow, share))
    rtt, took = statistics.median(base), statistics.median(ours)
    return Row(
        name,
        rtt / took,
        goal,
        RTT,
        rate_per_s=1e9 / took,
        ns_per_msg=took,
        base_ns_per_msg=rtt,
        spread=(
            min(b / o for b, o in zip(base, ours, strict=True)),
            max(b / o for b, o in zip(base, ours, strict=True)),
        ),
        extra={
            f"{side}_p{100 * point:g}_us": round(_percentile(seen, point) / 1000, 1)
            for side, seen in (("base", trips), ("ours", follows))
            for point in (0.1, 0.5, 0.9, 0.99, 0.999)
        },
    )


@case("follow_latency", goal=1.0, base=RTT)
def follow_latency(directory: Path) -> Row:
    """Append in one process until the record is in another's hands, median: a futex wake and two context switches fewer
    than a round trip."""
    return _latency_row(directory, "follow_latency", 0.5, 1.0)


@case("follow_latency_p99", goal=0.2, base=RTT)
def follow_latency_p99(directory: Path) -> Row:
    """The same at the 99th percentile: within five round trips."""
    return _latency_row(directory, "follow_latency_p99", 0.99, 0.2)
