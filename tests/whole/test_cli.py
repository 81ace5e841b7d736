"""The whole command line on one store, each command a process of its own, every one's `--json` parsed: what one command
says, the next one finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqcore as mq
from tests.support.processes import MQCORE, mqcore, mqcore_text
from tests.support.stores import flip

PEOPLE = [{"name": "ada", "city": "London"}, {"name": "béla", "city": "Pécs"}, {"name": "ada", "city": "Turin"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that the commands below made, with a topic for each way in."""
    base = tmp_path_factory.mktemp("cli")
    path = base / "store"
    (made,) = mqcore("topic", "create", "lines", "--partitions", "3", "-c", "segment.bytes=4096", "--store", path)
    assert (made["topic"], made["partitions"]) == ("lines", 3)
    (sent,) = mqcore("produce", "lines", "--key-separator", ":", "--store", path, stdin=b"k1:a\nk2:b\nk1:c\n")
    assert (sent["records"], sent["end_offsets"]) == (3, 3)
    (base / "people.jsonl").write_text(
        "".join(json.dumps({"key": one["name"], "value": one["city"]}) + "\n" for one in PEOPLE)
    )
    (base / "people.csv").write_text("name,city\n" + "".join(f"{one['name']},{one['city']}\n" for one in PEOPLE))
    (base / "plain.txt").write_bytes(b"first\nsecond\n")
    (sent,) = mqcore("produce", "jsonl", base / "people.jsonl", "--create", "--store", path)
    assert sent["records"] == 3
    (sent,) = mqcore("produce", "csv", base / "people.csv", "--key-field", "name", "--create", "--store", path)
    assert sent["records"] == 3
    files = ("produce", "files", base / "plain.txt", "-", base / "plain.txt", "--create", "--store", path)
    (sent,) = mqcore(*files, stdin=b"between\n")
    assert sent["records"] == 5
    return path


def test_topics_are_listed_described_and_altered(store: Path) -> None:
    rows = {row["topic"]: row for row in mqcore("topic", "list", "--store", store)}
    assert {name: rows[name]["records"] for name in ("lines", "jsonl", "csv", "files")} == {
        "lines": 3,
        "jsonl": 3,
        "csv": 3,
        "files": 5,
    }
    (altered,) = mqcore("topic", "alter", "lines", "-c", "retention.ms=-1", "--partitions", "4", "--store", store)
    assert altered["config"] == {"retention.ms": "-1", "segment.bytes": "4096"}
    (told,) = mqcore("topic", "describe", "lines", "--store", store)
    assert [row["partition"] for row in told["partition_offsets"]] == [0, 1, 2, 3]
    assert sum(row["records"] for row in told["partition_offsets"]) == 3
    mqcore("topic", "create", "short", "--store", store)
    (gone,) = mqcore("topic", "delete", "short", "--yes", "--store", store)
    assert gone["deleted"]
    assert "short" not in {row["topic"] for row in mqcore("topic", "list", "--store", store)}


def test_each_way_in_keeps_keys_values_and_order(store: Path) -> None:
    found = {(row["key"], row["value"]) for row in mqcore("consume", "lines", "--store", store)}
    assert found == {("k1", "a"), ("k1", "c"), ("k2", "b")}
    rows = mqcore("consume", "jsonl", "--store", store)
    assert [(row["key"], row["value"]) for row in rows] == [(one["name"], one["city"]) for one in PEOPLE]
    rows = mqcore("consume", "csv", "--store", store)
    assert [(row["key"], json.loads(row["value"])) for row in rows] == [(one["name"], one) for one in PEOPLE]
    rows = mqcore("consume", "files", "--store", store)
    assert [row["value"] for row in rows] == ["first", "second", "between", "first", "second"]


def test_positions_and_formats_of_consume(store: Path) -> None:
    where = ("--store", store)
    assert [row["offset"] for row in mqcore("consume", "files", "--from", "-2", *where)] == [3, 4]
    assert [row["offset"] for row in mqcore("consume", "files", "--from", "1", "--max", "2", *where)] == [1, 2]
    assert mqcore("consume", "files", "--from", "latest", *where) == []
    assert mqcore("consume", "files", "--from", "2999-01-01", *where) == []
    first = mqcore("consume", "files", *where)[0]["timestamp"]
    assert len(mqcore("consume", "files", "--from", f"@{first}", *where)) == 5
    assert mqcore_text("consume", "files", "--format", "raw", "--from", "3", *where) == "first\nsecond\n"
    assert mqcore_text("consume", "files", "--from", "4", *where) == "0:4 second\n"
    template = ("--format", "template", "--template", "{topic}/{partition}/{offset}={value}")
    assert mqcore_text("consume", "files", *template, "--max", "1", *where) == "files/0/0=first\n"
    (line,) = mqcore_text("consume", "jsonl", "--format", "json", "--from", "2", *where).splitlines()
    assert json.loads(line)["key"] == "ada"


