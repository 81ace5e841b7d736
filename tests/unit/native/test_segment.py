"""A segment is a list of batches: whatever is appended, flushed, sealed, cut, closed and reopened, its bytes and its
lookups are those of the list, and a failed call leaves the list as it was."""

from __future__ import annotations

import errno
import os
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.io import FaultyIo, Io
from mqcore._native.segment import Segment, check_batches, recover
from mqcore.errors import (
    CorruptBatchError,
    DiskFullError,
    InvariantError,
    RecordTooLargeError,
    StorageError,
    StoreClosedError,
    UnsupportedFormatError,
)
from tests.support.batches import CONTROL, Plain, encode

LIMITS: dict[str, Any] = {
    "index_interval_bytes": 300,
    "index_max_bytes": 1 << 20,
    "segment_bytes": 1 << 20,
    "preallocate": False,
}


def one_batch(count: int, timestamp: int = 1000, size: int = 20) -> bytes:
    return encode([Plain(b"v" * size, timestamp=timestamp)] * count)


@dataclass
class Model:
    """(base offset, last offset, position, end, timestamp) of each batch."""

    base: int
    batches: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.batches[-1][3] if self.batches else 0

    @property
    def next(self) -> int:
        return self.batches[-1][1] + 1 if self.batches else self.base

    def add(self, parts: list[bytes], times: list[int]) -> None:
        for part, time in zip(parts, times, strict=True):
            last = self.next + struct.unpack_from(">i", part, 23)[0]
            self.batches.append((self.next, last, self.size, self.size + len(part), time))

    def check(self, segment: Segment) -> None:
        assert (segment.size, segment.next_offset) == (self.size, self.next)
        assert segment.max_timestamp == max((b[4] for b in self.batches), default=-1)
        assert segment.first_timestamp == (self.batches[0][4] if self.batches else -1)
        for offset in {self.base - 1, self.base, self.next, *(b[0] for b in self.batches[::3])}:
            expected = next((b[2] for b in self.batches if b[1] >= offset), self.size)
            assert segment.lookup(offset) == expected
        for base, _, position, _, time in self.batches[::5]:
            assert segment.lookup_time(time + 1) == next((b[0] for b in self.batches if b[4] > time), -1)
            for max_bytes, limit in ((1, self.next), (500, base + 7), (1 << 20, self.next), (1 << 20, base)):
                end = position
                for b in self.batches:
                    if b[2] < position:
                        continue
                    if b[1] >= limit or (b[3] - position > max_bytes and b[2] > position):
                        break
                    end = b[3]
                assert segment.lookup_batch_ends(position, max_bytes, limit) == end


