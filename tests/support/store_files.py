"""A store directory written by hand, byte by byte: for tests of what only looks at files."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from mqcore._native import batch as native
from mqcore._native.io import Io
from mqcore.config.topic import TopicConfig
from mqcore.log import checkpoints, layout, seal, topics
from mqcore.log.checkpoints import Meta, PartitionKey, PartitionState, SegmentState, Session
from mqcore.log.internal_records import InternalRecord, encode
from mqcore.log.topics import METADATA_TOPIC, TopicInfo
from mqcore.log.views import View, ViewEnvironment
from mqcore.types import Durability
from tests.support.fake_log import FakeLog

VALUE = b"value-%d-" + b"x" * 40


@dataclass
class StoreFiles:
    """path: the store. topics: by name, with the batches (record counts) of each segment of each partition."""

    path: Path
    infos: dict[str, TopicInfo] = field(default_factory=dict)
    states: dict[PartitionKey, PartitionState] = field(default_factory=dict)
    io: Io = field(default_factory=Io)
    store_id: bytes = b"0123456789abcdef"

    def make(self, topics_: dict[str, list[list[list[int]]]], *, clean: bool = True, views: bool = True) -> StoreFiles:
        """Write the whole store. topics_: name -> partitions -> segments -> records of each batch."""
        self.path.mkdir()
        for name in (layout.TOPICS, layout.VIEWS):
            (self.path / name).mkdir()
        checkpoints.write_meta(self.io, str(self.path / layout.META), Meta(self.store_id))
        checkpoints.write_session(self.io, str(self.path / layout.SESSION), Session(0, Durability.FSYNC))
        records = []
        for name, partitions in topics_.items():
            info = TopicInfo(name, uuid.uuid5(uuid.NAMESPACE_URL, name), len(partitions), TopicConfig(), 5)
            self.infos[name] = info
            records.append((topics._format_key(info.topic_id), topics._format(info)))
            for number, segments in enumerate(partitions):
                self.partition(info, number, [self.batches(counts) for counts in segments])
        self.partition(METADATA_TOPIC, 0, [[bytes(encode([record], 5)) for record in records]])
        if views:
            self.views(records)
        if clean:
            self.close()
        return self

    def close(self) -> None:
        checkpoints.write_clean_shutdown(self.io, str(self.path / layout.CLEAN_SHUTDOWN), self.states)
        points = {key: state.log_end for key, state in self.states.items()}
        checkpoints.write_offsets(self.io, str(self.path / layout.RECOVERY_POINTS), points)

    @staticmethod
    def batches(counts: list[int]) -> list[bytes]:
        return [
            bytes(encode([(b"key%d" % i, VALUE % i) for i in range(count)], 1000 + number))
            for number, count in enumerate(counts)
        ]

    def directory(self, topic: str, number: int) -> Path:
        return self.path / layout.TOPICS / layout.partition_dir_name(topic, number)

    def segment(self, topic: str, number: int, base: int, suffix: str = layout.LOG) -> Path:
        return self.directory(topic, number) / layout.segment_name(base, suffix)

    def partition(self, info: TopicInfo, number: int, segments: list[list[bytes]]) -> None:
        directory = self.directory(info.name, number)
        directory.mkdir()
        checkpoints.write_topic_id(self.io, str(directory / layout.PARTITION_METADATA), info.topic_id)
        state = PartitionState(info.topic_id, 0, 0)
        offset, chain = 0, ""
        for index, batches in enumerate(segments):
            base = offset
            offset = self._write_segment(directory, base, batches)
            size = (directory / layout.segment_name(base)).stat().st_size
            state.segments.append(SegmentState(base, size, offset, 1000 + len(batches) - 1, 1000))
            if index + 1 < len(segments):
                chain = self._seal(directory, base, size, chain)
        state.log_end = offset
        self.states[PartitionKey(info.name, number)] = state

    @staticmethod
    def _write_segment(directory: Path, base: int, batches: list[bytes]) -> int:
        data, index, times, offset, greatest = b"", b"", b"", base, -1
        for number, batch in enumerate(batches):
            numbered = bytearray(batch)
            following = native.assign(numbered, offset, 0)
            rows, _ = native.scan(numbered)
            if number % 2:
                index += struct.pack(">II", following - 1 - base, len(data))
            if int(rows["max_timestamp"][0]) > greatest:
                greatest = int(rows["max_timestamp"][0])
                times += struct.pack(">qI", greatest, following - 1 - base)
            data += numbered
            offset = following
        for suffix, content in ((layout.LOG, data), (layout.INDEX, index), (layout.TIME_INDEX, times)):
            (directory / layout.segment_name(base, suffix)).write_bytes(content)
        return offset

    def _seal(self, directory: Path, base: int, size: int, chain: str) -> str:
        log = str(directory / layout.segment_name(base))
        digest = seal.Digest(base, "blake3", size, seal.hash_file(log, size, "blake3"), chain)
        (directory / layout.segment_name(base, layout.DIGEST)).write_bytes(seal.format_digest(digest))
        return digest.chain

    def views(self, records: list[tuple[bytes, bytes]]) -> None:
        environment = ViewEnvironment(self.io, str(self.path / layout.VIEWS), map_bytes=1 << 26, owner=self.store_id)
        log = FakeLog(METADATA_TOPIC.topic_id)
        log.records = [(0, InternalRecord(i, 5, *record)) for i, record in enumerate(records)]
        View(environment, "topics", log, topics._fold, records=log.iterate).catch_up()
        environment.commit()
        environment.close()
