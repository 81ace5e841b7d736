"""The ring gets its files beside the rounds, each once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.support.commit import FakePartition, open_committer


def test_a_ring_that_is_growing_is_not_asked_to_grow_again(tmp_path: Path) -> None:
    """Rounds beside the growth see the same need for a file as the round that asked for it."""
    committer = open_committer(tmp_path, ring_bytes=256 << 10)
    grow, calls, entered, go_on = committer._grow, 0, threading.Event(), threading.Event()

    def slow(*args: Any, **options: bool) -> bool:
        nonlocal calls
        if options:  # the flusher's
            calls += 1
            entered.set()
            assert go_on.wait(30)
        return grow(*args, **options)

    committer._grow = slow  # type: ignore[method-assign]
    p = FakePartition(0)
    for _ in range(10):  # past half of the first file of 64 KiB, and not to its end
        committer.wait(p, p.append(committer, b"x"))
    assert entered.wait(30)
    for _ in range(3):
        committer.wait(p, p.append(committer, b"x"))
    go_on.set()
    committer._stop_flusher()
    assert calls == 1
    assert committer._journal is not None
    assert committer._journal.files == 2
    committer.close()
