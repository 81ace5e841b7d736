"""Each test of this folder that takes `database` runs against SQLite and against a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqcore
from tests.sinks.databases import Database, Postgres, Sqlite, running_postgres
from tests.support.strict import needs

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All on one worker: one server is enough."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("postgres"))
            if "postgres" in item.nodeid.rpartition("::")[2]:
                item.add_marker(pytest.mark.postgres)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    needs(importlib.util.find_spec("psycopg") is not None, "psycopg", "pip install --group test")
    with running_postgres() as spec:
        yield spec


@pytest.fixture
def postgres(postgres_server: str) -> Postgres:
    """A database of its own in the server."""
    name = f"t{next(_numbers)}"
    Postgres(postgres_server).query("SELECT 1")
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    database = Postgres(postgres_server.replace("dbname=postgres", f"dbname={name}"))
    database.make_results()
    return database


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    database = Sqlite(tmp_path / "results.db")
    database.make_results()
    return database


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found


@pytest.fixture
def store() -> Iterator[mqcore.Store]:
    """A store in memory with a topic "t" of two partitions."""
    with mqcore.memory() as store:
        store.create_topic("t", partitions=2)
        yield store
