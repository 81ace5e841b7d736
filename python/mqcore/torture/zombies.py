"""T11: two holders of one transactional id, and two owners of one partition, one of them asleep at every step.

same id   The first holder stops at its n-th line (n = 1, 2, … over begin, send, state, offsets, commit); the second one begins,
          and goes as far as it can; the first wakes up. Whoever lost has an error that says so; what is visible is the
          transactions that were told to be committed, whole, and no other (I14, I15).
revoked   A member of a group sleeps past its session between any two steps of its transaction, another takes its partition and
          commits; the sleeper's commit is refused, and the offset does not go back (I16)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mqcore import errors
from mqcore.testing import open_store
from mqcore.torture import whole
from mqcore.torture.lines import Line, Pause
from mqcore.torture.report import Report
from mqcore.types import TopicPartition

_PARTS = ("transactions/", "client/transaction.py", "groups/participant.py", "state/transaction.py", "state/store.py")
_BLOCKED_S = 0.02  # the second holder waits for a lock that the sleeper has
_STUCK_S = 30.0
_PER_STORE = 100
_LOST = (errors.ProducerFencedError, errors.StateConflictError, errors.ConcurrentTransactionsError,
         errors.InvalidTransactionStateError, errors.TransactionAbortedError)  # fmt: skip
_REFUSED = (errors.IllegalGenerationError, errors.UnknownMemberError, errors.RebalanceInProgressError)


class Holder(threading.Thread):
    """One run of a transaction, in a thread. error: why it was not committed, None if it was."""

    def __init__(self, store: Any, number: int, line: Line | None = None) -> None:
        super().__init__(name=f"holder-{number}", daemon=True)
        self.store, self.number, self._line = store, number, line
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if self._line is None:
                self._work()
            else:
                with self._line.watched():
                    self._work()
        except BaseException as error:
            self.error = error

    def _work(self) -> None:
        with self.store.transaction("id") as tx:
            whole.fill(tx, self.number)


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` pauses: one in ten of a group's member, the others at the lines of a transaction, each as often as the next."""
    report = Report("zombies", seed, usual_durability="memory", durability="memory", faults_wanted=faults)
    for step in range(max(4, faults // 10)):
        _revoked(step % 4, report)
    at, lines = seed, 1
    while report.faults_injected["pause"] < faults and not report.violations:
        with open_store() as store:
            whole.setup(store)
            committed: list[int] = []
            for pair in range(_PER_STORE):
                line = Line(1 + at % lines, Pause(), _PARTS) if lines > 1 else Line(1 << 60, Pause(), _PARTS)
                _same_id(store, 2 * pair + 1, line, committed, report)
                if not line.fired:
                    lines = line.count
                at += 1
                progress(report.faults_injected["pause"])
                if report.violations or report.faults_injected["pause"] >= faults:
                    break
            report.absorb(whole.check(store, committed))
            report.acked += len(committed)
    return report


def _same_id(store: Any, number: int, line: Line, committed: list[int], report: Report) -> None:
    pause = line._act
    assert isinstance(pause, Pause)
    sleeper, other = Holder(store, number, line), Holder(store, number + 1)
    sleeper.start()
    while sleeper.is_alive() and not pause.reached.wait(0.001):
        pass
    other.start()
    other.join(_BLOCKED_S if line.fired else _STUCK_S)
    pause.go()
    for holder in (sleeper, other):
        holder.join(_STUCK_S)
        if holder.is_alive():
            report.violate("I20", f"a holder is stuck, with the sleeper at {line.where}")
        elif holder.error is None:
            committed.append(holder.number)
        elif not isinstance(holder.error, _LOST):
            report.violate("T11", f"a holder got {holder.error!r}, with the sleeper at {line.where}")
    if sleeper.error is not None and other.error is not None:
        report.violate("T11", f"both lost, with the sleeper at {line.where}: {sleeper.error!r}, {other.error!r}")
    report.faults_injected["pause"] += line.fired


def _revoked(step: int, report: Report) -> None:
    """The member sleeps before its step number `step`."""
    with open_store() as store:
        whole.setup(store)
        key = TopicPartition(whole.SOURCE, 0)
        sleeper = store.consumer(whole.SOURCE, group="g", start="earliest", group_instance_id=None)
        sleeper.poll(timeout_s=1.0, max_records=5)
        tx = store.transaction("sleeper", timeout_s=600)  # longer than it sleeps
        steps: list[Callable[[], Any]] = [
            lambda: tx.send(whole.SINK, b"1", partition=0),
            lambda: tx.commit_offsets(sleeper),
            tx.commit,
        ]
        refused: Exception | None = None
        for number, do in enumerate([*steps, None]):
            if number == step:
                _take_over(store, key, random.Random(step).randrange(6, 50))
            if do is not None:
                try:
                    do()
                except (*_REFUSED, errors.AbortsTransactionError) as error:
                    refused = error
                    break
        with suppress(errors.MQError):
            tx.abort()
        offset = store.groups.fetch_offsets("g", [key])[key].offset
        if step < len(steps) and refused is None:
            report.violate("I16", f"a member that slept before step {step} committed")
        if step < len(steps) and (offset <= 5 or whole.pieces(store)):
            report.violate("I16", f"what a revoked member wrote counts: step {step}, offset {offset}")
        report.absorb(whole.check_nothing_open(store))
        report.faults_injected["revoked"] += 1
        report.acked += 1
        sleeper.close()


def _take_over(store: Any, key: TopicPartition, offset: int) -> None:
    """The member's session ends; another one owns its partition and commits."""
    clock = store.log.clock
    clock.advance(60, stalled=True)
    with store.consumer(whole.SOURCE, group="g", start="earliest") as other:
        other.poll(timeout_s=1.0, max_records=1)
        other.commit({key: offset})
