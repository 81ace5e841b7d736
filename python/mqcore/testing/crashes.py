"""Faults at every step of a processor, drawn by a seed: is what it does the same whatever happens to it?

    def feed(store):                                    # topics, and what the processor is to work on
        store.create_topic("in"); store.create_topic("out")
        with store.producer() as producer:
            producer.send_many("in", [b"%d" % n for n in range(100)])

    def check(store):                                   # everything is through: is it as it must be?
        assert store.state("totals")[b"all"] == b"4950"

    def test_my_processor():
        crashes.attack(my_processor, feed=feed, check=check)

A run works through all of the source in one thread, while faults hit it at step boundaries: before and after each poll,
call of the function, send, look at a state, flush, commit. The faults:
    kill       as kill -9: the store is what the kernel has of it; recovery, and a new worker
    raise      the function, or what it calls, raises
    redeliver  the attempt is given up, and its records come again
    rebalance  another member joins the group and leaves again
    fence      another worker with the same transactional id begins: this one is a zombie, and a new one follows

Invariants:
    1. The same seed makes the same run: the error of one that fails names it, with its faults.
    2. No thread, file or directory outlives the call.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mqcore.client.open import open as open_store
from mqcore.errors import MQError, ProducerFencedError, RebalanceInProgressError
from mqcore.groups.states import GroupState
from mqcore.processing.processor import Processor
from mqcore.processing.progress import Counters
from mqcore.processing.retry import Backoff
from mqcore.processing.worker import Worker
from mqcore.testing.stores import kill

KINDS = ("kill", "raise", "redeliver", "rebalance", "fence")
_IN_FUNCTION = ("function", "send", "send_many", "state")  # where an error is the function's own
_NOTHING_AT_HAND = ("before poll", "after poll", "after commit")  # where there is nothing to come again
_POLL_S = 0.02
_WAIT_S = 10.0
_LIVES_MAX = 100


class InjectedError(Exception):
    """What the function is made to raise."""


class _Killed(BaseException):
    """Ends a life; nothing of ours may catch it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """at: number of the step boundary, counted over the whole run; where: its name, once it was reached."""

    kind: str
    at: int
    where: str = ""


