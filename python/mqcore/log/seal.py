"""Seals: the digest of a segment that will not change any more, in a file beside it.

Invariants:
    1. A digest covers the data length of the segment, which is its file's length once it is sealed: `sha256sum -c`
       checks a sha256 file as it is (b3sum wants the comment line taken out).
    2. It is written after the segment is final and synced: a digest never vouches for bytes that may still change.
       A new file under the same name (compaction) gets its digest before the swap.
    3. A missing digest means "not made yet" and is made by maintenance; a wrong one is damage, and is never remade by
       itself: that would make what is damaged look whole.
    4. chain = H(previous chain + digest), over the segments in order: whoever keeps the last one can prove later that
       no sealed segment before it was exchanged. Compaction and repair break the chain, visibly: `previous` is `-`.

File `<base>.digest` (text):
    # mqcore digest 1 <algorithm> size=<bytes> gaps=<yes|no> previous=<chain before it, or -> chain=<hex>
    <hex digest>  <base>.log
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import blake3

from mqcore.errors import StorageError, StoreFormatError
from mqcore.log import layout
from mqcore.log.os_errors import translated

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mqcore._native.io import Io
    from mqcore.config.topic import TopicConfig

ALGORITHMS: dict[str, Callable[[], Hasher]] = {"blake3": lambda: blake3.blake3(), "sha256": lambda: hashlib.sha256()}
CHUNK_BYTES = 1 << 20
_FILE_BYTES_MAX = 1000
_FORMAT = re.compile(
    r"# mqcore digest 1 (blake3|sha256) size=([0-9]{1,19}) gaps=(yes|no) "
    r"previous=(-|[0-9a-f]{64}) chain=([0-9a-f]{64})\n"
    r"([0-9a-f]{64})  ([0-9]{20})\.log\n\Z"
)


class Hasher(Protocol):
    def update(self, data: Buffer, /) -> object: ...
    def hexdigest(self) -> str: ...


class Digest(NamedTuple):
    """The seal of a segment. size: bytes covered. previous: chain value of the segment before, "" if it has none.
    gaps: the segment was compacted, so offsets may be missing in it."""

    base_offset: int
    algorithm: str
    size: int
    digest: str
    previous: str = ""
    gaps: bool = False

    @property
    def chain(self) -> str:
        """What stands for this segment and all before it."""
        return chain_value(self.algorithm, self.previous, self.digest)


def chain_value(algorithm: str, previous: str, digest: str) -> str:
    """Return H(previous + digest), both as lower-case hex text; previous "" begins a chain."""
    hasher = ALGORITHMS[algorithm]()
    hasher.update((previous + digest).encode())
    return hasher.hexdigest()


def format_digest(digest: Digest) -> bytes:
    return (
        f"# mqcore digest 1 {digest.algorithm} size={digest.size} gaps={'yes' if digest.gaps else 'no'} "
        f"previous={digest.previous or '-'} chain={digest.chain}\n"
        f"{digest.digest}  {layout.segment_name(digest.base_offset)}\n"
    ).encode()


def parse_digest(data: bytes, path: str) -> Digest:
    """Return the seal in a digest file. Raises StoreFormatError: not one, or its chain value does not follow."""
    match = _FORMAT.match(data.decode("latin-1"))
    if match is None:
        raise StoreFormatError("damaged digest file", path=path)
    algorithm, size, gaps, previous, chain, value, base = match.groups()
    digest = Digest(int(base), algorithm, int(size), value, "" if previous == "-" else previous, gaps == "yes")
    if digest.chain != chain:
        raise StoreFormatError("damaged digest file: its chain value does not follow from it", path=path)
    return digest


def read_digest(path: str) -> Digest | None:
    """Return the seal in a file, None if it is not there. Raises StoreFormatError, StorageError."""
    if not layout.require_kind(path, "file"):
        return None
    try:
        with open(path, "rb") as file:
            return parse_digest(file.read(_FILE_BYTES_MAX), path)
    except OSError as error:
        raise translated(error, "cannot read a digest", path) from error


def hash_file(path: str, size: int, algorithm: str, pause: Callable[[int], None] | None = None) -> str:
    """Return the digest of the first `size` bytes in hex. pause: called with each chunk's length; may sleep.

    Reads by `pread`, so a bad sector is a StorageError; so is a file that is shorter.
    """
    hasher, position = ALGORITHMS[algorithm](), 0
    try:
        with open(path, "rb", buffering=0) as file:
            while position < size:
                chunk = file.read(min(CHUNK_BYTES, size - position))
                if not chunk:
                    raise StorageError("the file is shorter than its data", path=path, position=position, size=size)
                hasher.update(chunk)
                position += len(chunk)
                if pause is not None:
                    pause(len(chunk))
    except OSError as error:
        raise translated(error, f"cannot read a segment at byte {position}", path) from error
    return hasher.hexdigest()


class Pace:
    """Holds a reader to so many bytes a second, by sleeping; a burst of half a second is free."""

    def __init__(
        self,
        bytes_per_s: int,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._now, self._sleep = bytes_per_s, monotonic_s, sleep
        self._due = monotonic_s()

    def __call__(self, size: int) -> None:
        now = self._now()
        self._due = max(self._due, now - 0.5) + size / self._rate
        if self._due > now:
            self._sleep(self._due - now)


class SealedEntry(Protocol):
    """What is needed of a segment (log/segments.py). sealed: synced, trimmed, final."""

    sealed: bool
    compacted: bool

    @property
    def base_offset(self) -> int: ...
    @property
    def size(self) -> int: ...


class SealedLog(Protocol):
    """What is needed of an open partition (PartitionLog)."""

    config: TopicConfig
    directory: str

    @property
    def segments(self) -> Sequence[SealedEntry]: ...


class Sealer:
    """Makes missing digests. One per open store; used by maintenance alone (not thread-safe)."""

    def __init__(self, io: Io, pause: Callable[[int], None] | None = None) -> None:
        self._io, self._pause = io, pause
        self._done: dict[str, int] = {}  # directory -> base offset below which all digests are there

    def seal(self, log: SealedLog, budget_bytes: int) -> int:
        """Make digests of a partition's sealed segments until about budget_bytes are read; return bytes read.

        0 means that nothing is missing. Raises StorageError, DiskFullError.
        """
        read, entries = 0, log.segments
        for index, entry in enumerate(entries):
            if read >= budget_bytes:
                break
            if not entry.sealed or entry.base_offset < self._done.get(log.directory, 0):
                continue
            if self._existing(log, entry.base_offset) is None:
                self._make(log, entry, self._existing(log, entries[index - 1].base_offset) if index else None)
                read += entry.size
            self._done[log.directory] = entry.base_offset + 1
        return read

    def forget(self, log: SealedLog) -> None:
        """A partition is gone, or its segments were exchanged: look again."""
        self._done.pop(log.directory, None)

    def _existing(self, log: SealedLog, base_offset: int) -> Digest | None:
        try:
            return read_digest(os.path.join(log.directory, layout.segment_name(base_offset, layout.DIGEST)))
        except StoreFormatError:
            return Digest(base_offset, "", 0, "")  # there, but nothing to chain to; `verify` reports it (invariant 3)

    def _make(self, log: SealedLog, entry: SealedEntry, before: Digest | None) -> None:
        algorithm, base = log.config.digest, entry.base_offset
        chained = before is not None and before.algorithm == algorithm and not entry.compacted
        path = os.path.join(log.directory, layout.segment_name(base))
        digest = hash_file(path, entry.size, algorithm, self._pause)
        previous = before.chain if before is not None and chained else ""
        made = Digest(base, algorithm, entry.size, digest, previous, entry.compacted)
        self._io.write_atomic(
            os.path.join(log.directory, layout.segment_name(base, layout.DIGEST)), format_digest(made)
        )


def write_digest(io: Io, log_path: str, digest_path: str, base_offset: int, size: int, algorithm: str) -> Digest:
    """Hash a file that is final and write its digest file, without a chain: for compaction, before its swap."""
    made = Digest(base_offset, algorithm, size, hash_file(log_path, size, algorithm), gaps=True)
    io.write_atomic(digest_path, format_digest(made))
    return made
