"""A process that opens a store and forks at one point of the store's life; the victim of the suite fork-threads.

    python -P -m mqcore.torture.fork_points STORE POINT

The child must find every call refused (ForkedStoreError, or a close that does nothing), be unable to write the store, able to
read it with an open of its own, and leave by the normal way without touching anything: files, lock, marks. The parent goes on
afterwards, closes, and tells what was acknowledged. One JSON line each on standard output, the child's first."""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture import planted
from mqcore.torture.ledger import TOPIC, value
from mqcore.torture.workload import STORE_CONFIG, TOPIC_CONFIG

_PARTITIONS = 2
_CHILD_S = 20


class Victim:
    """The parent's store and what was acknowledged of it: partition -> [offset, number]."""

    def __init__(self, path: Path, durability: str) -> None:
        self.path = path
        self.store = mqcore.open(path, durability=durability, config=STORE_CONFIG)
        self.store.create_topic(TOPIC, partitions=_PARTITIONS, config=TOPIC_CONFIG)
        self.producer = self.store.producer(linger_ms=60_000)
        self.consumer = self.store.consumer(TOPIC, start="earliest")
        self.acked: dict[int, list[tuple[int, int]]] = {p: [] for p in range(_PARTITIONS)}
        self._sent = dict.fromkeys(range(_PARTITIONS), 0)
        self._open: list[tuple[int, int, Any]] = []
        self._lock = threading.Lock()
        self.child_result = ""
        self.quiet = True  # nothing runs beside the child: its life may change no file
        self.delivery: Any = None

    def send(self, partition: int = 0, count: int = 1) -> None:
        for _ in range(count):
            with self._lock:
                number, self._sent[partition] = self._sent[partition], self._sent[partition] + 1
                self.delivery = self.producer.send(TOPIC, value(partition, number), partition=partition)
                self._open.append((partition, number, self.delivery))

    def flush(self) -> None:
        with self._lock:
            sent, self._open = self._open, []
        self.producer.flush()
        for partition, number, delivery in sent:
            self.acked[partition].append((delivery.result().offset, number))

    # -- the fork ---------------------------------------------------------------------------------------------------

    def fork(self) -> None:
        """Fork here; the child checks and leaves, the parent waits for it and goes on."""
        before = _picture(self.path) if self.quiet else {}
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            faulthandler.dump_traceback_later(_CHILD_S, exit=True)  # a hang says where
            problems = _Child(self).problems()
            os.write(writing, json.dumps(problems).encode())
            os.close(writing)
            sys.exit(0)  # by the normal way: atexit and finalizers run in the child
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        status = _wait(pid, 30)
        problems = json.loads(told) if told else ["the child said nothing"]
        if status != 0:
            problems.append(f"the child left with status {status}")
        if self.quiet:
            changed = sorted(before.items() ^ _picture(self.path).items())
            problems += [f"the child's life changed {name}" for name, _ in changed[:3]]
        try:
            mqcore.open(self.path, durability=self.store.durability, config=STORE_CONFIG).close()
            problems.append("the parent's lock is gone: the store could be opened again")
        except errors.StoreLockedError:
            pass
        except errors.MQError as error:
            problems.append(f"the parent's lock is gone: {error}")
        self.child_result = json.dumps(problems)


def _wait(pid: int, seconds: float) -> int:
    """The child's exit status; a hung one is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, 9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _picture(path: Path) -> dict[str, str]:
    """Every file of the store but LMDB's table of readers, and its marks page, by digest."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != "lock.mdb"]
    files += sorted(Path("/dev/shm").glob(f"mqcore-{os.getuid()}-*")) if os.path.isdir("/dev/shm") else []
    found = {}
    for file in files:
        try:
            if not str(file).startswith("/dev/shm/mqcore-") or _is_ours(file):
                found[str(file)] = hashlib.blake2b(file.read_bytes()).hexdigest()
        except FileNotFoundError:
            continue  # another store's page
    return found


_page: Path | None = None


