"""What holds a buffer of the caller's gives it back when the collector takes it, in whatever order, and no sooner."""

from __future__ import annotations

import gc
import uuid
from typing import Any

import pytest

from mqcore._native.commit import CommitQueue
from mqcore._native.inputs import Column


class Target:
    topic_id = uuid.uuid4()
    partition = 0

    def advance_durable(self, next_offset: int) -> None:
        pass


class Segment:
    base_offset = 0
    flushed_size = 0

    def flush(self) -> None:
        pass


def queue_in_a_cycle(view: memoryview) -> None:
    target: Any = Target()
    target.queue = CommitQueue(lambda *_: None, lambda error: error)
    target.queue.submit(target, Segment(), view, 0, 0, 1, 0)


def column_in_a_cycle(view: memoryview) -> None:
    cycle: list[Any] = [Column(view)]
    cycle.append(cycle)


@pytest.mark.parametrize("hold", [queue_in_a_cycle, column_in_a_cycle])
def test_a_view_that_is_garbage_with_its_holder_is_released_and_no_process_dies(hold: Any) -> None:
    for _ in range(50):
        source = bytearray(100)
        # The view is older than what holds it, so the collector comes to it first.
        view = memoryview(source).cast("B", (10, 10)) if hold is column_in_a_cycle else memoryview(source).cast("B")
        hold(view)
        del view
        with pytest.raises(BufferError):
            source.append(1)
        gc.collect()
        source.append(1)  # nobody holds it any more
