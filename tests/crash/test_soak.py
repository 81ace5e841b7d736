"""A store that is written, followed and retained for long grows in nothing; what grows is found."""

from __future__ import annotations

from mqcore.torture import soak
from mqcore.torture.soak import Sample, growth


def test_a_short_soak_grows_in_nothing() -> None:
    report = soak.run(seed=28, faults=1_000_000, block=5000, segment_bytes=1 << 20, kept_bytes=4 << 20)
    assert report.passed, report.examples
    assert report.read == report.acked == 1_000_000
    assert report.notes["end"]["disk"] < 100 << 20  # of 109 MB that were written


def test_growth_is_found() -> None:
    flat = [Sample(50 << 20, 40, 4, 100 << 20)] * 30
    assert growth(flat) == []
    for name in Sample._fields:
        rising = [one._replace(**{name: getattr(one, name) * (1 + at)}) for at, one in enumerate(flat)]
        assert [sentence.split()[0] for _, sentence in growth(rising)] == [name]
