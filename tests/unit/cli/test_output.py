"""What is printed is complete for machines and readable for people."""

from __future__ import annotations

import pytest

from mqcore.cli.output import cell, histogram_counts, human_bytes, percentile, text_of
from mqcore.cli.stores import parse_position


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("earliest", ("earliest", 0)),
        ("latest", ("latest", 0)),
        ("120", ("offset", 120)),
        ("-10", ("last", 10)),
        ("@1700000000000", ("timestamp", 1_700_000_000_000)),
        ("1970-01-01T00:00:01Z", ("timestamp", 1000)),
        ("1970-01-02", ("timestamp", 86_400_000)),
    ],
)
def test_positions(text: str, meaning: tuple[str, int]) -> None:
    assert parse_position(text) == meaning


@pytest.mark.parametrize("text", ["", "yesterday", "@", "1.5", "@x"])
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="neither earliest"):
        parse_position(text)


def test_histogram_counts_every_value_once() -> None:
    values = [0.1, 0.2, 1.0, 5.0, 5.0, 100.0]
    counts = histogram_counts(values, 12)
    assert sum(count for _, count in counts) == len(values)
    assert [edge for edge, _ in counts] == sorted(edge for edge, _ in counts)
    assert counts[-1][0] == 100.0
    assert histogram_counts([], 12) == []
    assert histogram_counts([2.0, 2.0], 12) == [(2.0, 2)]


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 1.0) == 3


def test_cells_take_no_markup_from_data() -> None:
    assert cell("[red]x[/red]").plain == "[red]x[/red]"
    assert cell(1234567).plain == "1,234,567"
    assert cell(None).plain == "-"
    assert cell({"a": 1}).plain == "a=1"


def test_bytes() -> None:
    assert human_bytes(512) == "512 B"
    assert human_bytes(1536) == "1.5 KiB"
    assert text_of(b"\xff") == {"base64": "/w=="}
