"""Maintenance runs beside appends that roll: neither waits for the other for ever, and no segment is sealed twice."""

from __future__ import annotations

import threading
from pathlib import Path

import mqcore

DAY_MS = 86_400_000
BEGIN_MS = 1_356_998_400_000
DAYS = 120


def test_maintenance_while_segments_roll_by_time(store_path: Path) -> None:
    """Each week of the records' own time begins a segment, in eight partitions, while passes follow one another."""
    errors: list[BaseException] = []
    done = threading.Event()
    with mqcore.open(str(store_path)) as store:
        store.create_topic("t", partitions=8, config={"retention.ms": -1})

        def passes() -> None:
            while not done.is_set():
                try:
                    store.log.maintain()
                except BaseException as error:
                    errors.append(error)
                    return

        threads = [threading.Thread(target=passes) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            with store.producer() as producer:
                for day in range(DAYS):
                    for number in range(40):
                        producer.send("t", b"x" * 50, key=b"%d" % number, timestamp=BEGIN_MS + day * DAY_MS)
                    producer.flush()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert errors == []
        assert sum(store.end_offsets("t").values()) == DAYS * 40
    segments = list((store_path / "topics").glob("t-*/*.log"))
    assert len(segments) > 8 * 10


def test_a_first_append_beside_maintenance(store_path: Path) -> None:
    """Making a partition opens the group commit; a pass that holds the store must not wait for that partition."""
    for turn in range(10):
        with mqcore.open(str(store_path / str(turn))) as store:
            store.create_topic("t", partitions=4)
            passes = threading.Thread(target=store.log.maintain)
            passes.start()
            with store.producer() as producer:
                for number in range(4):
                    producer.send("t", b"x", partition=number)
            passes.join(timeout=60)
            assert not passes.is_alive()
