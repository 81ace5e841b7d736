"""The set of segments finds the floor of an offset as a plain list would, and a segment rolls when Kafka's would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import InvariantError
from mqcore.log.checkpoints import SegmentState
from mqcore.log.segments import OFFSET_DELTA_MAX, SegmentEntry, SegmentSet, roll_reason

CALM = {
    "size": 100,
    "incoming": 100,
    "base_offset": 0,
    "last_offset": 10,
    "first_timestamp": 1000,
    "incoming_timestamp": 1000,
    "created_ms": 0,
    "now_ms": 0,
    "index_full": False,
    "segment_bytes": 1000,
    "segment_ms": 1000,
}


def entry(base: int) -> SegmentEntry:
    def refuse(_: SegmentState) -> None:
        raise AssertionError("opened")

    return SegmentEntry(SegmentState(base, 1, base + 1, 0, 0), refuse, sealed=True)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20, unique=True).map(sorted), st.integers(0, 110))
def test_the_floor_and_all_after_it(bases: list[int], offset: int) -> None:
    found = [one.base_offset for one in SegmentSet([entry(base) for base in bases]).from_offset(offset)]
    floor = max((base for base in bases if base <= offset), default=bases[0])
    assert found == [base for base in bases if base >= floor]


def test_an_empty_set_has_no_floor() -> None:
    assert SegmentSet([]).from_offset(5) == ()
    assert SegmentSet([]).last is None


def test_a_reader_keeps_the_tuple_that_it_took() -> None:
    segments = SegmentSet([entry(0), entry(10)])
    taken = segments.entries
    segments.replace(segments.entries[1:])
    segments.add(entry(20))
    assert [one.base_offset for one in taken] == [0, 10]
    assert [one.base_offset for one in segments.entries] == [10, 20]


def test_segments_that_do_not_rise_are_a_bug() -> None:
    with pytest.raises(InvariantError):
        SegmentSet([entry(5), entry(5)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"incoming": 900}, ""),
        ({"incoming": 901}, "size"),
        ({"size": 0, "incoming": 5000}, ""),  # a chunk larger than a segment must go somewhere
        ({"size": 0, "incoming_timestamp": 10**12}, ""),
        ({"last_offset": OFFSET_DELTA_MAX}, ""),
        ({"last_offset": OFFSET_DELTA_MAX + 1}, "offset"),
        ({"size": 0, "last_offset": OFFSET_DELTA_MAX + 1}, "offset"),
        ({"index_full": True}, "index"),
        ({"incoming_timestamp": 2000}, ""),
        ({"incoming_timestamp": 2001}, "time"),
        ({"now_ms": 10**9}, ""),  # record time counts where both have one
        ({"first_timestamp": -1, "now_ms": 1001}, "time"),
        ({"incoming_timestamp": -1, "now_ms": 1000}, ""),
        ({"incoming_timestamp": 500}, ""),  # older than the segment: no reason
    ],
)
def test_when_a_segment_rolls(change: dict[str, int], reason: str) -> None:
    assert roll_reason(**(CALM | change)) == reason  # type: ignore[arg-type]
