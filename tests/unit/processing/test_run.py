"""Under either guarantee every record is processed; under exactly_once its results are there once.

Each test runs under both guarantees unless it is about one of them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import mqcore
from mqcore.errors import TimeoutExceededError, TransactionTimedOutError, UnknownTopicError
from mqcore.processing.run import Runner

PARTITIONS = 4


@pytest.fixture
def store() -> Iterator[mqcore.Store]:
    with mqcore.memory() as store:
        for topic in ("in", "out", "dead"):
            store.create_topic(topic, partitions=PARTITIONS)
        yield store


@pytest.fixture(params=["exactly_once", "at_least_once"])
def guarantee(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(store: mqcore.Store, count: int, first: int = 0) -> list[bytes]:
    values = [str(number).encode() for number in range(first, first + count)]
    with store.producer() as producer:
        for number, value in enumerate(values):
            producer.send("in", value, key=value, headers=[("h", value)], partition=number % PARTITIONS)
    return values


def read(store: mqcore.Store, topic: str = "out") -> list[bytes]:
    with store.consumer(topic, follow=False) as consumer:
        return sorted((bytes(record.value) for record in consumer), key=int)


def options(guarantee: str, **more: Any) -> dict[str, Any]:
    return {"source": "in", "group": "g", "guarantee": guarantee, "backoff_s": 0.001, "backoff_max_s": 0.002, **more}


def copier(guarantee: str, **more: Any) -> mqcore.Processor:
    @mqcore.processor(**options(guarantee, **more))
    def copy(batch: Any, tx: Any) -> None:
        tx.send_many("out", batch.values.to_list(), keys=batch.keys.to_list())

    return copy


@pytest.mark.parametrize("workers", [1, 3])
def test_batches(store: mqcore.Store, guarantee: str, workers: int) -> None:
    values = fill(store, 1000)
    progress = store.run(copier(guarantee, batch_records=70), workers=workers, until="caught_up")
    assert read(store) == values
    assert (progress.records, progress.lag, progress.retries) == (1000, 0, 0)
    assert progress.commits >= 1000 / 70
    assert progress.to_dict()["per_second"] > 0
    more = fill(store, 10, first=1000)
    assert store.run(copier(guarantee), until="caught_up").records == 10  # where the last run ended
    assert read(store) == values + more


def test_records_one_at_a_time(store: mqcore.Store, guarantee: str) -> None:
    values = fill(store, 100)

    @mqcore.processor(**options(guarantee, per_record=True))
    def double(record: Any, tx: Any) -> None:
        tx.send("out", bytes(record.value), key=record.key, headers=record.headers)

    store.run(double, until="caught_up")
    assert read(store) == values


def test_a_failure_is_tried_again(store: mqcore.Store, guarantee: str) -> None:
    """The third attempt goes through. exactly_once: nothing of the first two is seen; at_least_once: it is."""
    values = fill(store, 40)
    failed: list[int] = []

    @mqcore.processor(**options(guarantee))
    def flaky(batch: Any, tx: Any) -> None:
        tx.send_many("out", batch.values.to_list())
        if len(failed) < 2:
            failed.append(batch.partition)
            raise ConnectionError("the other side hung up")

    progress = store.run(flaky, until="caught_up")
    assert progress.records == 40
    assert progress.retries == 2
    found = read(store)
    assert sorted(set(found), key=int) == values
    assert (len(found) == 40) == (guarantee == "exactly_once")


def test_without_dead_letters_the_functions_error_ends_the_run(store: mqcore.Store, guarantee: str) -> None:
    values = fill(store, 40)

    @mqcore.processor(**options(guarantee, attempts=2))
    def fails(batch: Any, tx: Any) -> None:
        raise LookupError("no such account")

    with pytest.raises(LookupError, match="no such account"):
        store.run(fails, until="caught_up")
    store.run(copier(guarantee), until="caught_up")  # nothing was skipped
    assert read(store) == values


def test_bad_records_go_to_the_dead_letters_alone(store: mqcore.Store, guarantee: str) -> None:
    values = fill(store, 60)
    bad = {b"7", b"31", b"59"}

    @mqcore.processor(**options(guarantee, attempts=2, dead_letters="dead"))
    def picky(batch: Any, tx: Any) -> None:
        for record in batch:
            if bytes(record.value) in bad:
                raise ValueError(f"bad record {bytes(record.value).decode()}")
        tx.send_many("out", batch.values.to_list())

    progress = store.run(picky, until="caught_up")
    assert (progress.records, progress.dead_letters) == (60, 3)
    good, found = [value for value in values if value not in bad], read(store)
    assert sorted(set(found), key=int) == good
    if guarantee == "exactly_once":
        assert found == good
    with store.consumer("dead", follow=False) as consumer:
        letters = {bytes(record.value): record for record in consumer}
    assert letters.keys() == bad
    letter = letters[b"31"]
    headers = dict(letter.headers)
    assert bytes(letter.key) == b"31"
    assert headers["h"] == b"31"
    assert headers["__connect.errors.topic"] == b"in"
    assert headers["__connect.errors.partition"] == b"3"
    assert headers["__connect.errors.offset"] == b"7"
    assert headers["__connect.errors.exception.class.name"] == b"builtins.ValueError"
    assert headers["__connect.errors.exception.message"] == b"bad record 31"
    assert b"picky" in headers["__connect.errors.exception.stacktrace"]
    assert headers["__connect.errors.attempts"] == b"2"


def test_a_function_that_sends_nonsense_counts_as_failed(store: mqcore.Store, guarantee: str) -> None:
    fill(store, 4)

    @mqcore.processor(**options(guarantee, attempts=2))
    def nonsense(batch: Any, tx: Any) -> None:
        tx.send("nowhere", b"x")

    with pytest.raises(UnknownTopicError):
        store.run(nonsense, until="caught_up")


def test_what_cannot_be_stored_commits_no_offset(store: mqcore.Store, guarantee: str) -> None:
    """The outputs fail when they are appended, after the function returned: their topic is gone. Offsets come after them."""
    values = fill(store, 40)
    store.create_topic("gone")

    @mqcore.processor(**options(guarantee, attempts=1))
    def to_nowhere(batch: Any, tx: Any) -> None:
        tx.send("gone", b"x")
        if "gone" in store.topics():
            store.delete_topic("gone")

    with pytest.raises(mqcore.MQError):
        store.run(to_nowhere, until="caught_up")
    assert store.run(copier(guarantee), until="caught_up").records == 40
    assert read(store) == values


def test_a_stop_in_the_middle_of_retries_gives_the_batch_back(store: mqcore.Store, guarantee: str) -> None:
    fill(store, 40)
    failing = threading.Event()

    @mqcore.processor(**{**options(guarantee, attempts=1000), "backoff_max_s": 60.0, "backoff_s": 10.0})
    def fails(batch: Any, tx: Any) -> None:
        failing.set()
        raise ConnectionError

    runner = Runner(store, (fails,), workers=1, clock=store.log.clock)

    def stop() -> None:
        failing.wait(60)
        runner.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    progress = runner.run("stopped", None, 1.0, 60.0)
    stopper.join()
    assert (progress.records, progress.lag) == (0, 40)


def test_several_processors_make_a_chain(store: mqcore.Store, guarantee: str) -> None:
    values = fill(store, 200)
    store.create_topic("middle", partitions=2)

    @mqcore.processor(**options(guarantee, batch_records=30))
    def first(batch: Any, tx: Any) -> None:
        tx.send_many("middle", batch.values.to_list())

    @mqcore.processor(**options(guarantee, source="middle", group="h"))
    def second(batch: Any, tx: Any) -> None:
        tx.send_many("out", batch.values.to_list())

    assert store.run(first, second, workers=2, until="caught_up").records == 400
    assert read(store) == values


def test_a_rate_is_kept(store: mqcore.Store, guarantee: str) -> None:
    """By the store's clock; no more is asserted than the bucket's own tests prove: all arrives, none of it at once."""
    values = fill(store, 60)
    progress = store.run(copier(guarantee, rate=200, batch_records=10), until="caught_up", workers=2)
    assert read(store) == values
    assert progress.seconds >= (60 - 20 - 10) / 200


def test_progress_is_reported_with_lag(store: mqcore.Store, guarantee: str) -> None:
    fill(store, 100)
    seen: list[mqcore.Progress] = []
    store.run(
        copier(guarantee, rate=100, batch_records=10), until="caught_up", on_progress=seen.append, progress_s=0.05
    )
    assert seen[-1].records == 100
    assert seen[-1].lag == 0
    assert any(one.lag > 0 for one in seen)


def test_an_error_of_on_progress_comes_out_and_the_workers_end(store: mqcore.Store, guarantee: str) -> None:
    before = threading.active_count()

    def breaks(progress: mqcore.Progress) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        store.run(copier(guarantee), on_progress=breaks, progress_s=0.05)
    assert not [one.name for one in threading.enumerate() if one.name.startswith("mqcore-g-copy")]
    assert threading.active_count() <= before + 2  # the store's own: heartbeats, time-outs


def test_a_function_that_hangs_is_named_at_the_stop(store: mqcore.Store, guarantee: str) -> None:
    fill(store, 1)
    hanging, release = threading.Event(), threading.Event()

    @mqcore.processor(**options(guarantee))
    def hangs(batch: Any, tx: Any) -> None:
        hanging.set()
        release.wait(60)

    runner = Runner(store, (hangs,), workers=1, clock=store.log.clock)

    def stop() -> None:
        hanging.wait(60)
        runner.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(TimeoutExceededError, match="does not come back") as caught:
        runner.run("stopped", None, 1.0, grace_s=0.1)
    assert caught.value.where["workers"] == ["g-hangs-0"]
    release.set()
    stopper.join()
    for thread in threading.enumerate():
        if thread.name == "mqcore-g-hangs-0":
            thread.join(60)


def test_a_slow_batch_times_out_and_its_records_go_one_by_one(store: mqcore.Store) -> None:
    values = fill(store, 8)

    @mqcore.processor(**options("exactly_once", timeout_s=0.3, attempts=1, dead_letters="dead"))
    def slow(batch: Any, tx: Any) -> None:
        for record in batch:
            time.sleep(0.1)
            tx.send("out", bytes(record.value))

    progress = store.run(slow, until="caught_up")
    assert progress.retries >= 1
    assert progress.dead_letters == 0
    assert read(store) == values


def test_a_transaction_that_timed_out_is_the_functions_failure(store: mqcore.Store) -> None:
    fill(store, 1)

    @mqcore.processor(**options("exactly_once", timeout_s=0.05, attempts=1))
    def slow(batch: Any, tx: Any) -> None:
        time.sleep(0.3)

    with pytest.raises(TransactionTimedOutError):
        store.run(slow, until="caught_up")


def test_state_changes_with_the_outputs(store: mqcore.Store, guarantee: str) -> None:
    values = fill(store, 100)
    failed: list[int] = []

    @mqcore.processor(**options(guarantee, batch_records=16))
    def count(batch: Any, tx: Any) -> None:
        counts = tx.state("counts")
        counts[b"n"] = str(int(counts.get(b"n") or b"0") + len(batch)).encode()
        tx.send_many("out", batch.values.to_list())
        if len(failed) < 3:
            failed.append(1)
            raise ConnectionError

    store.run(count, workers=2, until="caught_up")
    assert sorted(set(read(store)), key=int) == values
    assert store.state("counts")[b"n"] == b"100"  # no crash: also once with at_least_once


def test_a_fork_in_a_function_harms_nobody(store: mqcore.Store, guarantee: str) -> None:
    """The child's copy of the run gets ForkedStoreError and ends; the parent's goes on."""
    values = fill(store, 8)
    forked: list[int] = []

    @mqcore.processor(**options(guarantee))
    def forks(batch: Any, tx: Any) -> None:
        if not forked:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    tx.send("out", b"-1")
                    store.run(forks)
                except mqcore.errors.ForkedStoreError:
                    code = 0
                finally:
                    os._exit(code)
            forked.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        tx.send_many("out", batch.values.to_list())

    store.run(forks, until="caught_up")
    assert forked == [0]
    assert read(store) == values


def test_two_runs_of_one_processor_do_not_double(store: mqcore.Store) -> None:
    """The second run fences the first one's transactions: the first ends as the zombie that it is."""
    values = fill(store, 400)
    started, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @mqcore.processor(**options("exactly_once", batch_records=50))
    def copy(batch: Any, tx: Any) -> None:
        tx.send_many("out", batch.values.to_list())
        if threading.current_thread() not in known:
            started.set()
            go_on.wait(60)

    known: set[threading.Thread] = set()

    def zombie() -> None:
        try:
            store.run(copy)
        except mqcore.MQError as error:
            errors.append(error)

    thread = threading.Thread(target=zombie)
    thread.start()
    started.wait(60)
    with store.transaction("g-copy-0"):  # what the second run does first
        pass
    go_on.set()
    thread.join(60)
    assert [type(error).__name__ for error in errors] == ["ProducerFencedError"]
    store.run(copy, until="caught_up")
    assert read(store) == values


