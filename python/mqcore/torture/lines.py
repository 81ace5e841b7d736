"""Do something at the n-th line that a call runs in chosen files of mqcore: raise, or stand still until told to go on."""

from __future__ import annotations

import dis
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
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
        if event == "line" and not self.fired and not _leaves_with(frame):
            self.count += 1
            if self.count == self.at:
                self.fired = True
                self.where = f"{frame.f_code.co_filename.removeprefix(_ROOT)}:{frame.f_lineno}"
                self._act()
        return self._line


_NONES = 3  # __exit__(None, None, None)


@functools.cache
def _exits(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions that begin the regular exit of a `with`, and of the NOPs of `try:` lines."""
    steps = list(dis.get_instructions(code))
    found = set()
    for at, step in enumerate(steps):
        after = at + (step.opname == "SWAP")  # a `return` out of a `with` puts its value below first
        nones = steps[after : after + _NONES]
        if step.opname == "NOP" or (
            len(nones) == _NONES and all(one.opname == "LOAD_CONST" and one.argval is None for one in nones)
        ):
            found.add(step.offset)
    return frozenset(found)


def _leaves_with(frame: FrameType) -> bool:
    """Whether the line is that of a `with` which is being left, or a bare `try:`. The interpreter looks for signals at calls
    and jumps, so none comes there; a tracer's exception would, where no handler covers it, and leave a lock held."""
    return frame.f_lasti in _exits(frame.f_code)


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