def _is_ours(file: Path) -> bool:
    return _page is not None and file == _page


class _Child:
    """What the forked child tries."""

    def __init__(self, victim: Victim) -> None:
        self._v = victim

    def problems(self) -> list[str]:
        found = []
        for name, call in self._refused().items():
            try:
                call()
            except errors.ForkedStoreError:
                continue
            except BaseException as error:
                found.append(f"{name} raises {type(error).__name__}: {error}")
            else:
                found.append(f"{name} works in the child")
        for name, call in self._harmless().items():
            try:
                call()
            except errors.ForkedStoreError:
                continue
            except BaseException as error:
                found.append(f"{name} raises {type(error).__name__}: {error}")
        return found + self._own_store()

    def _refused(self) -> dict[str, Callable[[], Any]]:
        v = self._v
        store, producer, consumer = v.store, v.producer, v.consumer
        calls: dict[str, Callable[[], Any]] = {
            "send": lambda: producer.send(TOPIC, b"child"),
            "send to a partition": lambda: producer.send(TOPIC, b"child", partition=0),
            "send_many": lambda: producer.send_many(TOPIC, [b"child"]),
            "flush": producer.flush,
            "poll": lambda: consumer.poll(timeout_s=0.01),
            "topics": store.topics,
            "create_topic": lambda: store.create_topic("child"),
            "delete_topic": lambda: store.delete_topic(TOPIC),
            "alter_topic": lambda: store.alter_topic(TOPIC, {"retention.ms": 1}),
            "delete_before": lambda: store.delete_before(TOPIC, {0: 0}),
            "end_offsets": lambda: store.end_offsets(TOPIC),
            "producer": store.producer,
            "consumer": lambda: store.consumer(TOPIC),
            "partition": lambda: store.log.partition(TOPIC, 0),
            "maintain": store.log.maintain,
        }
        if v.delivery is not None and not v.delivery.done():
            calls["result"] = lambda: v.delivery.result(timeout=1)
        return calls

    def _harmless(self) -> dict[str, Callable[[], Any]]:
        v = self._v
        return {"consumer.close": v.consumer.close, "producer.close": v.producer.close, "store.close": v.store.close}

    def _own_store(self) -> list[str]:
        """The child's own opens: refused for writing while the parent lives, good for reading."""
        v = self._v
        try:
            mqcore.open(v.path, durability=v.store.durability, config=STORE_CONFIG)
            return ["the child could open the store for writing"]
        except errors.StoreLockedError:
            pass
        except BaseException as error:
            return [f"open for writing raises {type(error).__name__}: {error}"]
        try:
            with mqcore.open(v.path, read_only=True, config=STORE_CONFIG) as store:
                for partition, acked in v.acked.items():
                    end = store.end_offsets(TOPIC)[partition]
                    if acked and end <= acked[-1][0]:
                        return [
                            f"the child's reader sees {end} offsets of partition {partition}, {acked[-1][0]} is acked"
                        ]
        except BaseException as error:
            return [f"open for reading raises {type(error).__name__}: {error}"]
        return []


# -- the points ------------------------------------------------------------------------------------------------------


def just_opened(v: Victim) -> None:
    v.fork()


def after_sends(v: Victim) -> None:
    v.send(0, 20)
    v.flush()
    v.fork()


def mid_batch(v: Victim) -> None:
    v.send(0, 3)
    v.fork()


def mid_chunk_of_two_partitions(v: Victim) -> None:
    v.send(0, 300)
    v.send(1, 300)
    v.fork()


def after_a_poll(v: Victim) -> None:
    v.send(0, 50)
    v.flush()
    v.consumer.poll(timeout_s=1, max_records=10)
    v.fork()


def inside_an_iteration(v: Victim) -> None:
    v.send(0, 50)
    v.flush()
    records = iter(v.consumer)
    next(records)
    v.fork()


def in_a_consumers_wait(v: Victim) -> None:
    thread = _thread(lambda: v.consumer.poll(timeout_s=3))
    time.sleep(0.05)
    v.fork()
    v.send()
    v.flush()
    thread.join(10)


