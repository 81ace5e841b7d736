"""A Snowflake generator never repeats an id and its ids rise, whatever its clocks do and whoever calls it."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.errors import ForkedStoreError
from mqcore.ids import EPOCH_MS, Snowflake, decompose


class Clocks:
    """A wall clock that can be set, a monotonic one that only sleep and tick move."""

    def __init__(self, wall: int = EPOCH_MS + 1_000_000) -> None:
        self.wall, self.monotonic, self.slept = float(wall), 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += seconds
        self.tick(seconds * 1000)

    def tick(self, ms: float) -> None:
        self.wall += ms
        self.monotonic += ms

    def generator(self, worker: int = 3, **more: int) -> Snowflake:
        return Snowflake(
            worker, wall_ms=lambda: int(self.wall), monotonic_ms=lambda: int(self.monotonic), sleep=self.sleep, **more
        )


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("next"), st.just(1)),
            st.tuples(st.just("batch"), st.integers(0, 60_000)),
            st.tuples(st.just("tick"), st.integers(0, 50)),
            st.tuples(st.just("set"), st.integers(-(10**11), 10**9)),
        ),
        max_size=30,
    )
)
def test_never_repeats_and_always_rises(steps: list[tuple[str, int]]) -> None:
    clocks = Clocks(EPOCH_MS + 10**9)
    ids = clocks.generator()
    last = -1
    for step, n in steps:
        if step == "tick":
            clocks.tick(n)
        elif step == "set":
            clocks.wall += n
        else:
            got = np.array([ids.next()], np.uint64) if step == "next" else ids.batch(n)
            if len(got) == 0:
                continue
            assert int(got[0]) > last
            assert np.all(got[1:] > got[:-1])
            last = int(got[-1])
            parts = decompose(got)
            assert set(parts.worker.tolist()) == {3}
            assert parts.timestamp_ms[-1] - ids.epoch_ms <= ids._now() + 10


def test_a_slice_of_a_billion() -> None:
    clocks = Clocks()
    ids = clocks.generator(worker=1023)
    last, total = np.uint64(0), 0
    for _ in range(40):
        got = ids.batch(1_000_000)
        assert got[0] > last
        assert np.all(np.diff(got.view(np.int64)) > 0)
        last, total = got[-1], total + len(got)
    # The limit of the scheme is reached, and not passed: 4,096 a ms, ten ms ahead.
    assert total == 40_000_000
    assert total / 4096 - 12 <= clocks.slept * 1000 <= total / 4096 + 1


def test_parts() -> None:
    clocks = Clocks()
    ids = clocks.generator(worker=517)
    one = ids.next()
    assert ids.decompose(one) == (EPOCH_MS + 1_000_000, 517, 0)
    assert ids.decompose(ids.next()).sequence == 1
    parts = ids.decompose(ids.batch(4096))
    assert parts.sequence.tolist() == [*range(2, 4096), 0, 1]
    assert parts.timestamp_ms.tolist() == [EPOCH_MS + 1_000_000] * 4094 + [EPOCH_MS + 1_000_001] * 2
    assert clocks.generator(epoch_ms=1_288_834_974_657).decompose(0).timestamp_ms == 1_288_834_974_657


def test_a_clock_set_back_costs_nothing() -> None:
    clocks = Clocks()
    ids = clocks.generator()
    first = ids.next()
    clocks.wall -= 3_600_000
    clocks.tick(5)
    assert ids.decompose(ids.next()).timestamp_ms == ids.decompose(first).timestamp_ms + 5
    assert clocks.slept == 0
    successor = clocks.generator(not_before_ms=ids.last_timestamp_ms)
    clocks.sleep(3600)
    assert successor.next() > first


def test_a_successor_waits_for_its_turn() -> None:
    clocks = Clocks()
    last = clocks.generator().next()
    clocks.wall -= 100
    successor = clocks.generator(not_before_ms=decompose(last).timestamp_ms)
    assert successor.next() > last
    assert 0.08 < clocks.slept < 0.11


def test_threads_share_one_generator() -> None:
    ids = Snowflake(worker=1)
    got: list[list[int]] = [[] for _ in range(8)]

    def run(mine: list[int]) -> None:
        for _ in range(50):
            mine += [ids.next() for _ in range(20)]
            mine += ids.batch(100).tolist()

    threads = [threading.Thread(target=run, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [i for mine in got for i in mine]
    assert len(set(everything)) == len(everything) == 8 * 50 * 120
    assert all(mine == sorted(mine) for mine in got)


def test_a_forked_child_must_not_repeat_its_parent() -> None:
    ids = Snowflake(worker=1)
    child = os.fork()
    if child == 0:
        try:
            ids.next()
        except ForkedStoreError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ids.next() < ids.next()


def test_arguments() -> None:
    clocks = Clocks()
    for worker in (-1, 1024):
        with pytest.raises(ValueError, match="worker"):
            Snowflake(worker)
    with pytest.raises(ValueError, match="ahead_ms"):
        Snowflake(1, ahead_ms=0)
    with pytest.raises(ValueError, match="count"):
        clocks.generator().batch(-1)
    with pytest.raises(ValueError, match="before the epoch"):
        clocks.generator(epoch_ms=EPOCH_MS + 10**12).next()
    with pytest.raises(OverflowError):
        clocks.generator(epoch_ms=EPOCH_MS - 2**42).next()
    assert clocks.generator().batch(0).shape == (0,)
