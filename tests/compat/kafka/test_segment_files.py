"""Segment files are Kafka's: its DumpLogSegments finds nothing wrong in ours, and our recovery of a directory that it
wrote finds what is there, keeps every byte of the log and makes the same transaction index."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mqcore._native.io import Io
from mqcore._native.producer_state import Producers
from mqcore._native.segment import Segment, recover
from tests.compat.kafka import jvm
from tests.compat.kafka.conftest import KafkaLog
from tests.compat.kafka.dump import dump_indexes, dump_logs, dump_raw
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker

LIMITS: dict[str, Any] = {"index_interval_bytes": 1000, "index_max_bytes": 1 << 20, "segment_bytes": 1 << 20}


def files(directory: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix in suffixes)


def chunk(seed: int) -> bytearray:
    """Several batches; timestamps go up and down."""
    return bytearray(
        b"".join(
            encode([Plain(b"v" * (seed * 7 % 90), b"k", timestamp=10_000 + (seed * 37 + n * 11) % 900)] * (n % 4 + 1))
            for n in range(6)
        )
    )


@pytest.mark.parametrize("end", ["close", "seal", "crash"])
def test_kafka_reads_our_segments(tmp_path: Path, end: str) -> None:
    jvm.java()
    segment = Segment.create(Io(), tmp_path, 1_000, preallocate=True, **LIMITS)
    for seed in range(120):
        append_time = 20_000 + seed if seed % 10 == 0 else -1
        segment.append(chunk(seed), segment.next_offset, seed // 50, append_time)
    size, next_offset = segment.size, segment.next_offset
    if end == "crash":
        (tmp_path / f"{1_000:020d}.log").open("ab").write(b"torn")
        del segment
        found = recover(Io(), tmp_path, 1_000, max_batch_bytes=1 << 20, allow_gaps=False, index_interval_bytes=1000)
        assert (found.kind, found.valid_size, found.next_offset) == ("torn", size, next_offset)
        Io().truncate(tmp_path / f"{1_000:020d}.log", size)
    else:
        if end == "seal":
            segment.append_txn(7, 1_000, 1_010, 1_011)
            segment.seal()
        segment.close()
    logs = dump_logs(files(tmp_path, ".log"))
    assert not logs.complaints
    assert len(logs.batches) == 720
    assert (logs.batches[0][0], logs.batches[-1][1]) == (1_000, next_offset - 1)
    indexes = files(tmp_path, ".index", ".timeindex")
    assert not dump_indexes(indexes).complaints
    assert not dump_indexes(indexes, sanity=True).complaints
    entries = dump_raw(files(tmp_path, ".index", ".timeindex", ".txnindex"))
    assert not entries.complaints
    assert entries.index_entries > size // 2_000


def test_recovery_of_kafkas_own_directories(kafka_logs: dict[str, KafkaLog], tmp_path: Path) -> None:
    for name, log in kafka_logs.items():
        directory = tmp_path / name
        shutil.copytree(log.directory, directory)
        logs = files(directory, ".log")
        producers = Producers(1000)
        for number, path in enumerate(logs):
            before = path.read_bytes()
            txn_index = path.with_suffix(".txnindex")
            aborted = txn_index.read_bytes() if txn_index.exists() else b""
            found = recover(Io(), directory, int(path.stem), max_batch_bytes=1 << 25, allow_gaps=name == "compacted",
                            producers=producers)  # fmt: skip
            assert (found.kind, found.valid_size, path.read_bytes()) == ("clean", len(before), before)
            if number + 1 < len(logs) and name != "compacted":
                assert found.next_offset == int(logs[number + 1].stem)
            assert (txn_index.read_bytes() if txn_index.exists() else b"") == aborted
        assert not dump_indexes([p for p in files(directory, ".index", ".timeindex") if p.stat().st_size]).complaints


def test_kafka_reads_our_transaction_index(tmp_path: Path) -> None:
    jvm.java()
    data = encode([Plain(b"a")] * 2, 0, attributes=TRANSACTIONAL, producer_id=1) + marker(2, 1, commit=False)
    (tmp_path / f"{0:020d}.log").write_bytes(data)
    recover(Io(), tmp_path, 0, max_batch_bytes=1 << 20, allow_gaps=False)
    dump = dump_raw(files(tmp_path, ".txnindex"))
    assert not dump.complaints
    assert "producerId: 1 firstOffset: 0 lastOffset: 2 lastStableOffset: 3" in dump.text
