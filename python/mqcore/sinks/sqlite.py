"""Into SQLite: results and offsets in one transaction of one database file.

    with SqliteSink("totals.db", "totals") as sink:
        sink.run(store, "payments", write)          # write(db, batch): db is the sqlite3.Connection

Invariant: no statement of the user's can end the transaction early (SQLite's authorizer refuses it), so offsets and
results cannot part.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mqcore.errors import InvalidTransactionStateError
from mqcore.sinks.core import Sink

__all__ = ["SqliteSink"]

_SQLITE_TRANSACTION = 22  # action code of BEGIN, COMMIT and ROLLBACK for an authorizer (sqlite3.h)
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SqliteSink(Sink[sqlite3.Connection]):
    """A sink into a SQLite database; a context manager that closes."""

    def __init__(
        self,
        database: str | os.PathLike[str] | sqlite3.Connection,
        name: str = "mqcore",
        *,
        table: str = "mqcore_offsets",
        busy_timeout_s: float = 5.0,
    ) -> None:
        """database: a path (the sink opens and closes it), or an open connection of the caller's, used in this thread
        only, without a transaction of its own running (`autocommit=False` of Python 3.12 has always one).
        name, table: see Sink. Raises sqlite3.Error."""
        super().__init__(name, table=table)
        self._owned = not isinstance(database, sqlite3.Connection)
        if isinstance(database, sqlite3.Connection):
            self.connection = database
        else:
            self.connection = sqlite3.connect(database, timeout=busy_timeout_s, isolation_level=None)
        with self._begin():
            self._make_table()

    @contextmanager
    def _begin(self) -> Iterator[sqlite3.Connection]:
        db = self.connection
        if db.in_transaction:
            raise InvalidTransactionStateError("the connection has a transaction of its own running", sink=self.name)
        db.execute("BEGIN IMMEDIATE")  # writers queue here, before they have done any work
        try:
            db.set_authorizer(_keep_transaction)
            try:
                yield db
            finally:
                db.set_authorizer(None)
            if not db.in_transaction:  # INSERT OR ROLLBACK does it
                raise InvalidTransactionStateError("the transaction was rolled back inside", sink=self.name)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _execute(self, sql: str, values: Sequence[Any]) -> tuple[int, list[tuple[Any, ...]]]:
        implicit = not self.connection.in_transaction
        cursor = self.connection.execute(sql, values)
        found = cursor.fetchall()
        if implicit and self.connection.in_transaction:  # a connection of the caller's that begins by itself
            self.connection.commit()
        return cursor.rowcount, found

    def _is_passing(self, error: Exception) -> bool:
        # The low byte is the code, the rest says more about it.
        return isinstance(error, sqlite3.OperationalError) and (error.sqlite_errorcode & 0xFF) in _PASSING

    def close(self) -> None:
        if self._owned:
            self.connection.close()


def _keep_transaction(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action == _SQLITE_TRANSACTION else sqlite3.SQLITE_OK
