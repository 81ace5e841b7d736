"""Against what a Python service would otherwise pick as an embedded log: LMDB, RocksDB; and another batch encoder."""

from __future__ import annotations

import os
import shutil
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqcore._native.batch import survey
from mqcore.bench.harness import Comparison, Side, case
from mqcore.bench.material import COUNT, TOPIC, NewStore, fresh, values
from mqcore.client.producer import Producer
from mqcore.clock import SystemClock
from mqcore.config.topic import TopicConfig
from mqcore.log.topics import TopicInfo


class _NewDirectory:
    """A peer's new database directory each round."""

    def __init__(self, directory: Path, opener: Any) -> None:
        self._directory, self._opener = directory, opener

    def prepare(self) -> Any:
        self.path = fresh(self._directory, "peer")
        self.path.mkdir()
        return self._opener(str(self.path))

    def clean_up(self, peer: Any) -> None:
        peer.close()
        shutil.rmtree(self.path)


def _thousands(items: list[bytes]) -> list[list[tuple[bytes, bytes]]]:
    pack = struct.Struct(">Q").pack
    keyed = [(pack(number), value) for number, value in enumerate(items)]
    return [keyed[at : at + 1000] for at in range(0, len(keyed), 1000)]


@case("vs_lmdb", goal=3.0, base="py-lmdb putmulti of 1,000")
def vs_lmdb(directory: Path) -> Comparison:
    """Ours one send() a record; theirs putmulti(append=True) of a thousand a transaction, no sync: both page cache."""
    import lmdb

    items = values()
    chunks = _thousands(items)

    def opener(path: str) -> Any:
        return lmdb.open(path, map_size=1 << 30, sync=False, metasync=False, writemap=True, lib_version=0)

    def base(environment: Any) -> None:
        for chunk in chunks:
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(chunk, append=True)

    def run(producer: Any) -> None:
        send = producer.send
        for value in items:
            send(TOPIC, value)
        producer.flush()

    peer, store = _NewDirectory(directory, opener), NewStore(directory)
    return Comparison(
        Side(base, peer.prepare, peer.clean_up), Side(run, store.prepare, store.clean_up), COUNT, rounds=5
    )


@case("vs_rocksdb", goal=8.0, base="rocksdict WriteBatch of 1,000")
def vs_rocksdb(directory: Path) -> Comparison:
    """send_many of lists of 1,000 against RocksDB's write batches of 1,000."""
    from rocksdict import Options, Rdict, WriteBatch

    items = values()
    chunks = _thousands(items)
    lists = [items[at : at + 1000] for at in range(0, COUNT, 1000)]

    def base(database: Any) -> None:
        for chunk in chunks:
            batch = WriteBatch(raw_mode=True)
            for key, value in chunk:
                batch.put(key, value)
            database.write(batch)

    def run(producer: Any) -> None:
        for chunk in lists:
            producer.send_many(TOPIC, chunk)
        producer.flush()

    peer = _NewDirectory(directory, lambda path: Rdict(path + "/db", Options(raw_mode=True)))
    store = NewStore(directory)
    return Comparison(
        Side(base, peer.prepare, peer.clean_up), Side(run, store.prepare, store.clean_up), COUNT, rounds=5
    )


class _Nowhere:
    """A partition log that numbers what it gets and forgets it."""

    high_watermark = 1 << 62
    write_position = 0
    _next = 0

    def append(self, batches: Any, **_: Any) -> tuple[int, int, int]:
        facts = survey(batches, 1 << 30)
        assert facts is not None
        base, self._next = self._next, self._next + facts[0]
        return base, self._next, -1


class _NowhereStore:
    """As much of a store as a producer asks for: encoding is all that is left to measure."""

    clock = SystemClock()
    marks = None

    def topic(self, name: str) -> TopicInfo:
        return TopicInfo(name, uuid.UUID(int=9), 1, TopicConfig.parse({}))

    def partition(self, topic: str, partition: int) -> _Nowhere:
        return _Nowhere()


def _against_aiokafka(send_all: Callable[[Producer, list[list[bytes]]], None]) -> Comparison:
    """Encode only: the same records into 16 KiB batches, checksum on, into a log that forgets them. aiokafka's builder
    has one call, append() of a record."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    items = [os.urandom(100) for _ in range(50_000)]
    chunks = [items[at : at + 148] for at in range(0, len(items), 148)]

    def base(_: Any) -> None:
        for chunk in chunks:
            builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 16384)
            append = builder.append
            for number, value in enumerate(chunk):
                append(number, 0, None, value, [])
            builder.build()

    def run(producer: Producer) -> None:
        send_all(producer, chunks)
        producer.flush()

    def prepare() -> Producer:
        nowhere: Any = _NowhereStore()
        producer = Producer(nowhere, batch_bytes=16384, idempotence=False)  # as the base: no producer id
        producer.send_many(TOPIC, items[:10_000])  # its buffers are there, as the base's allocator has its own
        producer.flush()
        return producer

    return Comparison(Side(base), Side(run, prepare, lambda producer: producer.close()), len(items))


@case("vs_aiokafka", goal=4.0, base="aiokafka's Cython builder")
def vs_aiokafka(directory: Path) -> Comparison:
    """Encode only: send_many of lists of one batch's records, against append() of each, the only call that it has."""

    def send_all(producer: Producer, chunks: list[list[bytes]]) -> None:
        for chunk in chunks:
            producer.send_many(TOPIC, chunk)

    return _against_aiokafka(send_all)


@case("vs_aiokafka_each", goal=2.0, base="aiokafka's Cython builder")
def vs_aiokafka_each(directory: Path) -> Comparison:
    """Encode only: send() of each record, which also finds its partition and returns its Delivery."""

    def send_all(producer: Producer, chunks: list[list[bytes]]) -> None:
        send = producer.send
        for chunk in chunks:
            for value in chunk:
                send(TOPIC, value)

    return _against_aiokafka(send_all)
