"""Take in a partition directory that Apache Kafka (or another mqcore store) wrote: checked, copied, offsets kept.

Invariants:
    1. The source is only read. Every batch is checked before anything is made here: header, CRC, records (compressed
       ones too), rising offsets.
    2. The files lie complete and synced beside the topics before one rename puts them in place; a crash leaves either
       nothing or the whole partition (and perhaps litter in quarantine, which the next adoption replaces).
    3. Batches stay byte for byte as they are. Where Kafka's compaction left gaps between them, empty batches take the
       missing offsets, so that offsets stay dense in terms of batches, whatever the topic's policy here.
    4. Indexes are rebuilt, never taken over (R4).

The topic id: a topic that is made for this keeps the id in the directory's `partition.metadata`, unless that id is
taken; a topic that is there keeps its own, and the directory gets that one. Settings are not in the directory: a topic
made here keeps its records for ever (retention.ms=-1), or the first pass of retention could take what was adopted.
Kafka must be stopped: a segment that is being written is taken as torn. Producer state is made from the batches, and
from Kafka's snapshot at the first segment: transactions that hang keep holding back the last stable offset.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mqcore._native.producer_state import Producers
from mqcore._native.segment import recover
from mqcore.errors import (
    CorruptBatchError,
    InvalidTopicError,
    MQError,
    StorageError,
    StoreFormatError,
    TopicExistsError,
    UnsupportedFormatError,
)
from mqcore.log import checkpoints, layout
from mqcore.log.checkpoints import PartitionKey, PartitionState, SegmentState
from mqcore.log.index_check import check_txn_index, read_index
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.os_errors import translated
from mqcore.log.producer_state import PRODUCERS_MAX
from mqcore.log.removal import forget_offsets, remove_tree
from mqcore.log.repair import empty_batches
from mqcore.log.segment_check import BATCH_BYTES_MAX, NO_BOUND, BadRange, Bytes, SegmentCheck, SegmentChecker

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.log.manager import LogStore
    from mqcore.log.topics import TopicInfo

_COPY_BYTES = 4 << 20
_STAGED = ".adopting"
_OFFSET_DELTA_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was taken in. notes: what was left behind or filled, a line each."""

    topic: str
    partition: int
    topic_id: uuid.UUID
    segments: int
    batches: int
    records: int
    log_start_offset: int
    log_end_offset: int
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Source:
    """A segment of the source. gaps: (position of the batch after it, first missing offset, offset after them)."""

    base_offset: int
    path: str
    size: int
    found: SegmentCheck
    gaps: list[tuple[int, int, int]]


def adopt(store: LogStore, directory: str, topic: str | None = None, partition: int | None = None) -> Adopted:
    """Copy a partition directory into an open store and serve it; durable on return.

    directory: `<topic>-<partition>` as Kafka names it; topic, partition: other names here. The topic is made if it is
    not there (with partition + 1 partitions), or gets more partitions; the partition must hold nothing.
    Raises StoreFormatError (no partition directory), UnsupportedFormatError (message format 0 or 1), CorruptBatchError
    (path, position, offset), TopicExistsError (the partition holds records), InvalidTopicError, StorageError.
    """
    directory = os.path.realpath(directory)
    parsed = layout.parse_partition_dir(os.path.basename(directory))
    if parsed is None and (topic is None or partition is None):
        raise StoreFormatError("not named <topic>-<partition>", hint="Give the topic and the partition", path=directory)
    name = layout.check_topic_name(topic if topic is not None else parsed[0] if parsed else "")
    number = partition if partition is not None else parsed[1] if parsed else 0
    if name.startswith("__"):
        raise InvalidTopicError("names that begin with two underscores are the store's own", topic=name)
    notes: list[str] = []
    sources = _check_source(directory, notes)
    _check_target(store, name, number)
    staged, stable = _stage(store, directory, sources, name, number, notes)
    info = _topic_for(store, name, number, _topic_id(store.io, directory))
    checkpoints.write_topic_id(store.io, os.path.join(staged, layout.PARTITION_METADATA), info.topic_id)
    _put_in_place(store, info, number, staged, sources, stable)
    return Adopted(
        name,
        number,
        info.topic_id,
        len(sources),
        sum(source.found.batches for source in sources),
        sum(source.found.records for source in sources),
        sources[0].base_offset if sources else 0,
        sources[-1].found.next_offset if sources else 0,
        notes,
    )


# -- the source -----------------------------------------------------------------------------------------------------


