"""A table is the latest value of each key of a compacted topic, whoever wrote it and however it is packed."""

from __future__ import annotations

from pathlib import Path

import pytest

import mqcore
from mqcore.errors import InvalidConfigError, UnknownTopicError


@pytest.fixture(params=["os", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> mqcore.Store:
    return mqcore.open(tmp_path / "s", durability="os") if request.param == "os" else mqcore.open(":memory:")


@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "lz4"])
def test_a_table_follows_all_partitions_of_its_topic(store: mqcore.Store, codec: str) -> None:
    with store:
        store.create_topic("t", partitions=3, config={"cleanup.policy": "compact", "compression.type": codec})
        model: dict[bytes, bytes] = {}
        table = store.table("t")
        with store.producer() as producer:
            for turn in range(4):
                for i in range(turn, 200, turn + 1):
                    key, value = b"%03d" % i, b"%d " % turn * 20
                    producer.send("t", value if i % 11 else None, key=key)
                    model[key] = value
                    if not i % 11:
                        del model[key]
                producer.flush()
                assert dict(table.items()) == model
                assert list(table.items(b"100", reverse=True, limit=5)) == sorted(model.items())[::-1][:5]
                if turn == 1:
                    store.log.views.commit()
        assert (table[b"001"], table.get(b"000"), b"002" in table) == (model[b"001"], None, b"002" in model)
        digest = table.digest()
        table.rebuild()
        assert table.digest() == digest


def test_long_keys_have_their_place(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t", config={"cleanup.policy": "compact"})
        keys = [b"a", b"b" * 600, b"b" * 480, b"b" * 700, b"c", b"b" * 479 + b"a" * 50]
        with store.producer() as producer:
            for key in keys:
                producer.send("t", b"v", key=key)
        table = store.table("t")
        for _ in range(2):
            assert list(table) == sorted(keys)
            assert list(table.keys(reverse=True)) == sorted(keys, reverse=True)
            assert list(table.keys(b"b" * 500, b"b" * 650)) == [b"b" * 600]
            assert list(table.keys(b"b" * 480, b"b" * 700)) == [b"b" * 480, b"b" * 600]
            assert list(table.keys(prefix=b"b" * 500, limit=1, reverse=True)) == [b"b" * 700]
            store.log.views.commit()


def test_a_key_in_two_partitions_has_the_value_of_the_one_it_belongs_to(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t", partitions=2, config={"cleanup.policy": "compact"})
        with store.producer() as producer:
            right = producer.send("t", b"right", key=b"k").result().partition
            producer.send("t", b"wrong", key=b"k", partition=1 - right)
            producer.send("t", b"only", key=b"j", partition=0)
            producer.send("t", b"only", key=b"i", partition=1)
        table = store.table("t")
        assert [table[key] for key in (b"i", b"j", b"k")] == [b"only", b"only", b"right"]
        assert dict(table.items()) == {b"i": b"only", b"j": b"only", b"k": b"right"}


def test_a_table_grows_with_its_topic_and_ends_with_it(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t", config={"cleanup.policy": "compact"})
        table = store.table("t")
        assert list(table.items()) == []
        store.add_partitions("t", 4)
        with store.producer() as producer:
            producer.send("t", b"1", key=b"k", partition=3)
        assert table[b"k"] == b"1"
        store.delete_topic("t")
        with pytest.raises(UnknownTopicError):
            table[b"k"]
        store.create_topic("t", config={"cleanup.policy": "compact"})
        with pytest.raises(UnknownTopicError):
            table[b"k"]
        assert store.table("t").get(b"k") is None


def test_a_topic_that_is_not_compacted_has_no_table(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t")
        with pytest.raises(InvalidConfigError, match="compact"):
            store.table("t")
        with pytest.raises(UnknownTopicError):
            store.table("none")
