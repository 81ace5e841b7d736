"""Stores in tests: put values in, read them back, and take the image that a kill leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mqcore.errors import CorruptBatchError
from mqcore.log.internal_records import encode, read_records
from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog

TOPIC = "t"


def put(log: PartitionLog, *values: bytes, timestamp_ms: int | None = None, wait: bool = True) -> int:
    """Append one batch of values; the offset after it. timestamp_ms: now if None. wait: until it is acknowledged."""
    now_ms = log.host.clock.wall_ms() if timestamp_ms is None else timestamp_ms
    appended = log.append(encode([(None, value) for value in values], now_ms))
    if wait:
        log.wait_durable(appended.next_offset)
    return appended.next_offset


def values_of(log: PartitionLog, offset: int | None = None) -> list[bytes | None]:
    """Every value that read_committed sees from an offset (the log start) on."""
    return [record.value for record in read_records(log, log.log_start_offset if offset is None else offset)]


def readable(log: PartitionLog) -> dict[int, bytes | None]:
    """{offset: value} of what can be read around damaged ranges."""
    found: dict[int, bytes | None] = {}
    offset = log.log_start_offset
    while offset < log.high_watermark:
        try:
            for record in read_records(log, offset):
                found[record.offset] = record.value
                offset = record.offset + 1
            return found
        except CorruptBatchError as error:
            offset = error.where["next_offset"]
    return found


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[LogStore]:
    """An open store, closed cleanly at the end."""
    options.setdefault("durability", "os")
    store = LogStore.open(path, **options)
    try:
        yield store
    finally:
        store.close()


def kill(store: LogStore, image: Path) -> Path:
    """The directory as a kill -9 of the process leaves it at this moment: what was written is in the page cache, what
    a close would still do is not done. The store itself is let go. Returns the image."""
    with store._lock:  # no pass of maintenance: it would rename files under the copy
        shutil.copytree(store.path, image, symlinks=True)
    store.abandon()
    return image


def partition_dir(path: Path, partition: int = 0, topic: str = TOPIC) -> Path:
    return path / "topics" / f"{topic}-{partition}"


def segment_files(path: Path, partition: int = 0) -> list[Path]:
    """The .log files of a partition, ascending."""
    return sorted(partition_dir(path, partition).glob("*.log"))


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def batch_positions(path: Path) -> list[tuple[int, int]]:
    """(position, size) of each batch in a .log file."""
    data, at, found = path.read_bytes(), 0, []
    while at + 12 <= len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "big") + 12
        found.append((at, size))
        at += size
    return found