@dataclass(slots=True)
class Result:
    """steps: boundaries of a run without faults; faults: kind -> how many were injected."""

    seed: int
    runs: int = 0
    steps: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def attack(
    processor: Processor,
    *,
    feed: Callable[[Any], Any],
    check: Callable[[Any], Any],
    seed: int | None = None,
    runs: int = 50,
    faults: int = 3,
    kinds: Sequence[str] = KINDS,
    batch_records: int = 10,
    config: Mapping[str, Any] | None = None,
) -> Result:
    """Run the processor `runs` times over fresh stores, each with 1 to `faults` faults, and check each.

    seed: of all that is drawn; None: a new one. kinds: which faults. config: of the stores.
    Raises AssertionError with the seed and the faults of a run whose `check` failed, that did not come to its end, or that
    raised; ValueError (an unknown kind).
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no such faults: {sorted(unknown)}")
    chosen = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    result = Result(chosen)
    quick = replace(processor, batch_records=batch_records, backoff=Backoff(0.0, 0.0), rate=None,
                    attempts=max(processor.attempts, faults + 1))  # fmt: skip
    one = _Run(quick, feed, check, config)
    result.steps = one.go([], chosen)
    for number in range(runs):
        rng = random.Random(f"{chosen}/{number}")
        plan = [Fault(rng.choice(list(kinds)), rng.randrange(result.steps)) for _ in range(rng.randint(1, faults))]
        one.go(plan, chosen)
        result.runs += 1
        for fault in plan:
            result.faults[fault.kind] = result.faults.get(fault.kind, 0) + 1
    return result


class _Run:
    """Runs of one processor, one after the other."""

    def __init__(
        self,
        processor: Processor,
        feed: Callable[[Any], Any],
        check: Callable[[Any], Any],
        config: Mapping[str, Any] | None,
    ) -> None:
        self._processor, self._feed, self._check, self._config = processor, feed, check, config
        self._wanted: list[Fault] = []
        self._happened: list[Fault] = []
        self._step = 0
        self._store: Any = None
        self._place = self._path = Path()  # of a run's stores; of the one that lives
        self._visitors: list[threading.Thread] = []

    def go(self, plan: list[Fault], seed: int) -> int:
        """One run; how many steps it had."""
        self._wanted, self._happened, self._step = sorted(plan, key=lambda fault: fault.at), [], 0
        self._visitors = []
        with _directory() as self._place:
            try:
                self._path = self._place / "store"
                self._store = self._open()
                self._feed(self._store)
                self._work()
                self._check(self._store)
            except Exception as error:
                told = ", ".join(f"{fault.kind} at {fault.where} (step {fault.at})" for fault in self._happened)
                raise AssertionError(f"{error!r} after {told or 'no fault'}; replay with seed={seed}") from error
            finally:
                self._store.close()
                for visitor in self._visitors:
                    visitor.join()
        return self._step

    def _open(self) -> Any:
        return open_store(self._path, durability="os", config=self._config)

    def _work(self) -> None:
        """Lives of a worker, until one comes to its end."""
        for _ in range(_LIVES_MAX):
            stop = threading.Event()
            seen = _Store(self._store, self._at, stop)
            hit = replace(self._processor, function=self._hit(self._processor))
            worker = Worker(seen, hit, 0, stop=stop, counters=Counters(self._store.log.clock.monotonic_s), bucket=None)
            try:
                worker.run()
                return
            except _Killed:
                self._store = self._open()
            except ProducerFencedError:
                continue  # a supervisor starts it anew
        raise AssertionError("the processor does not come to an end")

    def _hit(self, processor: Processor) -> Callable[[Any, Any], Any]:
        def function(item: Any, tx: Any) -> Any:
            self._at("before function")
            done = processor.function(item, tx)
            self._at("after function")
            return done

        function.__name__ = processor.name
        return function

    def _at(self, where: str) -> None:
        """A step boundary."""
        step, self._step = self._step, self._step + 1
        while self._wanted and self._wanted[0].at <= step:
            fault = replace(self._wanted.pop(0), where=where)
            self._happened.append(fault)
            self._inject(fault, step)

    def _inject(self, fault: Fault, step: int) -> None:
        match fault.kind:
            case "kill":
                self._path = self._place / f"store-after-{step}"
                kill(self._store, self._path)
                raise _Killed
            case "raise" if fault.where.split()[1] in _IN_FUNCTION:
                raise InjectedError(f"injected at {fault.where}, step {fault.at}")
            case "raise" | "redeliver":
                if fault.where not in _NOTHING_AT_HAND:
                    raise RebalanceInProgressError("injected: the records come again")
            case "rebalance":
                self._rebalance()
            case "fence":
                self._store.transaction(f"{self._processor.group}-{self._processor.name}-0").abort()

    def _rebalance(self) -> None:
        """A member comes; it leaves as soon as it is in, or cannot get in. The group has moved when this returns."""
        group, store = self._processor.group, self._store
        moved = threading.Event()

        def visit() -> None:
            with suppress(MQError), store.consumer(*self._processor.source, group=group) as other:
                moved.set()
                other.poll(timeout_s=0.1)

        visitor = threading.Thread(target=visit, name="mqcore-testing-visitor")
        visitor.start()
        moved.wait(_WAIT_S)
        for _ in range(200):
            known = store.groups.in_memory(group)
            if known is not None and known.machine.state != GroupState.STABLE:
                break
            visitor.join(0.001)
        self._visitors.append(visitor)


class _Store:
    """The store as the worker under attack sees it: its clients have step boundaries."""

    def __init__(self, store: Any, at: Callable[[str], None], stop: threading.Event) -> None:
        self._store, self._at, self._stop = store, at, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def consumer(self, *topics: Any, **options: Any) -> Any:
        wanted = sum(len(self._store.partitions(topic)) for topic in topics)
        return _Consumer(self._store.consumer(*topics, **options), self._at, self._stop, wanted)

    def transaction(self, *arguments: Any, **options: Any) -> Any:
        return _Steps(self._store.transaction(*arguments, **options), self._at)

    def producer(self, **options: Any) -> Any:
        return _Steps(self._store.producer(**options), self._at)


class _Steps:
    """An object whose telling methods have a boundary before and after."""

    _NAMES = ("send", "send_many", "state", "commit_offsets", "commit", "flush")

    def __init__(self, real: Any, at: Callable[[str], None]) -> None:
        self._real, self._at = real, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in self._NAMES:
            return found

        def stepped(*arguments: Any, **options: Any) -> Any:
            self._at(f"before {name}")
            done = found(*arguments, **options)
            self._at(f"after {name}")
            return done

        return stepped


class _Consumer(_Steps):
    """Stops the run when all is through."""

    def __init__(self, real: Any, at: Callable[[str], None], stop: threading.Event, wanted: int) -> None:
        """wanted: partitions of the source."""
        super().__init__(real, at)
        self._stop, self._wanted = stop, wanted

    def poll(self, timeout_s: float, max_records: int) -> Any:
        self._at("before poll")
        batches = self._real.poll(timeout_s=_POLL_S, max_records=max_records)
        if not batches and self._is_through():
            self._stop.set()
        self._at("after poll")
        return batches

    def _is_through(self) -> bool:
        try:
            return len(self._real.assignment) == self._wanted and sum(self._real.lag().values()) == 0
        except MQError:
            return False  # the group is on the move


@contextmanager
def _directory() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="mqcore-crashes-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
