"""`store.run`: workers of processors, from start to a graceful stop.

Invariants:
    1. Each worker is a thread and one member of its processor's group: partitions are spread by the group, one owner each.
    2. A stop (SIGTERM, SIGINT, `Runner.stop`) lets each worker finish and commit the batch at hand, then leave its group.
    3. The first error that ends a worker stops all, and is raised once they are through. A function that does not come
       back within grace_s of a stop is named in an error; its thread is the only one that can be left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from mqcore.clock import Clock
from mqcore.errors import MQError, TimeoutExceededError
from mqcore.processing.processor import Processor
from mqcore.processing.progress import Counters, Progress
from mqcore.processing.rate_limit import TokenBucket
from mqcore.processing.signals import stopping_on_signals
from mqcore.processing.worker import Worker
from mqcore.types import TopicPartition

Until = Literal["stopped", "caught_up"]
OnProgress = Callable[[Progress], Any]
_LOOK_S = 0.05


class Runner:
    """The workers of some processors over one store. One run each."""

    def __init__(self, store: Any, processors: tuple[Processor, ...], *, workers: int, clock: Clock) -> None:
        if not processors:
            raise ValueError("nothing to run")
        if workers < 1:
            raise ValueError("workers must be 1 or more")
        names = [(one.group, one.name) for one in processors]
        if len(set(names)) < len(names):  # their transactions would fence each other
            raise ValueError(f"two processors of one group have the same name: {sorted(names)}")
        for one in processors:
            for topic in (*one.source, *filter(None, [one.dead_letters])):
                store.topic(topic)
        self._store, self._processors = store, processors
        self._stop = threading.Event()
        self._counters = Counters(clock.monotonic_s)
        self._error: BaseException | None = None
        self._error_lock = threading.Lock()
        self._workers: list[Worker] = []
        for one in processors:
            bucket = None if one.rate is None else TokenBucket(one.rate, now=clock.monotonic_s)
            self._workers += [
                Worker(store, one, index, stop=self._stop, counters=self._counters, bucket=bucket)
                for index in range(workers)
            ]

    def stop(self) -> None:
        """Have the workers finish what they have at hand and end. From any thread, also a signal handler."""
        self._stop.set()

    def run(self, until: Until, on_progress: OnProgress | None, progress_s: float, grace_s: float) -> Progress:
        """Run until stopped (or caught up). Raises the first error that ended a worker."""
        threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"mqcore-{worker.name}", daemon=True)
            for worker in self._workers
        ]
        for thread in threads:
            thread.start()
        try:
            self._watch(threads, until, on_progress, progress_s)
        finally:
            self._stop.set()
            hanging = self._join(threads, grace_s)
        if self._error is not None:
            raise self._error
        if hanging:
            raise TimeoutExceededError("a processor does not come back from its function", workers=hanging)
        progress = self._counters.read(self.lag())
        if on_progress is not None:
            on_progress(progress)
        return progress

    def _join(self, threads: list[threading.Thread], grace_s: float) -> list[str]:
        """Wait for the workers to end; the names of those that do not."""
        deadline = time.monotonic() + grace_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [worker.name for worker, thread in zip(self._workers, threads, strict=True) if thread.is_alive()]

    def _work(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            with self._error_lock:
                self._error = self._error or error
            self._stop.set()

    def _watch(
        self, threads: list[threading.Thread], until: Until, on_progress: OnProgress | None, every_s: float
    ) -> None:
        """Look on until all ends; a caller's Ctrl-C or an error of on_progress comes out of here."""
        looks = max(1, round(every_s / _LOOK_S))
        number = 0
        while not self._stop.wait(_LOOK_S) and any(thread.is_alive() for thread in threads):
            number += 1
            if on_progress is not None and number % looks == 0:
                on_progress(self.progress())
            if until == "caught_up" and self._is_caught_up():
                return

    def _is_caught_up(self) -> bool:
        """The idle flags come first: a worker is idle only after a poll that came after its last commit."""
        return all(worker.idle for worker in self._workers) and self._all_owned() and self.lag() == 0

    def _all_owned(self) -> bool:
        """Whether every partition is somebody's."""
        for one in self._processors:
            owned = {key for worker in self._workers if worker.processor is one for key in worker.assignment()}
            wanted = {TopicPartition(topic, number) for topic in one.source for number in self._store.partitions(topic)}
            if not owned >= wanted:
                return False
        return True

    def progress(self) -> Progress:
        """The figures of this moment. lag: -1 while the groups are still sharing partitions out."""
        try:
            return self._counters.read(self.lag() if self._all_owned() else -1)
        except MQError:  # a source was deleted: a worker says so
            return self._counters.read(-1)

    def lag(self) -> int:
        """Records that the workers have before them; -1: not known now."""
        try:
            total = sum(worker.at_hand for worker in self._workers)
            for one in self._processors:
                lags: dict[TopicPartition, int] = {}
                for worker in self._workers:
                    if worker.processor is one:
                        for key, lag in worker.lags().items():  # who ends last may have got others' partitions before
                            lags[key] = min(lag, lags.get(key, lag))
                total += sum(lags.values())
            return total
        except MQError:
            return -1


def run(
    store: Any,
    *processors: Processor,
    clock: Clock,
    workers: int,
    until: Until,
    on_progress: OnProgress | None,
    progress_s: float,
    grace_s: float,
) -> Progress:
    """See mqcore.Store.run."""
    if until not in ("stopped", "caught_up"):
        raise ValueError('until must be "stopped" or "caught_up"')
    runner = Runner(store, processors, workers=workers, clock=clock)
    with stopping_on_signals(runner.stop):
        return runner.run(until, on_progress, progress_s, grace_s)