STEPS = st.one_of(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2000), st.integers(0, 300)), min_size=1, max_size=8),
    st.sampled_from(["flush", "reopen", "crash", "seal", "release", "spill", "fault"]),
    st.integers(0, 60),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_a_segment_is_a_list_of_batches(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    directory = str(tmp_path_factory.mktemp("segment"))
    io, model = FaultyIo(), Model(700)
    segment = Segment.create(io, directory, 700, **LIMITS)
    for step in steps:
        if isinstance(step, list):
            parts = [one_batch(count, time, size) for count, time, size in step]
            chunk = bytearray(b"".join(parts))
            position, next_offset = segment.append(chunk, model.next, 3)
            assert position == model.size
            model.add(parts, [time for _, time, _ in step])
            assert next_offset == model.next
            assert bytes(memoryview(segment.view(model.size))[position:]) == bytes(chunk)
        elif isinstance(step, int):
            offset = model.base + step
            segment.truncate_to(offset)
            model.batches = [b for b in model.batches if b[1] < offset]
        elif step == "fault":
            io.arm(1, errno.ENOSPC, short=30, only="pwritev")
            with pytest.raises(DiskFullError):
                segment.append(bytearray(one_batch(2)), model.next, 0)
            io.disarm()
        elif step == "flush":
            segment.flush()
            assert segment.flushed_size == segment.size
        elif step == "release":
            segment.release_fd()
        elif step == "spill":
            segment.write_indexes()
        else:
            if step == "crash":
                del segment
                found = recover(io, directory, 700, max_batch_bytes=1 << 20, allow_gaps=False, sync_indexes=False)
                assert (found.valid_size, found.next_offset) == (model.size, model.next)
            else:
                if step == "seal":
                    segment.seal()
                segment.close()
                assert os.path.getsize(segment.path) == model.size
            segment = Segment.open(io, directory, 700, size=model.size, next_offset=model.next, writable=True, **LIMITS)
        model.check(segment)
    segment.close()
    found = recover(io, directory, 700, max_batch_bytes=1 << 20, allow_gaps=False, sync_indexes=False)
    assert (found.kind, found.valid_size, found.next_offset) == ("clean", model.size, model.next)


def life(io: Io, directory: Path, model: Model, keep: list[Segment]) -> None:
    segment = Segment.create(io, directory, 0, **LIMITS)
    keep.append(segment)
    for seed in range(6):
        parts = [one_batch(n % 4 + 1, 1000 + n, 40 * n) for n in range(seed, seed + 12)]
        segment.append(bytearray(b"".join(parts)), model.next, 1)
        model.add(parts, list(range(1000 + seed, 1012 + seed)))
        segment.flush()
    segment.append_txn(5, 1, 2, 3)
    segment.release_fd()
    segment.truncate_to(100)
    model.batches = [b for b in model.batches if b[1] < 100]
    segment.seal()
    segment.close()


@pytest.mark.parametrize(("error", "short"), [(errno.EIO, -1), (errno.ENOSPC, 100), (errno.EMFILE, -1)])
def test_every_call_may_fail(tmp_path: Path, error: int, short: int) -> None:
    for at in range(1, 300):
        directory, io, model, keep = tmp_path / str(at), FaultyIo(), Model(0), list[Segment]()
        directory.mkdir()
        io.arm(at, error, short=short)
        caught: StorageError | DiskFullError | None = None
        try:
            life(io, directory, model, keep)
        except (StorageError, DiskFullError) as raised:
            caught = raised
        if io.fired == 0:
            assert caught is None
            assert at > 20
            return
        if caught is not None:  # fallocate and spills of indexes may fail without a word
            assert caught.where["errno"] == errno.errorcode[error]
            assert str(directory) in caught.where["path"]
        io.disarm()
        if not keep:
            assert not list(directory.glob("*.log"))
            continue
        segment = keep[0]
        if not segment.failed and not segment.closed and not model_is_sealed(segment):
            model.batches = [b for b in model.batches if b[1] < segment.next_offset]  # a truncation may be half done
            model.check(segment)
            part = one_batch(3, 5000)
            segment.append(bytearray(part), model.next, 1)
            model.add([part], [5000])
            model.check(segment)
            segment.flush()
        size, next_offset = segment.size, segment.next_offset
        segment.close()
        found = recover(Io(), directory, 0, max_batch_bytes=1 << 20, allow_gaps=False, sync_indexes=False)
        assert (found.kind, found.valid_size, found.next_offset) == ("clean", size, next_offset)
    pytest.fail("never clean")


def model_is_sealed(segment: Segment) -> bool:
    try:
        segment.append(bytearray(b""), 0, 0)
    except ValueError:
        return False
    except StoreClosedError:
        return True
    return False


def test_a_failed_fsync_is_final(tmp_path: Path) -> None:
    io = FaultyIo()
    segment = Segment.create(io, tmp_path, 0, **LIMITS)
    segment.append(bytearray(one_batch(3)), 0, 0)
    io.arm(1, errno.EIO, only="fdatasync")
    with pytest.raises(StorageError, match="fdatasync"):
        segment.flush()
    assert segment.failed
    for call in (segment.flush, segment.seal, lambda: segment.append(bytearray(one_batch(1)), 3, 0)):
        with pytest.raises(StorageError, match="final"):
            call()
    assert segment.lookup(2) == 0
    segment.close()


def test_what_is_refused(tmp_path: Path) -> None:
    segment = Segment.create(Io(), tmp_path, 10, **{**LIMITS, "segment_bytes": 500})
    with pytest.raises(FileExistsError):
        Segment.create(Io(), tmp_path, 10, **LIMITS)
    with pytest.raises(TypeError):
        Segment()
    with pytest.raises((TypeError, BufferError)):
        segment.append(one_batch(1), 10, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no batches"):
        segment.append(bytearray(), 10, 0)
    with pytest.raises(CorruptBatchError):
        segment.append(bytearray(one_batch(1)[:-1]), 10, 0)
    segment.append(bytearray(one_batch(2, size=600)), 10, 0)  # over segment_bytes, and the first
    with pytest.raises(InvariantError):
        segment.append(bytearray(one_batch(1)), 12, 0)
    with pytest.raises(ValueError, match="taken"):
        segment.append(bytearray(one_batch(1)), 11, 0)
    with pytest.raises(ValueError, match="view"):
        segment.view(segment.size + 1)
    with pytest.raises(ValueError, match="reader"):
        segment.refresh(segment.size, segment.next_offset)
    segment.close()
    segment.close()
    for call in (segment.flush, segment.seal, lambda: segment.lookup(11), lambda: segment.view(1)):
        with pytest.raises(StoreClosedError):
            call()
    with pytest.raises(ValueError, match="segment_bytes"):
        Segment.create(Io(), tmp_path, 99, **{**LIMITS, "segment_bytes": 1 << 31})


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(one_batch(3))
    os.symlink(tmp_path / "real", tmp_path / f"{0:020d}.log")
    with pytest.raises(StorageError, match="symbolic link"):
        recover(Io(), tmp_path, 0, max_batch_bytes=1 << 20, allow_gaps=False)
    segment = Segment.open(Io(), tmp_path, 0, size=(tmp_path / "real").stat().st_size, next_offset=3, writable=False,
                           **LIMITS)  # fmt: skip
    for call in (lambda: segment.view(10), lambda: segment.lookup(1), lambda: segment.max_timestamp):
        with pytest.raises(StorageError, match="symbolic link"):
            call()
    os.symlink(tmp_path / "elsewhere", tmp_path / f"{5:020d}.log")
    with pytest.raises(FileExistsError):
        Segment.create(Io(), tmp_path, 5, **LIMITS)
    assert not (tmp_path / "elsewhere").exists()


def test_log_append_time(tmp_path: Path) -> None:
    segment = Segment.create(Io(), tmp_path, 0, **LIMITS)
    chunk = bytearray(one_batch(2, 5) + one_batch(3, 9))
    segment.append(chunk, 0, 7, 123_456)
    assert segment.max_timestamp == 123_456
    assert check_batches(chunk, max_batch_bytes=1 << 20, walk=True) == 5
    assert struct.unpack_from(">q", chunk, 35)[0] == 123_456
    assert chunk[22] & 8
    assert struct.unpack_from(">i", chunk, 12)[0] == 7


def test_chunks_from_outside() -> None:
    def check(chunk: bytes, limit: int = 1 << 20) -> int:
        return check_batches(chunk, max_batch_bytes=limit, walk=True)

    good = one_batch(3) + encode([Plain(b"z" * 50)] * 4, codec=1)
    assert check(good) == 7
    with pytest.raises(CorruptBatchError):
        check(good[:-1])
    with pytest.raises(CorruptBatchError):
        check(good[:70] + b"?" + good[71:])
    with pytest.raises(RecordTooLargeError):
        check(good, 100)
    with pytest.raises(UnsupportedFormatError):
        check(good[:16] + b"\1" + good[17:])
    with pytest.raises(CorruptBatchError):
        check(encode([Plain(b"x")], attributes=CONTROL))
    with pytest.raises(CorruptBatchError):
        check(encode([Plain(b"x", offset=2)]))


def test_aborted_transactions(tmp_path: Path) -> None:
    segment = Segment.create(Io(), tmp_path, 0, **LIMITS)
    assert segment.aborted(0, 1 << 40) == []
    segment.append_txn(4, 10, 20, 21)
    segment.append_txn(5, 15, 30, 31)
    with pytest.raises(ValueError, match="rise"):
        segment.append_txn(5, 15, 30, 31)
    assert segment.aborted(0, 12) == [(4, 10, 20, 21)]
    assert segment.aborted(20, 21) == [(4, 10, 20, 21), (5, 15, 30, 31)]
    assert segment.aborted(21, 25) == [(5, 15, 30, 31)]


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    segments = []
    for base in range(50):
        segment = Segment.create(Io(), tmp_path, base, **LIMITS)
        for _ in range(40):
            segment.append(bytearray(one_batch(1, size=400)), segment.next_offset, 0)
        segment.release_fd()
        segments.append(segment)
    assert count() == before
    for segment in segments:
        assert segment.flushed_size == segment.size
        segment.view(segment.size).populate(0, segment.size)
        segment.append(bytearray(one_batch(1)), segment.next_offset, 0)
        segment.close()
    assert count() == before


def test_threads_on_one_segment(tmp_path: Path) -> None:
    segment = Segment.create(Io(), tmp_path, 0, **LIMITS)
    errors: list[BaseException] = []
    stop = threading.Event()

    def run(call: Any) -> None:
        try:
            while not stop.is_set():
                call()
        except StoreClosedError:
            pass
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        next_offset, size = segment.next_offset, segment.size
        if size:
            position = segment.lookup(next_offset // 2)
            end = segment.lookup_batch_ends(position, 3000, next_offset)
            segment.view(end).populate(position, end)
            assert segment.lookup_time(1000) == 0

    threads = [threading.Thread(target=run, args=(call,)) for call in (read, read, segment.flush, segment.release_fd)]
    for thread in threads:
        thread.start()
    for _ in range(400):
        segment.append(bytearray(one_batch(3, size=100) * 3), segment.next_offset, 0)
    segment.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
