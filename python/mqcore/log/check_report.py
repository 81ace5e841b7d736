"""What `verify` and `repair` found and did: plain values, as JSON if wanted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be.

    kind: batch (bytes that are no good batch), gap (records missing between good ones), lost (missing at the end),
    number (offset or epoch of a good batch), index, digest, view, file (a small file of the store), directory,
    registry, journal. position, size: bytes in the file; offset, next_offset: the records concerned; -1 where unknown.
    """

    kind: str
    path: str
    what: str
    topic: str = ""
    partition: int = -1
    position: int = -1
    size: int = 0
    offset: int = -1
    next_offset: int = -1

    def __str__(self) -> str:
        place = f"{self.topic}-{self.partition} " if self.topic else ""
        at = f" at byte {self.position}" if self.position >= 0 else ""
        size = f" ({self.size} bytes)" if self.size else ""
        span = f", offsets {self.offset} to {self.next_offset - 1}" if 0 <= self.offset < self.next_offset else ""
        return f"{self.kind}: {place}{self.path}{at}{size}{span}: {self.what}"


@dataclass(slots=True)
class VerifyReport:
    """What a check of a whole store found. notes: not wrong, but worth knowing (what the next open will do)."""

    path: str
    store_id: str = ""
    clean: bool = False  # the last writer closed it
    live: bool = False  # a writer has it open now
    topics: int = 0
    partitions: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    digests: int = 0  # recomputed and equal
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for json.dumps."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that are gone: offsets offset .. next_offset - 1 of a partition. quarantined: file with the bytes that
    stood there, "" if there were none."""

    topic: str
    partition: int
    offset: int
    next_offset: int
    quarantined: str = ""


@dataclass(slots=True)
class RepairReport:
    """What a repair did. lost: what no reader gets any more. problems: what it could not mend."""

    path: str
    segments_rewritten: int = 0
    batches_renumbered: int = 0
    indexes_rebuilt: int = 0
    bytes_quarantined: int = 0
    records_lost: int = 0
    lost: list[Lost] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for json.dumps."""
        return asdict(self)
