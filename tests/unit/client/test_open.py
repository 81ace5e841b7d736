"""`mqcore.open` takes a path, ":memory:" or says clearly what it does not take; memory leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mqcore
from mqcore.client import open as opening
from mqcore.errors import InvalidConfigError, MissingExtraError, StoreClosedError, StoreReadOnlyError, TopicExistsError


def test_a_path_is_a_store_under_fsync(tmp_path: Path) -> None:
    with mqcore.open(tmp_path / "new") as store:
        assert (store.path, store.durability, store.read_only) == (str(tmp_path / "new"), "fsync", False)
        info = store.create_topic("payments", partitions=3, config={"retention.ms": 604_800_000})
        assert (info.partitions, info.config.retention_ms) == (3, 604_800_000)
        assert list(store.topics()) == ["payments"]
        assert store.partitions("payments") == [0, 1, 2]
        assert store.begin_offsets("payments") == store.end_offsets("payments") == {0: 0, 1: 0, 2: 0}
        with pytest.raises(TopicExistsError):
            store.create_topic("payments")
        assert store.recovery.created
    assert store.closed
    with pytest.raises(StoreClosedError):
        store.topics()
    with mqcore.open(str(tmp_path / "new"), durability="os", read_only=True) as store:
        assert list(store.topics()) == ["payments"]
        with pytest.raises(StoreReadOnlyError):
            store.producer()


def test_records_go_in_and_come_out(tmp_path: Path) -> None:
    with mqcore.open(tmp_path) as store:
        store.create_topic("t", partitions=2)
        with store.producer() as producer:
            delivery = producer.send("t", b"42.00", key=b"acct-7", partition=1)
            assert delivery.result().offset == 0
            producer.send_many("t", [b"%d" % number for number in range(10)], partition=0)
        assert store.end_offsets("t") == {0: 10, 1: 1}
        with store.consumer("t", follow=False) as consumer:
            assert sorted(bytes(record.value) for record in consumer) == sorted(
                [b"42.00", *map(b"%d".__mod__, range(10))]
            )
        store.delete_before("t", {0: 4})
        assert store.begin_offsets("t") == {0: 4, 1: 0}
        store.delete_topic("t")
        assert store.topics() == {}


def test_a_store_closes_its_producers(tmp_path: Path) -> None:
    store = mqcore.open(tmp_path)
    store.create_topic("t")
    store.producer(linger_ms=60_000).send("t", b"lingering")
    store.close()
    with mqcore.open(tmp_path) as store:
        assert store.end_offsets("t") == {0: 1}


def test_memory_is_gone_after_close() -> None:
    with mqcore.open(":memory:") as store, mqcore.memory() as other:
        assert (store.durability, store.path != other.path) == ("memory", True)
        assert os.stat(store.path).st_mode & 0o777 == 0o700
        store.create_topic("t")
        with store.producer() as producer:
            producer.send("t", b"x").result()
        assert store.end_offsets("t") == {0: 1}
        assert other.topics() == {}
    assert not os.path.exists(store.path)
    assert not os.path.exists(other.path)


def test_memory_of_a_dead_process_is_swept() -> None:
    code = "import mqcore, os, signal; print(mqcore.memory().path, flush=True); signal.pause()"
    child = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    path = child.stdout.readline().strip()
    with mqcore.memory():
        assert os.path.isdir(path), "its process lives"
    child.send_signal(signal.SIGKILL)
    child.wait()
    with mqcore.memory():
        assert not os.path.exists(path)


def test_the_sweep_takes_only_what_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "mqcore-memory-link").symlink_to("/etc")
    (tmp_path / "mqcore-memory-young").mkdir()  # made a moment ago: no lock yet
    (tmp_path / "other").mkdir()
    dead = tmp_path / "mqcore-memory-dead"
    dead.mkdir()
    (dead / "lock").write_text("1\n")
    assert opening.sweep(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mqcore-memory-link", "mqcore-memory-young", "other"]


def test_what_is_no_store_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="Kafka cluster"):
        mqcore.open("kafka://localhost:9092")
    with pytest.raises(InvalidConfigError, match="'fsync', 'os', 'memory'"):
        mqcore.open(tmp_path, durability="maybe")
    with pytest.raises(InvalidConfigError, match="empty"):
        mqcore.open("")
    with pytest.raises(InvalidConfigError, match="begins empty"):
        mqcore.open(":memory:", read_only=True)
    with pytest.raises(InvalidConfigError, match=r"journal\.ring\.bytes"):
        mqcore.open(tmp_path, config={"journal.ring.byte": 1})
    assert list(tmp_path.iterdir()) == []
