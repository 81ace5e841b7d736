"""T17: input buffers changed as soon as a send returns; batches and views kept over everything that can take their files away.

Every value says whose it is (topic, partition, number) and is filled with a byte that its topic alone uses, so a byte of
another record, topic or moment shows. Checked:
    1. stored bytes are the bytes at the call, whatever became of the array, bytearray or Arrow buffer a moment later,
       also where the sender gave up waiting (result(timeout=0)) while the record was in flight;
    2. no reader sees an offset that is not durable (the marks page says what is);
    3. views, batches and arrays that were handed out keep their bytes over retention, roll, maintenance, the deletion
       of their topic and the close of the store.
"""

from __future__ import annotations

import hashlib
import random
import struct
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mqcore
from mqcore import errors
from mqcore.log.group_commit import GroupCommit
from mqcore.torture.attack import read_all, workplace
from mqcore.torture.report import Report
from mqcore.torture.workload import STORE_CONFIG

TOPICS, PARTITIONS = 12, 2
_HEAD = struct.Struct("<IIQ")  # CRC-32 of the topic's name, partition, number
_POISON = 0xEE
_KEPT_MAX = 300
_CONFIG = {"segment.bytes": 32768, "index.interval.bytes": 1024, "max.message.bytes": 16384}
_CODECS = ("producer", "producer", "producer", "zstd", "lz4", "gzip")


def content(topic: str, tag: int, partition: int, number: int, size: int) -> bytes:
    """The value of a record: its identity and `size` times its topic's own byte."""
    return _HEAD.pack(zlib.crc32(topic.encode()), partition, number) + bytes([tag]) * size


@dataclass(slots=True)
class _Topic:
    """What was sent to a topic: partition -> sizes of the values by number, and offsets that were acknowledged."""

    name: str
    tag: int
    sizes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    acked: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))  # partition -> offset -> number

    def next_values(self, partition: int, sizes: list[int]) -> list[bytes]:
        first = len(self.sizes[partition])
        self.sizes[partition] += sizes
        return [content(self.name, self.tag, partition, first + step, size) for step, size in enumerate(sizes)]


@dataclass(slots=True)
class _Kept:
    """Something that was handed out, and what it held then."""

    thing: Any
    look: Callable[[Any], bytes]
    digest: bytes
    what: str


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


def _of_batch(batch: Any) -> bytes:
    return b"".join(bytes(value) for value in batch.values) + bytes(batch.offsets.tobytes())


def _of_array(array: Any) -> bytes:
    return bytes(array.tobytes())


