"""Check one segment file, byte for byte, whatever is in it: what is good, what is bad, and where the good goes on.

Invariants:
    1. Reads only, by `pread` in bounded pieces: a bad sector or a file that shrinks is a finding, never a signal.
    2. Every byte of the file is in a good batch or in exactly one BadRange; no finding is an exception.
    3. A batch is good if its header parses, its CRC holds, its records walk (uncompressed ones) and its offsets follow:
       base offset and leader epoch lie outside the CRC, so continuity is what vouches for them.
    4. After damage the log goes on only at a batch that fits: offsets rise, stay below the next segment's, and more
       batches (or the end) follow. A record may hold a whole valid batch as its value; it must not be taken for one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mqcore import codecs
from mqcore._native.batch import Columns, check, decode, inflated_header, scan
from mqcore.errors import CorruptBatchError, MQError

PIECE_BYTES = 4 << 20
BATCH_BYTES_MAX = 256 << 20  # the core's own bound
NO_BOUND = 1 << 62
_SECTOR = 4096
_HEADER, _OVERHEAD = 61, 12
_CHAIN = 3  # so many good batches in a row make a place believable after damage
_CODEC = 0x07


class BadRange(NamedTuple):
    """Bytes position .. end - 1 that are no good batch; with them go the records offset .. next_offset - 1.

    size 0 (position == end): nothing bad lies there, but records are missing. next_offset -1: nothing valid follows in
    this file, so how many records were there is not known from it.
    """

    position: int
    end: int
    offset: int
    next_offset: int
    what: str


class Misnumbered(NamedTuple):
    """A batch whose header fields outside the CRC are wrong, and what its neighbours prove them to be."""

    position: int
    base_offset: int
    leader_epoch: int
    right_base_offset: int
    right_leader_epoch: int


@dataclass(slots=True)
class SegmentCheck:
    """What is in a segment file. next_offset: after its last good batch. max_timestamp: -1 without one."""

    base_offset: int
    size: int = 0
    batches: int = 0
    records: int = 0
    next_offset: int = 0
    max_timestamp: int = -1
    last_epoch: int = -1
    unwalked: int = 0  # compressed batches: their CRC was checked, their records were not looked at
    epoch_starts: list[tuple[int, int]] = field(default_factory=list)  # (leader epoch, its first offset here)
    bad: list[BadRange] = field(default_factory=list)
    misnumbered: list[Misnumbered] = field(default_factory=list)


class Bytes:
    """A file read in pieces. unreadable: positions of sectors that the disk refused; they read as zeros."""

    def __init__(self, path: str) -> None:
        """Raises OSError. A symbolic link is not followed."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size = os.fstat(self._fd).st_size
        self.unreadable: set[int] = set()

    def read(self, position: int, size: int) -> bytearray:
        """Return bytes at a position; fewer only at the end of the file."""
        try:
            return bytearray(os.pread(self._fd, size, position))
        except OSError:
            return self._around_bad_sectors(position, size)

    def _around_bad_sectors(self, position: int, size: int) -> bytearray:
        out = bytearray()
        end = min(position + size, self.size)
        while position < end:
            step = min(_SECTOR - position % _SECTOR, end - position)
            try:
                part = os.pread(self._fd, step, position)
            except OSError:
                part = bytes(step)
                self.unreadable.add(position - position % _SECTOR)
            if not part:
                break
            out += part
            position += len(part)
        return out

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Bytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SegmentChecker:
    """One pass over one file."""

    def __init__(
        self,
        file: Bytes,
        base_offset: int,
        *,
        size: int = -1,
        allow_gaps: bool = False,
        below: int = NO_BOUND,
        epoch_of: Callable[[int], int] | None = None,
        on_rows: Callable[[Any], None] | None = None,
        on_bytes: Callable[[memoryview, int], None] | None = None,
        inflate: bool = False,
    ) -> None:
        """size: bytes to check, -1 all. allow_gaps: a compacted segment. below: the next segment's base offset.

        epoch_of: leader epoch that the epoch file gives an offset. on_rows: called with each run of good batches
        (rows of `scan`, positions in the file). on_bytes: with (piece, position), every byte once, in order. inflate:
        look at the records of compressed batches too.
        """
        self._file, self._gaps, self._below = file, allow_gaps, below
        self._size = file.size if size < 0 else min(size, file.size)
        self._epoch_of, self._on_rows, self._on_bytes = epoch_of, on_rows, on_bytes
        self._inflate = inflate
        self._told = 0  # how far on_bytes has come
        self.found = SegmentCheck(base_offset, size=self._size, next_offset=base_offset)

    def run(self) -> SegmentCheck:
        """Check the whole range and return what was found."""
        for _ in self.steps():
            pass
        return self.found

    def steps(self) -> Iterator[None]:
        """Check the whole range, piece by piece: `found` grows between two steps."""
        position, want = 0, PIECE_BYTES
        while position < self._size:
            piece = self._piece(position, want)
            want = PIECE_BYTES
            taken, problem = self._take(piece, position)
            position += taken
            if problem is None:
                yield
                continue
            left = piece[taken:]
            need = _size_of(left)
            if need > len(left) and position + len(left) < self._size and need <= BATCH_BYTES_MAX:
                # Not damage yet: the batch goes on past the piece. Read on from where it begins.
                want = max(need, PIECE_BYTES)
                continue
            position = self._resume(position, need, problem)
            yield
        self._tell(self._size)
        if self._size < self.found.size:
            self._bad(self._size, self.found.size, -1, "the file became shorter while it was read")
        yield

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _piece(self, position: int, want: int) -> bytearray:
        piece = self._file.read(position, min(want, self._size - position))
        if len(piece) < min(want, self._size - position):
            self._size = position + len(piece)
        if self._on_bytes is not None and position <= self._told < position + len(piece):
            self._on_bytes(memoryview(piece)[self._told - position :], self._told)
            self._told = position + len(piece)
        return piece

    def _tell(self, end: int) -> None:
        """Give on_bytes what no piece has covered (behind damage that nothing valid follows)."""
        while self._on_bytes is not None and self._told < end:
            if not self._piece(self._told, min(PIECE_BYTES, end - self._told)):
                break

    def _take(self, piece: bytearray, position: int) -> tuple[int, str | None]:
        """Take in the good batches at the start of a piece; return (their bytes, what is wrong after them or None)."""
        rows, problem = scan(piece, 0, len(piece), max_batch_bytes=BATCH_BYTES_MAX, check_crc=True)
        if len(rows) == 0:
            return 0, problem.what if problem is not None else "no batch"
        walked = self._walk(piece, rows)
        good = self._follow(rows[:walked], position)
        end = int(rows[good - 1]["position"] + rows[good - 1]["size"]) if good else 0
        if good < walked:
            return end, "its offsets do not follow"
        if walked < len(rows):
            return end, "a record does not end where the batch says"
        return end, None if problem is None else problem.what

    def _walk(self, piece: bytearray, rows: Any) -> int:
        """Return how many of the batches, from the first on, hold records that walk."""
        compressed = np.flatnonzero(rows["attributes"] & _CODEC)
        if not self._inflate:
            self.found.unwalked += len(compressed)
            compressed = compressed[:0]
        for number in compressed:
            at, size = int(rows[number]["position"]), int(rows[number]["size"])
            try:
                columns_of(memoryview(piece)[at : at + size])
            except MQError:
                rows = rows[:number]
                break
        if len(rows) == 0:
            return 0
        end = int(rows[-1]["position"] + rows[-1]["size"])
        try:
            check(piece, 0, end, max_batch_bytes=BATCH_BYTES_MAX, walk=True)
            return len(rows)
        except MQError as error:
            place = error.where.get("position")
            starts = rows["position"]
            return int(np.searchsorted(starts, place, side="right")) - 1 if isinstance(place, int) else 0

    # -- offsets ----------------------------------------------------------------------------------------------------

    def _follow(self, rows: Any, position: int) -> int:
        """Take in the rows whose offsets follow, or can be put right; return how many."""
        done = 0
        while done < len(rows):
            bases, lasts = rows["base_offset"][done:], rows["last_offset"][done:]
            expected = np.empty(len(bases), dtype=np.int64)
            expected[0] = self.found.next_offset
            expected[1:] = lasts[:-1] + 1
            wrong = bases < expected if self._gaps else bases != expected
            wrong |= lasts >= self._below
            count = int(np.argmax(wrong)) if wrong.any() else len(bases)
            self._count(rows[done : done + count], position)
            done += count
            if done < len(rows):
                if not self._odd(rows[done : done + 1], position):
                    break
                done += 1
        return done

    def _odd(self, row: Any, position: int) -> bool:
        """Judge one row that is good but for its base offset, which is not the expected one; True if it is taken in."""
        at, expected = position + int(row["position"][0]), self.found.next_offset
        base, last = int(row["base_offset"][0]), int(row["last_offset"][0])
        after, right_last = self._base_at(at + int(row["size"][0])), expected + last - base
        if right_last < self._below and (after == right_last + 1 or (after < 0 and _one_bit(base, expected))):
            # The next batch begins where this one ends by the right number: the number alone is damaged.
            epoch = int(row["leader_epoch"][0])
            self.found.misnumbered.append(Misnumbered(at, base, epoch, expected, epoch))
            mended = row.copy()
            mended["base_offset"], mended["last_offset"] = expected, right_last
            self._count(mended, position)
            return True
        if expected < base and last < self._below and after in (-1, last + 1):
            self.found.bad.append(BadRange(at, at, expected, base, "records are missing"))
            self.found.next_offset = base
            self._count(row, position)
            return True
        return False

    def _base_at(self, position: int) -> int:
        """Return the base offset of the batch at a position; at the end the next segment's; -1 if that is unknown."""
        if position + _HEADER <= self._size:
            return int.from_bytes(self._file.read(position, 8), "big", signed=True)
        return self._below if position == self._size and self._below < NO_BOUND else -1

    def _count(self, rows: Any, position: int) -> None:
        if len(rows) == 0:
            return
        found = self.found
        found.batches += len(rows)
        found.records += int(rows["record_count"].sum())
        found.next_offset = int(rows["last_offset"][-1]) + 1
        timed = rows["max_timestamp"][rows["record_count"] > 0]  # of emptied batches no record has it
        found.max_timestamp = max(found.max_timestamp, int(timed.max(initial=-1)))
        self._check_epochs(rows, position)
        if self._on_rows is not None:
            placed = rows.copy()
            placed["position"] += position
            self._on_rows(placed)

    def _check_epochs(self, rows: Any, position: int) -> None:
        found, epochs = self.found, rows["leader_epoch"]
        if self._epoch_of is not None:
            first, last = int(rows["base_offset"][0]), int(rows["base_offset"][-1])
            low, high = self._epoch_of(first), self._epoch_of(last)
            odd = range(0) if low == high and (epochs == low).all() else range(len(rows))
            for i in odd:
                base, epoch = int(rows["base_offset"][i]), int(epochs[i])
                right = self._epoch_of(base)
                if epoch != right and right >= 0:
                    at = position + int(rows["position"][i])
                    found.misnumbered.append(Misnumbered(at, base, epoch, base, right))
        for rise in np.flatnonzero(np.diff(epochs, prepend=epochs.dtype.type(found.last_epoch)) > 0):
            if int(epochs[rise]) > found.last_epoch:
                found.last_epoch = int(epochs[rise])
                found.epoch_starts.append((found.last_epoch, int(rows["base_offset"][rise])))

    # -- after damage -----------------------------------------------------------------------------------------------

    def _bad(self, position: int, end: int, next_offset: int, what: str) -> None:
        if any(position < at + _SECTOR and at < end for at in self._file.unreadable):
            what = "the disk cannot read it"
        self.found.bad.append(BadRange(position, end, self.found.next_offset, next_offset, what))
        if next_offset >= 0:
            self.found.next_offset = next_offset

    def _resume(self, position: int, size: int, what: str) -> int:
        """Deal with the damage at a position; return where good batches go on, or the end. size: by its header."""
        if size > 0 and position + size <= self._size and self._renumber(position, size):
            return position + size
        if size < 0 and not any(self._file.read(position, self._size - position)[:PIECE_BYTES]):
            what = "only zeros follow"
        # The damaged batch's own length first: most damage spares it, and then no search can go wrong.
        hint = [position + size] if 0 < size < self._size - position else []
        rest = self._candidates(position) if position + size != self._size else iter(())
        for at in itertools.chain(hint, rest):
            base = self._base_if_fits(at)
            if base >= 0:
                self._bad(position, at, base, what)
                return at
        incomplete = position + max(size, _HEADER) > self._size
        self._bad(position, self._size, -1, "the last batch is incomplete" if incomplete else what)
        return self._size

    def _renumber(self, position: int, size: int) -> bool:
        """Take in a batch whose base offset makes no sense at all but whose CRC holds; True if it could be done."""
        piece = self._file.read(position, size)
        given = int.from_bytes(piece[:8], "big", signed=True)
        piece[:8] = self.found.next_offset.to_bytes(8, "big")
        rows, _ = scan(piece, 0, len(piece), max_batch_bytes=BATCH_BYTES_MAX, check_crc=True)
        if len(rows) != 1 or self._walk(piece, rows) != 1:
            return False
        after = self._base_at(position + size)
        if after != int(rows["last_offset"][0]) + 1 and not (after < 0 and _one_bit(given, self.found.next_offset)):
            return False
        epoch = int(rows["leader_epoch"][0])
        self.found.misnumbered.append(Misnumbered(position, given, epoch, self.found.next_offset, epoch))
        self._count(rows, position)
        return True

    def _candidates(self, position: int) -> Iterator[int]:
        """Yield positions after `position` whose bytes could be the header of a batch: offset and magic are likely."""
        at = position + 1
        while at + _HEADER <= self._size:
            piece = self._file.read(at, min(PIECE_BYTES, self._size - at))
            if len(piece) < _HEADER:
                return
            data = np.frombuffer(piece, dtype=np.uint8)
            count = len(data) - _HEADER + 1
            likely = (data[16 : 16 + count] == 2) & (data[0:count] == 0) & (data[8 : 8 + count] < 0x10)
            for i in np.flatnonzero(likely):
                yield at + int(i)
            at += count

    def _base_if_fits(self, at: int) -> int:
        """Return the base offset of the batch at a position if the log can go on there (invariant 4), else -1."""
        head = self._file.read(at, min(_HEADER, self._size - at))
        need = _size_of(head)
        if not 0 < need <= min(self._size - at, BATCH_BYTES_MAX):
            return -1
        base = int.from_bytes(head[:8], "big", signed=True)
        # A batch that held one record at least was lost before it.
        if not self.found.next_offset < base < self._below and not (self._gaps and base == self.found.next_offset):
            return -1
        piece = self._file.read(at, max(need, min(PIECE_BYTES, self._size - at)))
        rows, problem = scan(piece, 0, len(piece), max_batch_bytes=BATCH_BYTES_MAX, check_crc=True)
        if len(rows) == 0 or int(rows[0]["last_offset"]) >= self._below:
            return -1
        chain, last = 1, int(rows[0]["last_offset"])
        for row in rows[1:_CHAIN]:
            first = int(row["base_offset"])
            if first <= last or (not self._gaps and first != last + 1):
                break
            chain, last = chain + 1, int(row["last_offset"])
        ends = problem is None or (len(rows) == chain and problem.status == "MQ_ETRUNCATED")
        return base if chain >= _CHAIN or (ends and chain == len(rows)) else -1


def columns_of(batch: memoryview | bytes) -> Columns:
    """Return the records of one whole batch, inflated if need be; none of a control batch. Raises MQError."""
    codec = int.from_bytes(batch[21:23], "big") & _CODEC
    if not codec:
        return decode(batch)[0]
    body = codecs.decompress(codec, batch[_HEADER:], limit=BATCH_BYTES_MAX)
    whole = inflated_header(batch, 0, len(body)) + bytes(body)
    columns, end = decode(whole, check_crc=False)
    if end != len(whole):
        raise CorruptBatchError("the inflated records do not fill the batch", position=end)
    return columns


def _one_bit(a: int, b: int) -> bool:
    return ((a ^ b) & ((1 << 64) - 1)).bit_count() == 1


def _size_of(head: bytes | bytearray) -> int:
    """Return the size that a batch header announces, -1 if it cannot be one. Fewer than 12 bytes: more are needed."""
    if len(head) < _OVERHEAD:
        return _HEADER
    size = int.from_bytes(head[8:12], "big", signed=True) + _OVERHEAD
    return size if size >= _HEADER else -1
