"""The outcome of one `send_many`: where its records went, chunk by chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from mqcore._native.chunks import Chunk, add_callback, is_done, wait
from mqcore.errors import TimeoutExceededError
from mqcore.types import OffsetRange


class BulkDelivery:
    """One outcome for many records. Made by `Producer.send_many`; any thread may use it.

    topic: its name. len(): how many records were sent.
    """

    __slots__ = ("_spans", "topic")

    def __init__(self, topic: str, spans: Sequence[tuple[Chunk, int, int]]) -> None:
        """spans: (chunk, index of the first record in it, records), in the order of sending."""
        self.topic = topic
        self._spans = spans

    def __len__(self) -> int:
        return sum([span[2] for span in self._spans])

    def __repr__(self) -> str:
        return f"<BulkDelivery {self.topic}: {len(self)} records, {'done' if self.done() else 'pending'}>"

    def chunks(self) -> tuple[Chunk, Chunk]:
        """Those that hold the first and the last record."""
        return self._spans[0][0], self._spans[-1][0]

    def done(self) -> bool:
        """True once every record is acknowledged, or failed; never blocks."""
        return all(is_done(span[0]) for span in self._spans)

    @property
    def ranges(self) -> list[OffsetRange]:
        """Where the records acknowledged so far lie: (partition, base_offset, count), sorted, as few as possible.

        Within a partition the records have the order in which they were given.
        """
        found = sorted(
            OffsetRange(chunk.sink.partition, chunk.base_offset + first, count)
            for chunk, first, count in self._spans
            if chunk.state == "done"
        )
        merged: list[OffsetRange] = []
        for span in found:
            last = merged[-1] if merged else None
            if last and last.partition == span.partition and last.base_offset + last.count == span.base_offset:
                merged[-1] = OffsetRange(span.partition, last.base_offset, last.count + span.count)
            else:
                merged.append(span)
        return merged

    def result(self, timeout: float | None = None) -> list[OffsetRange]:
        """Wait until all records are acknowledged and return `ranges`.

        timeout: seconds, None waits without end. Raises TimeoutExceededError (they may still be acknowledged), or
        the error of the first chunk that failed: then `ranges` has what was acknowledged.
        """
        deadline = None if timeout is None else monotonic() + timeout
        for span in self._spans:
            wait(span[0], None if deadline is None else max(0.0, deadline - monotonic()))
        return self.ranges

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as result does; return the error that it would raise, None if there is none."""
        try:
            self.result(timeout)
        except TimeoutExceededError as error:
            if not self.done():
                raise
            return error
        except Exception as error:
            return error
        return None

    def add_done_callback(self, fn: Callable[[BulkDelivery], Any]) -> None:
        """Have fn(self) called once all records are acknowledged or failed; at once if they are.

        It runs in whichever thread saw the end of it and must not block; what it raises is logged.
        """
        left = len(self._spans)
        if left == 0:
            fn(self)
            return
        lock = threading.Lock()

        def one(_: object) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last:
                fn(self)

        for span in list(self._spans):
            add_callback(span[0], one, self)
