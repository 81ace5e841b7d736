"""Ctrl-C anywhere in an append, a roll or a seal costs at most the record at hand: the next append goes on behind
what was written, no offset is given out twice, and a clean close leaves a store that the next open takes as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog
from mqcore.types import Durability
from tests.support.stores import put, readable

_PACKAGE = str(Path(sys.modules["mqcore"].__file__ or "").parent)


class _Interrupter:
    """KeyboardInterrupt at the n-th place where the package's code could meet one: Python looks for signals as a
    function begins and as a call of native code returns. fired: it came to that place."""

    def __init__(self, at: int) -> None:
        self._left, self.fired = at, False

    def run(self, action: Callable[[], Any]) -> None:
        sys.setprofile(self._event)
        try:
            action()
        except KeyboardInterrupt:
            assert self.fired
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_return") and not self.fired and frame.f_code.co_filename.startswith(_PACKAGE):
            self._left -= 1
            if self._left == 0:
                self.fired = True
                raise KeyboardInterrupt


@pytest.mark.parametrize("durability", [Durability.OS, Durability.FSYNC])
@pytest.mark.parametrize("act", ["append", "roll", "seal"])
def test_every_place(tmp_path: Path, durability: Durability, act: str) -> None:
    found: list[dict[int, bytes | None]] = []  # of one partition for each place
    with LogStore.open(tmp_path / "s", durability=durability) as store:
        store._maintenance.stop()
        store.create_topic("t", partitions=1000)
        fired = True
        while fired:
            log = store.partition("t", len(found))
            put(log, b"before")
            if act != "append":
                log.roll()
            if act == "roll":
                put(log, b"rolled")
            interrupter = _Interrupter(len(found) + 1)
            interrupter.run(lambda log=log: _act(log, act))  # type: ignore[misc]
            fired = interrupter.fired
            put(log, b"after")
            log.seal_rolled()
            found.append(readable(log))
            _check(found[-1])
    with LogStore.open(tmp_path / "s", durability=durability) as store:
        assert store.recovery.clean
        for number, before in enumerate(found):
            log = store.partition("t", number)
            assert readable(log) == before
            put(log, b"again", wait=False)
        put(log, b"last")
        for number, before in enumerate(found[:-1]):
            assert readable(store.partition("t", number)) == before | {len(before): b"again"}


def _act(log: PartitionLog, act: str) -> None:
    if act == "seal":
        log.seal_rolled()
    else:
        if act == "roll":
            log.roll()
        put(log, b"at hand")


def _check(found: dict[int, bytes | None]) -> None:
    values = list(found.values())
    assert list(found) == list(range(len(found)))
    assert values[0] == b"before"
    assert values[-1] == b"after"
    assert values.count(b"at hand") <= 1
