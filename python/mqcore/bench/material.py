"""What the cases are fed with: 100-byte values, and stores and files that hold them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mqcore

VALUE_BYTES = 100
COUNT = 200_000
RECORD_BYTES = 109  # a 100-byte value in a v2 batch: length, attributes, deltas, null key, value length, header count
TOPIC = "bench"

_number = itertools.count()


def values(count: int = COUNT) -> list[bytes]:
    """Random values, each its own object, allocated one after the other as a service would hold them."""
    raw = os.urandom(count * VALUE_BYTES)
    return [raw[at : at + VALUE_BYTES] for at in range(0, len(raw), VALUE_BYTES)]


def fresh(directory: Path, stem: str) -> Path:
    return directory / f"{stem}-{next(_number)}"


class NewStore:
    """Prepare and clean up of a side that writes: a new store each round, gone afterwards.

    Each partition has taken one record before the clock starts: as the base's file, its segment is there and open, as a
    service that runs for longer than a moment would have it. The records that are timed lie in new space all the same.
    """

    def __init__(self, directory: Path, *, durability: str = "os", partitions: int = 1, **producer: Any) -> None:
        self._directory, self._durability, self._partitions = directory, durability, partitions
        self._producer = producer

    def prepare(self) -> Any:
        self.path = fresh(self._directory, "store")
        self.store = mqcore.open(self.path, durability=self._durability)
        self.store.create_topic(TOPIC, partitions=self._partitions)
        self.producer = self.store.producer(**self._producer)
        for partition in range(self._partitions):
            self.producer.send(TOPIC, b"first", partition=partition)
        self.producer.flush()
        return self.producer

    def clean_up(self, _: Any) -> None:
        self.producer.close()
        self.store.close()
        shutil.rmtree(self.path)


class NewFile:
    """Prepare and clean up of the base that writes the same number of bytes to a new plain file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> int:
        self.path = fresh(self._directory, "plain")
        return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def clean_up(self, fd: int) -> None:
        os.close(fd)
        self.path.unlink()


def aligned_writer(total_bytes: int, block_bytes: int = 64 << 10) -> Any:
    """A base: write() of `total_bytes` in aligned blocks to the descriptor it is given."""
    block = os.urandom(block_bytes)
    full, rest = divmod(total_bytes, block_bytes)

    def run(fd: int) -> None:
        write = os.write
        for _ in range(full):
            write(fd, block)
        write(fd, block[:rest])

    return run


def filled_store(directory: Path, items: Sequence[bytes], **topic: Any) -> Any:
    """An open store whose one topic and partition holds `items`."""
    store = mqcore.open(fresh(directory, "filled"), durability="os")
    store.create_topic(TOPIC, partitions=1, config=topic or None)
    with store.producer() as producer:
        producer.send_many(TOPIC, list(items))
    return store
