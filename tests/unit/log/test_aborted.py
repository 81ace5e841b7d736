"""A range overlaps exactly those aborted transactions that began below its end and ended at or after its start."""

from __future__ import annotations

from pathlib import Path

import pytest

import mqcore

# (producer id, first offset, offset of the marker, last stable offset), in three segments of ten offsets each
ENTRIES = {0: [(7, 2, 5, 3), (8, 3, 9, 8)], 10: [(7, 8, 12, 13)], 20: [(7, 15, 25, 26)]}


@pytest.fixture
def store(store_path: Path) -> mqcore.Store:
    return mqcore.open(str(store_path), durability="os")


def test_overlaps(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t")
        log = store.log.partition("t", 0)
        assert log.aborted(0, 100) == []
        with store.producer() as producer:
            for base, entries in ENTRIES.items():
                for _ in range(10):
                    producer.send("t", b"x")
                producer.flush()
                for entry in entries:
                    log.segments[-1].segment().append_txn(*entry)
                assert log.log_end_offset == base + 10
                log.roll()
        everything = sorted(entry for entries in ENTRIES.values() for entry in entries)
        for start in range(31):
            for end in range(start + 1, 32):
                expected = [one for one in everything if one[1] < end and one[2] >= start]
                found = log.aborted(start, end)
                assert set(expected) <= set(found), (start, end)
                assert found == sorted(found)
                # More may come only where it does no harm: what ended before the range, in a segment that it touches.
                assert all(one[1] < end for one in found), (start, end)


def test_a_follower_sees_them_too(store: mqcore.Store) -> None:
    with store:
        store.create_topic("t")
        with store.producer() as producer:
            producer.send("t", b"x").result()
        with mqcore.open(store.path, read_only=True) as other:
            followed = other.log.partition("t", 0)
            assert followed.aborted(0, 10) == []
            store.log.partition("t", 0).segments[-1].segment().append_txn(7, 0, 0, 1)
            store.log.partition("t", 0).segments[-1].segment().write_indexes()
            assert followed.log_end_offset == 1
            assert followed.aborted(0, 10) == [(7, 0, 0, 1)]
