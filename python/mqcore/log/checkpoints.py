"""The small files of a store: read, checked, written whole.

Text files of partitions are Kafka's byte for byte; those at the store's root carry a checksum besides (a digit that
flipped in a recovery point would otherwise be believed).

Invariants:
    1. Every write is atomic and, unless said, durable: temporary file, fsync, rename, fsync of the directory
       (`Io.write_atomic`).
    2. A reader returns what was written whole, or raises StoreFormatError: never half of it, never a decode error.
    3. None of these files is needed to find a record: what is lost here costs a scan, never data. (meta.json is the
       exception: without it a directory is no store.)
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mqcore.errors import StoreFormatError
from mqcore.log import layout
from mqcore.log.leader_epochs import EpochStart, LeaderEpochs
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore._native.io import Io

FILE_BYTES_MAX = 256 << 20  # a clean-shutdown file of 100,000 partitions is some 20 MB
_CHECK = b"# crc32 "


class PartitionKey(NamedTuple):
    topic: str
    partition: int


def _read(io: Io, path: str, limit: int = FILE_BYTES_MAX) -> bytes | None:
    """The file's bytes; None if it is not there. Links are refused."""
    if not layout.require_kind(path, "file"):
        return None
    return io.read_file(path, limit)


def _damaged(path: str, what: str) -> StoreFormatError:
    return StoreFormatError(f"damaged file: {what}", path=path)


def with_checksum(body: bytes) -> bytes:
    """`body` (ends with a newline) and a last line that vouches for it."""
    assert body.endswith(b"\n")
    return body + _CHECK + b"%08x\n" % zlib.crc32(body)


def without_checksum(data: bytes, path: str) -> bytes:
    """The body under its last line; StoreFormatError if that line is missing or wrong."""
    at = data.rfind(_CHECK)
    if at < 0 or data[at:] != _CHECK + b"%08x\n" % zlib.crc32(data[:at]):
        raise _damaged(path, "the checksum line is missing or does not match")
    return data[:at]


# -- Kafka's text files ---------------------------------------------------------------------------------------------


def _lines(text: bytes, path: str) -> list[list[str]]:
    """The entries of a checkpoint file: version 0, a count, then so many lines of words."""
    try:
        version, count, *rows = text.decode("ascii").splitlines()
        if int(version) != 0:
            raise StoreFormatError(f"unknown version {int(version)}", path=path)
        if int(count) != len(rows):
            raise _damaged(path, f"{len(rows)} entries, {int(count)} announced")
    except (ValueError, UnicodeDecodeError):
        raise _damaged(path, "not a checkpoint file") from None
    return [row.split(" ") for row in rows]


def format_offsets(offsets: dict[PartitionKey, int]) -> bytes:
    rows = [f"{key.topic} {key.partition} {offset}" for key, offset in sorted(offsets.items())]
    return "\n".join(["0", str(len(rows)), *rows, ""]).encode("ascii")


def parse_offsets(text: bytes, path: str) -> dict[PartitionKey, int]:
    """topic, partition, offset a line (Kafka's offset checkpoint)."""
    offsets = {}
    for row in _lines(text, path):
        try:
            topic, partition, offset = row
            key, value = PartitionKey(topic, int(partition)), int(offset)
        except ValueError:
            raise _damaged(path, f"not an entry: {' '.join(row)[:80]!r}") from None
        if value < 0 or key.partition < 0:
            raise _damaged(path, "negative number")
        offsets[key] = value
    return offsets


def read_offsets(io: Io, path: str) -> dict[PartitionKey, int]:
    """Recovery points or log starts; {} if the file is not there."""
    data = _read(io, path)
    return {} if data is None else parse_offsets(without_checksum(data, path), path)


def write_offsets(io: Io, path: str, offsets: dict[PartitionKey, int]) -> None:
    io.write_atomic(path, with_checksum(format_offsets(offsets)))


