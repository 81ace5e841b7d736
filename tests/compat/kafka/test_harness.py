"""The harness itself: what Kafka's tool says of Kafka's own files is understood, and damage is a complaint."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.compat.kafka.conftest import KafkaLog
from tests.compat.kafka.dump import _without_slips, dump_indexes, dump_logs, dump_raw


def test_kafkas_own_files_pass(kafka_logs: dict[str, KafkaLog]) -> None:
    """Every record that the client saw is in the dump, and nothing is complained about."""
    for name, log in kafka_logs.items():
        dump = dump_logs(sorted(log.directory.glob("*.log")))
        assert dump.complaints == [], name
        by_offset = {record.offset: record for record in dump.records}
        assert sum(count for _, _, count in dump.batches) == len(dump.records)
        for seen in log.seen:
            dumped = by_offset[seen.offset]
            assert dumped.timestamp == seen.timestamp_ms
            assert dumped.key == (None if seen.key is None else seen.key.decode())
            assert dumped.payload == (None if seen.value is None else seen.value.decode())
            assert dumped.header_names == tuple(name for name, _ in seen.headers)


def test_kafkas_own_indexes_pass(kafka_logs: dict[str, KafkaLog]) -> None:
    for name, log in kafka_logs.items():
        indexes = sorted([*log.directory.glob("*.index"), *log.directory.glob("*.timeindex")])
        assert dump_indexes(indexes).complaints == [], name
        assert dump_indexes(sorted(log.directory.glob("*.index")), sanity=True).complaints == [], name
    assert dump_raw(sorted(kafka_logs["transactions"].directory.glob("*.txnindex"))).index_entries == 4


def test_the_logs_hold_what_they_should(kafka_logs: dict[str, KafkaLog]) -> None:
    """Several segments, every record kept, aborted transactions unseen."""
    assert len(list(kafka_logs["codecs"].directory.glob("*.log"))) >= 2
    assert len(kafka_logs["codecs"].seen) == 12_000
    assert len(kafka_logs["appendtime"].seen) == 500
    assert len(kafka_logs["transactions"].seen) == 4 * 50 + 50


def test_a_flipped_byte_is_a_complaint(kafka_logs: dict[str, KafkaLog], tmp_path: Path) -> None:
    """A checker that has never failed is not one."""
    (log, *_) = sorted(kafka_logs["appendtime"].directory.glob("*.log"))
    copy = Path(shutil.copy(log, tmp_path))
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    assert dump_logs([copy]).complaints


def test_slips_of_the_tool_are_told_from_findings() -> None:
    slips = ["Non-consecutive offsets in a.log", "  -1 is followed by 4800"]
    slips += ["Found timestamp mismatch in :a.timeindex", "  Index timestamp: 17, log timestamp: -1"]
    assert _without_slips(slips) == []
    gap = ["Non-consecutive offsets in a.log", "  -1 is followed by 4800", "  4800 is followed by 4802"]
    assert _without_slips(gap) == ["Non-consecutive offsets in a.log", "  4800 is followed by 4802"]
    late = ["Found timestamp mismatch in :a.timeindex", "  Index timestamp: 17, log timestamp: 18"]
    assert _without_slips([*late, "Mismatches in :a.index"]) == [*late, "Mismatches in :a.index"]
