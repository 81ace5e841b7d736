"""A store's settings hold its bounds, and Kafka's broker names give its topics their defaults."""

from __future__ import annotations

import dataclasses

import pytest

from mqcore.config import topic
from mqcore.config.store import KEYS, SYNONYMS, StoreConfig
from mqcore.config.topic import TopicConfig
from mqcore.errors import InvalidConfigError


def test_fields_and_keys_agree() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(StoreConfig) if f.name != "topic_defaults"}
    assert fields == {key.field: key.default for key in KEYS.values()}
    assert set(SYNONYMS.values()) <= set(topic.KEYS)
    assert not set(KEYS) & set(SYNONYMS)


def test_brokers_names_become_defaults_of_topics() -> None:
    config = StoreConfig.parse({"log.retention.ms": 5, "message.max.bytes": "100", "max.open.files": 16})
    assert config.max_open_files == 16
    assert config.topic_defaults == {"retention.ms": "5", "max.message.bytes": "100"}
    assert TopicConfig.parse({}, config.topic_defaults).retention_ms == 5


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"retention.ms": 5}, "'log.retention.ms'"),
        ({"mqcore.durability": "os"}, "Set it on the topic"),
        ({"journal.ring.byte": 5}, "'journal.ring.bytes'"),
        ({"log.retention.sm": 5}, "'log.retention.ms'"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(values: dict[str, int], hint: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        StoreConfig.parse(values)
    assert hint in caught.value.hint


def test_ranges_hold_for_both_kinds() -> None:
    for values in ({"journal.ring.bytes": 1}, {"log.retention.ms": -5}):
        with pytest.raises(InvalidConfigError):
            StoreConfig.parse(values)
