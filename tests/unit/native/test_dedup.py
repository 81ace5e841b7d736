"""A dedup window answers as a Python set of the ids in it, from any thread, over snapshots and expiry."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.dedup import Dedup, Dedup128
from mqcore.errors import CorruptBatchError, MQError, UnsupportedFormatError, WindowFullError
from mqcore.ids import EPOCH_MS, Snowflake


def flake(ms: int, worker: int, sequence: int) -> int:
    return ms << 22 | worker << 12 | sequence


IDS = st.one_of(
    st.builds(flake, st.integers(0, 3000), st.integers(0, 40), st.integers(0, 130)),
    st.builds(flake, st.integers(0, 3), st.integers(0, 1023), st.integers(0, 4095)),
    st.integers(0, 2**64 - 1),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("one"), IDS),
        st.tuples(st.just("many"), st.lists(IDS, max_size=300)),
        st.tuples(st.just("pending"), st.tuples(st.integers(0, 3), IDS)),
        st.tuples(st.sampled_from(["confirm", "abort"]), st.integers(0, 3)),
        st.tuples(st.just("expire"), st.integers(0, 3000)),
        st.tuples(st.sampled_from(["pack", "snapshot"]), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_equals_a_set(steps: list) -> None:  # type: ignore[type-arg]
    window, model, pending = Dedup(max_bytes=32 << 20), set[int](), dict[int, int]()
    for step, what in steps:
        if step == "one":
            assert window.test_and_set(what) == (what in model or what in pending)
            model |= {what} - pending.keys()
        elif step == "many":
            expected = []
            for i in what:
                expected.append(i in model or i in pending)
                model |= {i} - pending.keys()
            assert window.test_and_set_many(np.array(what, np.uint64)).tolist() == expected
        elif step == "pending":
            tag, i = what
            assert window.add_pending(tag, i) == (i in model or i in pending)
            if i not in model:
                pending.setdefault(i, tag)
        elif step in ("confirm", "abort"):
            mine = {i for i, tag in pending.items() if tag == what}
            assert getattr(window, step)(what) == len(mine)
            model |= mine if step == "confirm" else set()
            pending = {i: tag for i, tag in pending.items() if tag != what}
        elif step == "expire":
            old = {i for i in model if ((i >> 22) // 256 + 1) * 256 <= what}
            assert window.expire(EPOCH_MS + what) == len(old)
            model -= old
        elif step == "pack":
            window.pack()
        else:
            window = Dedup.deserialize(window.serialize(), max_bytes=32 << 20)
        assert len(window) == len(model)
        assert window.stats()["pending"] == len(pending)
    if model:
        assert window.contains_many(np.array(sorted(model), np.uint64)).all()
        assert all(i ^ 1 in model or i ^ 1 in pending or i ^ 1 not in window for i in model)


def test_a_hit_says_where_to_look() -> None:
    window = Dedup(bucket_ms=256)
    window.test_and_set_many(np.array([flake(0, 1, 0), flake(10, 1, 0), flake(300, 1, 0)], np.uint64), 1000)
    assert window.find(flake(0, 1, 0)) == ("duplicate", 1000, 1001)
    assert window.find(flake(300, 1, 0)) == ("duplicate", 1002, 1002)
    window.add_pending(7, flake(301, 1, 0), 1005)
    assert window.find(flake(301, 1, 0)) == ("pending", 1005, 1005)
    assert window.test_and_set(flake(301, 1, 0)) is True
    assert window.find(5) == ("new", -1, -1)


def test_memory_is_bounded() -> None:
    window = Dedup(max_bytes=1 << 20)
    ids = np.arange(200_000, dtype=np.uint64) << np.uint64(40)
    with pytest.raises(WindowFullError) as caught:
        window.test_and_set_many(ids)
    done = caught.value.where["done"]
    assert 0 < done == len(window) < 200_000
    assert window.bytes_used <= 1 << 20
    assert window.contains_many(ids[:done]).all()
    assert not window.contains_many(ids[done:]).any()
    with pytest.raises(WindowFullError):
        Dedup.deserialize(window.serialize(), max_bytes=1 << 17)


def test_threads_take_turns() -> None:
    ids = Snowflake(1).batch(200_000)
    window, wide = Dedup(), Dedup128()
    news = []

    def run(seed: int) -> None:
        mine = ids.copy()
        np.random.default_rng(seed).shuffle(mine[:1000])
        new = int((~window.test_and_set_many(mine)).sum())
        new += sum(not window.test_and_set(int(i)) for i in mine[:2000])
        wide_ids = np.repeat(mine, 2).tobytes()
        news.append((new, int((~wide.test_and_set_many(wide_ids, 5)).sum())))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(n for n, _ in news) == sum(n for _, n in news) == len(ids) == len(window) == len(wide)


@pytest.mark.parametrize("kind", [Dedup, Dedup128])
def test_every_flipped_byte_of_a_snapshot_is_refused(kind: type[Dedup] | type[Dedup128]) -> None:
    window = kind()
    for i in range(300):
        if isinstance(window, Dedup):
            window.test_and_set(flake(i // 10, 1, i % 10), i)
            window.add_pending(i % 3, flake(i, 2, 0), i)
        else:
            window.test_and_set(i.to_bytes(16, "big"), i, i)
            window.add_pending(i % 3, i.to_bytes(16, "little") if i else b"x" * 16, i)
    good = window.serialize()
    again = kind.deserialize(good)
    assert (len(again), again.stats()["pending"]) == (len(window), window.stats()["pending"])
    assert len(again.serialize()) == len(good)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        with pytest.raises((CorruptBatchError, UnsupportedFormatError)):
            kind.deserialize(bad)
    for size in range(0, len(good), 7):
        with pytest.raises(CorruptBatchError):
            kind.deserialize(good[:size])


def test_uuids() -> None:
    window = Dedup128()
    ids = [uuid.UUID(int=i * 2**70 + i).bytes for i in range(1000)]
    assert not window.test_and_set_many(b"".join(ids), 100, 50).any()
    assert window.test_and_set_many(b"".join(ids), 200, 9999).all()
    assert window.find(ids[7]) == ("duplicate", 57)
    assert ids[7] in window
    assert window.add_pending(1, b"p" * 16, 5) is False
    assert window.find(b"p" * 16) == ("pending", 5)
    assert window.test_and_set(b"p" * 16, 1) is True
    assert window.confirm(1, 300) == 1
    assert window.expire(101) == 1000
    assert len(window) == 1
    assert ids[7] not in window
    assert window.test_and_set(ids[7], 300) is False
    with pytest.raises(ValueError, match="16 bytes"):
        window.test_and_set(b"short", 1)


def test_arguments() -> None:
    window = Dedup()
    with pytest.raises(OverflowError):
        window.test_and_set(-1)
    for wrong in (np.zeros(4, np.uint32), np.zeros(4), np.zeros((4, 2), np.uint64)[:, 0], b"12345678", [1]):
        with pytest.raises((TypeError, ValueError, BufferError)):
            window.test_and_set_many(wrong)  # type: ignore[arg-type]
    for bad in ({"bucket_ms": 3}, {"max_bytes": 10}, {"epoch_ms": -1}):
        with pytest.raises(ValueError, match="must be"):
            Dedup(**bad)
    with pytest.raises(MQError):
        Dedup.deserialize(b"")


@pytest.mark.parametrize("make", [lambda: Dedup(), lambda: Dedup128()])
def test_pending_ids_in_batches(make: Any) -> None:
    window = make()
    wide = isinstance(window, Dedup128)
    ids = np.array([flake(i, 1, 0) for i in range(2000)], np.uint64)
    ids = np.repeat(ids, 2) if wide else ids
    half = ids[: len(ids) // 2]
    window.add_pending_many(7, half, 100)
    assert window.pending_many(ids).tolist() == [*range(100, 1100), *[-2] * 1000]
    assert len(window) == 0
    assert window.abort(7) == 1000
    assert (window.pending_many(ids) == -2).all()
    window.add_pending_many(8, half, 5000)
    assert (window.confirm(8, 1) if wide else window.confirm(8)) == 1000
    assert (window.pending_many(ids) == -2).all()
    assert len(window) == 1000
    with pytest.raises(WindowFullError) as full:
        type(window)(max_bytes=1 << 16).add_pending_many(1, ids, 0)
    assert 0 < full.value.where["done"] < 2000
