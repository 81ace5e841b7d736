"""Nothing that the user or the network does inside a transaction of PostgreSQL can part offsets and results."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import mqcore
from mqcore.errors import InvalidTransactionStateError
from mqcore.sinks.postgres import PostgresSink
from tests.sinks.databases import Postgres, write
from tests.sinks.test_sinks import expected, fill


@pytest.mark.parametrize("end", [lambda db: db.commit(), lambda db: db.rollback()], ids=["commit", "rollback"])
def test_postgres_transaction_cannot_be_ended_inside(store: mqcore.Store, postgres: Postgres, end: Any) -> None:
    import psycopg

    fill(store, 4)

    def ends(db: Any, batch: Any) -> None:
        write(db, batch)
        end(db)

    with postgres.sink() as sink:
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            sink.run(store, "t", ends, until="caught_up")
        assert postgres.results() == []
        assert sink.run(store, "t", write, until="caught_up") == 4


@pytest.mark.parametrize("statement", [b"ROLLBACK", b"SELECT 1/0"])
def test_postgres_transaction_ended_or_broken_inside_is_seen(
    store: mqcore.Store, postgres: Postgres, statement: bytes
) -> None:
    import psycopg

    fill(store, 4)

    def ends(db: Any, batch: Any) -> None:
        write(db, batch)
        with contextlib.suppress(psycopg.Error):
            db.execute(statement)

    with postgres.sink() as sink, pytest.raises(InvalidTransactionStateError, match="inside"):
        sink.run(store, "t", ends, partitions=[0], until="caught_up")
    assert postgres.results() == []


@pytest.mark.parametrize("autocommit", [True, False])
def test_postgres_connection_of_the_callers(store: mqcore.Store, postgres: Postgres, autocommit: bool) -> None:
    import psycopg

    fill(store, 4)
    with psycopg.connect(postgres.spec, autocommit=autocommit) as connection:
        with PostgresSink(connection) as sink:
            assert sink.run(store, "t", write, until="caught_up") == 4
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert len(sink.positions()) == 2
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            sink.reset("t", 0, 0)
            with connection.transaction():
                with pytest.raises(InvalidTransactionStateError, match="of its own"):
                    sink.run(store, "t", write, until="caught_up")
                raise psycopg.Rollback
        assert not connection.closed
    assert postgres.results() == expected(4)


def test_postgres_connection_that_dies_is_made_anew(store: mqcore.Store, postgres: Postgres) -> None:
    """The server ends the connection in the middle of a transaction, three times."""
    fill(store, 40)
    times = [0]

    def dies(db: Any, batch: Any) -> None:
        write(db, batch)
        times[0] += 1
        if times[0] in (1, 3, 4):
            db.execute(b"SELECT pg_terminate_backend(pg_backend_pid())")

    with postgres.sink() as sink:
        sink.run(store, "t", dies, until="caught_up", batch_records=8)
    assert postgres.results() == expected(40)
    assert times[0] >= 8


def test_postgres_commit_of_unknown_outcome_is_looked_up(store: mqcore.Store, postgres: Postgres) -> None:
    """The commit happens, and its answer is lost: the rows must not come twice."""
    import psycopg

    fill(store, 40)
    lost = [0]

    class Losing(PostgresSink):
        @contextlib.contextmanager
        def _begin(self) -> Iterator[Any]:
            with super()._begin() as db:
                yield db
            lost[0] += 1
            if lost[0] % 3 == 0:
                self.connection.close()
                raise psycopg.OperationalError("the answer was lost")

    with Losing(postgres.spec, "s") as sink:
        sink.run(store, "t", write, until="caught_up", batch_records=4)
    assert lost[0] > 5
    assert postgres.results() == expected(40)


def test_postgres_outage_that_stays_is_raised(store: mqcore.Store, postgres: Postgres) -> None:
    import psycopg

    fill(store, 4)

    def dies(db: Any, batch: Any) -> None:
        db.execute(b"SELECT pg_terminate_backend(pg_backend_pid())")

    with postgres.sink() as sink, pytest.raises(psycopg.OperationalError):
        sink.run(store, "t", dies, until="caught_up", retry_s=0.2)


def test_postgres_table_may_have_a_schema(store: mqcore.Store, postgres: Postgres) -> None:
    postgres.query("CREATE SCHEMA app")
    fill(store, 2)
    with PostgresSink(postgres.spec, table="app.offsets") as sink:
        sink.run(store, "t", write, until="caught_up")
    assert postgres.query("SELECT count(*) FROM app.offsets") == [(2,)]


def test_postgres_without_psycopg_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from mqcore.sinks.postgres import PostgresSink\n"
        "try: PostgresSink('host=x')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert "MissingExtraError" in result.stdout
    assert "mqcore[postgres]" in result.stdout
