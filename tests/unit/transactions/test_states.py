"""A transactional id moves between its states as the diagram says, whatever is asked of it in which order; what is decided
stays decided, and no two transactions end with the same epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import InvalidTransactionStateError
from mqcore.log.transaction_records import Status, TransactionRecord
from mqcore.transactions import states

LEGAL = {
    Status.EMPTY: {"begin"},
    Status.ONGOING: {"commit", "abort"},
    Status.PREPARE_COMMIT: {"complete"},
    Status.PREPARE_ABORT: {"complete"},
    Status.COMPLETE_COMMIT: {"begin"},
    Status.COMPLETE_ABORT: {"begin"},
}
NEXT = {
    ("begin", Status.EMPTY): Status.ONGOING,
    ("begin", Status.COMPLETE_COMMIT): Status.ONGOING,
    ("begin", Status.COMPLETE_ABORT): Status.ONGOING,
    ("commit", Status.ONGOING): Status.PREPARE_COMMIT,
    ("abort", Status.ONGOING): Status.PREPARE_ABORT,
    ("complete", Status.PREPARE_COMMIT): Status.COMPLETE_COMMIT,
    ("complete", Status.PREPARE_ABORT): Status.COMPLETE_ABORT,
}


def step(state: TransactionRecord, what: str, now: int) -> TransactionRecord:
    if what == "begin":
        return states.begin(state, now, 1000)
    if what == "complete":
        return states.complete(state, now)
    return states.prepare(state, (("t", (0,)),), now, commit=what == "commit")


@given(st.lists(st.sampled_from(["begin", "commit", "abort", "complete"]), max_size=60))
def test_only_the_moves_of_the_diagram(moves: list[str]) -> None:
    state, ended = states.fresh(7, 0), set()
    for now, what in enumerate(moves, 1):
        if what in LEGAL[state.status]:
            before, state = state, step(state, what, now)
            assert state.status is NEXT[what, before.status]
            assert state.updated_ms == now
            assert state.epoch == before.epoch + (what in ("commit", "abort"))
            if what in ("commit", "abort"):
                assert state.epoch not in ended
                ended.add(state.epoch)
        else:
            with pytest.raises(InvalidTransactionStateError):
                step(state, what, now)
        assert states.is_idle(state) == ("begin" in LEGAL[state.status])


def test_epochs_end_before_int16_does() -> None:
    state = states.fresh(7, 0)
    transactions = 0
    while not states.is_exhausted(state):
        state = states.complete(states.prepare(states.begin(state, 0, 1), (), 0, commit=True), 0)
        transactions += 1
    assert state.epoch < states.EPOCH_MAX
    assert transactions == states.EPOCH_MAX - 1
