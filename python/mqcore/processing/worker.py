"""One worker of a processor: poll, attempt, commit; and what follows from each kind of failure.

Invariants:
    1. A record counts as processed only when its attempt was committed. After any failure the consumer goes back to the
       first record that was not: nothing is skipped (I11), whatever the function, the group or the disk did.
    2. The function's failures and others are told apart (failures.py): what the store cannot do ends the run; a group
       that moved on, a lost race or a full disk is tried again without counting against the record.
    3. After `attempts` failures a batch's records are tried one by one, each in a commit of its own, so that one bad
       record never takes its neighbours along; a record that fails `attempts` times becomes a dead letter in the same
       commit that moves the offset past it.
Threads: a worker is one thread; what it shares with others (stop event, counters, bucket) is thread-safe.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mqcore.errors import MQError
from mqcore.processing.dead_letters import headers_of
from mqcore.processing.failures import Failure, classify
from mqcore.processing.outputs import AtLeastOnce, Attempt, ExactlyOnce
from mqcore.processing.processor import Guarantee, Processor
from mqcore.processing.progress import Counters
from mqcore.processing.rate_limit import TokenBucket
from mqcore.types import TopicPartition

log = logging.getLogger("mqcore.processing")

POLL_S = 0.25  # how soon a worker without records sees that it should stop


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
        self.name = f"{processor.group}-{processor.name}-{index}"
        # A wait for the rate is a wait without polls: of a second at most, so that the group has no reason to worry.
        self._poll_records = processor.batch_records
        if processor.rate is not None:
            self._poll_records = min(self._poll_records, math.ceil(processor.rate))
        self._consumer: Any = None
        self._producer: Any = None
        self._member: Any = None  # who we were in the group at the last poll
        self.at_hand = 0  # records that were polled and are not committed
        self._last_lags: dict[TopicPartition, int] = {}
        self.idle = False  # the last poll found nothing

    def run(self) -> None:
        """Raises the first error that ends the run."""
        processor, store = self.processor, self._store
        self._consumer = store.consumer(
            *processor.source,
            group=processor.group,
            start=processor.start,
            on_assigned=lambda *_: self._counters.rebalanced(),
        )
        try:
            if not self._exactly_once:
                self._producer = store.producer()
            while not self._stop.is_set():
                self._round()
            self._last_lags = self.lags()
        finally:
            self._close()

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        try:
            if self._producer is not None:
                self._producer.close()
        finally:
            consumer.close()

    def assignment(self) -> tuple[TopicPartition, ...]:
        """The partitions that it has at this moment."""
        consumer = self._consumer
        return () if consumer is None else consumer.assignment

    def lags(self) -> dict[TopicPartition, int]:
        """Records before it, but for `at_hand`; after the run: those that it left. Raises MQError: not known now."""
        consumer = self._consumer
        return self._last_lags if consumer is None else consumer.lag()

    # -- one round --------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        try:
            batches = self._consumer.poll(timeout_s=POLL_S, max_records=self._poll_records)
        except MQError as error:
            if classify(error) is not Failure.GROUP_MOVED_ON:
                raise
            return  # the next poll joins again
        self.idle = not batches
        if not batches:
            return
        self._member = self._consumer.group_metadata()
        self.at_hand = _count(batches)
        if self._may_go(self.at_hand):
            self._process(batches)
        else:
            self._go_back(batches)
        self.at_hand = 0

    def _may_go(self, records: int) -> bool:
        """Wait for the rate limit; False: stopped meanwhile."""
        return self._bucket is None or not self._stop.wait(self._bucket.take(records))

    def _process(self, batches: Sequence[Any]) -> None:
        """Bring batches to an end: committed, or given back because the group moved on or the run stops."""
        try:
            if not self._try(partial(self._attempt, batches)):
                self._go_back(batches)
        except _Exhausted as last:
            if self.processor.dead_letters is None:
                raise last.error from None
            self._one_by_one(batches)

    def _try(self, call: Callable[[], None]) -> bool:
        """call() until it goes through. False: give the batches back. Raises _Exhausted after `attempts` failures of the
        function, and what ends the run."""
        failures = attempt = 0
        while True:
            try:
                call()
                return True
            except Exception as error:
                kind = classify(error)
                if kind is Failure.ENDS_RUN:
                    raise
                if kind is Failure.GROUP_MOVED_ON:
                    log.info("%s: the group moved on, what is not committed comes again: %s", self.name, error)
                    return False
                attempt += 1
                self._counters.retried()
                if kind is Failure.COUNTS:
                    failures += 1
                    log.warning("%s: attempt %d of %d failed: %r", self.name, failures, self.processor.attempts, error)
                    if failures >= self.processor.attempts:
                        raise _Exhausted(error, failures) from None
            if self._stop.wait(self.processor.backoff.wait_s(attempt)):
                return False

    def _attempt(self, batches: Sequence[Any]) -> None:
        function, per_record = self.processor.function, self.processor.per_record
        with self._open_attempt() as tx:
            for batch in batches:
                if per_record:
                    for record in batch:
                        function(record, tx)
                else:
                    function(batch, tx)
            tx.finish(_behind(batches))
        self._committed(_count(batches))

    def _committed(self, records: int, dead_letters: int = 0) -> None:
        self.at_hand -= records
        self._counters.committed(records, dead_letters)

    def _open_attempt(self) -> Attempt:
        timeout_s = self.processor.timeout_s
        if self._exactly_once:
            return ExactlyOnce(self._store, self.name, timeout_s, self._member, self._stop.wait)
        return AtLeastOnce(self._store, self.name, timeout_s, self._consumer, self._producer)

    def _go_back(self, batches: Sequence[Any]) -> None:
        """What was polled and not committed comes again, from the partitions that are still ours."""
        ours = self.assignment()
        for batch in batches:
            key = TopicPartition(batch.topic, batch.partition)
            if key in ours:
                self._consumer.seek(key, batch.first_offset)

    # -- a record of a batch that does not go through -----------------------------------------------------------------

    def _one_by_one(self, batches: Sequence[Any]) -> None:
        """Each record in a commit of its own."""
        try:
            for number, batch in enumerate(batches):
                for at in range(len(batch)):
                    if self._stop.is_set() or not self._settle(batch[at : at + 1]):
                        self._go_back([batch[at:], *batches[number + 1 :]])
                        return
        except _Exhausted as last:
            raise last.error from None  # the dead letter itself could not be written

    def _settle(self, one: Any) -> bool:
        """Bring one record (a batch of one) to its end: processed, or a dead letter. False: to be given back."""
        try:
            return self._try(partial(self._attempt, [one]))
        except _Exhausted as last:
            return self._try(partial(self._bury, one, last))

    def _bury(self, one: Any, last: _Exhausted) -> None:
        record, topic, error = one[0], self.processor.dead_letters, last.error
        assert topic is not None
        headers = headers_of(
            record, error, topic=one.topic, partition=one.partition, name=self.processor.name, attempts=last.failures
        )
        with self._open_attempt() as tx:
            tx.send(topic, record.value, key=record.key, headers=headers, timestamp=record.timestamp)
            tx.finish(_behind([one]))
        log.error("%s: a dead letter, %s-%d offset %d: %r", self.name, one.topic, one.partition, record.offset, error)
        self._committed(1, dead_letters=1)


class _Exhausted(Exception):
    """The function failed as often as it may."""

    def __init__(self, error: Exception, failures: int) -> None:
        super().__init__(error)
        self.error, self.failures = error, failures


def _count(batches: Sequence[Any]) -> int:
    return sum(map(len, batches))


def _behind(batches: Sequence[Any]) -> dict[TopicPartition, int]:
    """The offset behind the last batch of each partition."""
    return {TopicPartition(batch.topic, batch.partition): batch.next_offset for batch in batches}
