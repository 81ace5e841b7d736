"""A producer id is given out once: over crashes at every call, clean closes, threads, and damage to `__metadata`."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo
from mqcore.errors import MQError, StoreClosedError, StoreReadOnlyError
from mqcore.log import topics
from mqcore.log.manager import LogStore
from mqcore.log.producer_ids import BLOCK
from mqcore.log.verify import verify
from tests.support.stores import flip, partition_dir


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_no_id_comes_twice_whatever_ends_the_process(tmp_path: Path, durability: str) -> None:
    seen: set[int] = set()
    for turn in range(6):
        store = LogStore.open(tmp_path / "s", durability=durability)
        some = [store.producer_ids.allocate() for _ in range(BLOCK + 3 if turn == 2 else 3)]
        assert len({*some} - seen) == len(some)
        seen |= {*some}
        store.close() if turn % 2 else store.abandon()
    assert verify(tmp_path / "s").clean


def test_no_id_comes_twice_though_any_call_fails(tmp_path: Path) -> None:
    seen: set[int] = set()
    for at in range(1, 40):
        io = FaultyIo()
        try:
            store = LogStore.open(tmp_path / "s", durability="fsync", io=io)
            io.arm(at % 13 + 1, errno.EIO)
            for _ in range(2):
                id = store.producer_ids.allocate()
                assert id not in seen
                seen.add(id)
        except (MQError, OSError):
            pass
        finally:
            io.disarm()
            store.abandon()
    assert len(seen) > 10


def test_threads_share_the_blocks(tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "s", durability="os") as store:
        found: list[list[int]] = [[] for _ in range(4)]
        threads = [
            threading.Thread(target=lambda mine=mine: mine.extend(store.producer_ids.allocate() for _ in range(900)))
            for mine in found
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ids = sorted(id for mine in found for id in mine)
        assert ids == list(range(ids[0], ids[0] + 3600))


def test_stores_count_in_places_of_their_own(tmp_path: Path) -> None:
    """A partition that another store wrote can be adopted: its producers are none of ours."""
    found = set()
    for name in "abc":
        with LogStore.open(tmp_path / name, durability="os") as store:
            found.add(store.producer_ids.allocate())
    assert len(found) == 3
    assert min(found) >= 1 << 40
    assert max(found) < 1 << 62


def test_damage_of_the_metadata_moves_ids_away(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path / "s", durability="fsync")
    store.create_topic("before")
    last = store.producer_ids.allocate()
    store.close()
    (tmp_path / "s" / "clean-shutdown").unlink()
    (segment,) = partition_dir(tmp_path / "s", topic="__metadata").glob("*.log")
    flip(segment, segment.stat().st_size - 5)
    with LogStore.open(tmp_path / "s", durability="fsync") as store:
        assert abs(store.producer_ids.allocate() - last) > 10 * BLOCK


def test_a_closed_or_read_only_store_gives_none(tmp_path: Path) -> None:
    store = LogStore.open(tmp_path / "s", durability="os")
    with LogStore.open(tmp_path / "s", read_only=True) as reader, pytest.raises(StoreReadOnlyError):
        reader.producer_ids.allocate()
    store.close()
    with pytest.raises(StoreClosedError):
        store.producer_ids.allocate()


def test_the_record_is_as_documented_and_old_records_parse(tmp_path: Path) -> None:
    assert topics.PRODUCER_IDS_KEY == b'{"kind":"producer-ids","v":1}'
    assert topics.format_producer_ids(1000) == b'{"next":1000,"v":1}'
    with LogStore.open(tmp_path / "s", durability="os") as store:
        info = store.create_topic("t", partitions=3)
        store.producer_ids.allocate()
    assert topics.parse_record(*topics.format_record(info))[0] == info
    with LogStore.open(tmp_path / "s", durability="os") as store:
        assert store.topic("t").partitions == 3
