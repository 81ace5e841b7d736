"""Nothing that the user does inside a transaction of SQLite can part offsets and results."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore.errors import InvalidTransactionStateError
from mqcore.sinks.sqlite import SqliteSink
from tests.sinks.databases import Sqlite, write
from tests.sinks.test_sinks import expected, fill


@pytest.mark.parametrize(
    "end",
    [
        lambda db: db.commit(),
        lambda db: db.rollback(),
        lambda db: db.execute("COMMIT"),
        lambda db: db.execute("END"),
        lambda db: db.executescript("SELECT 1;"),
    ],
    ids=["commit()", "rollback()", "COMMIT", "END", "executescript()"],
)
def test_the_transaction_cannot_be_ended_inside(store: mqcore.Store, sqlite: Sqlite, end: Any) -> None:
    fill(store, 4)

    def ends(db: Any, batch: Any) -> None:
        write(db, batch)
        end(db)

    with sqlite.sink() as sink:
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            sink.run(store, "t", ends, until="caught_up")
        assert sqlite.results() == []
        assert sink.run(store, "t", write, until="caught_up") == 4


def test_a_statement_that_rolls_back_is_seen(store: mqcore.Store, sqlite: Sqlite) -> None:
    sqlite.query("CREATE TABLE one (x UNIQUE)")
    fill(store, 4)

    def fails(db: sqlite3.Connection, batch: Any) -> None:
        write(db, batch)
        db.execute("INSERT INTO one VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT OR ROLLBACK INTO one VALUES (1)")

    with sqlite.sink() as sink, pytest.raises(InvalidTransactionStateError, match="rolled back"):
        sink.run(store, "t", fails, partitions=[0], until="caught_up")
    assert sqlite.results() == []


def test_a_savepoint_of_the_users_is_his(store: mqcore.Store, sqlite: Sqlite) -> None:
    fill(store, 4)

    def with_savepoint(db: sqlite3.Connection, batch: Any) -> None:
        write(db, batch)
        db.execute("SAVEPOINT mine")
        db.execute("DELETE FROM results")
        db.execute("ROLLBACK TO mine")
        db.execute("RELEASE mine")

    with sqlite.sink() as sink:
        sink.run(store, "t", with_savepoint, until="caught_up")
    assert sqlite.results() == expected(4)


@pytest.mark.parametrize("isolation_level", [None, "", "IMMEDIATE"])
def test_a_connection_of_the_callers(store: mqcore.Store, sqlite: Sqlite, isolation_level: str | None) -> None:
    fill(store, 4)
    connection = sqlite3.connect(sqlite.spec, isolation_level=isolation_level)
    with SqliteSink(connection) as sink:
        sink.run(store, "t", write, until="caught_up")
        assert not connection.in_transaction
        sink.reset("t", 0, 0)
        assert not connection.in_transaction
        connection.execute("BEGIN")
        with pytest.raises(InvalidTransactionStateError, match="of its own"):
            sink.run(store, "t", write, until="caught_up")
        connection.rollback()
    assert connection.execute("SELECT count(*) FROM results").fetchone() == (4,)  # it is not the sink's to close
    connection.close()


def test_a_busy_database_is_waited_for(store: mqcore.Store, sqlite: Sqlite, tmp_path: Path) -> None:
    fill(store, 4)
    other = sqlite3.connect(sqlite.spec, isolation_level=None)
    with SqliteSink(sqlite.spec, busy_timeout_s=0.01) as sink:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sink.run(store, "t", write, until="caught_up", retry_s=0)
        rolled_back = []

        def resume(*arguments: Any) -> None:  # the first retry is when the other one lets go
            if not rolled_back:
                rolled_back.append(other.execute("ROLLBACK"))
            SqliteSink.resume(sink, *arguments)

        sink.resume = resume  # type: ignore[method-assign]
        sink.run(store, "t", write, until="caught_up")
    other.close()
    assert rolled_back
    assert sqlite.results() == expected(4)
