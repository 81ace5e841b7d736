"""From full chunks to logs: append in order, wait until durable, keep errors until somebody has seen them.

Invariants:
    1. Order: the records of one thread to one partition get offsets in the order of its calls. A partition's closed
       chunks wait in its queue and are appended from the left under its lock, by one thread at a time.
    2. A chunk leaves its queue after its outcome is known. One whose append was interrupted is appended again, with the
       same sequences: the log tells whether it has it. Without a producer id it counts as failed, for nobody can tell.
    3. A failed chunk is remembered until a result(), flush() or close() has raised its error.
    4. Callbacks run without any lock held.
Locks: a sink's `lock` guards the appends of one partition; only the log's own locks are taken under it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from mqcore._native.builder import Accumulator
from mqcore._native.chunks import Chunk, Sink, Topic
from mqcore.client.linger import Linger
from mqcore.codecs import compress
from mqcore.errors import FatalError, ForkedStoreError, TimeoutExceededError

log = logging.getLogger("mqcore.producer")

_QUIET_TICKS = 4
_LOOK_S = 0.002  # how soon the thread looks at what was appended and not waited for, where linger_ms is shorter
_FAILURES_KEPT = 1000  # chunks; of more than that, only the count


class Log(Protocol):
    """What a producer needs of a partition's log (mqcore.log.partition_log.PartitionLog)."""

    @property
    def high_watermark(self) -> int:
        """First offset that is not durable yet."""

    @property
    def write_position(self) -> int:
        """Where in its file the next append is likely to go (bytes)."""

    def append(self, batches: Chunk) -> tuple[int, int, int, bool]:
        """Store the batches; return base offset, next offset, log-append time (ms, -1: create time), and whether they
        were stored before."""

    def next_sequence(self, producer_id: int, epoch: int) -> int:
        """The sequence that the producer's next batch must have; -1: nothing is known of it."""

    def wait_durable(self, next_offset: int, timeout_s: float | None = None) -> None:
        """Return once everything below next_offset is durable."""

    def commit_soon(self) -> None:
        """Have what was appended made durable though nobody waits for it; never blocks."""


