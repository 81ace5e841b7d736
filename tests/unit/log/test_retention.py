"""Retention takes whole segments from the old end, never more than its rule, and never because a clock jumped."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.clock import ManualClock
from mqcore.config.topic import TopicConfig
from mqcore.log import retention
from mqcore.log.retention import GRACE_S, Removal, RetentionClock, SegmentFacts, removal_by_size, removal_by_time

HOUR_MS, DAY_MS, YEAR_MS = 3_600_000, 86_400_000, 365 * 86_400_000


def chain(*parts: tuple[int, int]) -> list[SegmentFacts]:
    """Segments of ten offsets each from (size, max timestamp) pairs."""
    return [SegmentFacts(i * 10, i * 10 + 10, size, timestamp) for i, (size, timestamp) in enumerate(parts)]


segments = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), max_size=8).map(lambda p: chain(*p))


@given(segments, st.integers(-1, 120), st.integers(0, 200), st.integers(0, 80))
def test_by_time_takes_the_expired_prefix(facts: list[SegmentFacts], keep: int, now: int, limit: int) -> None:
    found = removal_by_time(facts, keep, now, limit)
    expected = 0
    while expected < len(facts) and keep >= 0:
        segment = facts[expected]
        if segment.next_offset > limit or segment.size == 0 or now - segment.max_timestamp <= keep:
            break
        expected += 1
    assert (found.segments if found else 0) == expected
    if found:
        assert found.new_start == facts[expected - 1].next_offset <= limit
        assert found.size == sum(s.size for s in facts[:expected])


@given(segments, st.integers(-1, 200), st.integers(0, 80))
def test_by_size_leaves_at_least_the_bound(facts: list[SegmentFacts], bound: int, limit: int) -> None:
    total = sum(s.size for s in facts)
    found = removal_by_size(facts, bound, limit)
    if found is None:
        first = facts[0] if facts else None
        assert first is None or bound < 0 or first.size == 0 or first.next_offset > limit or total - first.size < bound
        return
    assert 0 <= bound <= total - found.size
    assert found.new_start <= limit


def test_gaps_are_passed_over_but_never_the_limit() -> None:
    facts = [SegmentFacts(0, 5, 10, 0), SegmentFacts(9, 12, 10, 50)]
    assert removal_by_time(facts, 10, 20, limit=12) == Removal(9, 1, 10, "time")
    assert removal_by_time(facts, 10, 20, limit=7) == Removal(7, 1, 10, "time")


def test_the_further_rule_wins_and_policies_count() -> None:
    facts = chain((10, 0), (10, 5), (10, 100))
    config = {"retention.ms": 10, "retention.bytes": 20}
    both = retention.removal(facts, TopicConfig.parse(config), 50, 30)
    assert both == Removal(20, 2, 20, "time")
    assert retention.removal(facts, TopicConfig.parse({**config, "cleanup.policy": "compact"}), 50, 30) is None
    assert retention.removal(facts, TopicConfig.parse({**config, "cleanup.policy": "compact,delete"}), 50, 30) == both
    assert retention.removal(facts, TopicConfig.parse({"retention.ms": -1}), 50, 30) is None


# -- the clock (T9) -------------------------------------------------------------------------------------------------


def test_time_passes_as_it_should() -> None:
    clock = ManualClock()
    guard = RetentionClock(clock, newest_ms=clock.wall_ms())
    for _ in range(100):
        clock.advance(HOUR_MS / 1000)
        assert guard.now_ms() == clock.wall_ms()


@pytest.mark.parametrize("jump", [YEAR_MS * 10, YEAR_MS, DAY_MS, 60_000])
def test_a_forward_jump_is_not_believed_at_once(jump: int) -> None:
    clock = ManualClock()
    guard = RetentionClock(clock, newest_ms=clock.wall_ms())
    right = clock.wall_ms()
    clock.jump(jump)
    for _ in range(59):
        assert guard.now_ms() <= right + 5
        clock.advance(60)
        right += 60_000
    clock.jump(-jump)
    assert guard.now_ms() == right
    clock.advance(GRACE_S * 2)
    assert guard.now_ms() == clock.wall_ms()


def test_a_clock_that_stays_ahead_is_believed_after_the_grace() -> None:
    clock = ManualClock()
    guard = RetentionClock(clock, newest_ms=clock.wall_ms())
    clock.jump(DAY_MS)
    guard.now_ms()
    clock.advance(GRACE_S - 1)
    assert guard.now_ms() < clock.wall_ms() - DAY_MS + 10
    clock.advance(2)
    assert guard.now_ms() == clock.wall_ms()


def test_a_clock_behind_only_deletes_less() -> None:
    clock = ManualClock()
    guard = RetentionClock(clock, newest_ms=clock.wall_ms())
    clock.jump(-YEAR_MS)
    assert guard.now_ms() == clock.wall_ms()


def test_after_a_pause_the_newest_record_is_what_is_known() -> None:
    clock = ManualClock()
    newest = clock.wall_ms() - 30 * DAY_MS
    guard = RetentionClock(clock, newest)
    assert guard.now_ms() == newest
    clock.advance(60)
    assert guard.now_ms() == newest + 60_000
    clock.advance(GRACE_S)
    assert guard.now_ms() == clock.wall_ms()
    assert RetentionClock(clock, clock.wall_ms() + YEAR_MS).now_ms() == clock.wall_ms()


def test_what_was_believed_goes_on_in_the_next_process_whatever_its_clock_says() -> None:
    clock = ManualClock()
    left = RetentionClock(clock).state()
    clock.advance(60)
    honest = clock.wall_ms()
    clock.jump(YEAR_MS)
    assert RetentionClock(clock, clock.wall_ms(), left).now_ms() == honest  # records of the wrong time prove nothing
    clock.reboot()
    assert RetentionClock(clock, clock.wall_ms(), left).now_ms() == honest - 60_000
    guard = RetentionClock(clock, -1, left)
    clock.advance(GRACE_S + 1)
    assert guard.now_ms() == clock.wall_ms()


def test_the_hour_of_steady_time_may_be_spread_over_processes_but_not_over_a_restart() -> None:
    clock = ManualClock()
    left = RetentionClock(clock).state()
    clock.jump(DAY_MS)
    for reboot in (False, True):
        for _ in range(4):
            guard = RetentionClock(clock, -1, left)
            guard.now_ms()
            left = guard.take_unsaved() or left
            clock.advance(GRACE_S / 3)
            if reboot:
                clock.reboot()
        believed = RetentionClock(clock, -1, left).now_ms()
        assert (believed == clock.wall_ms()) is not reboot
        clock.jump(DAY_MS)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, 3000)),
        st.tuples(st.just("jump"), st.integers(-1000, 1000).filter(bool).map(lambda n: n * 600_000)),
    ),
    max_size=40,
)


@given(steps)
def test_no_jump_that_is_put_right_within_the_grace_ever_counts(moves: list[tuple[str, int]]) -> None:
    """Whatever the wall clock does, ages run ahead of true time only after an hour of steady wall clock."""
    clock = ManualClock()
    guard = RetentionClock(clock, newest_ms=clock.wall_ms())
    true_ms, steady = clock.wall_ms(), 0.0
    for move, amount in moves:
        if move == "advance":
            clock.advance(amount)
            true_ms += amount * 1000
            steady += amount
        else:
            clock.jump(amount)
            steady = 0.0
        now = guard.now_ms()
        assert now <= clock.wall_ms()
        if steady >= GRACE_S:
            return  # from here on the machine's time is what it says
        assert now <= true_ms + retention.STEP_MS


# -- applied --------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    base_offset: int
    next_offset: int
    size: int
    max_timestamp: int


@dataclass
class Log:
    config: TopicConfig
    directory: str = ""
    segments: list[Entry] = field(default_factory=list)
    last_stable_offset: int = 20
    deleted: list[int] = field(default_factory=list)

    def delete_before(self, offset: int) -> None:
        self.deleted.append(offset)


def test_apply_moves_the_start_and_only_if_something_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    now = clock.wall_ms()
    entries = [Entry(0, 10, 5, now - 100), Entry(10, 20, 5, now)]
    log = Log(TopicConfig.parse({"retention.ms": 50}), str(tmp_path), entries)
    guard = RetentionClock(clock, retention.newest_timestamp([log, Log(log.config)]))
    assert retention.apply(log, guard) == Removal(10, 1, 5, "time")
    assert log.deleted == [10]
    log.segments = entries[1:]
    assert retention.apply(log, guard) is None
    log.config = TopicConfig.parse({"retention.ms": -1})
    assert retention.apply(log, guard) is None
    assert log.deleted == [10]


def test_without_timestamps_the_files_time_counts(tmp_path: Path) -> None:
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(b"x")
    os.utime(path, (5, 5))
    log = Log(TopicConfig.parse(), str(tmp_path), [Entry(0, 10, 5, -1), Entry(10, 20, 5, -1)])
    assert [f.max_timestamp for f in retention.facts_of(log)] == [5000, 1 << 62]
