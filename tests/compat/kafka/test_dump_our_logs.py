"""Kafka's DumpLogSegments reads what mqcore wrote, log and indexes, without complaint, and every record is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mqcore
from tests.compat.kafka.dump import Dump, dump_indexes, dump_logs
from tests.compat.kafka.traffic import CODECS, record

COUNT = 6000
SEGMENT_BYTES = 128 << 10
# The records have their own times, in 2023: the default retention would delete them.
KEPT = {"retention.ms": -1}


@dataclass(frozen=True, slots=True)
class Case:
    """A topic's settings, what a producer is given, and how many records are sent."""

    config: dict[str, Any]
    producer: dict[str, Any]
    count: int = COUNT


CASES = {
    **{
        f"codec-{codec}": Case(
            {"segment.bytes": SEGMENT_BYTES}, {"compression": codec}, COUNT if codec == "none" else 2500
        )
        for codec in CODECS
    },
    "topic-codec": Case({"compression.type": "zstd", "segment.bytes": SEGMENT_BYTES}, {}),
    "append-time": Case({"message.timestamp.type": "LogAppendTime", "segment.bytes": SEGMENT_BYTES}, {}),
    "dense-index": Case({"segment.bytes": SEGMENT_BYTES, "index.interval.bytes": 64}, {"batch_bytes": 1024}, 3000),
    "preallocated": Case({"segment.bytes": SEGMENT_BYTES, "preallocate": True}, {}),
    "full-index": Case({"index.interval.bytes": 0, "segment.index.bytes": 1024}, {"batch_bytes": 1024}, 3000),
}


def send_all(store: Any, topic: str, case: Case) -> None:
    """The records of `record`, one by one, with an acknowledgement in between so that batches differ in size."""
    with store.producer(**case.producer) as producer:
        for number in range(case.count):
            one = record(number)
            producer.send(
                topic,
                one["value"],
                key=one["key"],
                headers=one["headers"] or None,
                timestamp=one["timestamp"],
                partition=0,
            )
            if number % 997 == 0:
                producer.flush()


def closed_topic(path: Path, case: Case) -> Path:
    """A store with one topic, filled and closed; the directory of its partition."""
    with mqcore.open(str(path), durability="os") as store:
        store.create_topic("out", config=KEPT | case.config)
        send_all(store, "out", case)
    return path / "topics" / "out-0"


def assert_equal(dump: Dump, count: int, *, append_time: bool = False) -> None:
    """Each record as it was sent, in order, at dense offsets."""
    assert [one.offset for one in dump.records] == list(range(count))
    for number, dumped in enumerate(dump.records):
        sent = record(number)
        assert dumped.timestamp_kind == ("LogAppendTime" if append_time else "CreateTime")
        if not append_time:
            assert dumped.timestamp == sent["timestamp"]
        assert dumped.key == (None if sent["key"] is None else sent["key"].decode())
        assert dumped.payload == (None if sent["value"] is None else sent["value"].decode())
        assert dumped.header_names == tuple(name for name, _ in sent["headers"])


@pytest.mark.parametrize("name", CASES)
def test_logs_and_indexes_pass(name: str, store_path: Path) -> None:
    case = CASES[name]
    directory = closed_topic(store_path, case)
    logs = sorted(directory.glob("*.log"))
    dump = dump_logs(logs)
    assert dump.complaints == []
    assert_equal(dump, case.count, append_time=name == "append-time")
    indexes = sorted([*directory.glob("*.index"), *directory.glob("*.timeindex")])
    assert len(indexes) == 2 * len(logs)
    assert dump_indexes(indexes).complaints == []
    assert dump_indexes(sorted(directory.glob("*.index")), sanity=True).complaints == []
    if "segment.bytes" in case.config or "segment.index.bytes" in case.config:
        assert len(logs) >= 2, "several segments are what this case is about"


def test_every_codec_is_used(store_path: Path) -> None:
    """The codec that was asked for is the one in the file: Kafka says so."""
    for codec in CODECS:
        directory = closed_topic(store_path / codec, Case({}, {"compression": codec}, 300))
        assert f"compresscodec: {codec}" in dump_logs(sorted(directory.glob("*.log"))).text


def test_after_a_crash_too(store_path: Path) -> None:
    """A store that was not closed: what recovery leaves passes as well, indexes made anew."""
    import subprocess
    import sys

    code = (
        "import sys, os, signal, mqcore\n"
        "from tests.compat.kafka.test_dump_our_logs import Case, send_all\n"
        "store = mqcore.open(sys.argv[1], durability='os')\n"
        f"store.create_topic('out', config={{'segment.bytes': {SEGMENT_BYTES}, 'retention.ms': -1}})\n"
        "send_all(store, 'out', Case({}, {}, 6000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, str(store_path)]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    with mqcore.open(str(store_path), durability="os"):
        pass
    directory = store_path / "topics" / "out-0"
    dump = dump_logs(sorted(directory.glob("*.log")))
    assert dump.complaints == []
    assert_equal(dump, 6000)
    assert dump_indexes(sorted([*directory.glob("*.index"), *directory.glob("*.timeindex")])).complaints == []


def test_compacted_logs_pass(store_path: Path, clean: Callable[[Any], None]) -> None:
    """After compaction only the newest records are left, and everything holds but that offsets have gaps."""
    config = {
        "cleanup.policy": "compact",
        "segment.bytes": SEGMENT_BYTES,
        "min.cleanable.dirty.ratio": 0.01,
        "min.compaction.lag.ms": 0,
    }
    with mqcore.open(str(store_path), durability="os") as store:
        store.create_topic("out", config=config)
        with store.producer() as producer:
            for number in range(12_000):
                one = record(number)
                producer.send(
                    "out", one["value"], key=b"key-%d" % (number % 500), timestamp=one["timestamp"], partition=0
                )
        clean(store)
    directory = store_path / "topics" / "out-0"
    dump = dump_logs(sorted(directory.glob("*.log")))
    assert [line for line in dump.complaints if "followed by" not in line and "Non-consecutive" not in line] == []
    assert len(dump.records) < 12_000
    newest = {one.key: one.offset for one in dump.records}
    assert set(newest) == {f"key-{number}" for number in range(500)}
    assert all(offset >= 12_000 - 500 for offset in newest.values())
    assert dump_indexes(sorted([*directory.glob("*.index"), *directory.glob("*.timeindex")])).complaints == []


@pytest.fixture
def clean() -> Callable[[Any], None]:
    """Runs the store's maintenance now: compaction would come by itself later."""
    return lambda store: store.log.maintain()
