"""A sink's offsets and results are one: after any failure both are there or neither, and one writer wins."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import mqcore
from mqcore.errors import (
    InvalidTransactionStateError,
    OffsetOutOfRangeError,
    SinkFencedError,
    UnknownTopicError,
)
from mqcore.types import TopicPartition
from tests.sinks.databases import Database, write

FIRST = TopicPartition("t", 0)


def fill(store: mqcore.Store, count: int, topic: str = "t", first: int = 0) -> None:
    """`count` records, alternating over two partitions: value = str(number)."""
    with store.producer() as producer:
        for number in range(first, first + count):
            producer.send(topic, str(number).encode(), partition=number % 2)


def expected(count: int, topic: str = "t") -> list[tuple[str, int, int, str]]:
    return sorted((topic, number % 2, number // 2, str(number)) for number in range(count))


def test_what_was_read_is_there_once_and_the_next_run_goes_on(store: mqcore.Store, database: Database) -> None:
    fill(store, 100)
    with database.sink() as sink:
        assert sink.run(store, "t", write, until="caught_up", batch_records=7) == 100
        assert sink.run(store, "t", write, until="caught_up") == 0
        assert sink.positions() == {FIRST: 50, TopicPartition("t", 1): 50}
    fill(store, 20, first=100)
    with database.sink() as sink:
        assert sink.run(store, ["t"], write, until="caught_up") == 20
    assert database.results() == expected(120)


def test_an_error_of_the_function_undoes_its_rows_and_the_offset(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)

    def fails(db: Any, batch: Any) -> None:
        write(db, batch)
        raise LookupError("no such account")

    with database.sink() as sink, pytest.raises(LookupError):
        sink.run(store, "t", fails, until="caught_up")
    assert database.results() == []
    with database.sink() as sink:
        sink.run(store, "t", write, until="caught_up")
    assert database.results() == expected(10)


def test_after_a_failed_transaction_nothing_is_taken_before_resume(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    with database.sink() as sink, sink.consumer(store, "t") as consumer:
        consumer.assign([0])
        first, second = consumer.poll(max_records=2)[0], consumer.poll(max_records=2)[0]

        def failing() -> None:
            with sink.transaction(first) as db:
                write(db, first)
                raise LookupError

        with pytest.raises(LookupError):
            failing()
        with pytest.raises(InvalidTransactionStateError, match="does not know"), sink.transaction(second):
            pass  # taking it would leave the first one out
        sink.resume(store, consumer)
        while batches := consumer.poll(timeout_s=0):
            with sink.transaction(*batches) as db:
                for batch in batches:
                    write(db, batch)
    assert database.results() == [row for row in expected(10) if row[1] == 0]


def test_a_batch_is_taken_once(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    with database.sink() as sink, sink.consumer(store, "t") as consumer:
        (batch, *_) = consumer.poll(max_records=3)
        with sink.transaction(batch) as db:
            write(db, batch)
        with pytest.raises(InvalidTransactionStateError, match="already"), sink.transaction(batch) as db:
            write(db, batch)
    assert len(database.results()) == 3


def test_a_batch_of_another_consumer_is_refused(store: mqcore.Store, database: Database) -> None:
    fill(store, 2)
    with database.sink() as sink, store.consumer("t") as consumer:
        (batch, *_) = consumer.poll()
        with pytest.raises(InvalidTransactionStateError, match="does not know"), sink.transaction(batch):
            pass


@pytest.mark.parametrize("rows_before", [0, 4])
def test_a_zombie_loses_and_writes_nothing(store: mqcore.Store, database: Database, rows_before: int) -> None:
    """Both with a first row to make (INSERT) and one to move (UPDATE)."""
    fill(store, rows_before)
    with database.sink() as sink:
        sink.run(store, "t", write, until="caught_up")
    zombie = database.sink()
    with zombie, zombie.consumer(store, "t") as stale:
        fill(store, 6, first=rows_before)
        with database.sink() as sink:
            sink.run(store, "t", write, until="caught_up")
        (batch, *_) = stale.poll()
        with pytest.raises(SinkFencedError) as caught, zombie.transaction(batch) as db:
            write(db, batch)
        assert caught.value.where["topic"] == "t"
        zombie.resume(store, stale)  # from here on it is a good citizen again
        assert stale.poll(timeout_s=0) == []
    assert database.results() == expected(6 + rows_before)


def test_two_runs_at_once_write_each_record_once(store: mqcore.Store, database: Database) -> None:
    fill(store, 2000)
    fenced: list[SinkFencedError] = []

    def run() -> None:
        for _ in range(1000):
            try:
                with database.sink() as sink:
                    sink.run(store, "t", write, until="caught_up", batch_records=50)
                return
            except SinkFencedError as error:
                fenced.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.results() == expected(2000)


def test_sinks_of_different_names_do_not_meet(store: mqcore.Store, database: Database) -> None:
    fill(store, 4)
    for name in ("a", "b"):
        with database.sink(name) as sink:
            assert sink.run(store, "t", write, until="caught_up") == 4
    assert len(database.results()) == 8


def test_a_topic_made_again_is_read_from_its_beginning(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    with database.sink() as sink:
        sink.run(store, "t", write, until="caught_up")
    store.delete_topic("t")
    store.create_topic("t", partitions=2)
    fill(store, 4)
    with database.sink() as sink:
        assert sink.run(store, "t", write, until="caught_up") == 4
        assert sink.positions()[FIRST] == 2
    assert len(database.results()) == 14


def test_a_topic_made_again_under_a_run_is_read_from_its_beginning(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    sink = database.sink()
    seen = threading.Event()
    enough = [10, 14]

    def counting(db: Any, batch: Any) -> None:
        write(db, batch)
        counts[0] += len(batch)
        if counts[0] == enough[0]:
            seen.set()
        if counts[0] == enough[1]:
            sink.stop()

    def again() -> None:
        assert seen.wait(30)
        store.delete_topic("t")
        store.create_topic("t", partitions=2)
        fill(store, 4)

    counts = [0]
    helper = threading.Thread(target=again)
    helper.start()
    with sink:
        # Between deletion and creation there is no such topic: whoever runs it again goes on.
        while counts[0] < enough[1]:
            try:
                sink.run(store, "t", counting)
            except UnknownTopicError:
                seen.wait(0.01)
    helper.join()
    assert len(database.results()) == 14


def test_partitions_that_are_added_are_read(store: mqcore.Store, database: Database) -> None:
    fill(store, 2)
    sink = database.sink()

    def grow(db: Any, batch: Any) -> None:
        write(db, batch)
        if batch.partition == 2:
            sink.stop()
        elif len(store.partitions("t")) == 2:
            store.add_partitions("t", 3)
            with store.producer() as producer:
                producer.send("t", b"new", partition=2)

    with sink:
        sink.run(store, "t", grow)
    assert ("t", 2, 0, "new") in database.results()


def test_a_database_newer_than_the_log_is_an_error(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    with database.sink() as sink:
        sink.run(store, "t", write, until="caught_up")
        sink.reset("t", 0, 6)
        with pytest.raises(OffsetOutOfRangeError, match="ahead of the log") as caught:
            sink.run(store, "t", write, until="caught_up")
        assert (caught.value.where["offset"], caught.value.where["log_end_offset"]) == (6, 5)
        sink.reset("t", 0, 5)
        assert sink.run(store, "t", write, until="caught_up") == 0
        sink.reset("t", 1, None)
        assert sink.run(store, "t", write, until="caught_up") == 5
        with pytest.raises(UnknownTopicError):
            sink.reset("t", 7, 5)
        with pytest.raises(ValueError, match="0 or more"):
            sink.reset("t", 0, -1)


def test_records_that_retention_took_are_missed_loudly(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    with database.sink() as sink, sink.consumer(store, "t") as consumer:
        consumer.assign([0])
        (batch,) = consumer.poll(max_records=1)
        with sink.transaction(batch) as db:
            write(db, batch)
        store.delete_before("t", {0: 4})
        with pytest.raises(OffsetOutOfRangeError):
            sink.run(store, "t", write, until="caught_up")


def test_partitions_may_be_shared(store: mqcore.Store, database: Database) -> None:
    fill(store, 10)
    for number in (0, 1):
        with database.sink() as sink:
            assert sink.run(store, "t", write, partitions=[number], until="caught_up") == 5
    assert database.results() == expected(10)


@pytest.mark.parametrize(("name", "table"), [("", "t"), ("x" * 250, "t"), ("s", "a b"), ("s", "x; DROP TABLE y")])
def test_bad_names(name: str, table: str) -> None:
    from mqcore.sinks.sqlite import SqliteSink

    with pytest.raises(ValueError, match="name"):
        SqliteSink(":memory:", name, table=table)


def test_options_are_checked(store: mqcore.Store, database: Database) -> None:
    with database.sink() as sink:
        with pytest.raises(ValueError, match="until"):
            sink.run(store, "t", write, until="never")  # type: ignore[arg-type]
        with pytest.raises(UnknownTopicError):
            sink.run(store, "nothing", write, until="caught_up")
