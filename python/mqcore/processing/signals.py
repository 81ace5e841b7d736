"""SIGTERM and Ctrl-C end a run in good order."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("mqcore.processing")


@contextmanager
def stopping_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within the `with`, SIGTERM and the first SIGINT call `stop`; a second SIGINT interrupts as ever. The handlers that
    were there before come back. Only in the main thread (Python has no signals elsewhere), else this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("signal %d: finishing what is at hand", number)
        stop()
        if before[signal.SIGINT] is not None:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not set by Python, and cannot be set by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
