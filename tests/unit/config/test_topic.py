"""A topic's settings are Kafka's: names, defaults, ranges; what does not fit is an error that names key and cure."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.config import topic
from mqcore.config.keys import Key
from mqcore.config.topic import KEYS, UNSUPPORTED, TopicConfig
from mqcore.errors import InvalidConfigError

KAFKA_DEFAULTS = {
    "segment.bytes": "1073741824",
    "segment.ms": "604800000",
    "segment.index.bytes": "10485760",
    "index.interval.bytes": "4096",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "3600000",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "9223372036854775807",
    "delete.retention.ms": "86400000",
    "min.cleanable.dirty.ratio": "0.5",
    "file.delete.delay.ms": "60000",
    "preallocate": "false",
}


def test_fields_and_keys_agree() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(TopicConfig) if f.name != "overrides"}
    assert fields == {key.field: key.default for key in KEYS.values()}


def test_defaults_are_kafkas() -> None:
    described = TopicConfig.parse().describe()
    assert {name: described[name] for name in KAFKA_DEFAULTS} == KAFKA_DEFAULTS


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("retention_ms", "retention.ms"),
        ("retention.sm", "retention.ms"),
        ("cleanup.polcy", "cleanup.policy"),
        ("zz", ""),
    ],
)
def test_an_unknown_key_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        TopicConfig.parse({name: "1"})
    assert caught.value.where["key"] == name
    assert caught.value.hint == (f"Did you mean {near!r}?" if near else "")


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_key_without_meaning_here_says_why(name: str) -> None:
    with pytest.raises(InvalidConfigError, match="has no meaning here"):
        TopicConfig.parse({name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", -2),
        ("retention.ms", True),
        ("retention.ms", "7d"),
        ("retention.ms", 2**63),
        ("retention.ms", 1.5),
        ("segment.bytes", 13),
        ("segment.bytes", 2**31),
        ("cleanup.policy", "delete,purge"),
        ("cleanup.policy", ""),
        ("cleanup.policy", []),
        ("cleanup.policy", 5),
        ("compression.type", "brotli"),
        ("compression.type", 3),
        ("min.cleanable.dirty.ratio", "nan"),
        ("min.cleanable.dirty.ratio", 1.01),
        ("min.cleanable.dirty.ratio", "half"),
        ("preallocate", "yes"),
        ("preallocate", 1),
        ("mqcore.digest", "md5"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        TopicConfig.parse({name: value})  # type: ignore[dict-item]
    assert caught.value.where["key"] == name
    assert len(str(caught.value)) < 400


def test_lags_that_conflict() -> None:
    with pytest.raises(InvalidConfigError, match="above"):
        TopicConfig.parse({"min.compaction.lag.ms": 10, "max.compaction.lag.ms": 9})


def test_defaults_lie_below_overrides_and_are_not_stored() -> None:
    config = TopicConfig.parse({"retention.ms": 604_800}, {"retention.ms": "5", "segment.bytes": "1000"})
    assert (config.retention_ms, config.segment_bytes) == (604_800, 1000)
    assert config.to_dict() == {"retention.ms": "604800"}


def test_altered_sets_and_takes_away() -> None:
    config = TopicConfig.parse({"retention.ms": 1, "preallocate": "true"})
    changed = config.altered({"retention.ms": None, "cleanup.policy": ["compact", "delete"]})
    assert changed.to_dict() == {"cleanup.policy": "compact,delete", "preallocate": "true"}
    assert changed.compacted
    assert changed.deletes
    with pytest.raises(InvalidConfigError):
        config.altered({"retention": None})


def test_a_compacted_topic_rolls_in_time_for_its_lag() -> None:
    assert TopicConfig.parse({"cleanup.policy": "compact", "max.compaction.lag.ms": 5}).segment_ms_effective == 5
    assert TopicConfig.parse({"max.compaction.lag.ms": 5}).segment_ms_effective == 604_800_000


def values(key: Key) -> st.SearchStrategy[object]:
    if key.kind == "int":
        return st.integers(int(key.low), int(min(key.high, 2**63 - 1)))
    if key.kind == "float":
        return st.floats(key.low, key.high)
    if key.kind == "bool":
        return st.booleans()
    if key.kind == "set":
        return st.sets(st.sampled_from(key.choices), min_size=1).map(frozenset)
    return st.sampled_from(key.choices)


@given(st.fixed_dictionaries({}, optional={name: values(key) for name, key in topic.KEYS.items()}))
def test_what_is_stored_parses_to_the_same(given_values: dict[str, object]) -> None:
    try:
        config = TopicConfig.parse(given_values)  # type: ignore[arg-type]
    except InvalidConfigError:
        assert given_values["min.compaction.lag.ms"] > given_values.get("max.compaction.lag.ms", 2**63 - 1)  # type: ignore[operator]
        return
    assert TopicConfig.parse(config.to_dict()) == config
    assert all(config.value(KEYS[name]) == value for name, value in given_values.items())
