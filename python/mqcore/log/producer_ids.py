"""Producer ids of a store: numbers that are given out once, whatever crashes (KIP-98; blocks as in KIP-730).

Invariants:
    1. An id is given out only after the end of its block is durable in `__metadata`: the next open begins behind it.
    2. A store begins to count at a place of its own, drawn by lot: a partition that is taken in from another store, or from
       Kafka, which counts from 0, holds ids of producers that are none of ours. Where records of `__metadata` are damaged,
       and the last reservation may be among them, a new place is drawn.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mqcore.log.topics import METADATA_TOPIC
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore

BLOCK = 1_000
ID_LEAST, ID_LIMIT = 1 << 40, 1 << 62  # where a store begins: no Kafka counts that far, and there is room above


class ProducerIds:
    """Gives out ids; safe to share between threads. reserve: (count) -> the first of as many ids, durably reserved."""

    __slots__ = ("_end", "_lock", "_next", "_reserve")

    def __init__(self, reserve: Callable[[int], int]) -> None:
        self._reserve = reserve
        self._lock = threading.Lock()
        self._next = self._end = 0

    @classmethod
    def of(cls, store: LogStore) -> ProducerIds:
        """The ids of an open store."""
        return cls(partial(reserve, store))

    def allocate(self) -> int:
        """An id that nobody has, and that nobody else gets. Once in BLOCK calls it waits for the disk.

        Raises StoreClosedError, StoreReadOnlyError, StorageError, DiskFullError.
        """
        with self._lock:
            if self._next == self._end:
                first = self._reserve(BLOCK)
                self._next, self._end = first, first + BLOCK
            self._next += 1
            return self._next - 1


def reserve(store: LogStore, count: int) -> int:
    """Reserve `count` ids durably; return the first. Under `os` a block is worth one sync: an id that came twice would
    have its second owner's records taken for repetitions of the first one's."""
    store.check_writable()
    log = store.partitions.log_of(METADATA_TOPIC, 0)
    lost = any(entry.damage is not None for entry in log.segments) or (not log.segments and log.log_end_offset > 0)
    known = store.registry.next_producer_id
    first = store.registry.reserve_producer_ids(count, least=drawn(known) if lost or not known else known)
    if store.durability == Durability.OS:
        log.flush()
    return first


def drawn(above: int = 0) -> int:
    """A place to count from, at `above` or higher (invariant 2)."""
    least = max(above, ID_LEAST)
    return least + secrets.randbelow(ID_LIMIT - least)
