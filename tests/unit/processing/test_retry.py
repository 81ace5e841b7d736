"""Waits grow from first to max, jittered over their whole length, and never overflow."""

from __future__ import annotations

import pytest

from mqcore.processing.retry import Backoff


def test_the_ceiling_doubles_up_to_its_bound() -> None:
    backoff = Backoff(0.1, 1.0)
    assert [backoff.wait_s(n, lambda: 1.0) for n in (1, 2, 3, 4, 5)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])
    assert backoff.wait_s(100_000, lambda: 1.0) == 1.0


def test_the_jitter_is_full() -> None:
    assert Backoff(0.1, 1.0).wait_s(3, lambda: 0.0) == 0.0
    waits = [Backoff(1.0, 8.0).wait_s(3) for _ in range(2000)]
    assert 0.0 <= min(waits) < 0.4
    assert 3.6 < max(waits) <= 4.0


@pytest.mark.parametrize(("first", "most"), [(-1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_bad_options(first: float, most: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first, most)
