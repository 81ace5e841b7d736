"""Into PostgreSQL, through psycopg 3: results and offsets in one transaction. Needs the extra `mqcore[postgres]`.

    with PostgresSink("host=db dbname=ledger", "totals") as sink:
        sink.run(store, "payments", write)          # write(db, batch): db is the psycopg.Connection

Invariant: a commit whose outcome is unknown (the connection died in it) is never guessed: the sink connects again and
reads the table. A COMMIT or ROLLBACK that the user sends as a statement cannot be refused here; it is an error at the end
of the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mqcore.errors import InvalidTransactionStateError, MissingExtraError
from mqcore.sinks.core import Sink

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresSink"]

_LOCK = 0x6D71636F  # "mqco": whose processes make the table one after the other


class PostgresSink(Sink["psycopg.Connection[Any]"]):
    """A sink into a PostgreSQL database; a context manager that closes."""

    def __init__(
        self,
        database: str | psycopg.Connection[Any],
        name: str = "mqcore",
        *,
        table: str = "mqcore_offsets",
    ) -> None:
        """database: a connection string or URL (the sink connects, and connects again when the connection is lost), or
        an open connection of the caller's, used in this thread only, without a transaction running.
        name, table: see Sink; a table name may have a schema.
        Raises MissingExtraError without psycopg; psycopg.Error."""
        super().__init__(name, table=table)
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg is not installed", hint="pip install 'mqcore[postgres]'") from None
        self._psycopg = psycopg
        self._conninfo = database if isinstance(database, str) else None
        self.connection = psycopg.connect(database, autocommit=True) if isinstance(database, str) else database
        with self._begin() as db:
            # CREATE TABLE IF NOT EXISTS of two connections at once can fail in PostgreSQL.
            db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            self._make_table()

    @contextmanager
    def _begin(self) -> Iterator[psycopg.Connection[Any]]:
        db, status = self.connection, self._psycopg.pq.TransactionStatus
        if db.info.transaction_status not in (status.IDLE, status.UNKNOWN):
            raise InvalidTransactionStateError("the connection has a transaction of its own running", sink=self.name)
        with db.transaction():  # it forbids commit() and rollback() inside
            yield db
            if not self._within():
                raise InvalidTransactionStateError("the transaction was ended or broken inside", sink=self.name)

    def _execute(self, sql: str, values: Sequence[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        db = self.connection
        within = db.info.transaction_status == self._psycopg.pq.TransactionStatus.INTRANS
        with (
            nullcontext() if within else db.transaction(),
            db.cursor(row_factory=self._psycopg.rows.tuple_row) as cursor,
        ):
            cursor.execute(sql.replace("?", "%s").encode(), values)
            return cursor.rowcount, cursor.fetchall() if cursor.description else []

    def _within(self) -> bool:
        return self.connection.info.transaction_status == self._psycopg.pq.TransactionStatus.INTRANS

    def _is_passing(self, error: Exception) -> bool:
        return isinstance(error, self._psycopg.OperationalError) and (
            self._conninfo is not None or not self.connection.closed
        )

    def _reconnect(self) -> None:
        if self._conninfo is not None and (self.connection.closed or self.connection.broken):
            self.connection.close()
            self.connection = self._psycopg.connect(self._conninfo, autocommit=True)

    def close(self) -> None:
        if self._conninfo is not None:
            self.connection.close()
