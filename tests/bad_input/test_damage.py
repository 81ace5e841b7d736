"""Whatever becomes of a store's files, it opens or says why in words of its own: no decode error, no crash, no wrong
record. Each file of a store is cut, emptied, zeroed, filled with noise, exchanged, grown and removed, after a clean close
and after a kill, under fsync and under os; then it is opened to write, opened to read, verified and repaired."""

from __future__ import annotations

import contextlib
import random
import shutil
import zlib
from collections import Counter
from pathlib import Path

import pytest

import mqcore as mq
from mqcore.errors import MQError
from mqcore.log.verify import repair, verify
from tests.support.stores import kill

Records = dict[tuple[str, int, int], bytes]
WAYS_A_FILE = 3  # of those below, drawn by the file's name: all of them take a minute and a half


def make(path: Path, image: Path, durability: str, clean: bool) -> Records:
    """A store with every kind of file: two topics, sealed and open segments, digests, checkpoints, a journal, views."""
    sent: Records = {}
    store = mq.open(path, durability=durability, config={"journal.ring.bytes": 1 << 20, "view.map.bytes": 1 << 24})
    for topic, policy in (("log", "delete"), ("table", "compact")):
        config = {"segment.bytes": 700, "cleanup.policy": policy, "min.cleanable.dirty.ratio": 0}
        store.create_topic(topic, partitions=2, config=config)
        with store.producer(linger_ms=0) as producer:
            for number in range(24):
                value = b"%s %d %s" % (topic.encode(), number, b"x" * 20)
                done = producer.send(topic, value, key=b"k%d" % (number % 20), partition=number % 2).result()
                sent[topic, done.partition, done.offset] = value
        store.log.maintain()
    store.delete_before("log", {0: 1})
    store.create_topic("gone")
    store.delete_topic("gone")
    if clean:
        store.close()
        shutil.copytree(path, image)
    else:
        with store.producer() as producer:
            done = producer.send("log", b"log last", partition=0).result()
            sent["log", 0, done.offset] = b"log last"
        kill(store.log, image)
    return sent


@pytest.fixture(scope="module", params=["fsync-clean", "fsync-killed", "os-clean", "os-killed"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    durability, state = request.param.split("-")
    base = tmp_path_factory.mktemp("damage")
    records = make(base / "made", base / "image", durability, state == "clean")
    return base / "image", records


def kinds(store: Path) -> dict[str, Path]:
    """One file of each kind: of partitions' files the first and the last by suffix."""
    found: dict[str, Path] = {}
    for path in sorted(one for one in store.rglob("*") if one.is_file()):
        where = path.relative_to(store)
        name = path.suffix if where.parts[0] == "topics" and path.suffix else path.name
        place = "/".join(where.parts[:2]).replace("-0", "").replace("-1", "") if len(where.parts) > 1 else ""
        found.setdefault(f"first {place} {name}", path)
        if where.parts[0] == "topics":
            found[f"last {place} {name}"] = path
    return found


def damages(data: bytes, noise: random.Random, other: bytes) -> dict[str, bytes | None]:
    """The ways in which a file goes bad. None: removed."""
    size = len(data)
    middle, spot = size // 2, noise.randrange(max(1, size))
    return {
        "removed": None,
        "empty": b"",
        "cut by one": data[:-1],
        "cut in half": data[:middle],
        "zeroed": bytes(size),
        "zeros from the middle on": data[:middle] + bytes(size - middle),
        "noise": noise.randbytes(size),
        "noise at a spot": data[:spot] + noise.randbytes(8) + data[spot + 8 :],
        "all ones": b"\xff" * max(size, 64),
        "another file": other,
        "twice": data + data,
        "grown by noise": data + noise.randbytes(100),
        "a megabyte of braces": b"{" * (1 << 20),
        "text": b'{"partitions": NaN, "version": 1e999, "format": -1}\n' * 3,
    }


def check(records: Records, path: Path, **options: object) -> tuple[str, Records]:
    """Open and read all that can be read: right records or errors of ours. Says how it went, and what was read."""
    try:
        store = mq.open(path, durability="os", config={"view.map.bytes": 1 << 24}, **options)  # type: ignore[arg-type]
    except MQError as error:
        return type(error).__name__, {}
    found: Records = {}
    with store:
        for topic in store.topics():
            for partition in store.partitions(topic):
                read_around_damage(store, topic, partition, found)
    assert found.items() <= records.items()
    return "opened", found


def read_around_damage(store: mq.Store, topic: str, partition: int, found: Records) -> None:
    with contextlib.suppress(MQError):
        consumer = store.consumer(topic, follow=False, on_out_of_range="earliest")
        consumer.assign([partition])
        for _ in range(100):
            try:
                for record in consumer:
                    found[topic, partition, record.offset] = record.value or b""
                return
            except MQError as error:
                if "next_offset" not in error.where:
                    raise
                consumer.seek(partition, error.where["next_offset"])
        raise AssertionError("reading does not come to an end")


def is_neutral(file: Path) -> bool:
    """Whether the file holds nothing that the logs do not say too: losing it must cost no record."""
    return file.suffix != ".log" and file.parts[0] not in ("meta.json", "journal")


def test_no_damage_to_a_file_is_a_decode_error(image: tuple[Path, Records], fast_path: Path) -> None:
    """After each damage: right records only, errors of ours only; all records where the file holds none itself."""
    sound, sent = image
    files = {name: path.relative_to(sound) for name, path in kinds(sound).items()}
    assert len(files) >= 20
    path, outcomes = fast_path / "s", Counter[str]()
    shutil.copytree(sound, path)
    everything = check(sent, path)[1]
    assert len(everything) >= 40
    shutil.rmtree(path)
    for number, (name, file) in enumerate(files.items()):
        noise = random.Random(zlib.crc32(f"{sound.parent.name} {name}".encode()))
        data = (sound / file).read_bytes()[: 2 << 20]
        other = (sound / list(files.values())[(number + 7) % len(files)]).read_bytes()[: 2 << 20]
        ways = damages(data, noise, other)
        for kind in noise.sample(sorted(ways), WAYS_A_FILE):
            shutil.copytree(sound, path)
            (path / file).unlink() if ways[kind] is None else (path / file).write_bytes(ways[kind])
            try:
                verify(path)
                check(sent, path, read_only=True)
                how, found = check(sent, path)
                if how == "opened" and is_neutral(file):
                    assert found.items() >= everything.items(), everything.keys() - found.keys()
                if how != "opened" or kind == "noise":
                    repair(path)
                    how, _ = check(sent, path)
            except Exception as error:
                raise AssertionError(f"{name}, {kind}") from error
            finally:
                shutil.rmtree(path)
            outcomes[how] += 1
    assert outcomes["opened"] >= 0.9 * outcomes.total(), outcomes