def test_a_follower_prints_what_a_living_producer_types(store: Path) -> None:
    """Two processes: each line is printed while the producer's input is still open."""
    mqcore("topic", "create", "typed", "--if-not-exists", "--store", store)
    follow = [*MQCORE, "consume", "typed", "--follow", "--from", "latest", "--json", "--store", str(store)]
    produce = [*MQCORE, "produce", "typed", "--store", str(store)]
    with subprocess.Popen(produce, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as producer:
        assert producer.stdin is not None
        producer.stdin.write(b"warm up\n")
        producer.stdin.flush()
        with subprocess.Popen([*follow[:-4], "earliest", *follow[-3:]], stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            try:
                assert json.loads(follower.stdout.readline())["value"] == "warm up"
                for number in range(5):
                    producer.stdin.write(b"line %d\n" % number)
                    producer.stdin.flush()
                    row = json.loads(follower.stdout.readline())
                    assert (row["offset"], row["value"]) == (number + 1, f"line {number}")
                producer.stdin.close()
                assert producer.wait(60) == 0
            finally:
                follower.kill()


def test_a_partition_directory_is_adopted(store: Path, tmp_path: Path) -> None:
    """The files of another store's partition, as Kafka lays them out."""
    mqcore("produce", "old", "--create", "--store", tmp_path / "other", stdin=b"x\ny\nz\n")
    source = tmp_path / "legacy-2"
    source.mkdir()
    for file in (tmp_path / "other" / "topics" / "old-0").glob("0*"):
        shutil.copy(file, source)
    (adopted,) = mqcore("topic", "adopt", source, "--store", store)
    assert {name: adopted[name] for name in ("topic", "partition", "records", "begin_offset", "end_offset")} == {
        "topic": "legacy",
        "partition": 2,
        "records": 3,
        "begin_offset": 0,
        "end_offset": 3,
    }
    rows = mqcore("consume", "legacy", "-p", "2", "--store", store)
    assert [row["value"] for row in rows] == ["x", "y", "z"]
    (again,) = mqcore("topic", "adopt", source, "--store", store, code=1)
    assert again["error"] == "TopicExistsError"
    (named,) = mqcore("topic", "adopt", source, "--as", "renamed", "--partition", "0", "--store", store)
    assert (named["topic"], named["partition"]) == ("renamed", 0)


def test_dump_verify_and_repair_after_a_flipped_bit(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(store, path)
    mqcore("produce", "files", "--store", path, stdin=b"late\n")
    batches = mqcore("log", "dump", "files", "--store", path)
    assert sum(batch["count"] for batch in batches) == 6
    records = mqcore("log", "dump", "files", "--records", "--from", "4", "--store", path)
    assert [record["offset"] for record in records if record["offset"] >= 4] == [4, 5]
    (log,) = (path / "topics" / "files-0").glob("*.log")
    assert mqcore("log", "dump", log) == batches
    (sound,) = mqcore("log", "verify", "--store", path)
    assert (sound["problems"], sound["topics"] >= 5) == ([], True)
    flip(log, log.stat().st_size - 2)
    (report,) = mqcore("log", "verify", "--store", path, code=1)
    assert any("files-0" in str(problem) for problem in report["problems"])
    (mended,) = mqcore("log", "repair", "--yes", "--store", path)
    assert (mended["records_lost"], mended["problems"]) == (1, [])
    assert [(one["topic"], one["offset"], one["next_offset"]) for one in mended["lost"]] == [("files", 5, 6)]
    assert list((path / "quarantine").rglob("*.bin"))
    (after,) = mqcore("log", "verify", "--store", path)
    assert after["problems"] == []
    mqcore("produce", "files", "--store", path, stdin=b"new\n")
    rows = mqcore("consume", "files", "--store", path)
    assert [(row["offset"], row["value"]) for row in rows][-2:] == [(4, "second"), (6, "new")], (
        "no offset is used twice"
    )


def test_doctor_names_the_machine(store: Path) -> None:
    (report,) = mqcore("doctor", "--store", store)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert {"crc32c", "file system", "fdatasync", "open files"} <= states.keys()
    assert set(states.values()) <= {"ok", "slow", "off"}
    assert "crc32c" in mqcore_text("doctor", "--store", store)


@pytest.mark.parametrize("kind", ["csv", "zip", "jsonl"])
def test_demo_on_small_inputs(tmp_path: Path, kind: str) -> None:
    rows = [{"user": f"u{number % 7}", "n": str(number)} for number in range(300)]
    table = "user,n\n" + "".join(f"{row['user']},{row['n']}\n" for row in rows)
    source = tmp_path / f"events.{'csv.zip' if kind == 'zip' else kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("events.csv", table)
    else:
        source.write_text(table if kind == "csv" else "".join(json.dumps(row) + "\n" for row in rows))
    arguments = (
        "demo",
        "--input",
        source,
        "--key",
        "user",
        "--partitions",
        "5",
        "--kills",
        "0",
        "--store",
        tmp_path / "s",
    )
    (facts,) = mqcore(*arguments)
    assert (facts["events"], facts["keys"], facts["partitions"]) == (300, 7, 5)
    assert facts["count_equal"] is facts["order_per_key_equal"] is facts["digests_equal"] is True
    assert len(mqcore("consume", "flights", "--store", tmp_path / "s")) == 300
    assert "Next" in mqcore_text(*arguments)


def test_bench_and_torture_report_in_json(tmp_path: Path) -> None:
    (row,) = mqcore("bench", "engine", "--only", "^crc32c_1k$", "--rounds", "1", "--directory", tmp_path)
    assert row["name"] == "crc32c_1k"
    assert {"ratio", "goal", "base", "rate_per_s", "ns_per_msg"} <= row.keys()
    (report,) = mqcore("torture", "kill", "--seed", "3", "--faults", "2")
    assert (report["suite"], report["faults_injected"], report["violations"]) == ("kill", {"kill": 2}, {})
    assert report["passed"]
    assert report["acked"] > 0


def test_what_the_command_line_left_behind_is_a_store(store: Path) -> None:
    """The same records through the Python API, and nothing to recover."""
    with mq.open(store, read_only=True) as opened:
        assert opened.recovery.clean
        assert next(record.value for record in opened.consumer("files", follow=False)) == b"first"
