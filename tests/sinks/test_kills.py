"""Whenever the process of a sink is killed, no record is lost and none is there twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mqcore
from tests.architecture.project import ROOT
from tests.sinks.databases import Database, Sqlite
from tests.sinks.killed import STEPS
from tests.sinks.test_sinks import expected, fill

RECORDS = 400


@pytest.fixture
def path(fast_path: Path) -> Path:
    """A store with RECORDS records in two partitions."""
    with mqcore.open(fast_path / "store", durability="os") as store:
        store.create_topic("t", partitions=2)
        fill(store, RECORDS)
    return fast_path / "store"


@contextmanager
def sink_process(
    path: Path, database: Database, step: str, number: int, batch_records: int
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.sinks.killed", path, database.spec, step, number, batch_records]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [0, 3])
def test_a_kill_at_a_step(path: Path, database: Database, step: str, number: int) -> None:
    """At each step of the first and of a later batch; then once more in the batch that follows."""
    for at in (number, 0):
        with sink_process(path, database, step, at, 60) as process:
            assert process.wait(60) == -signal.SIGKILL
    with sink_process(path, database, "never", 0, 60) as process:
        assert process.wait(60) == 0
    assert database.results() == expected(RECORDS)


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_moments(path: Path, database: Database, seed: int) -> None:
    """With a batch a record, so that there is always a transaction to hit."""
    draw, kills = random.Random(seed), 0
    for _ in range(12):
        with sink_process(path, database, "never", 0, 1) as process:
            time.sleep(draw.uniform(0, 0.1))
            if process.poll() is None:
                process.kill()
                kills += 1
    with sink_process(path, database, "never", 0, 10) as process:
        assert process.wait(60) == 0
    assert database.results() == expected(RECORDS)
    assert kills > 0


def test_sqlite_that_forgets_the_offsets_is_caught(path: Path, sqlite: Sqlite) -> None:
    """The check itself can fail: with the offsets put back, rows come twice."""
    for _ in range(2):
        with sink_process(path, sqlite, "never", 0, 60) as process:
            assert process.wait(60) == 0
        assert sqlite.results() == expected(RECORDS)
    sqlite.query("UPDATE mqcore_offsets SET next_offset = next_offset - 1")
    with sink_process(path, sqlite, "never", 0, 60) as process:
        assert process.wait(60) == 0
    assert sqlite.results() != expected(RECORDS)
