"""`send_many` is `send` in a loop, whatever shape the values have, except that no object is made for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.client.producer import Producer
from mqcore.clock import ManualClock
from mqcore.errors import InvalidRecordError, RecordTooLargeError, StoreClosedError, UnknownTopicError
from mqcore.partitioners import default
from tests.support.producer_fakes import FakeStore

pa = pytest.importorskip("pyarrow")
NOW = ManualClock().wall_ms()
cells = st.lists(st.none() | st.binary(max_size=200), max_size=1200)
ARROW = [pa.binary(), pa.large_binary(), pa.string(), pa.large_string()]


def sent(values: Any, partitions: int = 1, **options: Any) -> list[Any]:
    """The records that the logs of a topic got, partition by partition."""
    store = FakeStore(ManualClock(), t=partitions)
    with Producer(store, batch_bytes=2048, chunk_bytes=8192, linger_ms=1000) as producer:
        delivery = producer.send_many("t", values, **options)
        ranges = delivery.result()
    records = [(p, r) for p in range(partitions) for r in store.partition("t", p).records()]
    assert delivery.done()
    assert sum(r.count for r in ranges) == len(delivery) == len(records)
    for span in ranges:  # dense from 0, as nobody else wrote
        assert span.base_offset == 0
        assert span.count == len(store.partition("t", span.partition).records())
    return [record for _, record in records]


@settings(max_examples=40, deadline=None)
@given(values=cells, keyed=st.booleans())
def test_a_list(values: list[bytes | None], keyed: bool) -> None:
    keys = [None if value is None else value[:3] for value in values] if keyed else None
    records = sent(values, keys=keys)
    assert [r.value for r in records] == values
    assert [r.key for r in records] == (keys or [None] * len(values))
    assert {r.timestamp for r in records} <= {NOW}


@settings(max_examples=40, deadline=None)
@given(values=cells, kind=st.sampled_from(ARROW), cut=st.integers(0, 30))
def test_arrow_arrays_with_nulls_and_offsets(values: list[bytes | None], kind: Any, cut: int) -> None:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = [None if value is None else value.hex().encode() for value in values]
        array = pa.array([None if value is None else value.decode() for value in values], kind)
    else:
        array = pa.array(values, kind)
    for piece, expected in (
        (array, values),
        (array[cut:], values[cut:]),
        (array[: -cut or None], values[: -cut or None]),
    ):
        assert [r.value for r in sent(piece)] == expected
        keyed = sent(piece, keys=piece, partition=0)
        assert [(r.key, r.value) for r in keyed] == [(value, value) for value in expected]


def test_fixed_size_and_chunked_arrow_arrays() -> None:
    values = [b"abcd", None, b"efgh"] * 500
    fixed = pa.array(values, pa.binary(4))
    assert [r.value for r in sent(fixed[1:])] == values[1:]
    chunked = pa.chunked_array([fixed[:7], fixed[7:7], fixed[7:]])
    assert [r.value for r in sent(chunked)] == values
    times = np.arange(NOW - 1500, NOW)
    records = sent(chunked, keys=pa.chunked_array([fixed[:100], fixed[100:]]), timestamps=times, partition=0)
    assert [(r.value, r.key, r.timestamp) for r in records] == list(zip(values, values, times.tolist(), strict=True))
    assert sent(pa.chunked_array([], pa.binary())) == []


@pytest.mark.parametrize("rows", [0, 1, 10_000])
@pytest.mark.parametrize("width", [0, 1, 100])
def test_two_dimensional_bytes(rows: int, width: int) -> None:
    array = np.random.default_rng(1).integers(0, 256, (rows, width), np.uint8)
    expected = [row.tobytes() for row in array]
    assert [r.value for r in sent(array)] == expected
    assert [r.value for r in sent(array[::-2])] == expected[::-2]
    assert [r.value for r in sent(memoryview(np.ascontiguousarray(array)) if width and rows else array)] == expected
    if width > 1:
        assert [r.value for r in sent(array[:, 1:])] == [value[1:] for value in expected]


def test_keys_spread_over_partitions_and_keep_their_order() -> None:
    values = [b"%05d" % i for i in range(5000)]
    keys = [b"key-%d" % (i % 97) for i in range(5000)]
    expected: dict[int, list[tuple[bytes, bytes]]] = {p: [] for p in range(20)}
    for key, value in zip(keys, values, strict=True):
        expected[default(key, 20)].append((key, value))
    flat = [pair for p in range(20) for pair in expected[p]]
    for shape in (list, lambda cell: pa.array(cell, pa.binary()), lambda cell: pa.array(cell, pa.large_binary())):
        assert [(r.key, r.value) for r in sent(shape(values), 20, keys=shape(keys))] == flat
    fixed = np.array(values).view(np.uint8).reshape(5000, 5)
    assert [(r.key, r.value) for r in sent(fixed, 20, keys=keys)] == flat


def test_null_keys_go_to_any_partition_among_keyed_ones() -> None:
    keys = [None if i % 3 else b"k%d" % i for i in range(1000)]
    records = sent([b"%d" % i for i in range(1000)], 5, keys=keys)
    assert sorted(int(r.value) for r in records) == list(range(1000))
    assert all(r.key == keys[int(r.value)] for r in records)


def test_timestamps_of_every_shape() -> None:
    times = np.arange(NOW - 10, NOW)
    for shape in (times, times.tolist(), times.astype("datetime64[ms]"), times.astype(np.uint64), times[::-1][::-1]):
        assert [r.timestamp for r in sent([b"v"] * 10, timestamps=shape)] == times.tolist()
    assert {r.timestamp for r in sent([b"v"] * 3, timestamps=5)} == {5}
    for wrong in (times * 1.0, times.reshape(2, 5), "now"):
        with pytest.raises(TypeError):
            sent([b"v"] * 10, timestamps=wrong)
    for wrong in (times[:9], times - NOW - 1, times + 10**8, -1):
        with pytest.raises((ValueError, InvalidRecordError)):
            sent([b"v"] * 10, timestamps=wrong)


def test_headers_and_a_partitioner_of_the_users() -> None:
    headers = [[("n", b"%d" % i)] if i % 2 else None for i in range(50)]
    for values in (
        [b"%d" % i for i in range(50)],
        pa.array([b"%d" % i for i in range(50)]),
        np.zeros((50, 3), np.uint8),
    ):
        records = sent(values, headers=headers, timestamps=np.arange(NOW - 50, NOW))
        assert [r.headers for r in records] == [h or [] for h in headers]
        assert [r.timestamp for r in records] == list(range(NOW - 50, NOW))
    store = FakeStore(t=3)
    with Producer(store, partitioner=lambda key, n: len(key) % n) as producer:
        ranges = producer.send_many("t", [b"v"] * 4, keys=[b"", b"a", b"bb", b"ccc"]).result()
    assert [tuple(r) for r in ranges] == [(0, 0, 2), (1, 0, 1), (2, 0, 1)]
    with pytest.raises(ValueError, match="as many"):
        sent([b"v"] * 3, headers=[None] * 2)


def test_other_iterables_and_items() -> None:
    assert [r.value for r in sent(iter([b"a", bytearray(b"b"), memoryview(b"c"), None]))] == [b"a", b"b", b"c", None]
    assert [r.value for r in sent((b"a", b"b"))] == [b"a", b"b"]
    for wrong in ("text", b"bytes", bytearray(b"x"), [1, 2], ["a"], None, 5, np.zeros((3, 4)), np.zeros(5, np.uint8)):
        with pytest.raises((TypeError, ValueError)):
            sent(wrong)
    with pytest.raises(ValueError, match="contiguous"):
        sent(np.zeros((4, 4), np.uint8)[:, ::2])
    for array in (pa.array([1, 2]), pa.array(["a"]).dictionary_encode(), pa.array([[b"a"]]), pa.array([None])):
        with pytest.raises(TypeError, match="Arrow"):
            sent(array)
    with pytest.raises(ValueError, match="keys"):
        sent([b"a"], keys=[b"a", b"b"])


def test_a_refused_record_says_how_many_were_sent() -> None:
    store = FakeStore(t=(1, {"max.message.bytes": "1000"}), c=(2, {"cleanup.policy": "compact"}))
    with Producer(store) as producer:
        for values in ([b"ok"] * 700 + [bytes(1000)], pa.array([b"ok"] * 700 + [bytes(1000)])):
            with pytest.raises(RecordTooLargeError) as error:
                producer.send_many("t", values)
            assert error.value.where["sent"] == error.value.where["index"] == 700
        with pytest.raises(InvalidRecordError, match="needs a key"):
            producer.send_many("c", [b"v"])
        with pytest.raises(InvalidRecordError, match="needs a key"):
            producer.send_many("c", [b"v", b"v"], keys=[b"k", None])
        with pytest.raises(UnknownTopicError):
            producer.send_many("t", [b"v"], partition=1)
    assert store.values("t") == [b"ok"] * 1400
    assert store.values("c") == [b"v"]


def test_a_malformed_arrow_array_is_refused_not_followed() -> None:
    offsets = np.array([0, 4, 2, 6], np.int32)
    array = pa.Array.from_buffers(pa.binary(), 3, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"abcdef")])
    with pytest.raises(InvalidRecordError, match="offsets"):
        sent(array)


def test_many_calls_share_a_chunk_and_each_has_its_ranges() -> None:
    store = FakeStore(t=1)
    with Producer(store, linger_ms=1000) as producer:
        deliveries = [producer.send_many("t", [b"%d" % i] * 10) for i in range(50)]
        one = producer.send("t", b"x")
        last = producer.send_many("t", np.zeros((2, 2), np.uint8))
        assert [d.result() for d in deliveries] == [[(0, 10 * i, 10)] for i in range(50)]
        assert one.result().offset == 500
        assert last.ranges == [(0, 501, 2)]
    assert len(store.partition("t", 0).chunks) == 1
    with pytest.raises(StoreClosedError):
        producer.send_many("t", [])