def _check_source(directory: str, notes: list[str]) -> list[_Source]:
    """Check every segment. Raises if one is damaged; a torn tail of the last one is left behind, and noted."""
    if layout.lstat_kind(directory) != "dir":
        raise StoreFormatError("no such directory", path=directory)
    names = os.listdir(directory)
    for name in names:
        parsed = layout.parse_segment_file(name)
        if parsed is not None and parsed.state == layout.SWAP:
            raise StoreFormatError(
                "Kafka was stopped in the middle of a compaction", hint="Start and stop it once", path=directory
            )
    bases = layout.list_segments(directory)
    if not bases:
        raise StoreFormatError("no segments in it", path=directory)
    sources: list[_Source] = []
    for base, following in zip(bases, [*bases[1:], None], strict=True):
        if sources and base < sources[-1].found.next_offset:
            raise CorruptBatchError("segments overlap", path=directory, offset=base)
        source = _check_segment(os.path.join(directory, layout.segment_name(base)), base, following, notes)
        end = source.found.next_offset
        if following is not None and following > end:
            source.gaps.append((source.size, end, following))
            source.found.next_offset = following
        sources.append(source)
    return sources


def _check_segment(path: str, base: int, following: int | None, notes: list[str]) -> _Source:
    gaps: list[tuple[int, int, int]] = []
    expected = base

    def rows(run: Any) -> None:
        nonlocal expected
        before = np.concatenate(([expected], run["last_offset"][:-1] + 1))
        for i in np.flatnonzero(run["base_offset"] > before):
            gaps.append((int(run["position"][i]), int(before[i]), int(run["base_offset"][i])))
        expected = int(run["last_offset"][-1]) + 1

    try:
        with Bytes(path) as file:
            below = following if following is not None else NO_BOUND
            found = SegmentChecker(file, base, below=below, allow_gaps=True, on_rows=rows, inflate=True).run()
            size = found.size
            for bad in found.bad:
                size = _judge(file, bad, following is None, path, notes)
    except OSError as error:
        raise translated(error, "cannot read", path) from error
    if found.misnumbered:
        wrong = found.misnumbered[0]
        raise CorruptBatchError(
            "a batch has a wrong offset", path=path, position=wrong.position, offset=wrong.base_offset
        )
    return _Source(base, path, size, found, gaps)


def _judge(file: Bytes, bad: BadRange, last: bool, path: str, notes: list[str]) -> int:
    """Return where the data ends if a bad range is only what a stop in the middle of a write leaves; raise if not."""
    magic = bytes(file.read(bad.position + 16, 1))
    if magic in (b"\0", b"\1") and bad.what != "only zeros follow":
        raise UnsupportedFormatError(
            "message format 0 or 1", hint="Kafka 3 converts it when it is read and written anew", path=path
        )
    torn = bad.next_offset < 0 and bad.what in ("only zeros follow", "the last batch is incomplete")
    if not (last and torn):
        raise CorruptBatchError(bad.what, path=path, position=bad.position, offset=bad.offset)
    notes.append(f"{os.path.basename(path)}: {bad.what} at byte {bad.position}; left behind")
    return bad.position


def _topic_id(io: Io, directory: str) -> uuid.UUID | None:
    try:
        found = checkpoints.read_topic_id(io, os.path.join(directory, layout.PARTITION_METADATA))
    except MQError:
        return None
    return found if found is not None and found.int > 1 else None  # 0 and 1 are reserved


# -- the target -----------------------------------------------------------------------------------------------------


def _check_target(store: LogStore, name: str, number: int) -> None:
    if name in store.topics() and number < store.topic(name).partitions:
        start, end = store.bounds(name, number)
        if end > 0 or start > 0 or layout.lstat_kind(store.layout.partition_dir(name, number)):
            raise TopicExistsError(
                "the partition holds records already", topic=name, partition=number, log_end_offset=end
            )


def _topic_for(store: LogStore, name: str, number: int, topic_id: uuid.UUID | None) -> TopicInfo:
    if name not in store.topics():
        taken = topic_id is not None and (
            store.registry.find(topic_id) is not None or topic_id in store.registry.deleted()
        )
        forget_offsets(store, name)
        return store.registry.create(name, number + 1, {"retention.ms": -1}, topic_id=None if taken else topic_id)
    info = store.topic(name)
    return info if number < info.partitions else store.add_partitions(name, number + 1)