class _Attack:
    """One store under the workload; every operation counts as one fault, since each is followed by a poisoned buffer."""

    def __init__(self, store: Any, seed: int, report: Report) -> None:
        self._store, self._report = store, report
        self._rng = random.Random(seed)
        self._producer = store.producer(linger_ms=1, batch_bytes=4096, chunk_bytes=16384)
        self._topics: list[_Topic] = []
        self._made = 0
        self._kept: list[_Kept] = []
        self._flying: list[tuple[_Topic, int, int, int, Any]] = []  # topic, partition, first number, count, delivery
        self._consumers: dict[str, Any] = {}
        for _ in range(TOPICS):
            self._make_topic()

    # -- topics -----------------------------------------------------------------------------------------------------

    def _make_topic(self) -> None:
        number, self._made = self._made, self._made + 1
        name = f"buffers-{number}"
        config: dict[str, str | int] = {
            **_CONFIG, "compression.type": _CODECS[number % len(_CODECS)],
            "mqcore.durability": ("fsync", "os")[number % 2],
        }  # fmt: skip
        self._store.create_topic(name, partitions=PARTITIONS, config=config)
        self._topics.append(_Topic(name, 1 + number % 200))
        self._consumers[name] = self._store.consumer(name, start="earliest", on_out_of_range="earliest")

    def delete_topic(self) -> None:
        """A topic goes, with everything that was read from it still in hand; another one comes."""
        self._settle()
        topic = self._topics.pop(self._rng.randrange(len(self._topics)))
        self._check_topic(topic)
        self._consumers.pop(topic.name).close()
        self._store.delete_topic(topic.name)
        self._make_topic()
        self._recheck(60)

    # -- sending, and what is done to the buffer afterwards ----------------------------------------------------------

    def _pick(self) -> tuple[_Topic, int]:
        return self._rng.choice(self._topics), self._rng.randrange(PARTITIONS)

    def _sizes(self) -> list[int]:
        return [self._rng.choice((0, 1, 7, 60, 300, 900)) for _ in range(self._rng.choice((1, 2, 5, 20)))]

    def send(self) -> None:
        """One record out of a buffer that its owner uses again at once."""
        topic, partition = self._pick()
        first = len(topic.sizes[partition])
        (value,) = topic.next_values(partition, self._sizes()[:1])
        array = np.frombuffer(value, np.uint8).copy()
        buffer: Any = self._rng.choice((bytearray(value), array))
        key = bytearray(b"key")
        given = memoryview(buffer) if self._rng.random() < 0.3 else buffer
        delivery = self._producer.send(topic.name, given, key=key, partition=partition)
        given = None
        self._spoil(buffer)
        self._spoil(key)
        self._flying.append((topic, partition, first, 1, delivery))
        self._maybe_give_up(delivery)

    def send_many(self) -> None:
        """A list of bytearrays, a 2-D array or an Arrow array over numpy memory; poisoned as soon as the call is back."""
        topic, partition = self._pick()
        first = len(topic.sizes[partition])
        form = self._rng.choice((self._as_list, self._as_matrix, self._as_arrow))
        values, buffers, count = form(topic, partition)
        delivery = self._producer.send_many(topic.name, values, partition=partition)
        del values
        for buffer in buffers:
            self._spoil(buffer)
        self._flying.append((topic, partition, first, count, delivery))
        self._maybe_give_up(delivery)

    def _as_list(self, topic: _Topic, partition: int) -> tuple[Any, list[Any], int]:
        buffers = [bytearray(value) for value in topic.next_values(partition, self._sizes())]
        return buffers[:], buffers, len(buffers)

    def _as_matrix(self, topic: _Topic, partition: int) -> tuple[Any, list[Any], int]:
        sizes = [self._rng.choice((0, 40, 200))] * self._rng.choice((1, 10, 40))
        values = topic.next_values(partition, sizes)
        matrix = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1).copy()
        return matrix, [matrix], len(values)

    def _as_arrow(self, topic: _Topic, partition: int) -> tuple[Any, list[Any], int]:
        try:
            import pyarrow as pa
        except ImportError:
            self._report.notes["arrow"] = "not installed: left out"
            return self._as_list(topic, partition)
        values = topic.next_values(partition, self._sizes())
        data = np.frombuffer(b"".join(values), np.uint8).copy()
        ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.binary(), len(values), buffers), [data, ends], len(values)

    def _spoil(self, buffer: Any) -> None:
        """What the owner of a buffer may do once the call is back: fill it with something else, or shrink it."""
        if isinstance(buffer, np.ndarray):
            buffer[...] = _POISON if buffer.dtype == np.uint8 else 0
            return
        buffer[:] = bytes([_POISON]) * len(buffer)
        if self._rng.random() < 0.2:
            try:
                buffer.clear()
            except BufferError:
                self._report.violate("R13", "a send keeps its caller's buffer after it has returned")

    def _maybe_give_up(self, delivery: Any) -> None:
        """Sometimes wait not at all: the record is in flight, and stays so or not as the store likes."""
        if self._rng.random() < 0.2:
            if self._rng.random() < 0.5:
                self._store.log.group_commit().kick()  # the flusher leads a round: who waits now only waits
                time.sleep(0.0003)
            try:
                delivery.result(timeout=0)
            except errors.TimeoutExceededError:
                self._report.faults_injected["timeout-in-flight"] += 1

    def _settle(self) -> None:
        """Wait for all that is under way and note what was acknowledged where."""
        for topic, partition, first, count, delivery in self._flying:
            result = delivery.result(timeout=60)
            ranges = [(partition, result.offset, 1)] if count == 1 and hasattr(result, "offset") else result
            number = first
            for _, base, n in ranges:
                for step in range(n):
                    topic.acked[partition][base + step] = number + step
                number += n
            if number != first + count:
                self._report.violate("I1", f"{number - first} of {count} records of {topic.name} acknowledged")
            self._report.acked += count
        self._flying.clear()

    # -- reading, and keeping what was read --------------------------------------------------------------------------

    def read(self) -> None:
        """Take a batch, hold it against what was sent, and keep it with a view and an array of it."""
        topic, _ = self._pick()
        for batch in self._consumers[topic.name].poll(timeout_s=0, max_records=200):
            log = self._store.log.partition(topic.name, batch.partition)
            durable = self._store.log.marks.read(log.slot)[1]  # read after the poll: it only grows
            if batch.next_offset > durable:
                self._report.violate(
                    "R11", f"offset {batch.next_offset - 1} of {topic.name} read, {durable} is durable"
                )
            self._check_batch(topic, batch)
            self._keep(batch, _of_batch, f"batch of {topic.name}")
            value = batch.values[self._rng.randrange(len(batch))]
            self._keep(value, bytes, f"view of {topic.name}")
            self._keep(batch.values.to_numpy()[0], _of_array, f"array of {topic.name}")

    def _check_batch(self, topic: _Topic, batch: Any) -> None:
        for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
            self._check_value(topic, batch.partition, offset, bytes(value))

    def _check_value(self, topic: _Topic, partition: int, offset: int, value: bytes) -> int:
        """The number of a record, -1 where it is not what was sent."""
        self._report.read += 1
        number = _HEAD.unpack_from(value)[2] if len(value) >= _HEAD.size else -1
        sizes = topic.sizes[partition]
        right = content(topic.name, topic.tag, partition, number, sizes[number]) if 0 <= number < len(sizes) else b""
        if value != right:
            self._report.wrong_bytes += 1
            self._report.violate("I4", f"wrong bytes at {topic.name}-{partition} offset {offset}: {value[:40]!r}")
            return -1
        if topic.acked[partition].get(offset, number) != number:
            self._report.violate("I2", f"{topic.name}-{partition} offset {offset} holds record {number}")
        return int(number)

    def _keep(self, thing: Any, look: Callable[[Any], bytes], what: str) -> None:
        if len(self._kept) >= _KEPT_MAX:
            self._kept.pop(self._rng.randrange(len(self._kept)))
        self._kept.append(_Kept(thing, look, _digest(look(thing)), what))

    def _recheck(self, count: int) -> None:
        for kept in self._rng.sample(self._kept, min(count, len(self._kept))):
            if _digest(kept.look(kept.thing)) != kept.digest:
                self._report.wrong_bytes += 1
                self._report.violate("I4", f"a {kept.what} has changed since it was handed out")

    # -- what takes files away ---------------------------------------------------------------------------------------

    def delete_before(self) -> None:
        topic, partition = self._pick()
        begin, end = self._store.begin_offsets(topic.name)[partition], self._store.end_offsets(topic.name)[partition]
        offset = begin + (end - begin) * self._rng.choice((1, 2, 3)) // 3
        self._store.delete_before(topic.name, {partition: offset})
        self._recheck(30)

    def roll(self) -> None:
        topic, partition = self._pick()
        self._store.log.partition(topic.name, partition).roll()
        self._recheck(10)

    def maintain(self) -> None:
        self._store.log.maintain()
        self._recheck(30)

    def _check_topic(self, topic: _Topic) -> None:
        """Everything that is left of a topic: each record once, in order, none of the acknowledged missing."""
        for partition in range(PARTITIONS):
            begin = self._store.begin_offsets(topic.name)[partition]
            expected = -1
            there = set()
            for offset, value in read_all(self._store, topic.name, partition):
                number = self._check_value(topic, partition, offset, value)
                there.add(offset)
                if expected not in (-1, number) and number >= 0:
                    self._report.reordered += 1
                    self._report.violate("I7", f"{topic.name}-{partition}: record {number}, not {expected}")
                expected = number + 1
            gone = [offset for offset in topic.acked[partition] if offset >= begin and offset not in there]
            if gone:
                self._report.lost += len(gone)
                self._report.violate("I1", f"{len(gone)} records of {topic.name}-{partition} are gone")

    def run(self, operations: int, progress: Callable[[int], None]) -> None:
        sends = [self.send] * 10 + [self.send_many] * 6
        others = [self.read] * 5 + [self.delete_before, self.roll, self.maintain]
        for done in range(operations):
            step = self._rng.choice(sends if self._rng.random() < 0.75 else others)
            try:
                step()
            except errors.MQError as error:
                self._report.violate("I3", f"{step.__name__}: {type(error).__name__}: {error}")
            self._report.faults_injected[step.__name__.replace("_", "-")] += 1
            if done % 200 == 199:
                self._settle()
                self.delete_topic()
                progress(done + 1)
        self._settle()
        for topic in self._topics:
            self._check_topic(topic)

    def finish(self) -> None:
        """Close the store under all that was handed out; then look at it once more."""
        self._store.close()
        self._recheck(len(self._kept))
        self._report.notes["views_kept"] = len(self._kept)

    def check_reopened(self, path: Path) -> None:
        with mqcore.open(path, config=STORE_CONFIG) as store:
            self._store = store
            for topic in self._topics:
                self._check_topic(topic)


@contextmanager
def _slow_disk() -> Iterator[None]:
    """Every commit round takes a millisecond or two, as on a disk, so that records are in flight for a while."""
    fast = GroupCommit._write_round

    def slow(self: GroupCommit, submissions: list[Any], total: int) -> None:
        time.sleep(0.001)
        fast(self, submissions, total)

    GroupCommit._write_round = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        GroupCommit._write_round = fast  # type: ignore[method-assign]


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` operations on a store of many topics; then it is closed, looked at and opened again."""
    report = Report("buffers", seed, durability="fsync and os, by topic", faults_wanted=faults)
    with workplace() as place, _slow_disk():
        attack = _Attack(mqcore.open(place / "store", config=STORE_CONFIG), seed, report)
        try:
            attack.run(faults, progress)
        finally:
            attack.finish()
        attack.check_reopened(place / "store")
    return report
