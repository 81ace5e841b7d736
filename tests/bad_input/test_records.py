"""Records of any size, time and shape are stored as they came, or refused in words; a refused one changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mqcore as mq
from mqcore.errors import InvalidRecordError, MQError, RecordTooLargeError
from tests.support.processes import mqcore

CODECS = ["uncompressed", "gzip", "snappy", "lz4", "zstd"]
FASTEST = {"gzip": {"compression.gzip.level": 1}, "lz4": {"compression.lz4.level": 1}}
HUGE = 100_000_000
DAY_MS = 86_400_000
INT64_MAX = (1 << 63) - 1


@pytest.fixture(scope="module")
def huge() -> bytes:
    """100 MB with four bits of entropy a byte: every codec has work, none an easy one."""
    return np.random.default_rng(1).integers(0, 16, HUGE, dtype=np.uint8).tobytes()


@pytest.fixture
def store() -> Iterator[mq.Store]:
    with mq.memory() as opened:
        yield opened


def values_of(store: mq.Store, topic: str, **options: Any) -> list[bytes | None]:
    return [record.value for record in store.consumer(topic, follow=False, **options)]


# -- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_record_of_100_mb_comes_back_equal(fast_path: Path, huge: bytes, codec: str) -> None:
    """Between small and empty neighbours, in every codec, after a restart, as records and as batches."""
    config = {"max.message.bytes": HUGE + (1 << 20), "compression.type": codec, **FASTEST.get(codec, {})}
    with mq.open(fast_path / "s", durability="os") as store:
        store.create_topic("t", config=config)
        with store.producer() as producer:
            producer.send("t", b"before")
            assert producer.send("t", huge, key=b"k").result().offset == 1
            producer.send("t", b"")
            producer.send_many("t", [b"", b"after"])
    with mq.open(fast_path / "s", durability="os") as store:
        found = values_of(store, "t")
        assert found[0] == b"before"
        assert found[1] == huge
        assert found[2:] == [b"", b"", b"after"]
        del found
        sizes = [
            int(size) for batch in store.consumer("t", follow=False).batches() for size in batch.values.to_numpy()[2]
        ]
        assert sizes == [6, HUGE, 0, 0, 5]


def test_a_record_of_100_mb_is_refused_by_default(store: mq.Store, huge: bytes) -> None:
    """RecordTooLargeError names the size and the limit, from each way in; the records around it are sent."""
    store.create_topic("t")
    with store.producer() as producer:
        producer.send("t", b"one")
        for call in (
            lambda: producer.send("t", huge),
            lambda: producer.send("t", b"", key=huge),
            lambda: producer.send("t", b"", headers=[("h", huge)]),
            lambda: producer.send_many("t", [b"two", huge, b"never"]),
        ):
            with pytest.raises(
                RecordTooLargeError, match=r"max\.message\.bytes.*size=1000\d{5} limit=1048588"
            ) as caught:
                call()
            assert caught.value.where["size"] >= HUGE
            assert caught.value.where["limit"] == (1 << 20) + 12
        assert caught.value.where["sent"] == 1
        producer.send("t", b"three")
    assert values_of(store, "t") == [b"one", b"two", b"three"]


def test_the_limit_is_exact(store: mq.Store) -> None:
    """The largest record that fits, and one byte more; also after the limit was changed under a living producer."""
    store.create_topic("t", config={"max.message.bytes": 1000})
    with store.producer() as producer:
        size = next(n for n in range(1000, 0, -1) if not refused(producer, b"x" * n))
        assert size in range(900, 1000)
        store.alter_topic("t", {"max.message.bytes": 2000})
        producer.send("t", b"y").result()  # settings are looked at with each append
        producer.send("t", b"x" * (size + 900)).result()
    assert [len(value or b"") for value in values_of(store, "t")] == [size, 1, size + 900]


def refused(producer: Any, value: bytes) -> bool:
    try:
        producer.send("t", value).result()
    except RecordTooLargeError:
        return True
    return False


@pytest.mark.parametrize("codec", CODECS)
def test_empty_and_missing_values_and_keys_differ(store: mq.Store, codec: str) -> None:
    """0 bytes is not null: value, key and header, one by one and in columns."""
    store.create_topic("t", config={"compression.type": codec})
    pairs = [(b"", None), (b"", b""), (None, b""), (None, b"k"), (b"", b"k")]
    with store.producer() as producer:
        for value, key in pairs:
            producer.send("t", value, key=key, headers=[("", b""), ("n", None), ("", b"")])
        producer.send_many("t", [value for value, _ in pairs], keys=[key for _, key in pairs])
        producer.send_many("t", pa.array([value for value, _ in pairs], pa.binary()))
        producer.send_many("t", np.empty((3, 0), np.uint8))
        producer.send_many("t", [])
        producer.send_many("t", np.empty((0, 5), np.uint8))
    found = [(record.value, record.key, record.headers) for record in store.consumer("t", follow=False)]
    headers = [("", b""), ("n", None), ("", b"")]
    assert found[:5] == [(value, key, headers) for value, key in pairs]
    assert found[5:10] == [(value, key, []) for value, key in pairs]
    assert found[10:] == [*((value, None, []) for value, _ in pairs), *[(b"", None, [])] * 3]


def test_a_million_empty_records(store: mq.Store) -> None:
    store.create_topic("t")
    with store.producer() as producer:
        producer.send_many("t", np.empty((1_000_000, 0), np.uint8)).result()
    sizes = [batch.values.to_numpy()[2] for batch in store.consumer("t", follow=False).batches(100_000)]
    assert sum(map(len, sizes)) == 1_000_000
    assert not any(part.any() for part in sizes)


# -- times ---------------------------------------------------------------------------------------------------------

NEGATIVE = [-1, -DAY_MS, -(1 << 63)]
BEYOND = [1 << 63, 1 << 64, -(1 << 63) - 1, 10**30]


def sends_at(producer: Any, topic: str, when: int) -> list[Callable[[], object]]:
    """Each way to give a record its time."""
    return [
        lambda: producer.send(topic, b"x", timestamp=when),
        lambda: producer.send_many(topic, [b"x"], timestamps=when),
        lambda: producer.send_many(topic, [b"x", b"y"], timestamps=[0, when]),
        lambda: producer.send_many(topic, [b"x"], timestamps=[when], headers=[None]),
    ]


@pytest.mark.parametrize("when", NEGATIVE + BEYOND)
def test_times_that_are_none_are_refused(store: mq.Store, when: int) -> None:
    """Negative, or past 64 bits: refused in words by each way in, under either kind of timestamp."""
    for topic, kind in (("mine", "CreateTime"), ("logs", "LogAppendTime")):
        store.create_topic(topic, config={"message.timestamp.type": kind, "message.timestamp.after.max.ms": INT64_MAX})
        with store.producer() as producer:
            for call in sends_at(producer, topic, when):
                with pytest.raises(InvalidRecordError, match="timestamp") as caught:
                    call()
                assert str(when) in str(caught.value)
            producer.send_many(topic, [b"fine"], timestamps=[0])
        assert values_of(store, topic)[-1:] == [b"fine"]


def test_unsigned_times_past_64_bits_do_not_wrap_around(store: mq.Store) -> None:
    store.create_topic("t", config={"message.timestamp.after.max.ms": INT64_MAX})
    with store.producer() as producer:
        with pytest.raises(InvalidRecordError, match="timestamp"):
            producer.send_many("t", [b"x"], timestamps=np.array([(1 << 64) - 1], np.uint64))
        producer.send_many("t", [b"y"], timestamps=np.array([INT64_MAX], np.uint64))
    assert values_of(store, "t") == [b"y"]


def test_the_far_future_is_refused_by_default_and_kept_where_allowed(store: mq.Store) -> None:
    """An hour ahead, as Kafka 4: past it the error names the setting. Where it is allowed, a record of the end of time is
    stored, found by its time, and keeps its neighbours readable."""
    now = store.log.clock.wall_ms()
    store.create_topic("t")
    store.create_topic(
        "wide", config={"message.timestamp.after.max.ms": INT64_MAX, "segment.bytes": 200, "retention.ms": -1}
    )
    with store.producer() as producer:
        for when in (now + 2 * 3_600_000, 1 << 62, INT64_MAX):
            with pytest.raises(InvalidRecordError, match=r"future \(message\.timestamp\.after\.max\.ms\)"):
                producer.send("t", b"x", timestamp=when)
            with pytest.raises(InvalidRecordError, match=r"future \(message\.timestamp\.after\.max\.ms\)"):
                producer.send_many("t", [b"x"], timestamps=[when])
        for when in (0, now, INT64_MAX, now, 0):
            producer.send("wide", b"%d" % when, timestamp=when).result()
    found = [(record.timestamp, record.value) for record in store.consumer("wide", follow=False)]
    assert found == [(when, b"%d" % when) for when in (0, now, INT64_MAX, now, 0)]
    for at, first in ((now + 1, INT64_MAX), (INT64_MAX, INT64_MAX), (1, now), (0, 0)):
        record = next(iter(store.consumer("wide", start=at, follow=False)))
        assert record.timestamp == first
    store.log.maintain()
    assert store.end_offsets("wide") == {0: 5}


def test_the_far_past_is_refused_where_a_bound_says_so(store: mq.Store) -> None:
    now = store.log.clock.wall_ms()
    store.create_topic("t", config={"message.timestamp.before.max.ms": DAY_MS, "retention.ms": -1})
    with store.producer() as producer:
        with pytest.raises(InvalidRecordError, match=r"past \(message\.timestamp\.before\.max\.ms\)"):
            producer.send("t", b"x", timestamp=now - 2 * DAY_MS)
        producer.send("t", b"y", timestamp=now - DAY_MS // 2)
    assert values_of(store, "t") == [b"y"]


def test_times_on_the_command_line(tmp_path: Path) -> None:
    for when in ("-5", str(1 << 70), str(INT64_MAX), '"soon"', "1.5"):
        line = f'{{"value": "v", "timestamp": {when}}}'.encode()
        (error,) = mqcore(
            "produce", "t", "--create", "--format", "jsonl", "--store", tmp_path / "s", stdin=line, code=1
        )
        assert error["message"], error
    assert mqcore("consume", "t", "--store", tmp_path / "s") == []


# -- shapes --------------------------------------------------------------------------------------------------------


def wrong_calls(producer: Any, one: Any) -> list[Callable[[], object]]:
    """Calls with `one` where something else belongs, and other calls that are wrong whatever it is."""
    return [
        lambda: producer.send("t", one),
        lambda: producer.send("t", b"", key=one),
        lambda: producer.send("t", b"", headers=one),
        lambda: producer.send("t", b"", headers=[(one, b"")]),
        lambda: producer.send("t", "text"),
        lambda: producer.send("t", b"", timestamp="now"),
        lambda: producer.send("t", b"", timestamp=1.5),
        lambda: producer.send_many("t", [b"x"], timestamps=[1.0]),
        lambda: producer.send_many("t", [b"x"], timestamps=["now"]),
        lambda: producer.send_many("t", [b"x"], timestamps=[0, 1]),
        lambda: producer.send("t", b"", partition="zero"),
        lambda: producer.send("t", b"", partition=0.5),
        lambda: producer.send("t", b"", partition=1 << 40),
        lambda: producer.send_many("t", [b"x"], partition=1 << 40),
        lambda: producer.send("t", b"", partition=-1),
        lambda: producer.send_many("t", [one]),
        lambda: producer.send_many("t", [b"x"], keys=[one]),
        lambda: producer.send_many("t", [b"x", b"y"], keys=[b"x"]),
        lambda: producer.send_many("t", np.zeros((2, 3), np.float64)),
        lambda: producer.send("compacted", b"no key"),
    ]


def test_wrong_shapes_are_refused_and_leave_the_producer_usable(store: mq.Store) -> None:
    """Whatever is given in place of a record: TypeError, ValueError or an error of ours; the next record is sent."""
    store.create_topic("t")
    store.create_topic("compacted", config={"cleanup.policy": "compact"})
    odd: list[Any] = [1, 1.5, object(), [b"x"], {"a": 1}, range(3), np]
    rng = random.Random(1)
    with store.producer() as producer:
        for one in odd:
            for call in wrong_calls(producer, one):
                with pytest.raises((TypeError, ValueError, MQError)):
                    call()
        producer.send("t", b"%d" % rng.randrange(10), key=bytearray(b"k"), headers={"h": b"v"}.items())
    assert store.end_offsets("t") == {0: 1}
