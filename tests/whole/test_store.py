"""Promises of a whole store, through its public API alone: what is read beside retention and compaction, what each
durability keeps, what seals and views say, and what other processes see."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

import mqcore as mq
from mqcore._native.io import FaultyIo
from mqcore.clock import ManualClock
from mqcore.errors import DiskFullError, MQError, StorageError, StoreReadOnlyError
from mqcore.log.verify import verify
from tests.support.processes import writing
from tests.support.stores import flip, kill

EIO = 5
HOUR_MS = 3_600_000


def values_of(store: mq.Store, topic: str) -> dict[tuple[int, int], bytes | None]:
    batches = store.consumer(topic, follow=False).batches()
    return {(batch.partition, record.offset): record.value for batch in batches for record in batch}


# -- retention and compaction beside readers -----------------------------------------------------------------------


def test_retention_by_size_beside_running_reads(tmp_path: Path) -> None:
    """A reader that keeps every batch while segments go: right bytes, rising offsets, and the kept ones stay valid."""
    with mq.open(tmp_path, durability="os") as store:
        store.create_topic("t", config={"segment.bytes": 8192, "retention.bytes": 20_000, "file.delete.delay.ms": 0})
        kept, failures = [], []

        def read() -> None:
            try:
                with store.consumer("t", on_out_of_range="earliest") as consumer:
                    while not kept or kept[-1].next_offset < 6000:
                        kept.extend(consumer.poll(10, max_records=50))
            except BaseException as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        with store.producer(linger_ms=0) as producer:
            for start in range(0, 6000, 100):
                producer.send_many("t", [b"value %06d" % number for number in range(start, start + 100)]).result()
                store.log.maintain()
        reader.join(60)
        assert (failures, reader.is_alive()) == ([], False)
        assert store.begin_offsets("t")[0] > 4000
    last = -1
    for batch in kept:  # the store is closed, most of the files are gone
        for record in batch:
            assert record.offset > last
            assert record.value == b"value %06d" % record.offset
            last = record.offset
    assert last == 5999


def test_retention_by_time_under_an_open_reader(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with mq.open(tmp_path, durability="os", clock=clock) as store:
        store.create_topic("t", config={"segment.bytes": 400, "retention.ms": HOUR_MS})
        with store.producer(linger_ms=0) as producer:
            for number in range(20):
                producer.send("t", b"old %d" % number).result()
            consumer = store.consumer("t", follow=False)
            (batch,) = consumer.poll(10, max_records=3)
            for _ in range(12):  # in steps: one jump ahead would not be believed
                clock.advance(HOUR_MS / 4 / 1000)
                store.log.maintain()
            producer.send("t", b"new").result()
        assert store.begin_offsets("t")[0] > 10
        assert [bytes(record.value) for record in batch] == [b"old 0", b"old 1", b"old 2"]
        assert list(values_of(store, "t").values())[-1] == b"new"
        assert verify(tmp_path).problems == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_compacted_topic_equals_a_dict(tmp_path: Path, seed: int) -> None:
    """Keys, new values and tombstones at random, compacted between; at every point, from the beginning, the fold of what
    is read is the dict. Readers keep what they hold, and a record that stays keeps its offset."""
    rng, model, held = random.Random(seed), {}, []
    config = {
        "cleanup.policy": "compact",
        "segment.bytes": 1500,
        "min.cleanable.dirty.ratio": 0,
        "delete.retention.ms": 0,
    }
    sent: dict[int, bytes | None] = {}
    for _ in range(2):
        with mq.open(tmp_path, durability="os") as store:
            if not store.topics():
                store.create_topic("t", config=config)
            with store.producer(linger_ms=0) as producer:
                for step in range(300):
                    key = b"k%d" % rng.randrange(25)
                    value = None if rng.random() < 0.25 else b"%d %d" % (step, rng.randrange(1000))
                    sent[producer.send("t", value, key=key).result().offset] = value
                    model[key] = value
                    if step % 60 == 59:
                        held.extend(store.consumer("t", follow=False).batches(20))
                        store.log.maintain()
                        check_fold(store, model, sent)
            left = values_of(store, "t")
            assert len(left) < len(sent) // 2, "it was compacted at all"
    for batch in held:
        assert all(record.value == sent[record.offset] for record in batch)
    assert verify(tmp_path).problems == []
    with mq.open(tmp_path, durability="os") as store:
        check_fold(store, model, sent)


def check_fold(store: mq.Store, model: dict[bytes, bytes | None], sent: dict[int, bytes | None]) -> None:
    fold: dict[bytes, bytes | None] = {}
    for record in store.consumer("t", follow=False):
        assert record.key is not None
        assert record.value == sent[record.offset]
        fold[bytes(record.key)] = record.value
    living = {key: value for key, value in model.items() if value is not None}
    assert {key: value for key, value in fold.items() if value is not None} == living


# -- durability ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store_level", ["fsync", "os"])
def test_a_topics_own_durability_decides_what_is_synced(tmp_path: Path, store_level: str) -> None:
    """With every sync failing, topics under os acknowledge all the same, those under fsync do not."""
    io = FaultyIo()
    store = mq.open(tmp_path / "s", durability=store_level, io=io, config={"maintenance.interval.ms": 3_600_000})
    store.create_topic("safe", config={"mqcore.durability": "fsync"})
    store.create_topic("fast", config={"mqcore.durability": "os"})
    store.create_topic("usual")
    producer = store.producer(linger_ms=0)
    for topic in ("safe", "fast", "usual"):
        assert producer.send(topic, b"before").result().offset == 0
    io.arm(1, EIO, sticky=True, only="fdatasync,fsync")
    assert producer.send("fast", b"acknowledged").result().offset == 1
    for topic in ["safe", *["usual"] * (store_level == "fsync")]:
        delivery = producer.send(topic, b"not acknowledged")
        with pytest.raises((StorageError, DiskFullError, StoreReadOnlyError)):
            delivery.result()
    image = kill(store.log, tmp_path / "image")
    with mq.open(image, durability=store_level) as after:
        assert values_of(after, "fast") == {(0, 0): b"before", (0, 1): b"acknowledged"}
        for topic in ("safe", "usual"):
            assert values_of(after, topic)[0, 0] == b"before"


# -- seals and views -----------------------------------------------------------------------------------------------


def test_sha256sum_agrees_with_a_stores_seals(tmp_path: Path) -> None:
    with mq.open(tmp_path, durability="os") as store:
        store.create_topic("t", config={"segment.bytes": 500, "mqcore.digest": "sha256"})
        with store.producer(linger_ms=0) as producer:
            for number in range(30):
                producer.send("t", b"%d" % number * 20).result()
        store.log.maintain()
    directory = tmp_path / "topics" / "t-0"
    digests = sorted(path.name for path in directory.glob("*.digest"))
    assert len(digests) >= 5
    command = ["sha256sum", "--strict", "-c", *digests]
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0
    assert verify(tmp_path).problems == []
    flip(directory / digests[2].replace(".digest", ".log"), 80)
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 1
    assert verify(tmp_path).problems


@pytest.mark.parametrize("state", ["ahead", "behind", "flipped", "zeroed", "another store's", "gone"])
@pytest.mark.parametrize("clean", [True, False])
def test_a_view_that_is_not_its_logs_is_rebuilt(tmp_path: Path, state: str, clean: bool) -> None:
    """The topics of a store after its views were exchanged, damaged or lost are those that its log says."""
    early, late, other = tmp_path / "early", tmp_path / "late", tmp_path / "other"
    store = mq.open(tmp_path / "s", durability="os", config={"view.map.bytes": 1 << 24})
    for number in range(3):
        store.create_topic(f"early-{number}")
    store.close()
    shutil.copytree(tmp_path / "s", early)
    store = mq.open(tmp_path / "s", durability="os", config={"view.map.bytes": 1 << 24})
    store.create_topic("late", config={"retention.ms": 7})
    store.delete_topic("early-0")
    store.log.maintain()
    store.close()
    shutil.copytree(tmp_path / "s", late)
    with mq.open(other, durability="os", config={"view.map.bytes": 1 << 24}) as foreign:
        foreign.create_topic("foreign")
    subject, donor = (early, late) if state == "ahead" else (late, early if state == "behind" else other)
    wanted = {"early-0", "early-1", "early-2"} if state == "ahead" else {"early-1", "early-2", "late"}
    data = subject / "views" / "data.mdb"
    if state in ("ahead", "behind", "another store's"):
        shutil.rmtree(subject / "views")
        shutil.copytree(donor / "views", subject / "views")
    elif state == "flipped":
        raw = data.read_bytes()
        flip(data, raw.index(b"early-1"))
    elif state == "zeroed":
        data.write_bytes(bytes(data.stat().st_size))
    else:
        shutil.rmtree(subject / "views")
    if not clean:
        for mark in (subject / "clean-shutdown", subject / "views" / "clean"):
            mark.unlink(missing_ok=True)
    for _ in range(2):
        with mq.open(subject, durability="os", config={"view.map.bytes": 1 << 24}) as store:
            assert set(store.topics()) == wanted
            if state != "ahead":
                assert store.topic("late").config.retention_ms == 7
    assert verify(subject).problems == []


# -- other processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_readers_beside_a_writer_after_its_kill_and_without_one(tmp_path: Path, durability: str) -> None:
    """A reader of another process sees all that is acknowledged, wakes for each record, keeps it when the writer is
    killed, and goes on with the next writer."""
    path = tmp_path / "s"
    with writing(path, durability) as writer:
        for number in range(20):
            writer.send("x" * (1 + number % 2))
        with mq.open(path, read_only=True) as reader, reader.consumer("t") as consumer:
            seen = dict(writer.sent)
            assert values_of(reader, "t") == seen
            drain(consumer, len(seen))
            for number in range(10):
                woken = threading.Timer(0.02, writer.send, ["wake" + "!" * (number % 2)])
                woken.start()
                (batch,) = consumer.poll(60)
                woken.join()
                assert writer.sent[batch.partition, batch.first_offset] == batch.values[0]
            writer.kill()
            assert values_of(reader, "t") == writer.sent
            with mq.open(path, read_only=True) as late:
                assert values_of(late, "t") == writer.sent, "no writer: what is provably kept is all of it"
            with writing(path, durability) as second:
                second.send("again")
                assert drain(consumer, 1) == [b"again"]
                everything = writer.sent | second.sent
                second.close()
            assert values_of(reader, "t") == everything
        with mq.open(path, read_only=True) as late:
            assert late.recovery.clean
            assert values_of(late, "t") == everything


def drain(consumer: object, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    while len(found) < count:
        batches = consumer.poll(60)  # type: ignore[attr-defined]
        assert batches, "nothing came"
        found += [record.value for batch in batches for record in batch]
    return found


# -- keys and patterns ---------------------------------------------------------------------------------------------


def test_consistent_keys_stay_when_partitions_are_added(tmp_path: Path) -> None:
    """Through the API: at most 1/n + 2 % of the keys move, each to a new partition."""
    keys = [b"key %d" % number for number in range(4000)]
    with mq.open(tmp_path, durability="os") as store, store.producer() as producer:
        store.create_topic("t", partitions=10, config={"mqcore.partitioner": "consistent"})
        before = [producer.send("t", b"", key=key) for key in keys]
        homes = [delivery.result().partition for delivery in before]
        store.add_partitions("t", 11)
        producer.send("t", b"").result()  # the change is seen after an append
        after = [producer.send("t", b"", key=key).result().partition for key in keys]
    moved = [(old, new) for old, new in zip(homes, after, strict=True) if old != new]
    assert 0 < len(moved) <= (1 / 11 + 0.02) * len(keys)
    assert {new for _, new in moved} == {10}


def test_a_pattern_picks_up_topics_that_come_later(tmp_path: Path) -> None:
    with mq.open(tmp_path, durability="os") as store, store.producer(linger_ms=0) as producer:
        store.create_topic("orders-eu")
        store.create_topic("users")
        with store.consumer("^orders-") as consumer:
            for topic in ("orders-us", "orders-x", "old-orders-y"):
                store.create_topic(topic)
            for topic in store.topics():
                producer.send(topic, topic.encode()).result()
            assert set(drain(consumer, 3)) == {b"orders-eu", b"orders-us", b"orders-x"}
            assert consumer.poll(0) == []


def test_every_error_of_the_api_is_ours() -> None:
    with mq.memory() as store:
        for call in (
            lambda: store.topic("none"),
            lambda: store.consumer("none"),
            lambda: store.delete_topic("none"),
            lambda: store.add_partitions("none", 2),
            lambda: store.delete_before("none", {0: 1}),
            lambda: store.create_topic("x", config={"nope": 1}),
            lambda: store.adopt("/nowhere/t-0"),
        ):
            with pytest.raises(MQError):
                call()