class Dispatcher(Accumulator):
    """An accumulator whose chunks reach their logs. `Producer` gives it topics and a face."""

    def __init__(
        self,
        open_log: Callable[[str, int], Log],
        linger: Linger,
        *,
        linger_s: float,
        batch_bytes: int,
        chunk_bytes: int,
        buffer_bytes: int,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(
            batch_bytes=batch_bytes,
            chunk_bytes=chunk_bytes,
            buffer_bytes=buffer_bytes,
            immediate=linger_s == 0,
            wall_ms=wall_ms,
        )
        self._open_log = open_log
        self._linger = linger
        self._linger_s = linger_s
        self._pending: deque[Chunk] = deque()  # appended, not known to be durable; about in that order
        self._failed: list[Chunk] = []
        self._failures = 0
        self._busy = False  # something was appended since the last tick
        self._quiet_ticks = 0
        self._forked = False  # a child's copy: its locks are nobody's, its logs the parent's
        self._ready: deque[tuple[Callable[[Any], Any], Any]] = deque()

    # ---- what native code calls --------------------------------------------------------------------------------------

    def _arm(self) -> None:
        # At once if something is appended and not yet durable: a callback may wait for that.
        self._linger.arm(self, 0.0 if self._pending else self._linger_s)

    def _dispatch(self, sink: Sink) -> None:
        self._drain(sink, None)

    def _make_room(self) -> None:
        """Bring some chunk to its end, so that buffers come back: called when they are at their limit."""
        self._settle()
        if self._pending:
            self._bring_to_end(self._pending[0])
            return
        for sink in self.open_sinks:
            self._hand_off(sink)
            return
        for topic in self.all_topics():  # all on their way by other threads
            for sink in topic.made_sinks():
                if sink.queue:
                    self._no_reentry(sink)
                    self._drain(sink, None)
                    return

    def _look(self, chunk: Chunk) -> None:
        """Finish an appended chunk if it has become durable; never blocks."""
        if chunk.sink.log.high_watermark >= chunk.next_offset:
            self._finish(chunk)
            self._call_back()

    def _wait(self, chunk: Chunk, timeout: float | None) -> None:
        """Bring a chunk to its end. Raises TimeoutExceededError; a failed chunk's error is the caller's to raise."""
        if self._forked:
            raise ForkedStoreError("these records belong to the parent process")
        deadline = None if timeout is None else monotonic() + timeout
        sink = chunk.sink
        while chunk.state == "open":
            self._close_chunk(sink)
        if chunk.state in ("closed", "appending"):
            self._no_reentry(sink)
            self._drain(sink, timeout)
        if chunk.state in ("closed", "appending"):
            raise _too_late("an append before it is still running", sink)
        if chunk.state == "appended":
            try:
                sink.log.wait_durable(chunk.next_offset, None if deadline is None else max(0.0, deadline - monotonic()))
            except TimeoutExceededError:
                raise
            except Exception as error:
                self._finish(chunk, error)
            else:
                self._finish(chunk)
        self._call_back()

    def _check_topic(self, topic: Topic) -> None:
        """Called after an append, without a lock: the place to see that a topic has changed."""

    # ---- appending ---------------------------------------------------------------------------------------------------

    def _close_chunk(self, sink: Sink) -> None:
        """Close what is open in a sink. A lease ends first: its holder has the lock."""
        if not self.close_chunk(sink) and sink.chunk is not None:
            with sink.lock:
                pass

    def _hand_off(self, sink: Sink) -> None:
        self._close_chunk(sink)
        self._drain(sink, None)

    def _drain(self, sink: Sink, timeout: float | None) -> None:
        """Append the closed chunks of one partition, oldest first; returns early if the lock is not had in time."""
        me = threading.get_ident()
        if sink.owner == me:
            return  # from inside an append (a finalizer, a signal handler): the outer call goes on with the queue
        if not sink.lock.acquire(timeout=-1 if timeout is None else timeout):
            return
        try:
            sink.owner = me
            while sink.queue:
                self._append(sink, sink.queue[0])
                sink.queue.popleft()
        finally:
            sink.owner = 0
            sink.lock.release()
        self._busy = True
        if self._pending and not self.armed:
            self.armed = True  # not durable yet, and perhaps nobody waits for it
            self._linger.arm(self, max(self._linger_s, _LOOK_S))
        self._check_topic(sink.topic)
        self._settle()
        self._call_back()

    def _append(self, sink: Sink, chunk: Chunk) -> None:
        """Append one chunk; the caller has the sink's lock. Errors go to the chunk, except those that end a thread."""
        try:
            if chunk.state == "appending" and chunk.producer_id < 0:  # invariant 2
                raise FatalError("an append was interrupted: its records may be stored or not")
            if sink.unsure and chunk.producer_id >= 0:
                stored = sink.log.next_sequence(chunk.producer_id, chunk.producer_epoch)
                sink.stored = stored if stored >= 0 else sink.stored
                sink.unsure = False
            if not chunk.begin():
                return
            chunk.repack(compress)
            if sink.log is None:
                sink.log = self._open_log(sink.topic.name, sink.partition)
            chunk.appended(*sink.log.append(chunk))
            sink.skew = sink.log.write_position
        except Exception as error:
            sink.unsure = sink.log is not None
            self._finish(chunk, error)
            return
        if sink.log.high_watermark >= chunk.next_offset:
            self._finish(chunk)
        else:
            self._pending.append(chunk)

    # ---- the end of chunks -------------------------------------------------------------------------------------------

    def _finish(self, chunk: Chunk, error: BaseException | None = None) -> None:
        """A chunk is durable, or failed; the second call for one has no effect."""
        failed_before = chunk.error is not None
        self._ready.extend(chunk.finish(error))
        if error is None or failed_before or chunk.error is not error:
            return
        self._failures += 1
        if len(self._failed) < _FAILURES_KEPT:
            self._failed.append(chunk)
        sink = chunk.sink
        log.error("%d records for %s-%d failed: %s", chunk.records, sink.topic.name, sink.partition, error)

    def _settle(self) -> None:
        """Finish the oldest chunks that have become durable; never blocks."""
        while self._pending:
            try:
                chunk = self._pending[0]
                if chunk.state == "appended":
                    if chunk.sink.log.high_watermark < chunk.next_offset:
                        return
                    self._finish(chunk)
                self._pending.remove(chunk)
            except (IndexError, ValueError):
                return  # another thread settles too

    def _bring_to_end(self, chunk: Chunk, timeout: float | None = None) -> None:
        """_wait, then take it off the list. Its error is kept, not raised."""
        self._wait(chunk, timeout)
        self._settle()

    def _call_back(self) -> None:
        while self._ready:
            try:
                fn, delivery = self._ready.popleft()
            except IndexError:
                return
            try:
                fn(delivery)
            except Exception:
                log.exception("a delivery callback failed")

    def _no_reentry(self, sink: Sink) -> None:
        if sink.owner == threading.get_ident():
            what = "waiting for records of a partition from inside its own append"
            raise FatalError(what, topic=sink.topic.name, partition=sink.partition)

    # ---- all of them -------------------------------------------------------------------------------------------------

    def _flush(self, timeout: float | None) -> None:
        """Bring every chunk to its end. Raises TimeoutExceededError only: other errors are kept."""
        deadline = None if timeout is None else monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - monotonic())

        for sink in list(self.open_sinks):
            self._close_chunk(sink)
        for topic in self.all_topics():
            for sink in topic.made_sinks():
                if sink.queue:
                    self._drain(sink, left())
                    if sink.queue and left() == 0:
                        raise _too_late("an append is still running", sink)
        while self._pending:
            self._bring_to_end(self._pending[0], left())

    def _raise_failures(self) -> None:
        """Raise the first error that nobody has seen; all are forgotten with it."""
        failed, self._failed = self._failed, []
        count, self._failures = self._failures, 0
        unseen = [chunk for chunk in failed if not chunk.reported]
        if not unseen:
            return
        for chunk in unseen:
            chunk.reported = True
        error = unseen[0].error
        assert error is not None
        if count > 1:
            error.add_note(f"{count} chunks of records failed; this is the error of the first that no result() raised")
        raise error

    def _linger_tick(self, now: float) -> float | None:
        """See linger.Lingering."""
        again: float | None = None
        for sink in list(self.open_sinks):  # oldest first
            chunk = sink.chunk
            if chunk is None:
                continue
            if chunk.opened_at + self._linger_s > now:
                again = chunk.opened_at + self._linger_s
                break
            self._hand_off(sink)
        self._settle()
        for chunk in [chunk for chunk in self._pending if chunk.callbacks]:
            self._bring_to_end(chunk)  # nobody waits for it, but somebody wants to hear of it
        for log in {chunk.sink.log for chunk in self._pending if chunk.opened_at + self._linger_s <= now}:
            log.commit_soon()  # nobody waits for them, but readers do: under fsync they see what is durable
        # Busy lately: look again, so that a send need not wake the thread for each chunk that it opens.
        self._quiet_ticks = 0 if self.open_sinks or self._busy else self._quiet_ticks + 1
        self._busy = False
        if again is None and (self._pending or self._quiet_ticks < _QUIET_TICKS or not self.disarm()):
            again = now + max(self._linger_s, _LOOK_S)
        return again


def _too_late(what: str, sink: Sink) -> TimeoutExceededError:
    return TimeoutExceededError(f"time is up: {what}", topic=sink.topic.name, partition=sink.partition)
