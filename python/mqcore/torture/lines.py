"""Do something at the n-th line that a call runs in chosen files of mqcore: raise, or stand still until told to go on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_ROOT = str(Path(__file__).resolve().parent.parent)


class Line:
    """One line of the calling thread, by its number. fired: it was reached; where: its file and number."""

    def __init__(self, at: int, act: Callable[[], None], parts: tuple[str, ...]) -> None:
        """parts: files and directories below mqcore's, such as "transactions/" or "client/transaction.py"."""
        self.at, self._act = at, act
        self._parts = tuple(f"{_ROOT}/{part}" for part in parts)
        self.count = 0
        self.fired = False
        self.where = ""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The `with` whose lines are counted; in this thread."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.fired or not frame.f_code.co_filename.startswith(self._parts):
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.fired:
            self.count += 1
            if self.count == self.at:
                self.fired = True
                self.where = f"{frame.f_code.co_filename.removeprefix(_ROOT)}:{frame.f_lineno}"
                self._act()
        return self._line


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


class Pause:
    """An act that stands still until `go`."""

    def __init__(self) -> None:
        self.reached, self._go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self._go.wait(60)

    def go(self) -> None:
        self._go.set()
