"""Looking at transactions from outside, ending those that nobody ends, forgetting ids that nobody uses.

What is open is told by the partitions, so that a reader beside a living writer sees it too: an open transaction holds the last
stable offset back, and its first batch lies there.
Invariant: an id is forgotten only while no transaction of it can begin or end, and only by the clock that no jump moves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from mqcore.log.layout import TRANSACTION_TOPIC
from mqcore.log.transaction_records import Status
from mqcore.transactions import recovery
from mqcore.types import IsolationLevel

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore

_PRODUCER = struct.Struct(">qh")  # of a batch, at 43; base and maximal timestamp (int64) lie at 27
_GRACE_MS = 10_000  # after its time-out a transaction may wait for the timer


class OpenInPartition(NamedTuple):
    """The oldest open transaction of a partition: what holds read_committed back. since_ms: its first batch's time."""

    topic: str
    partition: int
    first_offset: int
    producer_id: int
    epoch: int
    since_ms: int


class TransactionView(NamedTuple):
    """A transactional id. Times: wall clock, ms; started_ms -1: unknown. transactional_id "": of no known id."""

    transactional_id: str
    status: Status
    producer_id: int
    epoch: int
    timeout_ms: int
    partitions: tuple[tuple[str, int], ...]
    updated_ms: int
    started_ms: int


def open_in_partitions(store: LogStore) -> list[OpenInPartition]:
    """Of each partition that is held back, by what. Raises StorageError, CorruptBatchError."""
    found = []
    for name, info in sorted(store.registry.all(internal=True).items()):
        for number in range(info.partitions):
            if store.bounds(name, number)[1] == 0 or name == TRANSACTION_TOPIC:
                continue
            log = store.partition(name, number)
            offsets = log.offsets
            if offsets.last_stable < offsets.high_watermark:
                part = log.read(offsets.last_stable, max_bytes=1, isolation=IsolationLevel.READ_UNCOMMITTED)
                if part is not None:
                    head = bytes(memoryview(part.mapping)[part.start : part.start + 61])
                    producer_id, epoch = _PRODUCER.unpack_from(head, 43)
                    since_ms = struct.unpack_from(">q", head, 27)[0]
                    found.append(OpenInPartition(name, number, offsets.last_stable, producer_id, epoch, since_ms))
    return found


def list_transactions(store: LogStore) -> list[TransactionView]:
    """Every id that is known, and every open transaction of an id that no record names yet; sorted."""
    still_open: dict[int, list[OpenInPartition]] = {}
    for one in open_in_partitions(store):
        still_open.setdefault(one.producer_id, []).append(one)
    views = []
    for name, _, state in recovery.last_records(store):
        held = still_open.pop(state.producer_id, [])
        ongoing = held and not state.status.is_decided
        partitions = [(topic, number) for topic, numbers in state.partitions for number in numbers]
        views.append(
            TransactionView(
                name,
                Status.ONGOING if ongoing else state.status,
                state.producer_id,
                state.epoch,
                state.timeout_ms,
                tuple((one.topic, one.partition) for one in held) if ongoing else tuple(partitions),
                state.updated_ms,
                min((one.since_ms for one in held), default=state.started_ms),
            )
        )
    for producer_id, held in still_open.items():
        since_ms = min(one.since_ms for one in held)
        where = tuple((one.topic, one.partition) for one in held)
        views.append(TransactionView("", Status.ONGOING, producer_id, held[0].epoch, 0, where, since_ms, since_ms))
    return sorted(views)


def hanging(store: LogStore, views: Iterable[TransactionView]) -> list[TransactionView]:
    """Those that are open longer than their time-out (or the longest that there may be): nobody will end them."""
    now_ms, longest = store.clock.wall_ms(), store.config.transaction_max_timeout_ms
    return [
        view
        for view in views
        if view.status is Status.ONGOING and now_ms - view.started_ms > (view.timeout_ms or longest) + _GRACE_MS
    ]


def abort(store: LogStore, producer_ids: Iterable[int]) -> int:
    """Abort the open transactions of these producer ids, durably; how many. The caller alone has the store."""
    aborted = recovery.abort_undecided(store, recovery.last_records(store), set(producer_ids))
    if aborted and store.group is not None:
        store.group.drain()
    return aborted
