"""Which segments hold a file descriptor: the least recently used ones give theirs back past a bound.

A thousand partitions must fit under a limit of 1,024 descriptors. A segment without its descriptor keeps its mappings
(reads go on) and opens the file again at its next write.

Invariants:
    1. At most `limit` segments known here hold descriptors, but for those that are being written this moment.
    2. Nothing is closed under a running call: `Segment.release_fd` waits for it.
Lock: `_lock` guards the order only and is never held over I/O.
"""

from __future__ import annotations

import resource
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore._native.segment import Segment

# Descriptors that the rest of the process may want: the user's sockets and files, LMDB, the journal, the interpreter,
# and for a moment the index files of segments that spill theirs.
RESERVED = 256


class OpenSegments:
    """The segments of one store, in the order of their last use. limit: segments that may hold descriptors."""

    def __init__(self, limit: int) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft - RESERVED)
        self.limit = max(8, limit)
        self._lock = threading.Lock()
        self._order: OrderedDict[int, Segment] = OrderedDict()
        self._last: Segment | None = None  # used last, and so not in danger

    def __len__(self) -> int:
        return len(self._order)

    def touch(self, segment: Segment) -> None:
        """`segment` is about to use its descriptor; others may lose theirs for it.

        Raises what a flush of a released segment raises (R2: its error must reach somebody); the segment is final then.
        """
        if segment is self._last:
            return
        key = id(segment)
        released = []
        with self._lock:
            self._last = segment
            if key in self._order:
                self._order.move_to_end(key)
                return
            self._order[key] = segment
            while len(self._order) > self.limit:
                released.append(self._order.popitem(last=False)[1])
        for old in released:
            old.release_fd()

    def forget(self, segment: Segment) -> None:
        """`segment` is closed or its descriptor is gone."""
        with self._lock:
            self._order.pop(id(segment), None)
            if self._last is segment:
                self._last = None

    def clear(self) -> None:
        with self._lock:
            self._order.clear()
            self._last = None
