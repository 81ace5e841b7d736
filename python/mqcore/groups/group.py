"""One group in memory: its members (classic.py), how far it has come, and which commits are on their way.

Invariants:
    1. `offsets` holds what is durable. A commit that was appended and is not durable yet is pending: who takes over a
       partition waits for it, or it would start before what its last owner is about to have committed.
    2. Of two commits of one partition the one later in the log counts, whichever became durable first.
Lock: `lock` guards all of it; appends of the group's records happen under it, waits for durability never.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from mqcore.errors import TimeoutExceededError
from mqcore.groups.classic import ClassicGroup
from mqcore.groups.records import Committed
from mqcore.types import TopicPartition


class Group:
    """See the module. Made by the coordinator."""

    def __init__(self, machine: ClassicGroup, offsets: dict[TopicPartition, Committed]) -> None:
        self.machine, self.offsets = machine, offsets
        self.lock = threading.RLock()
        self.gone = False  # no longer the coordinator's: look it up again
        self.doubtful = False  # a commit was interrupted: what the log says counts
        self._settled = threading.Condition(self.lock)
        self._pending: dict[TopicPartition, int] = {}  # commits on their way
        self._record_offsets: dict[TopicPartition, int] = {}  # of the records that `offsets` stands for

    @property
    def idle(self) -> bool:
        """Nobody is in it and nothing is on its way: memory may forget it, the log has it all."""
        return not self.machine.members and not self._pending

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """A commit of these was appended. The caller holds the lock."""
        for partition in partitions:
            self._pending[partition] = self._pending.get(partition, 0) + 1

    def end(self, offsets: Mapping[TopicPartition, Committed], record_offset: int, *, durable: bool) -> None:
        """A commit that began is durable, or failed. record_offset: of its batch."""
        with self.lock:
            for partition, committed in offsets.items():
                left = self._pending[partition] - 1
                if left:
                    self._pending[partition] = left
                else:
                    del self._pending[partition]
                if durable and record_offset >= self._record_offsets.get(partition, -1):
                    self.offsets[partition] = committed
                    self._record_offsets[partition] = record_offset
            self._settled.notify_all()

    def replace(self, offsets: dict[TopicPartition, Committed], record_offset: int) -> None:
        """Take over what the log has below record_offset. The caller holds the lock."""
        self.offsets, self.doubtful = offsets, False
        self._record_offsets = dict.fromkeys(offsets, record_offset - 1)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These offsets are deleted. The caller holds the lock."""
        for partition in partitions:
            self.offsets.pop(partition, None)
            self._record_offsets.pop(partition, None)

    def wait_settled(self, partitions: Iterable[TopicPartition], timeout_s: float) -> None:
        """Wait until no commit of these is on its way; the lock is held and given up meanwhile. TimeoutExceededError."""
        wanted = set(partitions)
        deadline = time.monotonic() + timeout_s
        while not wanted.isdisjoint(self._pending):
            if not self._settled.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutExceededError(
                    "commits of this group are still on their way", group=self.machine.group_id, timeout_s=timeout_s
                )