def read_leader_epochs(io: Io, path: str) -> LeaderEpochs:
    """Kafka's leader-epoch-checkpoint; empty if the file is not there."""
    data = _read(io, path)
    if data is None:
        return LeaderEpochs()
    entries: list[EpochStart] = []
    for row in _lines(data, path):
        try:
            epoch, start = row
            entry = EpochStart(int(epoch), int(start))
        except ValueError:
            raise _damaged(path, f"not an entry: {' '.join(row)[:80]!r}") from None
        last = entries[-1] if entries else EpochStart(-1, -1)
        if not (last.epoch < entry.epoch < 1 << 31 and last.start_offset < entry.start_offset < 1 << 63):
            raise _damaged(path, "entries do not rise")
        entries.append(entry)
    return LeaderEpochs(entries)


def write_leader_epochs(io: Io, path: str, epochs: LeaderEpochs) -> None:
    rows = [f"{entry.epoch} {entry.start_offset}" for entry in epochs.entries]
    io.write_atomic(path, "\n".join(["0", str(len(rows)), *rows, ""]).encode("ascii"))


def read_topic_id(io: Io, path: str) -> uuid.UUID | None:
    """The topic id in a partition.metadata file (Kafka's, version 0); None if the file is not there."""
    data = _read(io, path, 1 << 16)
    if data is None:
        return None
    try:
        fields = dict(line.split(": ", 1) for line in data.decode("ascii").splitlines())
        if fields["version"] != "0":
            raise StoreFormatError(f"unknown version {fields['version'][:20]!r}", path=path)
        raw = base64.b64decode(fields["topic_id"] + "==", altchars=b"-_", validate=True)
        return uuid.UUID(bytes=raw)
    except (ValueError, KeyError):
        raise _damaged(path, "not a partition.metadata file") from None


def write_topic_id(io: Io, path: str, topic_id: uuid.UUID, *, durable: bool = True) -> None:
    """Write a partition.metadata file. durable: synced, with its name, on return."""
    text = base64.urlsafe_b64encode(topic_id.bytes).rstrip(b"=").decode()
    io.write_atomic(path, f"version: 0\ntopic_id: {text}".encode(), durable=durable)


# -- the store's own ------------------------------------------------------------------------------------------------


def _read_json(io: Io, path: str) -> dict[str, Any] | None:
    data = _read(io, path)
    if data is None:
        return None
    try:
        document = json.loads(without_checksum(data, path))
    except (ValueError, UnicodeDecodeError, RecursionError):
        raise _damaged(path, "not JSON") from None
    if not isinstance(document, dict):
        raise _damaged(path, "not a JSON object")
    return document


def _write_json(io: Io, path: str, document: dict[str, Any]) -> None:
    io.write_atomic(path, with_checksum(json.dumps(document, separators=(",", ":")).encode() + b"\n"))


@dataclass(frozen=True, slots=True)
class Meta:
    """meta.json: what makes a directory a store. store_id: 16 bytes."""

    store_id: bytes


