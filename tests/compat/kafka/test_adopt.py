"""A partition directory that a real Kafka wrote opens here, with every record equal to what another client read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mqcore
from tests.compat.kafka.conftest import KafkaLog
from tests.compat.kafka.traffic import Seen

TOPICS = ("codecs", "appendtime", "transactions", "compacted")


def adopt(directory: Path, store_path: Path) -> dict[str, Any]:
    """`mqcore topic adopt`; its JSON."""
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", "topic", "adopt", str(directory)]
    command += ["--store", str(store_path), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def read_all(store_path: Path, topic: str) -> list[Seen]:
    """What our consumer reads, in the other client's form."""
    seen = []
    with mqcore.open(str(store_path), read_only=True) as store, store.consumer(topic, start="earliest") as consumer:
        while batches := consumer.poll(timeout_s=0.2, max_records=5000):
            for batch in batches:
                for record in batch:
                    headers = tuple((name, value) for name, value in record.headers)
                    seen.append(Seen(record.offset, record.timestamp, record.key, record.value, headers))
    return seen


@pytest.mark.parametrize("topic", TOPICS)
def test_every_record_is_equal(topic: str, kafka_logs: dict[str, KafkaLog], store_path: Path) -> None:
    log = kafka_logs[topic]
    answer = adopt(log.directory, store_path)
    assert answer["topic"] == topic
    assert answer["begin_offset"] == 0
    assert read_all(store_path, topic) == log.seen


def test_the_original_is_not_changed(kafka_logs: dict[str, KafkaLog], store_path: Path) -> None:
    log = kafka_logs["codecs"]
    before = {path.name: path.read_bytes() for path in log.directory.iterdir()}
    adopt(log.directory, store_path)
    assert {path.name: path.read_bytes() for path in log.directory.iterdir()} == before


def test_the_adopted_topic_goes_on(kafka_logs: dict[str, KafkaLog], store_path: Path) -> None:
    """New records follow the old ones, and verify finds nothing."""
    log = kafka_logs["codecs"]
    adopt(log.directory, store_path)
    with mqcore.open(str(store_path), durability="os") as store:
        end = store.end_offsets("codecs")[0]
        with store.producer() as producer:
            assert producer.send("codecs", b"new", partition=0).result().offset == end
    assert [seen.value for seen in read_all(store_path, "codecs")][-1] == b"new"
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", "log", "verify", "--store", str(store_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_damaged_directory_is_refused(kafka_logs: dict[str, KafkaLog], store_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(kafka_logs["codecs"].directory, tmp_path / "codecs-0"))
    (first, *_) = sorted(copy.glob("*.log"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", "topic", "adopt", str(copy), "--store", str(store_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert first.name in result.stderr
