"""The off-line checker fails when it should: each way to break a partition is found, and only that one."""

from __future__ import annotations

import pytest

from mqcore.torture.ledger import Ledger, Tally, check_partition, check_topics, identify, value
from mqcore.torture.report import Report

Records = list[tuple[int, bytes]]


def ten_acked() -> tuple[Ledger, Records]:
    """Offsets 0 to 9 hold records 0 to 9, all acknowledged; two more were sent."""
    ledger = Ledger()
    ledger.add_lines(
        b'{"k": "send", "p": 1, "s": 0, "n": 12}\n{"k": "ack", "p": 1, "s": 0, "n": 10, "o": 0}\n{"k": "ac'
    )
    return ledger, [(number, value(1, number)) for number in range(10)]


def found(ledger: Ledger, records: Records, *, lossless: bool = True) -> tuple[list[str], Tally]:
    tally = Tally()
    return [name for name, _ in check_partition(ledger, 1, records, tally, lossless=lossless)], tally


def test_what_is_right_passes() -> None:
    ledger, records = ten_acked()
    assert found(ledger, records) == ([], Tally(read=10))
    assert found(ledger, [*records, (10, value(1, 10))])[0] == []  # sent, never acknowledged: may be there


def test_lost_records_are_found_unless_the_durability_allows_them_or_they_were_trimmed() -> None:
    ledger, records = ten_acked()
    for gone in (0, 4, 9):
        left = [record for record in records if record[0] != gone]
        assert found(ledger, left) == (["I1"], Tally(read=9, lost=1))
        assert found(ledger, left, lossless=False)[0] == []
    assert found(ledger, [])[1].lost == 10
    ledger.add({"k": "trim", "p": 1, "o": 5})
    assert found(ledger, records[5:])[0] == []
    assert found(ledger, records[6:])[0] == ["I1"]


def test_what_was_seen_counts_as_acknowledged() -> None:
    ledger, records = ten_acked()
    ledger.add({"k": "seen", "p": 1, "s": 10, "o": 10})
    assert found(ledger, records) == (["I1"], Tally(read=10, lost=1))


def test_a_doubled_record_is_found() -> None:
    ledger, records = ten_acked()
    names, tally = found(ledger, [*records, (10, value(1, 9))])
    assert (names, tally.duplicated) == (["I6"], 1)


def test_reordered_records_are_found() -> None:
    ledger, records = ten_acked()
    names, tally = found(ledger, [*records, (10, value(1, 11)), (11, value(1, 10))])
    assert (names, tally.reordered) == (["I7"], 1)


def test_an_offset_that_is_given_again_is_found() -> None:
    ledger, records = ten_acked()
    names, tally = found(ledger, [*records[:9], (9, value(1, 10))])
    assert (names, tally.offset_reused) == (["I2"], 1)


@pytest.mark.parametrize("offset", [8, 9])
def test_offsets_that_do_not_rise_are_found(offset: int) -> None:
    ledger, records = ten_acked()
    assert "I2" in found(ledger, [*records, (offset, value(1, 10))])[0]


def test_one_wrong_byte_anywhere_is_found() -> None:
    ledger, records = ten_acked()
    right = next(raw for _, raw in records if len(raw) > 60)
    for position in range(len(right)):
        wrong = bytearray(right)
        wrong[position] ^= 0x10
        assert identify(bytes(wrong)) is None
    assert identify(right[:10]) is None
    names, tally = found(ledger, [*records, (10, b"x")])
    assert (names, tally.wrong_bytes) == (["I4"], 1)


def test_records_of_another_partition_and_invented_ones_are_found() -> None:
    ledger, records = ten_acked()
    assert found(ledger, [*records, (10, value(2, 10))])[0] == ["I4"]
    assert found(ledger, [*records, (10, value(1, 12))])[0] == ["I4"]


def test_topics_that_went_or_came_back_are_found() -> None:
    ledger = Ledger()
    for line in ({"k": "topic", "t": "a"}, {"k": "topic", "t": "b"}, {"k": "topic", "t": "c"}):
        ledger.add(line)
    for kind in ("deleting", "deleted"):
        ledger.add({"k": kind, "t": "b"})
    ledger.add({"k": "deleting", "t": "c"})
    assert check_topics(ledger, {"a"}) == check_topics(ledger, {"a", "c"}) == []
    assert [name for name, _ in check_topics(ledger, {"b"})] == ["I1", "I1"]


def test_a_report_without_faults_or_acknowledgements_is_no_pass() -> None:
    report = Report("kill", 1, faults_wanted=1)
    assert not report.passed
    report.faults_injected["kill"] += 1
    assert not report.passed
    report.acked = 1
    assert report.passed
    report.faults_wanted = 2
    assert not report.passed
    report.faults_injected["kill"] += 1
    report.absorb([("I1", "gone")])
    assert not report.passed
    assert report.to_json()["violations"] == {"I1": 1}
