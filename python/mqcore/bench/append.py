"""Writing: records a second into a new store, as a share of the bare write() of the same bytes, in the same run.

What binds: copying the bytes into the page cache costs more than encoding and checksum together, so large writes into
space that was allocated ahead decide the figure, then the cost of one Python call a record. The base writes the same
bytes in aligned blocks of 64 KiB to a new file on the same file system."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mqcore.bench.harness import Comparison, Side, case
from mqcore.bench.material import COUNT, RECORD_BYTES, TOPIC, VALUE_BYTES, NewFile, NewStore, aligned_writer, values

WRITE = "write() of 64 KiB"


def _against_write(directory: Path, run: Any, *, record_bytes: int = RECORD_BYTES, partitions: int = 1) -> Comparison:
    file, store = NewFile(directory), NewStore(directory, partitions=partitions)
    base = Side(aligned_writer(COUNT * record_bytes), file.prepare, file.clean_up)
    return Comparison(base, Side(run, store.prepare, store.clean_up), COUNT)


@case("append_arrays", goal=0.85, base=WRITE)
def append_arrays(directory: Path) -> Comparison:
    """send_many of a 2-D uint8 array: one native call encodes all; 0.99 would be all page cache."""
    rows = np.frombuffer(os.urandom(COUNT * VALUE_BYTES), np.uint8).reshape(COUNT, VALUE_BYTES)

    def run(producer: Any) -> None:
        producer.send_many(TOPIC, rows)
        producer.flush()

    return _against_write(directory, run)


@case("append_list", goal=0.80, base=WRITE)
def append_list(directory: Path) -> Comparison:
    """send_many of lists of 1,000 bytes objects: the objects' cache misses come on top."""
    items = values()
    lists = [items[at : at + 1000] for at in range(0, COUNT, 1000)]

    def run(producer: Any) -> None:
        for chunk in lists:
            producer.send_many(TOPIC, chunk)
        producer.flush()

    return _against_write(directory, run)


@case("append_each", goal=0.30, base=WRITE)
def append_each(directory: Path) -> Comparison:
    """send(), one call a record, each with its Delivery: an empty Cython call alone is 30 ns."""
    items = values()

    def run(producer: Any) -> None:
        send = producer.send
        for value in items:
            send(TOPIC, value)
        producer.flush()

    return _against_write(directory, run)


@case("append_keyed", goal=0.15, base=WRITE)
def append_keyed(directory: Path) -> Comparison:
    """send() with a key over 20 partitions: murmur2, and twenty batches that share the cache."""
    items = values()
    keys = [b"key-%06d" % (number % 5000) for number in range(COUNT)]

    def run(producer: Any) -> None:
        send = producer.send
        for value, key in zip(items, keys, strict=True):
            send(TOPIC, value, key)
        producer.flush()

    return _against_write(directory, run, record_bytes=RECORD_BYTES + 10, partitions=20)


@case("append_fsync_1000", goal=0.95, base="write + fdatasync")
def append_fsync_1000(directory: Path) -> Comparison:
    """1,000 records made durable at a time, 600 times: the journal's growth and its checkpoints are in it."""
    batches = [values(1000) for _ in range(20)]
    rounds = 600
    block = os.urandom(1000 * RECORD_BYTES)

    def base(fd: int) -> None:
        for _ in range(rounds):
            os.write(fd, block)
            os.fdatasync(fd)

    def run(producer: Any) -> None:
        for number in range(rounds):
            producer.send_many(TOPIC, batches[number % len(batches)]).result()

    file, store = NewFile(directory), NewStore(directory, durability="fsync")
    return Comparison(Side(base, file.prepare, file.clean_up), Side(run, store.prepare, store.clean_up), rounds * 1000)


@case("append_fsync_20p", goal=0.5, base="1 MiB write + fdatasync")
def append_fsync_20p(directory: Path) -> Comparison:
    """16 threads that each wait for 64 KiB to be durable, over 20 partitions: one journal round carries them all."""
    producers, each, per_batch = 16, 100, 65536 // RECORD_BYTES
    rows = np.frombuffer(os.urandom(per_batch * VALUE_BYTES), np.uint8).reshape(per_batch, VALUE_BYTES)
    total = producers * each * 65536
    block = os.urandom(1 << 20)

    def base(fd: int) -> None:
        for _ in range(total >> 20):
            os.write(fd, block)
            os.fdatasync(fd)

    def one(store: Any, number: int) -> None:
        with store.producer() as producer:
            for step in range(each):
                producer.send_many(TOPIC, rows, partition=(number + step * 7) % 20).result()

    file, store = NewFile(directory), NewStore(directory, durability="fsync", partitions=20)

    def run(_: Any) -> None:
        threads = [threading.Thread(target=partial(one, store.store, number)) for number in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Comparison(
        Side(base, file.prepare, file.clean_up),
        Side(run, store.prepare, store.clean_up),
        producers * each * per_batch,
    )
