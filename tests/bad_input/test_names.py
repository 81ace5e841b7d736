"""A topic's name is one that Kafka takes, or it is refused in words; none leaves the store's directory, and no number of
names exhausts anything but its limit."""

from __future__ import annotations

import os
import string
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mqcore as mq
from mqcore.errors import InvalidConfigError, InvalidTopicError, MQError, UnknownTopicError
from tests.support.processes import mqcore

LEGAL = string.ascii_letters + string.digits + "._-"  # org.apache.kafka.common.internals.Topic.LEGAL_CHARS
ESCAPES = [
    *("", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", "a/b", "a/../../b", "a\\b", "a\0b", "\0", "~root"),
    *("a b", "a\n", "\na", "a\r", "ä", "а", "１", "a" * 250, "a" * 100_000, "%2e%2e%2f", "a:b", "*", "${HOME}", "`id`"),
    *("\ud800", "a\u202eb", "\N{FULLWIDTH SOLIDUS}x", "CON ", "a;b", "a'b", 'a"b', "<script>"),
]
WIDE = {"dots": "...", "dashes": "-", "digits": "0-0", "long": "x" * 249}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mq.Store]:
    with mq.open(tmp_path_factory.mktemp("names") / "s", durability="memory") as opened:
        opened.create_topic("first")  # __metadata has its directory from now on
        yield opened


def kafka_takes(name: str) -> bool:
    """Topic.validate of Kafka, written again."""
    return 0 < len(name) <= 249 and name not in (".", "..") and all(letter in LEGAL for letter in name)


NAMES = st.one_of(
    st.text(alphabet=LEGAL, max_size=260),
    st.text(max_size=20),
    st.text(alphabet="./\\-_a\0 ", max_size=8),
    st.sampled_from(ESCAPES),
)


@given(NAMES)
def test_kafkas_names_are_taken_and_no_others(store: mq.Store, name: str) -> None:
    """Taken: the topic works, and its files lie in a directory of its own, in the store. Refused: nothing came to be."""
    topics = os.path.join(store.path, "topics")
    before = set(os.listdir(topics))
    if not kafka_takes(name):
        with pytest.raises(InvalidTopicError, match="invalid topic name") as caught:
            store.create_topic(name)
        assert len(str(caught.value)) < 1000, "a name of any length does not flood the message"
        assert set(os.listdir(topics)) == before
        with pytest.raises(UnknownTopicError), store.producer() as producer:
            producer.send(name, b"x")
        return
    if name == "__metadata":
        return
    store.create_topic(name)
    try:
        with store.producer(linger_ms=0) as producer:
            producer.send(name, b"value").result()
        assert set(os.listdir(topics)) - before == {f"{name}-0"}
        assert [record.value for record in store.consumer([name], follow=False)] == [b"value"]
    finally:
        store.delete_topic(name)
        store.log.maintain()


@pytest.mark.parametrize("name", ESCAPES)
def test_no_door_lets_a_name_out(store: mq.Store, tmp_path: Path, name: str) -> None:
    """Create, alter, delete, send, read, adopt, dump: a name that is none is an error of ours everywhere."""
    outside = sorted(os.listdir(os.path.dirname(store.path)))
    calls = [
        lambda: store.create_topic(name),
        lambda: store.alter_topic(name, {"retention.ms": 1}),
        lambda: store.add_partitions(name, 2),
        lambda: store.delete_topic(name),
        lambda: store.topic(name),
        lambda: store.delete_before(name, {0: 0}),
        lambda: store.consumer([name]),
        lambda: store.adopt(str(tmp_path), topic=name, partition=0),
    ]
    for call in calls:
        with pytest.raises(MQError):
            call()
    assert sorted(os.listdir(os.path.dirname(store.path))) == outside
    assert os.listdir(tmp_path) == []


def test_names_that_the_command_line_is_given(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for name in ("../x", "a b", "..", "x" * 250):
        (error,) = mqcore("topic", "create", name, "--store", path, code=1)
        assert error["error"] == "InvalidTopicError"
        (error,) = mqcore("produce", "--create", name, "--store", path, stdin=b"1\n", code=1)
        assert error["error"] in ("InvalidTopicError", "UnknownTopicError")
        (error,) = mqcore("log", "dump", name, "--store", path, code=1)
        assert error["error"] in ("InvalidTopicError", "UnknownTopicError", "StoreFormatError")
    assert sorted(os.listdir(tmp_path)) == ["s"]
    assert os.listdir(path / "topics") in (["__metadata-0"], [])


@pytest.mark.parametrize("name", WIDE.values(), ids=WIDE)
def test_odd_names_of_kafkas_live_through_a_restart_and_a_delete(tmp_path: Path, name: str) -> None:
    for durability in ("os", "fsync"):
        with mq.open(tmp_path, durability=durability) as store:
            if name not in store.topics():
                store.create_topic(name, partitions=11)
            with store.producer() as producer:
                producer.send(name, b"v", partition=10)
    with mq.open(tmp_path) as store:
        assert store.end_offsets(name)[10] == 2
        store.delete_topic(name)
        store.log.maintain()
        assert store.topics() == {}
    assert [one for one in os.listdir(tmp_path / "topics") if not one.startswith("__metadata")] == []


@pytest.mark.parametrize(
    ("config", "made", "limit"),
    [
        ({"max.partitions": 2000}, 2000, "too many partitions in this store .*limit=2000"),
        ({"max.topics": 2000}, 2000, "too many topics .*limit=2000"),
    ],
)
def test_a_million_names_meet_the_limit_in_words(config: dict[str, int], made: int, limit: str) -> None:
    """The limit names itself; what was made before works, is there after a restart of the registry, and can go."""
    with mq.open(":memory:", config=config) as store:
        with pytest.raises(InvalidTopicError, match=limit):
            deque((store.create_topic(f"topic-{number:07}") for number in range(1_000_000)), maxlen=0)
        assert len(store.topics()) == made
        with pytest.raises(InvalidTopicError, match=limit.partition(" .*")[0]):
            store.create_topic("one-more")
        store.log.registry.load()
        assert len(store.topics()) == made
        with store.producer() as producer:
            producer.send("topic-0001999", b"x").result()
        store.delete_topic("topic-0000000")
        store.create_topic("one-more")


@pytest.mark.parametrize("count", [0, -1, 1 << 31, 10**12, 10**30])
def test_partition_counts_out_of_range(store: mq.Store, count: int) -> None:
    before = set(store.topics())
    with pytest.raises(InvalidTopicError):
        store.create_topic("counted", partitions=count)
    assert set(store.topics()) == before


def test_limits_out_of_range_are_refused() -> None:
    for value in (0, -5, 10**12, "many"):
        with pytest.raises(InvalidConfigError, match=r"max\.partitions"):
            mq.open(":memory:", config={"max.partitions": value})
