"""The two databases that sinks write into, as tests see them: a sink, a table of results, and other connections.

The PostgreSQL is a real server of its own in a temporary directory (Debian's programs, a socket, no port).
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mqcore.sinks.core import Sink
from mqcore.sinks.postgres import PostgresSink
from mqcore.sinks.sqlite import SqliteSink
from tests.support.strict import needs

HOW = "apt-get install -y postgresql (or `make postgres` as root)"


def open_sink(spec: str, name: str = "s") -> Sink[Any]:
    """A sink of a database that is named by a string: a connection string of PostgreSQL, or a path of SQLite."""
    return PostgresSink(spec, name) if spec.startswith("host=") else SqliteSink(spec, name)


class Database(ABC):
    """A database with a table `results(topic, partition, position, value)` that forbids nothing: duplicates show."""

    spec: str

    @abstractmethod
    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""

    def sink(self, name: str = "s") -> Sink[Any]:
        return open_sink(self.spec, name)

    def make_results(self) -> None:
        self.query("CREATE TABLE results (topic TEXT, partition INTEGER, position BIGINT, value TEXT)")

    def results(self) -> list[tuple[str, int, int, str]]:
        return self.query("SELECT topic, partition, position, value FROM results ORDER BY 1, 2, 3")  # type: ignore[return-value]


class Sqlite(Database):
    def __init__(self, path: Path) -> None:
        self.spec = str(path)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.spec, timeout=30)
        try:
            with connection:
                return connection.execute(sql).fetchall()
        finally:
            connection.close()


class Postgres(Database):
    def __init__(self, spec: str) -> None:
        self.spec = spec

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.spec) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


def write(db: Any, batch: Any) -> None:
    """One row a record, into either database."""
    rows = [(batch.topic, batch.partition, record.offset, bytes(record.value).decode()) for record in batch]
    if isinstance(db, sqlite3.Connection):
        db.executemany("INSERT INTO results VALUES (?, ?, ?, ?)", rows)
        return
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO results VALUES (%s, %s, %s, %s)", rows)


def programs() -> str | None:
    """The directory of the newest PostgreSQL's server programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("postgres")
    return None if path is None else os.path.dirname(os.path.realpath(path))


@contextmanager
def running_postgres() -> Iterator[str]:
    """A fresh server; its connection string. It will not run as root: then it is the user `postgres` that runs it."""
    found = programs()
    needs(found, "PostgreSQL's server", HOW)
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
    directory = tempfile.mkdtemp(prefix="mqcore-pg-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        if as_user:
            shutil.chown(directory, user)
        data = f"{directory}/data"
        subprocess.run(
            [f"{found}/initdb", "-D", data, "-A", "trust", "-U", "mqcore", "--no-sync", "--no-locale", "-E", "UTF8"],
            check=True, capture_output=True, cwd=directory, **as_user,
        )  # fmt: skip
        with open(f"{directory}/log", "wb") as log:
            server = subprocess.Popen(
                [f"{found}/postgres", "-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=log, stderr=log, cwd=directory, **as_user,
            )  # fmt: skip
        try:
            spec = f"host={directory} user=mqcore dbname=postgres"
            _wait_for(spec, server)
            yield spec
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(60)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(spec: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(spec).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended at once"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)
