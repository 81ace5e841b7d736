"""One worker of a processor: poll, attempt, commit; and what follows from each kind of failure.

Invariants:
    1. A record counts as processed only when its attempt was committed. After any failure the consumer goes back to the
       first record that was not: nothing is skipped (I11), whatever the function, the group or the disk did.
    2. The function's failure and the store's are told apart: what the store cannot do ends the run; a group that moved
       on, a lost race or a time-out is tried again without counting against the record; the function's own errors count.
    3. After `attempts` failures a batch's records are tried one by one, each in a commit of its own, so that one bad
       record never takes its neighbours along; a record that fails `attempts` times becomes a dead letter in the same
       commit that moves the offset past it.
Threads: a worker is one thread; what it shares with others (stop event, counters, bucket) is thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from mqcore.errors import (
    CommitUndecidedError,
    ForkedStoreError,
    IllegalGenerationError,
    InvariantError,
    MQError,
    ProducerFencedError,
    RebalanceInProgressError,
    StorageError,
    StoreError,
    UnknownMemberError,
)
from mqcore.processing.dead_letters import headers_of
from mqcore.processing.outputs import AtLeastOnce, Attempt, ExactlyOnce
from mqcore.processing.processor import Guarantee, Processor
from mqcore.processing.progress import Counters
from mqcore.processing.rate_limit import TokenBucket
from mqcore.types import TopicPartition

log = logging.getLogger("mqcore.processing")

POLL_S = 0.25  # how soon a worker without records sees that it should stop
_ENDS_RUN = (
    StoreError,
    StorageError,
    CommitUndecidedError,
    InvariantError,
    ForkedStoreError,
    ProducerFencedError,
)
_GROUP_MOVED_ON = (IllegalGenerationError, UnknownMemberError, RebalanceInProgressError)


class Worker:
    """Consumes as one member of the processor's group until `stop` is set or `run` raises."""

    def __init__(
        self,
        store: Any,
        processor: Processor,
        index: int,
        *,
        stop: threading.Event,
        counters: Counters,
        bucket: TokenBucket | None,
    ) -> None:
        self._store, self.processor, self._stop = store, processor, stop
        self._counters, self._bucket = counters, bucket
        self._exactly_once = processor.guarantee == Guarantee.EXACTLY_ONCE
        # The same for the same worker of the next run: it fences a zombie of this one.
        self._id = f"{processor.group}-{processor.name}-{index}"
        self._consumer: Any = None
        self._producer: Any = None
        self.idle = False  # the last poll found nothing

    def run(self) -> None:
        """Raises the first error that ends the run."""
        processor, store = self.processor, self._store
        self._consumer = store.consumer(
            *processor.source,
            group=processor.group,
            start=processor.start,
            on_assigned=lambda _: self._counters.rebalanced(),
        )
        try:
            if not self._exactly_once:
                self._producer = store.producer()
            while not self._stop.is_set():
                self._round()
        finally:
            self._close()

    def _close(self) -> None:
        try:
            if self._producer is not None:
                self._producer.close()
        finally:
            self._consumer.close()

    @property
    def consumer(self) -> Any:
        """The worker's consumer; None before it runs."""
        return self._consumer

    # -- one round --------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        try:
            batches = self._consumer.poll(timeout_s=POLL_S, max_records=self.processor.batch_records)
        except _GROUP_MOVED_ON:
            return  # the next poll joins again
        self.idle = not batches
        if batches and self._may_go(sum(map(len, batches))):
            self._process(batches)
        elif batches:
            self._go_back(batches)

    def _may_go(self, records: int) -> bool:
        """Wait for the rate limit; False: stopped meanwhile."""
        return self._bucket is None or not self._stop.wait(self._bucket.take(records))

    def _process(self, batches: Sequence[Any]) -> None:
        """Bring batches to an end: committed, or given back because the group moved on or the run stops."""
        failures = attempt = 0
        while True:
            try:
                self._attempt(batches)
                return
            except _ENDS_RUN:
                raise
            except _GROUP_MOVED_ON as error:
                log.info("%s: the group moved on, %d records are read again: %s", self._id, _count(batches), error)
                self._go_back(batches)
                return
            except Exception as error:
                attempt += 1
                self._counters.retried()
                if not _is_passing(error):
                    failures += 1
                    log.warning("%s: attempt %d of %d failed: %r", self._id, failures, self.processor.attempts, error)
                    if failures >= self.processor.attempts:
                        last = error
                        break
            if not self._pause(attempt):
                self._go_back(batches)
                return
        if self.processor.dead_letters is None:
            self._go_back(batches)
            raise last
        self._one_by_one(batches)

    def _attempt(self, batches: Sequence[Any]) -> None:
        function, per_record = self.processor.function, self.processor.per_record
        with self._open_attempt() as tx:
            for batch in batches:
                if per_record:
                    for record in batch:
                        function(record, tx)
                else:
                    function(batch, tx)
            tx.finish({TopicPartition(batch.topic, batch.partition): batch.next_offset for batch in batches})
        self._counters.committed(_count(batches))

    def _open_attempt(self) -> Attempt:
        timeout_s = self.processor.timeout_s
        if self._exactly_once:
            return ExactlyOnce(self._store, self._consumer, self._id, timeout_s)
        return AtLeastOnce(self._store, self._consumer, self._producer, self._id, timeout_s)

    def _pause(self, attempt: int) -> bool:
        """Back off; False: stopped meanwhile."""
        return not self._stop.wait(self.processor.backoff.wait_s(attempt))

    def _go_back(self, batches: Sequence[Any]) -> None:
        """What was polled and not committed comes again, from the partitions that are still ours."""
        for batch in batches:
            key = TopicPartition(batch.topic, batch.partition)
            if key in self._consumer.assignment:
                self._consumer.seek(key, batch.first_offset)

    # -- a batch that does not go through ---------------------------------------------------------------------------

    def _one_by_one(self, batches: Sequence[Any]) -> None:
        """Each record in a commit of its own."""
        for number, batch in enumerate(batches):
            for at in range(len(batch)):
                if not self._settle(batch[at : at + 1]):
                    self._go_back([batch[at:], *batches[number + 1 :]])
                    return

    def _settle(self, one: Any) -> bool:
        """Bring one record (a batch of one) to its end: processed, or a dead letter. False: given back."""
        failures = attempt = 0
        error: Exception | None = None
        while True:
            try:
                if error is None or failures < self.processor.attempts:
                    self._attempt([one])
                else:
                    self._bury(one, error, failures)
                return True
            except _ENDS_RUN:
                raise
            except _GROUP_MOVED_ON:
                return False
            except Exception as caught:
                attempt += 1
                self._counters.retried()
                if not _is_passing(caught):
                    failures += 1
                    error = caught
            if not self._pause(attempt):
                return False

    def _bury(self, one: Any, error: Exception, attempts: int) -> None:
        record, topic = one[0], self.processor.dead_letters
        assert topic is not None
        headers = headers_of(
            record, error, topic=one.topic, partition=one.partition, name=self.processor.name, attempts=attempts
        )
        with self._open_attempt() as tx:
            tx.send(topic, record.value, key=record.key, headers=headers, timestamp=record.timestamp)
            tx.finish({TopicPartition(one.topic, one.partition): one.next_offset})
        log.error("%s: a dead letter, %s-%d offset %d: %r", self._id, one.topic, one.partition, record.offset, error)
        self._counters.committed(1, dead_letters=1)


def _count(batches: Sequence[Any]) -> int:
    return sum(map(len, batches))


def _is_passing(error: Exception) -> bool:
    """Not the function's fault: the same batch may go through the next time."""
    return isinstance(error, MQError) and (error.aborts_transaction or error.retriable)
