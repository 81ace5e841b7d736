"""After damage to `__metadata`: find the topics that its lost records made, and write them again.

Invariants:
    1. Only what the log no longer says is added: a topic that it knows, or says was deleted, is left as it is.
    2. A topic comes back under its own id, or not at all: the id is in the view's pair or in the directory.
    3. What is written are ordinary records at the end of the log, batches of the store's own encoder.

The sources, best first: the view of topics, if its file passes its checks (it may know what the log has lost); the
partition directories, whose `partition.metadata` holds the id and whose name the topic's (settings are lost then).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

from mqcore._native.batch import assign
from mqcore._native.segment import recover
from mqcore.config.topic import TopicConfig
from mqcore.errors import MQError
from mqcore.log import checkpoints, internal_records, layout, view_tables
from mqcore.log.producer_ids import drawn
from mqcore.log.segment_check import BATCH_BYTES_MAX
from mqcore.log.topics import (
    METADATA_TOPIC,
    PRODUCER_IDS_KEY,
    TopicInfo,
    format_producer_ids,
    format_record,
    parse_record,
)
from mqcore.log.view_pairs import Damaged

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.log.layout import Layout
    from mqcore.log.verify import StoreChecker


def salvage(io: Io, where: Layout, checker: StoreChecker) -> list[str]:
    """Append records for topics that were lost; return what was done, a line each. Raises StorageError."""
    around = checker.around
    known = {info.topic_id for info in around.topics.values()} | set(around.deleted)
    names = set(around.topics)
    found, said = [], []
    for source, info in [*_from_view(where), *_from_directories(io, where)]:
        if info.topic_id in known or info.name in names:
            continue
        known.add(info.topic_id)
        names.add(info.name)
        found.append(format_record(info))
        said.append(f"topic {info.name!r} ({info.topic_id}) written again, from {source}")
    # How far producer ids were given out may be lost too, and no id may come twice.
    found.append((PRODUCER_IDS_KEY, format_producer_ids(drawn())))
    _append(io, where, found)
    return said


def _from_view(where: Layout) -> list[tuple[str, TopicInfo]]:
    directory = where.path(layout.VIEWS)
    try:
        if view_tables.check_file(directory, 1 << 30)[0]:
            return []
        stored = view_tables.read_view(directory, "topics")
    except (MQError, OSError, Damaged):
        return []
    found = []
    for key, value in stored[1].items() if stored is not None else ():
        with contextlib.suppress(MQError):
            info, deleted = parse_record(key, value)
            if deleted is None:
                found.append(("the view of topics", info))
    return found


def _from_directories(io: Io, where: Layout) -> list[tuple[str, TopicInfo]]:
    topics: dict[tuple[str, uuid.UUID], int] = {}
    for name in sorted(os.listdir(where.topics)):
        parsed, path = layout.parse_partition_dir(name), os.path.join(where.topics, name)
        if parsed is None or layout.is_deleted_dir(name) or parsed[0] == METADATA_TOPIC.name:
            continue
        with contextlib.suppress(MQError, OSError):
            topic_id = checkpoints.read_topic_id(io, os.path.join(path, layout.PARTITION_METADATA))
            if topic_id is not None:
                key = (parsed[0], topic_id)
                topics[key] = max(topics.get(key, 0), parsed[1] + 1)
    return [
        ("its directories, with default settings", TopicInfo(name, topic_id, count, TopicConfig()))
        for (name, topic_id), count in topics.items()
    ]


def _append(io: Io, where: Layout, records: list[tuple[bytes, bytes]]) -> None:
    """Write records at the end of the (repaired) log of `__metadata`, synced, with its indexes rebuilt."""
    directory = where.partition_dir(METADATA_TOPIC.name, 0)
    if not layout.require_kind(directory, "dir"):
        io.mkdir(directory)
        checkpoints.write_topic_id(io, os.path.join(directory, layout.PARTITION_METADATA), METADATA_TOPIC.topic_id)
        io.sync_dir(where.topics)
    bases = layout.list_segments(directory)
    base, size, end, epoch = 0, 0, 0, 0
    if bases:
        base = bases[-1]
        state = recover(io, directory, base, max_batch_bytes=BATCH_BYTES_MAX, allow_gaps=True)
        size, end, epoch = state.valid_size, max(base, state.next_offset), max(state.last_leader_epoch, 0)
    batch = internal_records.encode(list(records), 0)
    assign(batch, end, epoch)
    path = os.path.join(directory, layout.segment_name(base))
    io.write_at(path, batch, size)
    io.sync_file(path)
    io.sync_dir(directory)
    recover(io, directory, base, max_batch_bytes=BATCH_BYTES_MAX, allow_gaps=True)
