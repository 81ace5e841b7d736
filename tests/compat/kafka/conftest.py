"""One Kafka for all tests of this folder: started once, filled, stopped; the tests get what it left on disk."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat.kafka import jvm, traffic
from tests.compat.kafka.broker import running_kafka
from tests.compat.kafka.traffic import Seen
from tests.support.strict import needs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them on one worker: one broker is enough for two cores."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("kafka"))
            item.add_marker(pytest.mark.kafka)
            item.add_marker(pytest.mark.timeout(300))


@dataclass(frozen=True, slots=True)
class KafkaLog:
    """A partition directory that Kafka wrote and closed, and what a client read from it before."""

    directory: Path
    seen: list[Seen]


@pytest.fixture(scope="session")
def kafka_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, KafkaLog]]:
    """Topic -> its only partition: "codecs" (several segments), "appendtime", "transactions", "compacted"."""
    jvm.java()
    needs(importlib.util.find_spec("confluent_kafka") is not None, "confluent-kafka", "pip install --group test")
    with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        traffic.fill_codecs(kafka)
        traffic.fill_append_time(kafka)
        traffic.fill_transactions(kafka)
        traffic.fill_compacted(kafka)
        names = ("codecs", "appendtime", "transactions", "compacted")
        seen = {name: traffic.read_all(kafka, name) for name in names}
        kafka.stop()
        yield {name: KafkaLog(kafka.partition(name), seen[name]) for name in names}
