"""What an open did: said once, in the log and to whoever asks (`LogStore.recovery`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger("mqcore.store")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that recovery met. what: "cut", "damaged", "quarantined", "removed", "rebuilt" or "lost".

    size: bytes concerned; position: in the file; offset, next_offset: the records concerned, -1 where unknown.
    """

    what: str
    path: str
    reason: str
    topic: str = ""
    partition: int = -1
    position: int = -1
    size: int = 0
    offset: int = -1
    next_offset: int = -1

    def __str__(self) -> str:
        place = f"{self.topic}-{self.partition} " if self.topic else ""
        span = f" offsets {self.offset}..{self.next_offset - 1}" if 0 <= self.offset < self.next_offset else ""
        at = f" at byte {self.position}" if self.position >= 0 else ""
        size = f" ({self.size} bytes)" if self.size else ""
        return f"{self.what}: {place}{self.path}{at}{span}{size}: {self.reason}"


@dataclass(slots=True)
class OpenReport:
    """What was found and done at an open. clean: the last close was clean, nothing was scanned."""

    clean: bool = True
    created: bool = False
    epoch: int = 0  # of this session: rises at each open after a crash
    journal_entries: int = 0  # replayed
    redone_bytes: int = 0  # written to segments from the journal
    segments_scanned: int = 0
    bytes_scanned: int = 0
    records_scanned: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)

    def of(self, what: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.what == what]

    @property
    def damaged(self) -> list[Finding]:
        """Ranges that were acknowledged and cannot be read."""
        return self.of("damaged") + self.of("lost")

    @property
    def cut(self) -> list[Finding]:
        """Tails that nobody was told of, removed."""
        return self.of("cut")

    def log(self, path: str) -> None:
        """Tell the `mqcore.store` logger: nothing for a clean open, a line for each finding."""
        if self.clean and not self.findings:
            return
        logger.info(
            "opened %s after an unclean close in %.3f s: %d journal entries, %d bytes redone, %d segments (%d bytes) "
            "scanned, leader epoch %d",
            path,
            self.seconds,
            self.journal_entries,
            self.redone_bytes,
            self.segments_scanned,
            self.bytes_scanned,
            self.epoch,
        )
        for finding in self.findings:
            level = logging.ERROR if finding.what in ("damaged", "lost") else logging.WARNING
            logger.log(level, "%s", finding)
