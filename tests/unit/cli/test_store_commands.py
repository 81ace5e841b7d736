"""Topics and records go through the command line and come back as they went."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mqcore


def run(*arguments: str, store: Path, stdin: bytes = b"", code: int = 0) -> list[Any]:
    """Run `mqcore … --json` and return its JSON lines."""
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", *arguments, "--store", str(store), "--json"]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert result.returncode == code, result.stderr.decode()
    lines = (result.stdout if code == 0 else result.stderr).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_a_topics_life(store_path: Path) -> None:
    (made,) = run("topic", "create", "orders", "--partitions", "3", "-c", "retention.ms=1000", store=store_path)
    assert (made["topic"], made["partitions"], made["records"]) == ("orders", 3, 0)
    assert made["config"] == {"retention.ms": "1000"}
    assert [row["topic"] for row in run("topic", "list", store=store_path)] == ["orders"]
    (again,) = run("topic", "create", "orders", store=store_path, code=1)
    assert again["error"] == "TopicExistsError"
    run("topic", "create", "orders", "--if-not-exists", store=store_path)
    (altered,) = run("topic", "alter", "orders", "-c", "retention.ms=", "--partitions", "5", store=store_path)
    assert (altered["partitions"], altered["config"]) == (5, {})
    (described,) = run("topic", "describe", "orders", store=store_path)
    assert [row["partition"] for row in described["partition_offsets"]] == [0, 1, 2, 3, 4]
    run("topic", "delete", "orders", "--yes", store=store_path)
    assert run("topic", "list", store=store_path) == []


def test_misspelt_names_get_a_hint(store_path: Path) -> None:
    run("topic", "create", "orders", store=store_path)
    (error,) = run("topic", "describe", "odrers", store=store_path, code=1)
    assert error["error"] == "UnknownTopicError"
    assert "orders" in error["hint"]
    (error,) = run("topic", "alter", "orders", "-c", "retention.mss=1", store=store_path, code=1)
    assert error["error"] == "InvalidConfigError"
    assert "retention.ms" in error["hint"]
    (error,) = run("produce", "odrers", store=store_path, code=1)
    assert "orders" in error["hint"]


def test_lines_in_lines_out(store_path: Path) -> None:
    (facts,) = run("produce", "t", "--create", store=store_path, stdin=b"one\ntwo\n\nfour\n")
    assert facts["records"] == 4
    rows = run("consume", "t", store=store_path)
    assert [(row["offset"], row["value"]) for row in rows] == [(0, "one"), (1, "two"), (2, ""), (3, "four")]


def test_what_consume_prints_produce_takes(store_path: Path, tmp_path: Path) -> None:
    """Keys, headers (also of one name), tombstones, timestamps and bytes that are no text survive the round."""
    source = tmp_path / "in.jsonl"
    lines = [
        {"key": "k", "value": "v", "headers": [["a", "1"], ["a", None]], "timestamp": 1_600_000_000_000},
        {"key": {"base64": "/w=="}, "value": None, "headers": [], "timestamp": 1_600_000_000_001},
        {"key": None, "value": {"base64": "AP8="}, "headers": [], "timestamp": 1_600_000_000_002},
    ]
    source.write_text("\n".join(map(json.dumps, lines)))
    run("produce", "a", str(source), "--create", "-H", "extra=yes", store=store_path)
    first = run("consume", "a", store=store_path)
    again = tmp_path / "again.jsonl"
    again.write_text("\n".join(map(json.dumps, first)))
    run("produce", "b", str(again), "--create", store=store_path)
    second = run("consume", "b", store=store_path)
    for row in (*first, *second):
        row.pop("topic")
    assert first == second
    assert [{name: row[name] for name in ("key", "value", "timestamp")} for row in first] == [
        {name: line[name] for name in ("key", "value", "timestamp")} for line in lines
    ]
    assert first[0]["headers"] == [["a", "1"], ["a", None], ["extra", "yes"]]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_compression(codec: str, store_path: Path) -> None:
    body = b"".join(b"line %d\n" % number for number in range(500))
    run("produce", "t", "--create", "--compression", codec, store=store_path, stdin=body)
    assert [row["value"] for row in run("consume", "t", store=store_path)] == body.decode().splitlines()


def test_where_consume_begins(store_path: Path) -> None:
    lines = [{"value": str(number), "timestamp": 1_600_000_000_000 + 1000 * number} for number in range(20)]
    run(
        "produce",
        "t",
        "--create",
        "--format",
        "jsonl",
        store=store_path,
        stdin="\n".join(map(json.dumps, lines)).encode(),
    )

    def offsets(start: str, *more: str) -> list[int]:
        return [row["offset"] for row in run("consume", "t", "--from", start, *more, store=store_path)]

    assert offsets("17") == [17, 18, 19]
    assert offsets("-2") == [18, 19]
    assert offsets("latest") == []
    assert offsets("@1600000018000") == [18, 19]
    assert offsets("2020-09-13T12:26:59Z") == [19]
    assert offsets("earliest", "--max", "2") == [0, 1]
    assert offsets("999") == []


def test_partitions(store_path: Path) -> None:
    run("topic", "create", "t", "--partitions", "2", store=store_path)
    run("produce", "t", "--partition", "1", store=store_path, stdin=b"x\n")
    assert run("consume", "t", "-p", "0", store=store_path) == []
    assert [row["partition"] for row in run("consume", "t", "-p", "1", store=store_path)] == [1]
    (error,) = run("consume", "t", "-p", "7", store=store_path, code=1)
    assert error["where"]["partition"] == 7


def test_follow_sees_what_another_process_appends(store_path: Path) -> None:
    with mqcore.open(str(store_path), durability="os") as store:
        store.create_topic("t")
        command = [sys.executable, "-P", "-m", "mqcore.cli.main", "consume", "t", "--follow", "--max", "3", "--json"]
        command += ["--store", str(store_path)]
        follower = subprocess.Popen(command, stdout=subprocess.PIPE)
        with store.producer() as producer:
            for number in range(3):
                producer.send("t", b"%d" % number).result()
        out, _ = follower.communicate(timeout=60)
    assert [json.loads(line)["value"] for line in out.splitlines()] == ["0", "1", "2"]


def test_dump_verify_repair(store_path: Path) -> None:
    run("produce", "t", "--create", store=store_path, stdin=b"a\nb\n")
    batches = run("log", "dump", "t", store=store_path)
    assert sum(batch["count"] for batch in batches) == 2
    records = run("log", "dump", "t", "--records", store=store_path)
    assert [record["offset"] for record in records] == [0, 1]
    (report,) = run("log", "verify", store=store_path)
    assert report["problems"] == []
    (log,) = (store_path / "topics" / "t-0").glob("*.log")
    data = bytearray(log.read_bytes())
    data[70] ^= 1
    log.write_bytes(data)
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", "log", "verify", "--store", str(store_path), "--json"]
    damaged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert damaged.returncode == 1
    assert json.loads(damaged.stdout)["problems"]
    run("log", "repair", "--yes", store=store_path)
    (report,) = run("log", "verify", store=store_path)
    assert report["problems"] == []


def test_demo_on_a_file(store_path: Path, tmp_path: Path) -> None:
    source = tmp_path / "events.csv"
    rows = ["tailnum,n,time_hour", *(f"N{n % 7 if n % 11 else ''},{n},2013-01-01T05:00:00Z" for n in range(500))]
    source.write_text("\n".join(rows) + "\n")
    arguments = (
        "demo",
        "--input",
        str(source),
        "--key",
        "tailnum",
        "--partitions",
        "4",
        "--group",
        "50",
        "--kills",
        "0",
    )
    (first,) = run(*arguments, store=store_path)
    assert (first["events"], first["partitions"], first["digests_equal"]) == (500, 4, True)
    (second,) = run(*arguments, store=store_path)
    assert second["digest"] == first["digest"]


def test_demo_leaves_foreign_directories_alone(store_path: Path) -> None:
    store_path.mkdir(parents=True)
    (store_path / "thesis.txt").write_text("precious")
    (error,) = run("demo", store=store_path, code=1)
    assert error["error"] == "StoreFormatError"
    assert (store_path / "thesis.txt").read_text() == "precious"
