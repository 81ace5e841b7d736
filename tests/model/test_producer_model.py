"""Producer state against ten lines of Python: whatever is sent, in whatever order, over snapshots and walks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mqcore._native.batch import assign
from mqcore._native.io import Io
from mqcore._native.producer_state import Producers, marker
from tests.support.batches import TRANSACTIONAL, Plain, encode


class Model:
    """Of one producer: its epoch, next sequence (None: any), last five (first, last, offset), open transaction."""

    def __init__(self) -> None:
        self.epoch, self.next, self.last, self.open = -1, None, [], -1

    def judge(self, epoch: int, first: int, count: int, transactional: bool) -> str:
        if epoch == self.epoch and any((first, first + count - 1) == one[:2] for one in self.last):
            return "duplicate"
        if epoch < self.epoch:
            return "stale"
        expected = 0 if epoch > self.epoch >= 0 else self.next
        if expected is not None and first != expected:
            return "old" if epoch == self.epoch and first + count <= expected else "gap"
        return "in_transaction" if self.open >= 0 and not transactional else "new"

    def add(self, epoch: int, first: int, count: int, transactional: bool, offset: int) -> None:
        self.last = [*([] if epoch > self.epoch else self.last)[-4:], (first, first + count - 1, offset)]
        self.epoch, self.next = epoch, first + count
        self.open = offset if transactional and self.open < 0 else self.open

    def end(self, epoch: int) -> None:
        if epoch > self.epoch:
            self.epoch, self.next, self.last = epoch, 0, []
        self.open = -1


class ProducerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.state, self.models, self.log, self.end = Producers(1000), {}, bytearray(), 0
        self.markers: list[tuple[int, int]] = []  # (first offset, marker's offset)
        self.mark = 0

    def model(self, producer: int) -> Model:
        return self.models.setdefault(producer, Model())

    @rule(
        producer=st.integers(0, 3),
        epoch=st.integers(0, 2),
        back=st.integers(-2, 8),
        count=st.integers(1, 3),
        transactional=st.booleans(),
    )
    def send(self, producer: int, epoch: int, back: int, count: int, transactional: bool) -> None:
        model = self.model(producer)
        first = max(0, (model.next or 0) - (back if back < 0 or back % 3 == 0 else 0))
        if back >= 4 and model.last:  # the whole of an earlier batch again
            first, last, _ = model.last[back % len(model.last)]
            count = last - first + 1
        batch = bytearray(
            encode(
                [Plain(b"v")] * count,
                producer_id=producer,
                producer_epoch=epoch,
                base_sequence=first,
                attributes=TRANSACTIONAL if transactional else 0,
            )
        )
        expected, before = model.judge(epoch, first, count, transactional), self.state.entries()
        answer = self.state.check(batch)
        assert (answer[0] if answer else "new") == expected
        if answer:
            assert self.state.entries() == before
            if expected == "duplicate":
                at = next(offset for a, b, offset in model.last if (a, b) == (first, first + count - 1))
                assert answer[6:8] == (at, at + count)
            return
        model.add(epoch, first, count, transactional, self.end)
        self.append(batch, count)

    def append(self, batch: bytearray, count: int) -> None:
        assign(batch, self.end, 0)
        self.state.add(batch, 0)
        self.log += batch
        self.end += count

    @rule(producer=st.integers(0, 3), newer=st.booleans(), commit=st.booleans())
    def finish(self, producer: int, newer: bool, commit: bool) -> None:
        model = self.model(producer)
        if model.open < 0:
            assert self.state.end_of(producer, self.end) is None
            return
        others = [other.open for id, other in self.models.items() if id != producer and other.open >= 0]
        stable = min(others, default=self.end + 1)
        assert self.state.end_of(producer, self.end) == (producer, model.open, self.end, stable)
        self.markers.append((model.open, self.end))
        epoch = model.epoch + newer
        model.end(epoch)
        self.append(marker(producer, epoch, commit=commit, coordinator_epoch=0, timestamp_ms=5), 1)

    @rule(part=st.floats(0, 1))
    def see(self, part: float) -> None:
        self.mark += int((self.end - self.mark) * part)

    @rule()
    def through_a_snapshot(self) -> None:
        """Everything is visible after an open."""
        self.mark = self.end
        before = self.state.entries()
        self.state, epoch = Producers.decode(self.state.encode(9), self.end, 1000)
        assert (epoch, self.state.entries()) == (9, before)

    @rule()
    def through_a_walk(self) -> None:
        self.mark = self.end
        with TemporaryDirectory() as directory:
            path = Path(directory) / "log"
            path.write_bytes(self.log)
            walked = Producers(1000)
            walked.walk(Io(), path, 0, len(self.log))
        assert sorted(walked.entries()) == sorted(self.state.entries())
        self.state = walked

    @invariant()
    def the_stable_end_is_the_least(self) -> None:
        held = [model.open for model in self.models.values() if model.open >= 0]
        held += [first for first, at in self.markers if at >= self.mark]
        assert self.state.stable_end(self.mark) == min([self.mark, *held])

    @invariant()
    def what_is_known_is_what_was_sent(self) -> None:
        known = {facts[0]: (facts[1], facts[6]) for facts in self.state.entries()}
        assert known == {id: (model.epoch, model.open) for id, model in self.models.items() if model.epoch >= 0}
        for producer, model in self.models.items():
            found = [(last - delta, last, offset - delta) for last, offset, delta, _ in self.state.batches(producer)]
            assert found == model.last


TestProducerState = ProducerMachine.TestCase
TestProducerState.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
