"""Small attacks with one exact cause each, for promises that random faults meet too rarely: a flipped byte, a view of
another moment, damage where the journal vouches for the data.

Each probe makes a store in a directory and returns what it found broken: (invariant, sentence) pairs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.attack import read_all
from mqcore.torture.ledger import TOPIC, Found, identify, value
from mqcore.torture.workload import STORE_CONFIG

_BATCHES = 60


def _filled(path: Path, durability: str, config: dict[str, str | int] | None = None) -> None:
    """A closed store with _BATCHES batches of one record in one segment."""
    with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
        store.create_topic(TOPIC, config=config)
        with store.producer(linger_ms=0) as producer:
            for number in range(_BATCHES):
                producer.send(TOPIC, value(0, number), partition=0)


def _log_file(path: Path) -> Path:
    (found,) = sorted((path / "topics" / f"{TOPIC}-0").glob("*.log"))
    return found


def _read(store: Any) -> tuple[list[tuple[int, bytes]], bool]:
    """Every record up to the first error; whether there was one."""
    found: list[tuple[int, bytes]] = []
    try:
        for record in read_all(store, TOPIC, 0):
            found.append(record)
    except errors.CorruptBatchError:
        return found, True
    return found, False


def flipped_byte(place: Path) -> Found:
    """A byte of a value flips on disk: the reader gets an error there, not the wrong byte and not the next record."""
    _filled(place / "store", "os")
    file = _log_file(place / "store")
    content = bytearray(file.read_bytes())
    at = content.index(value(0, _BATCHES // 2)[:16]) + 16
    content[at] ^= 1
    file.write_bytes(content)
    with mqcore.open(place / "store", durability="os", config=STORE_CONFIG) as store:
        records, failed = _read(store)
    found: Found = [("I4", f"wrong bytes at offset {o}") for o, raw in records if identify(raw) != (0, o)]
    if not failed and len(records) < _BATCHES:
        found.append(("I1", f"{_BATCHES - len(records)} records are left out in silence"))
    return found


def view_ahead_of_its_log(place: Path) -> Found:
    """The views were synced, the log behind them was lost: what only the view knows is not believed (I5)."""
    with mqcore.open(place / "store", durability="os", config=STORE_CONFIG) as store:
        store.create_topic("kept")
    shutil.copytree(place / "store", place / "before")
    with mqcore.open(place / "store", durability="os", config=STORE_CONFIG) as store:
        store.create_topic("lost")
        store.log.maintain()
    shutil.rmtree(place / "before" / "views")
    shutil.copytree(place / "store" / "views", place / "before" / "views")
    (place / "before" / "clean-shutdown").unlink()
    with mqcore.open(place / "before", durability="os", config=STORE_CONFIG) as store:
        names = set(store.topics())
    return [] if names == {"kept"} else [("I5", f"the topics are {sorted(names)}, the log says ['kept']")]


def damage_where_the_journal_vouches(place: Path) -> Found:
    """Acknowledged data that was synced in its segment is damaged: that is no torn tail, and its offsets stay used (R7)."""
    path, image = place / "store", place / "image"
    with mqcore.open(path, durability="fsync", config=STORE_CONFIG) as store:
        store.create_topic(TOPIC)
        with store.producer() as producer:
            producer.send_many(TOPIC, [b"v" * 1000] * 300, partition=0).result()  # a round of one segment: synced there
            end = producer.send(TOPIC, b"small").result().offset + 1  # its record in the journal vouches for them
            store.log._maintenance.stop()
            shutil.copytree(path, image)
    file = _log_file(image)
    with open(file, "r+b") as raw:
        raw.seek(file.stat().st_size // 2)
        raw.write(b"\xff" * 64)
    with mqcore.open(image, durability="fsync", config=STORE_CONFIG) as store, store.producer() as producer:
        offset = producer.send(TOPIC, b"after", partition=0).result().offset
        _, failed = _read(store)
    found: Found = [] if offset >= end else [("I2", f"offset {offset} is given again: {end} were acknowledged")]
    return found if failed else [*found, ("I1", "acknowledged records are gone in silence")]


def open_transaction_is_not_read(path: Path) -> Found:
    """A reader of committed records stops before the first one of an open transaction, and goes on once it is over."""
    found: Found = []
    with mqcore.open(path / "store", durability="os", config=STORE_CONFIG) as store:
        store.create_topic(TOPIC)
        with store.producer(linger_ms=0) as producer, store.consumer(TOPIC, start="earliest") as reader:
            tx = store.transaction("open")
            for number, commit in enumerate((True, False, True)):
                producer.send(TOPIC, b"before", partition=0).result()
                tx = store.transaction("open")
                tx.send(TOPIC, b"%d" % number, partition=0)
                tx._sender.append_all()  # type: ignore[union-attr]
                producer.send(TOPIC, b"after", partition=0).result()
                seen = [record.value for batch in reader.poll(timeout_s=0) for record in batch.records()]
                if seen != [b"before"]:
                    found.append(("I14", f"beside an open transaction a reader saw {seen}"))
                (tx.commit if commit else tx.abort)()
                seen = [record.value for batch in reader.poll(timeout_s=0) for record in batch.records()]
                if seen != ([b"%d" % number, b"after"] if commit else [b"after"]):
                    found.append(("I15", f"after {'a commit' if commit else 'an abort'} a reader saw {seen}"))
    return found
