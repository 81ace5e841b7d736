"""Leader epochs answer as a plain list of (epoch, start) would."""

from hypothesis import given
from hypothesis import strategies as st

from mqcore.log.leader_epochs import EpochStart, LeaderEpochs


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40))), st.integers(0, 45), st.integers(0, 9))
def test_against_a_list(assignments: list[tuple[int, int]], offset: int, epoch: int) -> None:
    epochs, model = LeaderEpochs(), []
    for number, start in assignments:
        if not model or number > model[-1][0]:
            model = [entry for entry in model if entry[1] < start] + [(number, start)]
        epochs.assign(number, start)
    assert list(epochs.entries) == model
    assert epochs.epoch_of(offset) == max((e for e, start in model if start <= offset), default=-1)
    known = [e for e, _ in model if e <= epoch]
    expected = (-1, -1)
    if known:
        later = [start for e, start in model if e > known[-1]]
        expected = (known[-1], later[0] if later else 99)
    assert epochs.end_offset_for(epoch, 99) == expected


def test_truncation_of_both_ends() -> None:
    epochs = LeaderEpochs([EpochStart(0, 0), EpochStart(2, 10), EpochStart(5, 20)])
    assert epochs.truncate_end(20)
    assert epochs.latest == 2
    assert epochs.truncate_start(15)
    assert epochs.entries == (EpochStart(2, 15),)
    assert not epochs.truncate_start(15)
    assert not epochs.truncate_end(16)


def test_an_old_epoch_changes_nothing() -> None:
    epochs = LeaderEpochs([EpochStart(3, 5)])
    assert not epochs.assign(3, 9)
    assert epochs.entries == (EpochStart(3, 5),)
