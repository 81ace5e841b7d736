"""log start <= LSO <= HW <= LEO, whatever moves, and none of them moves back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import InvariantError
from mqcore.log.offsets import Offsets

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["appended", "visible", "start_moved"]), st.integers(0, 60), st.none() | st.integers(0, 60)
    )
)


@given(MOVES)
def test_order_is_kept_and_nothing_moves_back(moves: list[tuple[str, int, int | None]]) -> None:
    now = Offsets.at(3, 7)
    for name, to, transaction in moves:
        try:
            after = now.visible(to, transaction) if name == "visible" else getattr(now, name)(to)
        except InvariantError:
            continue
        assert after.checked() == after
        assert all(a >= b for a, b in zip(after, now, strict=True))
        now = after


def test_what_is_appended_is_not_visible_before_it_is_durable() -> None:
    written = Offsets.at(0, 0).appended(5)
    assert (written.high_watermark, written.log_end) == (0, 5)
    assert written.visible(5).high_watermark == 5


def test_a_late_round_takes_nothing_back() -> None:
    assert Offsets.at(0, 0).appended(9).visible(9).visible(4).high_watermark == 9


def test_an_open_transaction_holds_the_stable_offset() -> None:
    held = Offsets.at(0, 0).appended(9).visible(9, open_transaction=4)
    assert (held.last_stable, held.high_watermark) == (4, 9)
    assert held.visible(9).last_stable == 9


def test_moves_that_would_break_the_order_are_refused() -> None:
    now = Offsets.at(0, 5).appended(8)
    for move in (lambda: now.appended(7), lambda: now.visible(9), lambda: now.start_moved(6), lambda: Offsets.at(2, 1)):
        with pytest.raises(InvariantError):
            move()
