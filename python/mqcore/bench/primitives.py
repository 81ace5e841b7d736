"""The engine's primitives from Python: checksum, batch intake, message-id sets."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from mqcore.bench.harness import Comparison, Row, Side, case


def _crc(size: int, base: Any, total_bytes: int = 64 << 20) -> Comparison:
    from mqcore._native.crc32c import crc32c

    block, calls = os.urandom(size), total_bytes // size

    def loop(function: Any) -> Any:
        def run(_: Any) -> None:
            for _call in range(calls):
                function(block)

        return run

    return Comparison(Side(loop(base)), Side(loop(crc32c)), calls)


@case("crc32c_64k", goal=1.0, base="awscrt")
def crc32c_64k(directory: Path) -> Comparison:
    """64 KiB a call: the carry-less multiplier is the limit."""
    from awscrt import checksums

    return _crc(64 << 10, checksums.crc32c)


@case("crc32c_1k", goal=1.5, base="google-crc32c")
def crc32c_1k(directory: Path) -> Comparison:
    """1 KiB a call: half of it is the call."""
    import google_crc32c

    return _crc(1 << 10, google_crc32c.value, 16 << 20)


def _kafka_batch(size: int) -> bytearray:
    """One v2 batch of about `size` bytes of 100-byte values, made by aiokafka."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, size)
    number = 0
    while builder.append(number, 0, None, os.urandom(100), []) is not None:
        number += 1
    return bytearray(builder.build())


def _intake(walk: bool) -> Comparison:
    from awscrt import checksums

    from mqcore._native.batch import check

    batch, calls = _kafka_batch(64 << 10), 2000
    plain = bytes(batch)

    def base(_: Any) -> None:
        for _call in range(calls):
            checksums.crc32c(plain)

    def run(_: Any) -> None:
        for _call in range(calls):
            check(batch, walk=walk)

    return Comparison(Side(base), Side(run), calls)


@case("batch_check", goal=1.0, base="CRC32C (awscrt)")
def batch_check(directory: Path) -> Comparison:
    """Take in a 64 KiB batch of a Kafka client: header and checksum."""
    return _intake(walk=False)


@case("batch_walk", goal=0.30, base="CRC32C (awscrt)")
def batch_walk(directory: Path) -> Comparison:
    """The same with every record walked: lengths, deltas, header counts."""
    return _intake(walk=True)


def _snowflakes(count: int, per_ms: int = 60) -> Any:
    import numpy as np

    number = np.arange(count, dtype=np.uint64)
    return (np.uint64(1_000_000) + number // per_ms) << np.uint64(22) | np.uint64(3 << 12) | number % per_ms


@case("dedup_batch", goal=12.0, base="Python set")
def dedup_batch(directory: Path) -> Comparison:
    """Test and set of Snowflake ids, 1,000 a call: a bit each in a bitmap of the time they carry."""
    from mqcore._native.dedup import Dedup

    count = 300_000
    array = _snowflakes(count)
    ids = array.tolist()
    chunks = [array[at : at + 1000] for at in range(0, count, 1000)]

    def run(index: Any) -> None:
        for chunk in chunks:
            index.test_and_set_many(chunk)

    return Comparison(_python_set(ids), Side(run, Dedup), count)


def _python_set(ids: list[int]) -> Side:
    def run(_: Any) -> None:
        seen: set[int] = set()
        add = seen.add
        for each in ids:
            if each not in seen:
                add(each)

    return Side(run)


@case("dedup_single", goal=3.0, base="Python set")
def dedup_single(directory: Path) -> Comparison:
    """One call an id."""
    from mqcore._native.dedup import Dedup

    ids = _snowflakes(300_000).tolist()

    def run(index: Any) -> None:
        test_and_set = index.test_and_set
        for each in ids:
            test_and_set(each)

    return Comparison(_python_set(ids), Side(run, Dedup), len(ids))


def _bytes_row(name: str, goal_times: float, base: str, *, closed: bool) -> Row:
    from pyroaring import BitMap64

    from mqcore._native.dedup import Dedup

    rng, count = random.Random(7), 500_000
    ids = _snowflakes(count)
    keep = [each for each in ids.tolist() if rng.random() < 0.9]  # gaps: not every id arrives
    import numpy as np

    kept = np.array(keep, dtype=np.uint64)
    theirs, index = BitMap64(keep, optimize=False), Dedup()  # by default a list is run-optimized as it is taken
    index.test_and_set_many(kept)  # type: ignore[arg-type]
    if closed:
        theirs.run_optimize()
        index.pack()
    ours, peer = index.bytes_used / len(keep), len(theirs.serialize()) / len(keep)
    return Row(name, peer / ours, 1 / goal_times, base, extra={"bytes_per_id": ours, "base_bytes_per_id": peer})


@case("dedup_bytes_open", goal=1 / 1.1, base="pyroaring as added")
def dedup_bytes_open(directory: Path) -> Row:
    """Bytes an id while the bucket still takes ids: at most 1.1 times a roaring bitmap's."""
    return _bytes_row("dedup_bytes_open", 1.1, "pyroaring as added", closed=False)


@case("dedup_bytes_closed", goal=0.5, base="pyroaring, optimized")
def dedup_bytes_closed(directory: Path) -> Row:
    """Bytes an id in buckets that are closed: at most twice a roaring bitmap's with runs."""
    return _bytes_row("dedup_bytes_closed", 2.0, "pyroaring, optimized", closed=True)
