"""A round takes sealed segments below every limit, when they are dirty enough or too old; small neighbours merge."""

from __future__ import annotations

from mqcore.config.topic import TopicConfig
from mqcore.log.compaction_plan import Candidate, groups, plan
from mqcore.log.compaction_transactions import ABORT, COMMIT, OpenTransactions

CONFIG = TopicConfig.parse({"cleanup.policy": "compact"})
NOW = 1_000_000


def segments(*sizes: int, ready: bool = True) -> list[Candidate]:
    """Segments of 100 offsets each, one a second, the last one active."""
    return [
        Candidate(100 * i, 100 * (i + 1), size, 1000 * i, 1000 * i + 999, ready and i + 1 < len(sizes))
        for i, size in enumerate(sizes)
    ]


def test_everything_sealed_below_the_limit() -> None:
    found = plan(segments(10, 20, 30, 40), CONFIG, cleaned=0, log_start=0, limit=400, now_ms=NOW)
    assert found is not None
    assert (found.first_dirty, found.end) == (0, 300)
    assert (found.clean_bytes, found.dirty_bytes, found.ratio) == (0, 60, 1.0)
    assert found.is_due(CONFIG)


def test_what_was_cleaned_counts_as_clean() -> None:
    found = plan(segments(10, 20, 30, 40), CONFIG, cleaned=200, log_start=0, limit=400, now_ms=NOW)
    assert found is not None
    assert (found.first_dirty, found.clean_bytes, found.dirty_bytes, found.ratio) == (200, 30, 30, 0.5)
    assert found.is_due(CONFIG)
    assert not found.is_due(TopicConfig.parse({"min.cleanable.dirty.ratio": 0.6}))
    overdue = TopicConfig.parse({"min.cleanable.dirty.ratio": 0.6, "max.compaction.lag.ms": NOW - 2001})
    late = plan(segments(10, 20, 30, 40), overdue, cleaned=200, log_start=0, limit=400, now_ms=NOW)
    assert late is not None
    assert late.overdue
    assert late.is_due(overdue)


def test_a_checkpoint_outside_the_log_is_not_believed() -> None:
    for cleaned in (50, 10_000):
        found = plan(segments(10, 20, 30)[1:], CONFIG, cleaned=cleaned, log_start=100, limit=300, now_ms=NOW)
        assert found is not None
        assert found.first_dirty == 100


def test_limits() -> None:
    four = segments(10, 20, 30, 40)
    assert plan([], CONFIG, cleaned=0, log_start=0, limit=0, now_ms=NOW) is None
    assert plan(four[:1], CONFIG, cleaned=0, log_start=0, limit=100, now_ms=NOW) is None
    assert plan(four, CONFIG, cleaned=300, log_start=0, limit=400, now_ms=NOW) is None
    low = plan(four, CONFIG, cleaned=0, log_start=0, limit=299, now_ms=NOW)
    assert low is not None
    assert low.end == 200
    four[1] = four[1]._replace(ready=False)
    damaged = plan(four, CONFIG, cleaned=0, log_start=0, limit=400, now_ms=NOW)
    assert damaged is not None
    assert damaged.end == 100
    young = TopicConfig.parse({"min.compaction.lag.ms": NOW - 1500})
    lagging = plan(segments(10, 20, 30, 40), young, cleaned=0, log_start=0, limit=400, now_ms=NOW)
    assert lagging is not None
    assert lagging.end == 100


def test_groups() -> None:
    rows = [(100 * i, 100 * (i + 1), 40) for i in range(5)]
    assert groups([], segment_bytes=100, index_bytes=1 << 20) == []
    assert groups(rows, segment_bytes=100, index_bytes=1 << 20) == [(0, 2), (2, 4), (4, 5)]
    assert groups(rows, segment_bytes=10, index_bytes=1 << 20) == [(i, i + 1) for i in range(5)]
    assert groups(rows, segment_bytes=1000, index_bytes=1 << 20) == [(0, 5)]
    assert groups(rows, segment_bytes=1 << 20, index_bytes=12) == [(0, 5)]
    far = [(0, 100, 1), (1 << 31, (1 << 31) + 1, 1)]
    assert groups(far, segment_bytes=100, index_bytes=1 << 20) == [(0, 1), (1, 2)]


def test_transactions() -> None:
    open_ones = OpenTransactions()
    open_ones.expect([(7, 10, 19, 0), (8, 30, 39, 0)])
    assert not open_ones.data(7, 9)  # before the aborted one: committed
    assert not open_ones.marker(7, 9, COMMIT)  # its data is there: the marker must stay
    assert open_ones.data(7, 12)
    assert not open_ones.data(5, 13)
    assert not open_ones.marker(7, 19, ABORT)
    assert not open_ones.data(7, 22)  # the next one of this producer
    assert not open_ones.marker(5, 23, COMMIT)
    assert open_ones.marker(6, 24, COMMIT)  # nothing of it is left
    assert open_ones.marker(8, 39, ABORT)
    assert open_ones.marker(9, 50, -1)  # emptied by an earlier round
    assert not open_ones.marker(9, 51, 5)  # a kind that is not known: stays
