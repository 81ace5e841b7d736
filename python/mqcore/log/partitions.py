"""The partitions of an open store: numbers of all that hold anything, logs of those that somebody asked for.

A thousand partitions must open in a second and fit in little memory, so a partition that a clean close left behind
stays a row of numbers until it is asked for.

Invariants:
    1. A key is in `_states` or in `_logs`, never in both; once a log, always a log (until its topic is deleted).
    2. At most one PartitionLog of a partition is ever made: two would give out the same offsets.
Lock: `_lock` guards both maps; it is taken before a partition's lock, never after.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mqcore.errors import MQError
from mqcore.log import checkpoints, layout, producer_state
from mqcore.log.checkpoints import Damage, PartitionKey, PartitionState, SegmentState
from mqcore.log.id_window import IdWindows
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.partition_log import PartitionLog
from mqcore.log.partition_ports import PartitionHost
from mqcore.log.recovery import Loaded
from mqcore.log.segments import SegmentEntry

if TYPE_CHECKING:
    from mqcore.log.topics import TopicInfo

logger = logging.getLogger("mqcore.store")


class Partitions:
    """All partitions of a store that hold anything, or that were asked for. epoch: the leader epoch of the session."""

    def __init__(self, host: PartitionHost) -> None:
        self._host = host
        self._lock = threading.RLock()
        self._states: dict[PartitionKey, PartitionState] = {}
        self._logs: dict[PartitionKey, PartitionLog] = {}
        self.id_windows = IdWindows()
        self.epoch = 0

    def add_state(self, key: PartitionKey, state: PartitionState) -> None:
        """A partition as a clean close left it."""
        with self._lock:
            self._states[key] = state

    def add_recovered(self, info: TopicInfo, number: int, loaded: Loaded) -> PartitionLog:
        """A partition that was recovered. Its epoch rises: readers see that a tail may have been lost."""
        log = self._make(
            info,
            number,
            log_start=loaded.log_start,
            log_end=loaded.log_end,
            epochs=loaded.epochs,
            epoch=max(self.epoch, loaded.epochs.latest + 1),
        )
        log.take_segments(self._entries(log, loaded.segments, loaded.sealed, loaded.damage))
        log.take_producers(loaded.producers)
        with self._lock:
            self._logs[PartitionKey(info.name, number)] = log
        return log

    def get(self, key: PartitionKey) -> PartitionLog | None:
        """The log, if it is made already. Without a lock: for the hot path."""
        return self._logs.get(key)

    def log_of(self, info: TopicInfo, number: int) -> PartitionLog:
        """The log of a partition, made at the first need. UnknownTopicError: the topic was deleted meanwhile."""
        key = PartitionKey(info.name, number)
        log = self._logs.get(key)
        if log is not None and log.topic_id == info.topic_id:
            return log
        with self._lock:
            log = self._logs.get(key)
            if log is None or log.topic_id != info.topic_id:
                # Under the lock: a delete is noted first and drops its logs then, so it finds this one, or we find it.
                self._host.check_current(info)
                state = self._states.get(key)
                if state is None:
                    log = self._make(info, number, log_start=0, log_end=0, epochs=LeaderEpochs(), epoch=self.epoch)
                else:
                    log = self._kept(info, number, state)
                self._logs[key] = log
                # Last: a log that could not be made (no memory, no descriptor) must find its numbers the next time. An
                # empty one in its place would hide every record and give their offsets out again.
                self._states.pop(key, None)
        return log

    def logs(self) -> list[PartitionLog]:
        """The logs that are made."""
        with self._lock:
            return list(self._logs.values())

    def states(self) -> Iterator[tuple[PartitionKey, PartitionState]]:
        """The numbers of every partition that holds anything, as of now."""
        with self._lock:
            states = dict(self._states)
            for key, log in self._logs.items():
                if not log.deleted and log.on_disk:
                    states[key] = PartitionState(
                        log.topic_id,
                        log.log_start_offset,
                        log.log_end_offset,
                        [entry.state() for entry in log.segments],
                        log.last_stable_offset,
                    )
        yield from states.items()

    def recovery_points(self) -> dict[PartitionKey, int]:
        """Below which offset each partition is known to be synced."""
        with self._lock:
            points = {key: state.log_end for key, state in self._states.items()}
            points |= {key: log.recovery_point for key, log in self._logs.items() if log.on_disk and not log.deleted}
        return points

    def bounds(self, key: PartitionKey) -> tuple[int, int]:
        """(log start, high watermark) without making a log; (0, 0) for a partition that holds nothing."""
        with self._lock:
            log, state = self._logs.get(key), self._states.get(key)
        if log is not None:
            offsets = log.offsets
            return offsets.log_start, offsets.high_watermark
        return (state.log_start, state.log_end) if state is not None else (0, 0)

    def drop(self, key: PartitionKey) -> PartitionLog | None:
        """Forget a partition of a deleted topic; its log, if it was made."""
        with self._lock:
            self._states.pop(key, None)
            return self._logs.pop(key, None)

    def _make(
        self, info: TopicInfo, number: int, *, log_start: int, log_end: int, epochs: LeaderEpochs, epoch: int
    ) -> PartitionLog:
        log = PartitionLog(
            self._host,
            info.name,
            info.topic_id,
            number,
            info.config,
            log_start=log_start,
            log_end=log_end,
            epochs=epochs,
            epoch=epoch,
            on_disk=layout.lstat_kind(self._host.layout.partition_dir(info.name, number)) == "dir",
        )
        log.cleaned = self._host.cleaned.get(PartitionKey(info.name, number), 0)
        return log

    def _kept(self, info: TopicInfo, number: int, state: PartitionState) -> PartitionLog:
        directory = self._host.layout.partition_dir(info.name, number)
        try:
            epochs = checkpoints.read_leader_epochs(self._host.io, f"{directory}/{layout.LEADER_EPOCHS}")
        except MQError as error:
            # `assign` at the next append makes a new file; what it lacks, the batches themselves say.
            logger.warning("the leader epochs are forgotten: %s", error)
            epochs = LeaderEpochs()
        log = self._make(
            info, number, log_start=state.log_start, log_end=state.log_end, epochs=epochs, epoch=self.epoch
        )
        damage = checkpoints.read_damage(self._host.io, f"{directory}/{layout.DAMAGED}")
        sealed = {segment.base_offset for segment in state.segments[:-1]}
        log.take_segments(self._entries(log, state.segments, sealed, damage))
        log.take_producers(producer_state.load(self._host.io, directory, state.segments, state.log_end, log.epoch_of))
        return log

    def _entries(
        self, log: PartitionLog, states: list[SegmentState], sealed: set[int], damage: list[Damage]
    ) -> list[SegmentEntry]:
        damaged = {one.base_offset: one for one in damage}
        now_ms = self._host.clock.wall_ms()
        return [
            SegmentEntry(
                state,
                log.open_segment,
                sealed=state.base_offset in sealed,
                damage=damaged.get(state.base_offset),
                created_ms=now_ms,
            )
            for state in states
        ]
