"""The linger thread looks at a producer when it is due, as long as it asks for it, and not a moment more."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from mqcore.client.linger import Linger, _wait_for_starts


class Ticker:
    """Counts ticks; wants `more` of them after the first."""

    def __init__(self, more: int = 0, fail: bool = False) -> None:
        self.more, self.fail = more, fail
        self.ticks: list[float] = []
        self.last = threading.Event()

    def _linger_tick(self, now: float) -> float | None:
        self.ticks.append(now)
        if self.fail:
            self.fail = False
            raise RuntimeError("logged")
        if len(self.ticks) > self.more:
            self.last.set()
            return None
        return now + 0.001


def test_ticks_come_no_earlier_than_due_and_stop_when_nothing_is_left() -> None:
    linger = Linger()
    slow, quick = Ticker(), Ticker(more=5)
    start = time.monotonic()
    linger.arm(slow, 0.05)
    linger.arm(quick, 0.0)  # wakes the thread, which slept for the other
    assert quick.last.wait(10)
    assert slow.last.wait(10)
    assert slow.ticks[0] >= start + 0.05
    assert len(quick.ticks) == 6
    assert len(slow.ticks) == 1
    linger.arm(slow, 0.0)
    linger.close()
    linger.close()
    linger.arm(slow, 0.0)
    assert linger._ended is not None
    assert linger._ended.is_set()


def test_an_error_does_not_keep_others_waiting_and_is_tried_again() -> None:
    linger = Linger()
    bad, good = Ticker(fail=True), Ticker(more=1)
    linger.arm(bad, 0.0)
    linger.arm(good, 0.0)
    assert good.last.wait(10)
    assert bad.last.wait(10)
    assert len(bad.ticks) == 2
    linger.close()


def test_who_is_removed_is_not_ticked_and_nobody_idle_is_kept_alive() -> None:
    linger = Linger()
    removed, idle = Ticker(), Ticker()
    linger.arm(removed, 30.0)
    linger.remove(removed)
    linger.remove(removed)
    linger.arm(idle, 0.0)
    assert idle.last.wait(10)
    weak = [weakref.ref(removed), weakref.ref(idle)]
    del removed, idle
    deadline = time.monotonic() + 10
    while any(ref() for ref in weak) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)
    assert not any(ref() for ref in weak)
    linger.close()


def test_a_store_that_never_lingers_has_no_thread() -> None:
    linger = Linger()
    assert linger._ended is None
    linger.close()


def test_close_does_not_wait_for_a_thread_that_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore.client.linger.START_S", 0.01)
    monkeypatch.setattr("mqcore.client.linger._thread.start_new_thread", lambda *_: 1)
    linger = Linger()
    linger.arm(Forever(), 0.0)
    linger.close()


def test_the_interpreter_waits_for_a_thread_that_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_late(run: Callable[..., None], arguments: tuple[object, ...]) -> int:
        threading.Timer(0.1, run, arguments).start()
        return 1

    monkeypatch.setattr("mqcore.client.linger._thread.start_new_thread", start_late)
    linger = Linger()
    linger.arm(Forever(), 0.0)
    assert not linger._begun.is_set()
    _wait_for_starts()
    assert linger._begun.is_set()
    linger.close()


class Forever:
    def _linger_tick(self, now: float) -> float | None:
        return now + 1.0
