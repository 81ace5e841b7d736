"""The registry folds `__metadata`: what it says exists is durable; what is deleted keeps its id till forgotten."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mqcore.clock import ManualClock
from mqcore.errors import (
    InvalidConfigError,
    InvalidTopicError,
    MQError,
    StoreFormatError,
    StoreReadOnlyError,
    TopicExistsError,
    UnknownTopicError,
)
from mqcore.log import internal_records, topics
from mqcore.log.topics import METADATA_TOPIC, TopicRegistry
from mqcore.log.views import ViewEnvironment
from tests.support.fake_log import FakeLog, decode_slice


@pytest.fixture(autouse=True)
def _decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_records, "_decode", decode_slice)


def registry(log: FakeLog, **options: object) -> TopicRegistry:
    made = TopicRegistry(log, ViewEnvironment(), clock=ManualClock(), **options)  # type: ignore[arg-type]
    made.load()
    return made


def state(r: TopicRegistry) -> object:
    return r.all(internal=True), r.deleted()


def test_what_was_made_is_there_after_a_reload() -> None:
    log = FakeLog()
    r = registry(log)
    info = r.create("payments", 20, {"retention.ms": 604_800_000})
    assert (info.partitions, info.config.retention_ms) == (20, 604_800_000)
    r.create("__consumer_offsets", 50, internal=True)
    r.alter("payments", {"retention.ms": 5, "cleanup.policy": "compact"})
    r.alter("payments", {"retention.ms": None})
    r.add_partitions("payments", 21)
    again = registry(log)
    assert state(again) == state(r)
    assert [*again.all()] == ["payments"]
    assert again.get("payments").config.to_dict() == {"cleanup.policy": "compact"}
    assert again.get("payments").partitions == 21
    assert again.find(info.topic_id) == again.get("payments")


def test_a_deleted_topic_keeps_its_id_until_it_is_forgotten() -> None:
    log = FakeLog()
    r = registry(log)
    first = r.create("a")
    r.delete("a")
    second = r.create("a")
    assert second.topic_id != first.topic_id
    again = registry(log)
    assert again.find(first.topic_id) is None
    assert again.deleted()[first.topic_id].name == "a"
    with pytest.raises(TopicExistsError):
        again.create("b", topic_id=first.topic_id)
    again.forget(first.topic_id)
    again.forget(uuid.uuid4())
    assert state(registry(log)) == ({"a": second}, {})


def test_a_record_is_durable_before_the_topic_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog()
    r = registry(log)

    def fail(next_offset: int, timeout_s: float | None = None) -> None:
        assert "a" not in r
        raise MQError("disk")

    monkeypatch.setattr(log, "wait_durable", fail)
    with pytest.raises(MQError):
        r.create("a")
    assert "a" not in r


def test_an_unknown_topic_names_the_nearest() -> None:
    r = registry(FakeLog())
    r.create("payments")
    with pytest.raises(UnknownTopicError) as caught:
        r.get("paymants")
    assert caught.value.hint == "Did you mean 'payments'?"
    assert r.find(uuid.uuid4()) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "é", "x" * 250, "a b", "../a"])
def test_names_outside_kafkas_rules(name: str) -> None:
    log = FakeLog()
    with pytest.raises(InvalidTopicError):
        registry(log).create(name)
    assert log.records == []


def test_counts_bounds_and_rights() -> None:
    log = FakeLog()
    r = registry(log, partitions_max=10, topics_max=2)
    for partitions in (0, -1, True, 11, "3"):
        with pytest.raises(InvalidTopicError):
            r.create("a", partitions)  # type: ignore[arg-type]
    r.create("a", 6)
    for total in (6, 5, 11):
        with pytest.raises(InvalidTopicError):
            r.add_partitions("a", total)
    r.create("b", 4)
    with pytest.raises(InvalidTopicError):
        r.create("c", 1)
    for name in ("a", METADATA_TOPIC.name):
        with pytest.raises(TopicExistsError):
            r.create(name)
    with pytest.raises(InvalidConfigError):
        r.create("d", config={"retention_ms": 5})
    with pytest.raises(StoreReadOnlyError):
        registry(log, read_only=True).create("e")
    assert len(log.records) == 2


def test_a_reader_follows_the_writer() -> None:
    log = FakeLog()
    writer, reader = registry(log), registry(log, read_only=True)
    writer.create("a")
    assert "a" not in reader
    assert reader.refresh()
    assert not reader.refresh()
    assert state(reader) == state(writer)


def test_the_stores_defaults_reach_topics_and_are_not_stored() -> None:
    log = FakeLog()
    registry(log, defaults={"retention.ms": "5"}).create("a")
    assert registry(log).get("a").config.retention_ms == 604_800_000
    assert registry(log, defaults={"retention.ms": "6"}).get("a").config.retention_ms == 6


GOOD = {"v": 1, "name": "a", "partitions": 1, "config": {}, "created_ms": 0, "deleted_ms": None, "internal": False}
KEY = {"v": 1, "kind": "topic", "id": str(uuid.UUID(int=5))}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, {**GOOD, "v": 2}),
        (KEY, {**GOOD, "name": "../../etc"}),
        (KEY, {**GOOD, "name": 5}),
        (KEY, {**GOOD, "partitions": 0}),
        (KEY, {**GOOD, "partitions": 1.0}),
        (KEY, {**GOOD, "partitions": 1 << 31}),
        (KEY, {**GOOD, "created_ms": "x"}),
        (KEY, {**GOOD, "deleted_ms": "x"}),
        (KEY, {**GOOD, "internal": 1}),
        (KEY, {**GOOD, "config": {"from.the.future": "1"}}),
        (KEY, {**GOOD, "config": [1]}),
        (KEY, {"v": 1}),
        (KEY, []),
        ({**KEY, "id": "zz"}, GOOD),
        ({**KEY, "kind": "group"}, GOOD),
        ({"v": 1}, GOOD),
    ],
)
def test_a_record_that_cannot_be_read_stops_the_store_with_a_clear_error(key: object, value: object) -> None:
    log = FakeLog()
    log.put(json.dumps(key).encode(), json.dumps(value).encode())
    with pytest.raises(StoreFormatError):
        registry(log)


@given(st.binary(max_size=100) | st.just(b"[" * 90_000))
def test_any_bytes_as_a_value_are_a_topic_or_a_format_error(value: bytes) -> None:
    with pytest.raises(StoreFormatError):
        topics._parse(uuid.UUID(int=5), value, {})
    with pytest.raises(StoreFormatError):
        topics._parse_key(value)


NAMES = st.sampled_from(["a", "b", "c"])


class RegistryMachine(RuleBasedStateMachine):
    """The registry beside a dict of name -> (partitions, retention), reloaded at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.log, self.model = FakeLog(), dict[str, tuple[int, int]]()
        self.dead: set[uuid.UUID] = set()
        self.registry = registry(self.log)

    @rule(name=NAMES, partitions=st.integers(1, 3), retention=st.integers(-1, 5))
    def create(self, name: str, partitions: int, retention: int) -> None:
        try:
            self.registry.create(name, partitions, {"retention.ms": retention})
        except TopicExistsError:
            assert name in self.model
        else:
            assert name not in self.model
            self.model[name] = (partitions, retention)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.model.pop(name, None) is not None:
            self.dead.add(self.registry.delete(name).topic_id)

    @rule()
    def forget(self) -> None:
        if self.dead:
            self.registry.forget(self.dead.pop())

    @rule(name=NAMES, retention=st.integers(-1, 5))
    def alter(self, name: str, retention: int) -> None:
        if name in self.model:
            self.registry.alter(name, {"retention.ms": retention})
            self.model[name] = (self.model[name][0], retention)

    @rule(name=NAMES)
    def grow(self, name: str) -> None:
        if name in self.model:
            partitions, retention = self.model[name]
            self.registry.add_partitions(name, partitions + 1)
            self.model[name] = (partitions + 1, retention)

    @rule()
    def reload(self) -> None:
        self.registry = registry(self.log)

    @invariant()
    def equals_the_model(self) -> None:
        found = self.registry.all()
        assert {n: (i.partitions, i.config.retention_ms) for n, i in found.items()} == self.model
        assert set(self.registry.deleted()) == self.dead


RegistryMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
