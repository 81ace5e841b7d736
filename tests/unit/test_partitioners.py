"""A key goes to the partition where Kafka's clients put it, or, by `consistent`, moves only when it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore import partitioners
from mqcore._native import hashing
from mqcore.errors import InvalidConfigError

# Kafka's own vectors: clients UtilsTest.testMurmur2.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", VECTORS, ids=bytes.decode)
def test_murmur2_equals_kafkas(key: bytes) -> None:
    assert hashing.murmur2(key) == VECTORS[key]
    assert hashing.murmur2(bytearray(key)) == hashing.murmur2(memoryview(key)) == VECTORS[key]
    assert partitioners.default(key, 20) == (VECTORS[key] & 0x7FFFFFFF) % 20


@given(st.binary(max_size=100), st.integers(1, 10_000))
def test_default_equals_aiokafka(key: bytes, partitions: int) -> None:
    partitioner = pytest.importorskip("aiokafka.partitioner")
    assert hashing.murmur2(key) & 0xFFFFFFFF == partitioner.murmur2(key) & 0xFFFFFFFF
    everywhere = list(range(partitions))
    assert partitioners.default(key, partitions) == partitioner.DefaultPartitioner()(key, everywhere, everywhere)


@pytest.mark.parametrize("before", [1, 3, 10, 20, 64])
def test_consistent_moves_at_most_its_share(before: int) -> None:
    keys = [b"customer-%d" % i for i in range(50_000)]
    places = [partitioners.consistent(key, before) for key in keys]
    grown = [partitioners.consistent(key, before + 1) for key in keys]
    moved = sum(a != b for a, b in zip(places, grown, strict=True))
    assert all(b in (a, before) for a, b in zip(places, grown, strict=True))
    assert moved / len(keys) <= 1 / (before + 1) + 0.02
    load = [places.count(p) for p in range(before)]
    assert max(load) <= 1.25 * len(keys) / before


def test_arguments_are_checked() -> None:
    for call in (partitioners.default, partitioners.consistent):
        with pytest.raises(ValueError, match="at least 1"):
            call(b"k", 0)
        with pytest.raises(TypeError):
            call("text", 4)  # type: ignore[arg-type]
        assert call(b"", 1) == 0
    with pytest.raises(InvalidConfigError, match="Known: consistent, default"):
        partitioners.partitioner("random")
    assert partitioners.partitioner("consistent") is partitioners.consistent


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_hash64_is_a_function_of_bytes_and_seed(data: bytes, seed: int) -> None:
    assert hashing.hash64(data, seed) == hashing.hash64(bytearray(data), seed)
    assert 0 <= hashing.hash64(data, seed) < 2**64
    assert hashing.hash64(data + b"\0", seed) != hashing.hash64(data, seed)
