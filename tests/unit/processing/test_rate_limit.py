"""Over any span, no more than the rate, a burst and one batch goes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.processing.rate_limit import TokenBucket


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_steady_taker_gets_the_rate() -> None:
    time = Time()
    bucket = TokenBucket(1000.0, now=time)
    for _ in range(100):
        time.now += bucket.take(100)
    assert time.now - 100.0 == pytest.approx((100 * 100 - 100 - 100) / 1000, abs=0.2)


def test_what_was_saved_is_a_burst_and_no_more() -> None:
    time = Time()
    bucket = TokenBucket(100.0, burst=10, now=time)
    time.now += 3600
    assert bucket.take(10) == 0.0
    assert bucket.take(1) == 0.0  # let through whole, paid by the next
    assert bucket.take(1) == pytest.approx(0.01)


@given(
    st.floats(0.5, 1e5),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 500)), min_size=1, max_size=60),
)
def test_no_span_has_more(rate: float, takes: list[tuple[float, int]]) -> None:
    time = Time()
    bucket = TokenBucket(rate, now=time)
    went: list[tuple[float, int]] = []
    for idle, tokens in takes:
        time.now += idle
        time.now += bucket.take(tokens)
        went.append((time.now, tokens))
    most = max(tokens for _, tokens in went)
    for first, (since, _) in enumerate(went):
        total = 0
        for at, tokens in went[first:]:
            total += tokens
            assert total <= rate * (at - since) + bucket.burst + most + tokens + 1e-3


def test_bad_rate() -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(0, now=Time())
