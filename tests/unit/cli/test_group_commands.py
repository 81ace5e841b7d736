"""`mqcore group` shows, moves and deletes groups as the Python calls below it do."""

from __future__ import annotations

from pathlib import Path

import pytest

import mqcore
from tests.unit.cli.test_store_commands import run


@pytest.fixture
def filled(store_path: Path) -> Path:
    """Topic t with 10 records in each of two partitions; the group g has read and committed the first one."""
    with mqcore.open(str(store_path), durability="os") as store:
        store.create_topic("t", 2)
        with store.producer() as producer:
            for number in range(20):
                producer.send("t", b"%d" % number, partition=number % 2, timestamp=1_600_000_000_000 + number)
        store.alter_topic("t", {"retention.ms": -1})
        with store.consumer("t", group="g") as consumer:
            consumer.seek(("t", 0), 0) if consumer.assignment else consumer.poll(0, max_records=10)
            consumer.commit()
    return store_path


def test_looking(filled: Path) -> None:
    (listed,) = run("group", "list", store=filled)
    assert (listed["group"], listed["state"], listed["members"]) == ("g", "Empty", 0)
    assert run("group", "list", "--state", "Stable", store=filled) == []
    rows = run("group", "describe", "g", store=filled)
    assert sorted((row["committed"], row["lag"]) for row in rows) == [(0, 10), (10, 0)]
    assert run("group", "describe", "g", "--members", store=filled) == []
    (explained,) = run("group", "explain", "g", store=filled)
    assert [cause["reason"] for cause in explained["causes"]] == [
        "the consumer began to read",
        "the consumer was closed",
    ]
    (error,) = run("group", "describe", "gg", store=filled, code=1)
    assert error["error"] == "UnknownGroupError"
    assert "'g'" in error["hint"]


def test_moving(filled: Path, tmp_path: Path) -> None:
    def reset(*arguments: str, code: int = 0) -> list[int]:
        rows = run("group", "reset-offsets", "g", *arguments, store=filled, code=code)
        return [row["after"] for row in rows]

    assert reset("--all-topics", "--to-earliest") == [0, 0]
    assert reset("--all-topics", "--to-latest", "--execute") == [10, 10]
    assert reset("--topic", "t:1", "--shift-by", "-4", "--execute") == [6]
    assert reset("--topic", "t", "--to-datetime", "2020-09-13T12:26:40.007Z") == [4, 3]
    assert reset("--topic", "t", "--by-duration", "PT1H") == [10, 10]
    plan = tmp_path / "plan.csv"
    plan.write_text("t,0,3\nt,1,99\n")
    assert reset("--from-file", str(plan), "--execute") == [3, 10]
    rows = run("group", "describe", "g", store=filled)
    assert [(row["committed"], row["lag"]) for row in rows] == [(3, 7), (10, 0)]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--to-earliest",),
        ("--to-earliest", "--to-latest", "--all-topics"),
        ("--all-topics", "--topic", "t", "--to-latest"),
        ("--all-topics", "--by-duration", "two hours"),
        ("--all-topics", "--to-datetime", "noon"),
        ("--topic", "t:x", "--to-latest"),
        ("--all-topics", "--to-latest", "--execute", "--dry-run"),
    ],
)
def test_what_makes_no_sense_is_wrong_use(filled: Path, arguments: tuple[str, ...]) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-P", "-m", "mqcore.cli.main", "group", "reset-offsets", "g", "--store", str(filled)]
    result = subprocess.run([*command, *arguments], capture_output=True, check=False, text=True)
    assert result.returncode == 2, result.stderr
    assert "Error" in result.stderr


def test_deleting(filled: Path) -> None:
    run("group", "delete", "g", "--topic", "t:0", "--yes", store=filled)
    assert [row["partition"] for row in run("group", "describe", "g", store=filled)] == [1]
    run("group", "delete", "g", "--yes", store=filled)
    assert run("group", "list", store=filled) == []
    (error,) = run("group", "delete", "g", "--yes", store=filled, code=1)
    assert error["error"] == "UnknownGroupError"


def test_a_living_writer_is_told_of(filled: Path) -> None:
    with mqcore.open(str(filled), durability="os") as store, store.consumer("t", group="g") as consumer:
        consumer.poll(0)
        (listed,) = run("group", "list", store=filled)
        assert (listed["state"], listed["members"]) == ("Stable", 1)
        (member,) = run("group", "describe", "g", "--members", store=filled)
        assert member["partitions"] == "t-0 t-1"
        (error,) = run("group", "delete", "g", "--yes", store=filled, code=1)
        assert error["error"] == "StoreLockedError"
