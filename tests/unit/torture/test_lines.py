"""Lines are those at which the interpreter could be interrupted: leaving a `with` by a return is none."""

from __future__ import annotations

import threading
from contextlib import suppress

import mqcore.torture.lines
from mqcore.torture.lines import Line, interrupt


def _run(at: int) -> tuple[Line, threading.Lock]:
    """A `with` that returns what it computes, as if it were a file of mqcore's."""
    source = "def get(lock, values):\n    with lock:\n        return values[0] + 1\n"
    names: dict[str, object] = {}
    path = mqcore.torture.lines.__file__.replace("lines.py", "planted_lines.py")
    exec(compile(source, path, "exec"), names)
    lock, line = threading.Lock(), Line(at, interrupt, ("torture/planted_lines.py",))
    with suppress(KeyboardInterrupt), line.watched():
        names["get"](lock, [1])  # type: ignore[operator]
    return line, lock


def test_returning_out_of_a_lock_is_no_line() -> None:
    """An interrupt at any line leaves the lock free."""
    at = 1
    while True:
        line, lock = _run(at)
        assert not lock.locked(), line.where
        if not line.fired:
            break
        at += 1
    assert at == 3  # the `with` and the return