def after_a_roll(v: Victim) -> None:
    v.send(0, 200)
    v.flush()
    v.store.log.partition(TOPIC, 0).roll()
    v.quiet = False  # maintenance seals what was rolled
    v.fork()


def after_maintenance(v: Victim) -> None:
    v.send(0, 200)
    v.flush()
    v.store.log.maintain()
    v.fork()


def during_maintenance(v: Victim) -> None:
    _beside(v, lambda: v.store.log.maintain())


def during_sends_of_threads(v: Victim) -> None:
    _beside(v, lambda: v.send(1, 5))


def during_flushes(v: Victim) -> None:
    def work() -> None:
        v.send(1, 5)
        v.producer.flush()

    _beside(v, work)


def during_commit_rounds(v: Victim) -> None:
    other = v.store.producer(linger_ms=0)
    _beside(v, lambda: _round(v, other))


def _round(v: Victim, producer: Any) -> None:
    if "other" not in v.store.topics():
        v.store.create_topic("other")
    producer.send("other", b"x").result()


def during_topic_changes(v: Victim) -> None:
    def work() -> None:
        v.store.create_topic("come")
        v.store.delete_topic("come")

    _beside(v, work)


def during_reads(v: Victim) -> None:
    v.send(0, 500)
    v.flush()

    def work() -> None:
        with v.store.consumer(TOPIC, follow=False) as consumer:
            sum(1 for _ in consumer)

    _beside(v, work)


def holding_the_store_lock(v: Victim) -> None:
    with v.store.log._lock:
        v.fork()


def with_an_armed_linger(v: Victim) -> None:
    producer = v.store.producer(linger_ms=200)
    producer.send(TOPIC, value(1, 10**6), partition=1)
    v.quiet = False
    v.fork()


def inside_a_callback(v: Victim) -> None:
    v.send(0, 2)
    v.delivery.add_done_callback(lambda _: v.fork())
    v.flush()


def with_asyncio(v: Victim) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        v.send(0, 10)
        v.flush()
        v.fork()

    asyncio.run(main())


def twice(v: Victim) -> None:
    v.send(0, 5)
    v.fork()
    first = v.child_result
    v.send(0, 5)
    v.flush()
    v.fork()
    v.child_result = json.dumps(json.loads(first) + json.loads(v.child_result))


def with_views_in_hand(v: Victim) -> None:
    v.send(0, 50)
    v.flush()
    (batch,) = v.consumer.poll(timeout_s=1)
    views = list(batch.values)
    v.fork()
    assert b"".join(bytes(view or b"") for view in views[:1]) == value(0, 0)


POINTS: tuple[Callable[[Victim], None], ...] = (
    just_opened, after_sends, mid_batch, mid_chunk_of_two_partitions, after_a_poll, inside_an_iteration,
    in_a_consumers_wait, after_a_roll, after_maintenance, during_maintenance, during_sends_of_threads, during_flushes,
    during_commit_rounds, during_topic_changes, during_reads, holding_the_store_lock, with_an_armed_linger,
    inside_a_callback, with_asyncio, twice, with_views_in_hand,
)  # fmt: skip


def _thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def _beside(v: Victim, work: Callable[[], Any]) -> None:
    """Fork while threads do `work` over and over."""
    v.quiet = False
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    threads = [_thread(loop)]
    time.sleep(0.05)
    try:
        v.fork()
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def main() -> None:
    global _page
    planted.apply_from_environment()
    path, name, durability = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    victim = Victim(path, durability)
    page = victim.store.log.marks._path
    _page = Path(page) if page else None
    {point.__name__: point for point in POINTS}[name](victim)
    victim.send(0, 5)
    victim.send(1, 5)
    victim.flush()
    victim.store.close()
    print(json.dumps({"child": json.loads(victim.child_result), "acked": victim.acked}), flush=True)


if __name__ == "__main__":
    main()
