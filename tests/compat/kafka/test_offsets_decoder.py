"""Kafka's `kafka-dump-log --offsets-decoder` reads our `__consumer_offsets` as we mean it: offsets, groups, members,
assignments, tombstones."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import mqcore
from mqcore.groups import admin
from mqcore.types import TopicPartition
from tests.compat.kafka import jvm

_TOOL = "org.apache.kafka.tools.DumpLogSegments"


def decoded(files: list[Path]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(key, value) of every record, as the tool prints them; None for a tombstone."""
    names = ",".join(str(path) for path in files)
    result = jvm.run("tools", _TOOL, "--offsets-decoder", "--files", names)
    assert result.returncode == 0, result.stderr
    found = []
    for line in result.stdout.splitlines():
        if line.startswith("| offset:"):
            key = line.split(" key: ", 1)[1]
            text, _, payload = key.partition(" payload: ")
            found.append((json.loads(text), None if payload in ("", "null", "<DELETE>") else json.loads(payload)))
    return found


def test_the_decoder_reads_what_groups_leave(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with mqcore.open(path, durability="os", config={"offsets.topic.num.partitions": 1}) as store:
        store.create_topic("payments", 2)
        topic_id = store.topic("payments").topic_id
        with store.producer() as producer:
            producer.send_many("payments", [b"x"] * 10, partition=0)
        with store.consumer("payments", group="ledger", client_id="teller", group_instance_id="one") as consumer:
            consumer.poll(5)
            consumer.commit({("payments", 0): (7, "checkpoint")})
            member = consumer.group_metadata().member_id
        store.groups.commit_offsets("gone", {TopicPartition("payments", 1): 3})
        admin.delete(store.groups, "gone")
    records = decoded(sorted((path / "topics" / "__consumer_offsets-0").glob("*.log")))
    offsets = [(key["data"], value["data"]) for key, value in records if value is not None and "topic" in key["data"]]
    assert [(key["group"], key["topic"], key["partition"]) for key, _ in offsets] == [
        ("ledger", "payments", 0),
        ("gone", "payments", 1),
    ]
    assert [(value["offset"], value["metadata"]) for _, value in offsets] == [(7, "checkpoint"), (3, "")]
    kafkas = base64.urlsafe_b64encode(topic_id.bytes).decode().rstrip("=")  # as Kafka writes a topic id
    assert {value["topicId"] for _, value in offsets} == {kafkas}
    groups = [value["data"] for key, value in records if value is not None and "topic" not in key["data"]]
    assert groups[0]["protocolType"] == "consumer"
    assert (groups[0]["generation"], groups[0]["protocol"], groups[0]["leader"]) == (1, "range", member)
    (described,) = groups[0]["members"]
    assert (described["memberId"], described["groupInstanceId"], described["clientId"]) == (member, "one", "teller")
    assert "payments" in json.dumps(described["subscription"])
    assert "payments" in json.dumps(described["assignment"])
    assert {key["data"]["group"] for key, value in records if value is None} == {"gone"}
