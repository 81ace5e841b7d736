"""File and folder names of a store: parse and format. Nothing else knows them.

    STORE/meta.json                          format version, store id
    STORE/lock                               flock of the writer; holds its pid
    STORE/session.json                       the last writer's epoch and durability: what recovery goes by
    STORE/clean-shutdown                     sizes and offsets after a clean close; absent while a writer is open
    STORE/recovery-point-offset-checkpoint   below it a partition is synced
    STORE/log-start-offset-checkpoint        log starts that lie inside a segment
    STORE/cleaner-offset-checkpoint          up to where partitions are compacted
    STORE/journal/ views/ quarantine/
    STORE/topics/<topic>-<partition>/        <base:020d>.log .index .timeindex .txnindex, leader-epoch-checkpoint,
                                             partition.metadata (the topic id), damaged (ranges that recovery found),
                                             <offset:020d>.snapshot (producer state)

Invariants:
    1. A name made here has one component: no separator, no NUL, never "." or "..".
    2. Nothing here follows a symbolic link: a link inside a store is refused, whoever made it.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from dataclasses import dataclass

from mqcore.errors import InvalidTopicError, StoreFormatError

FORMAT_VERSION = 1
METADATA_TOPIC = "__metadata"
TRANSACTION_TOPIC = "__transaction_state"  # its records decide: see GroupCommit.submit
METADATA_TOPIC_ID = uuid.UUID(int=1)  # as Kafka's own metadata topic: a reserved id that no random one takes

META, LOCK, SESSION, CLEAN_SHUTDOWN = "meta.json", "lock", "session.json", "clean-shutdown"
RECOVERY_POINTS, LOG_STARTS = "recovery-point-offset-checkpoint", "log-start-offset-checkpoint"
CLEANED_OFFSETS = "cleaner-offset-checkpoint"
TOPICS, VIEWS, JOURNAL, QUARANTINE = "topics", "views", "journal", "quarantine"
LEADER_EPOCHS, PARTITION_METADATA, DAMAGED = "leader-epoch-checkpoint", "partition.metadata", "damaged"

LOG, INDEX, TIME_INDEX, TXN_INDEX, DIGEST = ".log", ".index", ".timeindex", ".txnindex", ".digest"
SNAPSHOT = ".snapshot"  # of producer state; its number is an offset, not always a segment's
SEGMENT_SUFFIXES = (LOG, INDEX, TIME_INDEX, TXN_INDEX, DIGEST)
CLEANED, SWAP, DELETED = ".cleaned", ".swap", ".deleted"  # as Kafka names files on their way in or out
DIRECTORY_DELETED = "-delete"

TOPIC_NAME_MAX = 249  # Kafka's: leaves room for "-<partition>.<uuid>-delete" in a file name of 255 bytes
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")
_PARTITION_DIR = re.compile(r"(.+)-(0|[1-9][0-9]{0,9})\Z")
_DELETED_DIR = re.compile(r"(.+)-(0|[1-9][0-9]{0,9})\.([0-9a-f]{32})-delete\Z")
_SEGMENT_FILE = re.compile(
    r"([0-9]{20})(\.log|\.index|\.timeindex|\.txnindex|\.digest|\.snapshot)"
    r"(\.cleaned|\.swap|\.deleted)?\Z"
)


def check_topic_name(topic: str) -> str:
    """Return `topic` if Kafka would take it as a name (1-249 of [a-zA-Z0-9._-], not "." or ".."), which also makes
    it safe as a file name; InvalidTopicError otherwise."""
    if not topic or len(topic) > TOPIC_NAME_MAX or topic in (".", "..") or not _TOPIC_NAME.match(topic):
        raise InvalidTopicError(
            "invalid topic name",
            hint=f"Use 1 to {TOPIC_NAME_MAX} of a-z A-Z 0-9 . _ - and neither '.' nor '..'",
            topic=repr(topic[:300]),
        )
    return topic


def segment_name(base_offset: int, suffix: str = LOG) -> str:
    """Kafka's name of a segment's file: the base offset in 20 digits."""
    assert 0 <= base_offset < 1 << 63
    return f"{base_offset:020d}{suffix}"


@dataclass(frozen=True, slots=True)
class SegmentFile:
    base_offset: int
    suffix: str  # one of SEGMENT_SUFFIXES, or SNAPSHOT
    state: str  # "", CLEANED, SWAP or DELETED


def parse_segment_file(name: str) -> SegmentFile | None:
    """The parts of a segment's file name; None if it is none."""
    match = _SEGMENT_FILE.match(name)
    if match is None or int(match[1]) >= 1 << 63:
        return None
    return SegmentFile(int(match[1]), match[2], match[3] or "")


def partition_dir_name(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def parse_partition_dir(name: str) -> tuple[str, int] | None:
    """(topic, partition) of a directory name; None if it is none. The name's last dash parts them."""
    match = _PARTITION_DIR.match(name)
    if match is None or len(match[1]) > TOPIC_NAME_MAX or not _TOPIC_NAME.match(match[1]):
        return None
    partition = int(match[2])
    return (match[1], partition) if partition < 1 << 31 else None


def deleted_dir_name(topic: str, partition: int, unique: uuid.UUID) -> str:
    """Kafka's name of a partition directory on its way out; the topic is cut where 255 bytes would not hold it."""
    tail = f"-{partition}.{unique.hex}{DIRECTORY_DELETED}"
    return topic[: 255 - len(tail)] + tail


def is_deleted_dir(name: str) -> bool:
    return _DELETED_DIR.match(name) is not None


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store. root: absolute."""

    root: str

    def path(self, *names: str) -> str:
        """The path of a fixed name, or of names that this module made."""
        for name in names:
            assert name not in ("", ".", ".."), name
            assert not {"/", "\0"} & set(name), name
        return os.path.join(self.root, *names)

    @property
    def topics(self) -> str:
        return self.path(TOPICS)

    def partition_dir(self, topic: str, partition: int) -> str:
        return self.path(TOPICS, partition_dir_name(check_topic_name(topic), partition))


def lstat_kind(path: str) -> str:
    """What lies at `path`, links not followed: "", "file", "dir", "link" or "other"."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISLNK(mode):
        return "link"
    return "dir" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def require_kind(path: str, kind: str) -> bool:
    """Whether `path` is there; StoreFormatError if it is there but is not a `kind` ("file" or "dir"): a link out of
    the store, a device or a pipe would make the store read or write what is not its own."""
    found = lstat_kind(path)
    if found not in ("", kind):
        raise StoreFormatError(
            f"expected a {kind}, found a {'symbolic link' if found == 'link' else found}",
            hint="A store holds plain files and directories only; move this away",
            path=path,
        )
    return found == kind


def list_segments(directory: str) -> list[int]:
    """Base offsets of the segments (.log files) in a partition directory, ascending. StoreFormatError if one is a
    link or no plain file. A missing directory has none."""
    bases = []
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    for name in names:
        parsed = parse_segment_file(name)
        if parsed is not None and parsed.suffix == LOG and not parsed.state:
            require_kind(os.path.join(directory, name), "file")
            bases.append(parsed.base_offset)
    return sorted(bases)
