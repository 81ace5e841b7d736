"""Kafka's DumpLogSegments reads our producer snapshots, and we read those of a real Kafka."""

from __future__ import annotations

import re
from pathlib import Path

from mqcore._native.io import Io
from mqcore._native.producer_state import Producers
from mqcore.log.manager import LogStore
from tests.compat.kafka import jvm
from tests.compat.kafka.conftest import KafkaLog
from tests.compat.kafka.dump import dump_raw
from tests.support.batches import TRANSACTIONAL, Plain, encode

_ENTRY = re.compile(
    r"producerId: (\d+) producerEpoch: (-?\d+) coordinatorEpoch: (-?\d+) currentTxnFirstOffset: (\S+) "
    r"lastTimestamp: (-?\d+) ?(?:firstSequence: (-?\d+) lastSequence: (-?\d+) lastOffset: (-?\d+) offsetDelta: (-?\d+))?"
)


def dumped(snapshot: Path) -> dict[int, tuple[str, ...]]:
    """Producer id -> the other fields, as the tool prints them."""
    return {int(m[1]): m.groups("-1")[1:] for m in _ENTRY.finditer(dump_raw([snapshot]).text)}


def test_kafka_reads_ours(tmp_path: Path) -> None:
    jvm.java()
    with LogStore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t")
        log = store.partition("t", 0)
        for i in range(7):
            log.append(bytearray(encode([Plain(b"v")] * 3, producer_id=5, producer_epoch=2, base_sequence=3 * i)))
        log.append(bytearray(encode([Plain(b"v")] * 2, producer_id=6, attributes=TRANSACTIONAL)))
        log.append(bytearray(encode([Plain(b"v")], producer_id=8, attributes=TRANSACTIONAL)))
        log.append_marker(8, 1, commit=False, coordinator_epoch=9)
    snapshot = max((tmp_path / "s" / "topics" / "t-0").glob("*.snapshot"))
    assert snapshot.name == f"{25:020d}.snapshot"
    found = dumped(snapshot)
    assert len(found) == 3, dump_raw([snapshot]).text
    time = str(Plain().timestamp)
    assert found[5] == ("2", "-1", "OptionalLong.empty", time, "18", "20", "20", "2")
    assert found[6] == ("0", "-1", "OptionalLong[21]", time, "0", "1", "22", "1")
    assert found[8][:3] == ("1", "9", "OptionalLong.empty")
    assert found[8][4:] == ("-1", "-1", "-1", "-1")


def test_we_read_kafkas(kafka_logs: dict[str, KafkaLog], tmp_path: Path) -> None:
    """Each of its snapshots says what a walk through its segments says, where compaction left the batches."""
    read = 0
    for name, log in kafka_logs.items():
        for snapshot in sorted(log.directory.glob("*.snapshot")):
            producers, epoch = Producers.decode(snapshot.read_bytes(), int(snapshot.stem), 1000)
            read += 1
            assert epoch == -1
            theirs = dumped(snapshot)
            ours = {facts[0]: facts for facts in producers.entries()}
            assert ours.keys() == theirs.keys()
            for producer_id, (_, producer_epoch, sequence, offset, timestamp, _, _) in ours.items():
                of_kafka = theirs[producer_id]
                assert (str(producer_epoch), str(timestamp)) == (of_kafka[0], of_kafka[3])
                assert (str(sequence), str(offset)) == (of_kafka[5], of_kafka[6])
            if name == "compacted":
                continue
            walked = Producers(1000)
            for path in sorted(log.directory.glob("*.log")):
                if int(path.stem) < int(snapshot.stem):
                    walked.walk(Io(), path, 0, path.stat().st_size)
            if walked.next_offset == int(snapshot.stem):
                known = {facts[0]: facts[1:4] for facts in walked.entries()}
                assert {producer_id: facts[1:4] for producer_id, facts in ours.items()} == known
    assert read >= 4
