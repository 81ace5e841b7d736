"""A run in a process of its own: SIGTERM ends it in good order, and under exactly_once kill -9 changes nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mqcore

SCRIPT = """
import json, sys, time, mqcore
path, guarantee = sys.argv[1:]
first = True

@mqcore.processor(source="in", group="g", guarantee=guarantee, batch_records=20)
def copy(batch, tx):
    global first
    if first:
        first = False
        print("ready", flush=True)
    tx.send_many("out", batch.values.to_list())
    total = tx.state("totals")
    total[b"n"] = str(int(total.get(b"n") or b"0") + len(batch)).encode()
    time.sleep(0.005)

with mqcore.open(path, durability="os") as store:
    progress = store.run(copy, workers=2, until=UNTIL)
    print(json.dumps(progress.to_dict()), flush=True)
"""
RECORDS = 1500


def start(path: Path, guarantee: str, until: str = "stopped") -> subprocess.Popen[str]:
    script = SCRIPT.replace("UNTIL", repr(until))
    return subprocess.Popen([sys.executable, "-P", "-c", script, path, guarantee], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(fast_path: Path) -> Path:
    with mqcore.open(fast_path / "store", durability="os") as store:
        store.create_topic("in", partitions=4)
        store.create_topic("out", partitions=4)
        with store.producer() as producer:
            for number in range(RECORDS):
                producer.send("in", str(number).encode())
    return fast_path / "store"


def outputs(store: mqcore.Store) -> list[bytes]:
    with store.consumer("out", follow=False) as consumer:
        return sorted((bytes(record.value) for record in consumer), key=int)


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_sigterm_commits_what_is_at_hand(path: Path, guarantee: str) -> None:
    """Not a record is processed twice, even at_least_once: the offsets of the last batch are committed."""
    process = start(path, guarantee)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    progress = json.loads(rest)
    assert 0 < progress["records"] < RECORDS
    assert progress["lag"] == RECORDS - progress["records"]
    with mqcore.open(path, durability="os") as store:
        assert store.recovery.clean
        assert len(outputs(store)) == progress["records"]
    process = start(path, guarantee, "caught_up")
    rest, _ = process.communicate(timeout=60)
    assert json.loads(rest.splitlines()[-1])["records"] == RECORDS - progress["records"]
    with mqcore.open(path, durability="os") as store:
        assert outputs(store) == [str(number).encode() for number in range(RECORDS)]


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_kills(path: Path, guarantee: str) -> None:
    draw = random.Random(guarantee)
    for _ in range(5):
        process = start(path, guarantee)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            break
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate(timeout=60)
    process = start(path, guarantee, "caught_up")
    process.communicate(timeout=60)
    assert process.returncode == 0
    with mqcore.open(path, durability="os") as store:
        found = outputs(store)
        wanted = [str(number).encode() for number in range(RECORDS)]
        assert sorted(set(found), key=int) == wanted
        if guarantee == "exactly_once":
            assert found == wanted
            assert store.state("totals")[b"n"] == str(RECORDS).encode()