def test_rebalances_in_mid_batch_lose_and_double_nothing(store: mqcore.Store, guarantee: str) -> None:
    """Members come and go all the time while batches are at hand."""
    values = fill(store, 2000)
    done = threading.Event()

    def comes_and_goes() -> None:
        while not done.is_set():
            with store.consumer("in", group="g") as consumer:
                for _ in range(5):
                    consumer.poll(timeout_s=0.01, max_records=1)  # commits nothing: what it read comes to others

    @mqcore.processor(**options(guarantee, batch_records=20))
    def copy(batch: Any, tx: Any) -> None:
        tx.send_many("out", batch.values.to_list())
        time.sleep(0.002)

    disturber = threading.Thread(target=comes_and_goes)
    disturber.start()
    runner = Runner(store, (copy,), workers=2, clock=store.log.clock)

    def stop_when_done() -> None:
        while len(set(read(store))) < len(values) and disturber.is_alive():
            time.sleep(0.05)
        runner.stop()

    stopper = threading.Thread(target=stop_when_done)
    stopper.start()
    progress = runner.run("stopped", None, 1.0, 60.0)
    done.set()
    disturber.join()
    stopper.join()
    found = read(store)
    assert sorted(set(found), key=int) == values
    if guarantee == "exactly_once":
        assert found == values
    assert progress.rebalances > 2


@pytest.mark.parametrize(
    "bad",
    [
        {"source": ()},
        {"group": ""},
        {"guarantee": "at_most_once"},
        {"batch_records": 0},
        {"attempts": 0},
        {"rate": 0},
        {"timeout_s": 0},
        {"backoff_s": -1},
    ],
)
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        mqcore.processor(**{"source": "in", "group": "g", **bad})(lambda batch, tx: None)


def test_bad_runs(store: mqcore.Store) -> None:
    with pytest.raises(ValueError, match="nothing to run"):
        store.run()
    with pytest.raises(ValueError, match="workers"):
        store.run(copier("exactly_once"), workers=0)
    with pytest.raises(ValueError, match="until"):
        store.run(copier("exactly_once"), until="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same name"):
        store.run(copier("exactly_once"), copier("exactly_once"))
    with pytest.raises(UnknownTopicError):
        store.run(copier("exactly_once", source="nothing"))
    with pytest.raises(UnknownTopicError):
        store.run(copier("exactly_once", dead_letters="nothing"))

    async def waits(batch: Any, tx: Any) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        mqcore.processor(source="in", group="g")(waits)
