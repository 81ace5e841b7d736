"""Recovery keeps exactly the good batches before the first wrong byte, tells a torn tail from damage, and its index
files agree with Kafka's rules and the log."""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.io import FaultyIo, Io
from mqcore._native.producer_state import Producers
from mqcore._native.segment import Recovered, Segment, recover
from mqcore.errors import StorageError
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker


def scan(directory: Path, data: bytes, io: Io | None = None, **options: Any) -> Recovered:
    (directory / f"{5:020d}.log").write_bytes(data)
    options = {"max_batch_bytes": 1 << 20, "allow_gaps": False, "sync_indexes": False, **options}
    return recover(io or Io(), directory, 5, **options)


def log_of(sizes: list[int]) -> tuple[bytes, list[int], list[int]]:
    """Batches of so many records; the bytes, and the position and offset at each border."""
    data, positions, offsets = b"", [0], [5]
    for number, count in enumerate(sizes):
        data += encode([Plain(b"x" * 30, timestamp=1000 + number)] * count, offsets[-1], leader_epoch=number)
        positions.append(len(data))
        offsets.append(offsets[-1] + count)
    return data, positions, offsets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_any_cut_and_any_tail(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("log")
    log, positions, offsets = log_of(sizes)
    cut = data.draw(st.integers(0, len(log)))
    tail = data.draw(st.sampled_from([b"", bytes(300), b"\2" * 200, log[: positions[1]], log[cut + 3 :]]))
    found = scan(directory, log[:cut] + tail, index_interval_bytes=100)
    whole = max(i for i, end in enumerate(positions) if (log[:cut] + tail)[:end] == log[:end])  # a tail can fit
    assert (found.valid_size, found.next_offset) == (positions[whole], offsets[whole])
    assert found.batches == whole
    assert found.records == offsets[whole] - 5
    assert found.last_leader_epoch == whole - 1
    assert found.max_timestamp == (999 + whole if whole else -1)
    assert found.file_size == cut + len(tail)
    assert (found.kind == "clean") == (found.file_size == found.valid_size) == (found.problem == "")
    if tail == log[cut + 3 :] and cut + 3 <= positions[-2] and found.kind != "clean":
        assert found.kind == "bad"
        assert found.valid_after >= found.problem_position
    index = (directory / f"{5:020d}.index").read_bytes()
    entries = list(struct.iter_unpack(">ii", index))
    assert entries == [
        (offset - 6, position)
        for position, offset in zip(positions[:whole], offsets[1 : whole + 1], strict=True)
        if position in {p for _, p in entries}
    ]
    times = list(struct.iter_unpack(">qi", (directory / f"{5:020d}.timeindex").read_bytes()))
    assert times == sorted(set(times))
    assert not whole or times[-1] == (999 + whole, offsets[whole] - 6)


def test_the_index_of_a_recovery_is_that_of_appending(tmp_path: Path) -> None:
    log, positions, offsets = log_of([3, 1, 4, 1, 5, 9, 2, 6] * 40)
    limits: dict[str, Any] = {"index_interval_bytes": 700, "index_max_bytes": 1 << 20}
    segment = Segment.create(Io(), tmp_path, 5, segment_bytes=1 << 20, preallocate=False, **limits)
    for start, end, offset in zip(positions[::8], positions[8::8], offsets[::8], strict=False):
        segment.append(bytearray(log[start:end]), offset, 0)
    segment.close()
    names = [f"{5:020d}.index", f"{5:020d}.timeindex"]
    appended = [(tmp_path / name).read_bytes() for name in names]
    for start in (0, 100, 320):
        found = scan(tmp_path, log, from_position=positions[start], from_offset=offsets[start], **limits)
        assert (found.kind, found.batches) == ("clean", 320 - start)
        assert [(tmp_path / name).read_bytes() for name in names] == appended


def test_transactions_span_segments(tmp_path: Path) -> None:
    first = encode([Plain(b"a")] * 2, 5, attributes=TRANSACTIONAL, producer_id=1)
    first += encode([Plain(b"b")], 7, attributes=TRANSACTIONAL, producer_id=2)
    producers = Producers(100)
    scan(tmp_path, first, producers=producers)
    assert {one[0]: one[6] for one in producers.entries(open_only=True)} == {1: 5, 2: 7}
    log = marker(5, 2, commit=False) + marker(6, 1, commit=True)
    log += encode([Plain(b"c")], 7, attributes=TRANSACTIONAL, producer_id=3) + marker(8, 3, commit=False)
    producers = Producers(100)
    earlier = encode([Plain(b"a")], 3, attributes=TRANSACTIONAL, producer_id=1)
    producers.add(earlier + encode([Plain(b"b")], 4, attributes=TRANSACTIONAL, producer_id=2), 0)
    found = scan(tmp_path, log, producers=producers)
    assert producers.entries(open_only=True) == []
    limits: dict[str, Any] = {"index_interval_bytes": 700, "index_max_bytes": 1 << 20, "segment_bytes": 1 << 20}
    segment = Segment.open(
        Io(), tmp_path, 5, size=found.valid_size, next_offset=9, writable=False, preallocate=False, **limits
    )
    assert segment.aborted(0, 100) == [(2, 4, 5, 3), (3, 7, 8, 9)]


def test_a_bad_sector_is_an_error_and_every_call_may_fail(tmp_path: Path) -> None:
    log, positions, _ = log_of([2] * 30)
    for at in range(1, 100):
        io = FaultyIo()
        io.arm(at, errno.EIO)
        error = None
        try:
            scan(tmp_path, log, io, from_position=positions[7], sync_indexes=True)
        except StorageError as raised:
            error = raised
        if error is None:
            assert io.fired == 0
            return
        assert error.where["errno"] == "EIO"
    pytest.fail("never clean")


def test_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        recover(Io(), tmp_path, 0, max_batch_bytes=1 << 20, allow_gaps=False)
    with pytest.raises(ValueError, match="range"):
        scan(tmp_path, b"", from_position=1)