def read_meta(io: Io, path: str) -> Meta | None:
    """None if the file is not there. StoreFormatError: damaged, or of another format version."""
    data = _read(io, path, 1 << 16)
    if data is None:
        return None
    try:
        # The version first and without the checksum: a newer format may well have another check.
        document = json.loads(data.split(b"\n", 1)[0])
        version = document["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "not a store's meta.json") from None
    if version != layout.FORMAT_VERSION:
        raise StoreFormatError(
            f"format version {str(version)[:20]}, this mqcore reads {layout.FORMAT_VERSION}",
            hint="Open it with the version of mqcore that wrote it, or a newer one",
            path=path,
        )
    body = json.loads(without_checksum(data, path))
    try:
        store_id = bytes.fromhex(body["store_id"])
    except (KeyError, ValueError, TypeError):
        raise _damaged(path, "no store id") from None
    if len(store_id) != 16:
        raise _damaged(path, "no store id")
    return Meta(store_id)


def write_meta(io: Io, path: str, meta: Meta) -> None:
    _write_json(io, path, {"format": layout.FORMAT_VERSION, "store_id": meta.store_id.hex()})


@dataclass(frozen=True, slots=True)
class Session:
    """session.json: how the store was written since it was opened last. Recovery goes by it, not by how the store is
    opened now: what was acknowledged under `os` is not cut because today's open says `fsync`.

    epoch: counts the opens after a crash; a partition's leader epoch is at least that.
    """

    epoch: int = 0
    durability: Durability = Durability.FSYNC
    clock: ClockState | None = None


class ClockState(NamedTuple):
    """What the writer knew of the time (log/retention.py): a time that it believed and one that may come to be, in ms,
    each with the monotonic second that it was read at. boot_id: which start of the machine those seconds count from."""

    boot_id: str
    believed_ms: int
    believed_at_s: float
    candidate_ms: int
    candidate_at_s: float


def _clock_state(document: Any) -> ClockState | None:
    if document is None:
        return None
    boot_id, *numbers = document
    if type(boot_id) is not str or len(numbers) != 4 or any(type(number) not in (int, float) for number in numbers):
        raise ValueError
    return ClockState(boot_id, int(numbers[0]), float(numbers[1]), int(numbers[2]), float(numbers[3]))


def read_session(io: Io, path: str) -> Session | None:
    document = _read_json(io, path)
    if document is None:
        return None
    try:
        epoch, durability = document["epoch"], Durability(document["durability"])
        clock = _clock_state(document.get("clock"))
    except (KeyError, ValueError, TypeError, OverflowError):
        raise _damaged(path, "not a session") from None
    if type(epoch) is not int or not 0 <= epoch < 1 << 31:
        raise _damaged(path, "epoch out of range")
    return Session(epoch, durability, clock)


def write_session(io: Io, path: str, session: Session) -> None:
    document: dict[str, Any] = {"epoch": session.epoch, "durability": str(session.durability)}
    if session.clock is not None:
        document["clock"] = session.clock
    _write_json(io, path, document)


class SegmentState(NamedTuple):
    """A segment as a clean close left it. size: bytes of data."""

    base_offset: int
    size: int
    next_offset: int
    max_timestamp: int
    first_timestamp: int


@dataclass(slots=True)
class PartitionState:
    """A partition as a clean close left it."""

    topic_id: uuid.UUID
    log_start: int
    log_end: int
    segments: list[SegmentState] = field(default_factory=list)
    last_stable: int = -1  # -1: the log end

    @property
    def stable_end(self) -> int:
        """Where read_committed ends: before the oldest transaction that was left open."""
        return self.last_stable if self.last_stable >= 0 else self.log_end


def read_clean_shutdown(io: Io, path: str) -> dict[PartitionKey, PartitionState] | None:
    """What a clean close wrote; None if there was none. StoreFormatError if it is damaged: recover then."""
    document = _read_json(io, path)
    if document is None:
        return None
    try:
        states = {}
        for topic, partition, topic_id, log_start, log_end, segments, *stable in document["partitions"]:
            states[PartitionKey(topic, partition)] = PartitionState(
                uuid.UUID(topic_id), log_start, log_end, [SegmentState(*segment) for segment in segments], *stable
            )
        return states
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(path, "not a clean-shutdown file") from None


def write_clean_shutdown(io: Io, path: str, states: dict[PartitionKey, PartitionState]) -> None:
    rows = [
        [key.topic, key.partition, state.topic_id.hex, state.log_start, state.log_end, state.segments]
        + ([state.last_stable] if 0 <= state.last_stable < state.log_end else [])
        for key, state in sorted(states.items())
    ]
    _write_json(io, path, {"partitions": rows})


class Damage(NamedTuple):
    """A range that recovery found broken where acknowledged data lay: reading it is an error, the rest serves.

    position, end: bytes of the segment's file; offset, next_offset: the records that are not readable.
    """

    base_offset: int
    position: int
    end: int
    offset: int
    next_offset: int


def read_damage(io: Io, path: str) -> list[Damage]:
    """The known damaged ranges of a partition; [] if the file is not there."""
    data = _read(io, path)
    if data is None:
        return []
    ranges = []
    for row in _lines(without_checksum(data, path), path):
        try:
            ranges.append(Damage(*(int(word) for word in row)))
        except (ValueError, TypeError):
            raise _damaged(path, f"not an entry: {' '.join(row)[:80]!r}") from None
    return ranges


def write_damage(io: Io, path: str, ranges: list[Damage]) -> None:
    rows = [" ".join(str(number) for number in one) for one in sorted(ranges)]
    io.write_atomic(path, with_checksum("\n".join(["0", str(len(rows)), *rows, ""]).encode("ascii")))