def _stage(
    store: LogStore, directory: str, sources: list[_Source], name: str, number: int, notes: list[str]
) -> tuple[str, int]:
    """Write the whole partition into a directory of the quarantine, synced; return its path and the last stable offset."""
    io, quarantine = store.io, store.layout.path(layout.QUARANTINE)
    staged = os.path.join(quarantine, layout.partition_dir_name(name, number) + _STAGED)
    if not layout.require_kind(quarantine, "dir"):
        io.mkdir(quarantine)
        io.sync_dir(store.path)
    if layout.require_kind(staged, "dir"):
        remove_tree(io, staged)
    io.mkdir(staged)
    producers = _known_producers(io, directory, sources)
    for source in sources:
        _copy(io, source, os.path.join(staged, layout.segment_name(source.base_offset)))
        if source.gaps:
            missing = sum(end - start for _, start, end in source.gaps)
            notes.append(f"{os.path.basename(source.path)}: {missing} offsets are empty, as compaction left them")
        # Rebuilt from markers; the source's own entries only tell of transactions that began before its first segment.
        _copy_txn_index(io, source, staged)
        recover(
            io,
            staged,
            source.base_offset,
            max_batch_bytes=BATCH_BYTES_MAX,
            allow_gaps=False,
            producers=producers,
        )
    epochs = _write_epochs(io, directory, staged, sources)
    end = sources[-1].found.next_offset
    snapshot = os.path.join(staged, layout.segment_name(end, layout.SNAPSHOT))
    io.write_atomic(snapshot, producers.encode(max(0, epochs.epoch_of(end - 1))))
    io.sync_dir(staged)
    return staged, producers.stable_end(end)


def _known_producers(io: Io, directory: str, sources: list[_Source]) -> Producers:
    """What Kafka's own snapshot says of producers before the first segment; its later ones are made anew."""
    base = sources[0].base_offset
    path = os.path.join(directory, layout.segment_name(base, layout.SNAPSHOT))
    try:
        if layout.lstat_kind(path) == "file":
            return Producers.decode(io.read_file(path), base, PRODUCERS_MAX)[0]
    except MQError:
        pass
    return Producers(PRODUCERS_MAX)


def _copy(io: Io, source: _Source, target: str) -> None:
    """Copy a segment's data, with empty batches in its gaps, and sync it."""
    at, position, epoch = 0, 0, max(source.found.last_epoch, 0)
    io.write_at(target, b"", 0)
    with Bytes(source.path) as file:
        for gap, start, end in [*source.gaps, (source.size, 0, 0)]:
            while position < gap:
                piece = file.read(position, min(_COPY_BYTES, gap - position))
                if not piece or file.unreadable:
                    raise StorageError("the source changed or cannot be read", path=source.path, position=position)
                io.write_at(target, piece, at)
                position, at = position + len(piece), at + len(piece)
            if end - source.base_offset > _OFFSET_DELTA_MAX:
                raise UnsupportedFormatError(
                    "more offsets are missing than a segment can hold", path=source.path, offset=start, next_offset=end
                )
            filler = empty_batches(start, end, epoch)
            io.write_at(target, filler, at)
            at += len(filler)
    io.sync_file(target)


def _copy_txn_index(io: Io, source: _Source, staged: str) -> None:
    data = read_index(source.path.removesuffix(layout.LOG) + layout.TXN_INDEX)
    if data:
        problem = check_txn_index(data, source.found)
        if problem:
            raise CorruptBatchError(f"the transaction index is damaged: {problem}", path=source.path)
        io.write_atomic(os.path.join(staged, layout.segment_name(source.base_offset, layout.TXN_INDEX)), data)


def _write_epochs(io: Io, directory: str, staged: str, sources: list[_Source]) -> LeaderEpochs:
    """Take over the leader epochs, or, where they cannot be read, what the batches say of them."""
    try:
        epochs = checkpoints.read_leader_epochs(io, os.path.join(directory, layout.LEADER_EPOCHS))
    except MQError:
        epochs = LeaderEpochs()
    if not epochs.entries:
        for source in sources:
            for epoch, start in source.found.epoch_starts:
                epochs.assign(epoch, start)
    epochs.truncate_end(sources[-1].found.next_offset)
    if epochs.entries not in ((), ((0, 0),)):
        checkpoints.write_leader_epochs(io, os.path.join(staged, layout.LEADER_EPOCHS), epochs)
    return epochs


def _put_in_place(
    store: LogStore, info: TopicInfo, number: int, staged: str, sources: list[_Source], stable: int
) -> None:
    """One rename, then the store serves it."""
    io, key, target = store.io, PartitionKey(info.name, number), store.layout.partition_dir(info.name, number)
    io.sync_dir(staged)
    io.rename(staged, target)
    io.sync_dir(store.layout.topics)
    states = [
        SegmentState(
            source.base_offset,
            os.stat(os.path.join(target, layout.segment_name(source.base_offset))).st_size,
            source.found.next_offset,
            source.found.max_timestamp,
            -2,  # the first timestamp: only the open segment can tell
        )
        for source in sources
    ]
    old = store.partitions.drop(key)
    if old is not None:
        old.mark_deleted()  # whoever holds the empty log must ask for the partition again
    start, end = sources[0].base_offset, sources[-1].found.next_offset
    store.partitions.add_state(key, PartitionState(info.topic_id, start, end, states, stable))
    store.save_recovery_points()
    store.marks.publish(store.marks.slot(info.topic_id, number), start, end, stable, end)
