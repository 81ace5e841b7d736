"""One open transaction, and the gate that every one of its appends goes through.

Invariants:
    1. While `lock` is held from `admit` on nobody can end the transaction: a batch of it lies before its marker or is refused.
    2. A partition is noted before its first batch is appended: whoever ends the transaction knows where it has been.
    3. Once it is ending, only the thread that ends it appends (what commits carry beside records); once over, nobody.
Lock: `lock` guards the phase, and is held over an append. It is taken after the coordinator's, before a partition's.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from threading import get_ident
from typing import TYPE_CHECKING, Any

from mqcore.errors import InvalidTransactionStateError, MQError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.transaction_records import TransactionRecord
    from mqcore.ports import Participant
    from mqcore.transactions.coordinator import TransactionalId


class Phase(IntEnum):
    """OPEN: records are sent. ENDING: by one thread, nothing decided. DECIDED: PREPARE is written, markers may be
    missing. OVER: nothing is left to do."""

    OPEN = 0
    ENDING = 1
    DECIDED = 2
    OVER = 3


class OpenTransaction:
    """Made by Coordinator.begin. deadline_s: monotonic, s, when it is timed out."""

    __slots__ = (
        "committed",
        "deadline_s",
        "end_offset",
        "entry",
        "error",
        "foreign",
        "lock",
        "logs",
        "owner",
        "participants",
        "phase",
        "state",
        "timeout_ms",
        "writer",
    )

    def __init__(self, entry: TransactionalId, state: TransactionRecord, deadline_s: float) -> None:
        self.entry, self.state, self.deadline_s = entry, state, deadline_s
        self.timeout_ms = state.timeout_ms
        self.lock = threading.Lock()
        self.phase = Phase.OPEN
        self.owner = 0  # the thread that ends it
        self.committed = False  # what was decided, once it is
        self.error: MQError | None = None  # why it is over, for its handle
        self.logs: dict[PartitionLog, None] = {}  # where it has been
        self.participants: dict[Any, Participant] = {}
        self.foreign: Sequence[PartitionLog] = ()  # those of another durability than the decision's
        self.end_offset = 0  # of the decision's log, after COMPLETE
        self.writer: Any = None  # the handle: what participants write through

    @property
    def producer_id(self) -> int:
        return self.state.producer_id

    @property
    def outcome(self) -> bool | None:
        """Whether it is committed; None: not known for good, a crash might still undo it."""
        if self.phase is not Phase.OVER or (self.committed and self.entry.log.high_watermark < self.end_offset):
            return None
        return self.committed

    def admit(self, log: PartitionLog) -> None:
        """Before an append to `log`; `lock` is held over both: by a `with`, which no interrupt can split. Raises why the
        transaction is over."""
        if self.phase is Phase.OPEN or (self.phase is Phase.ENDING and self.owner == get_ident()):
            self.logs[log] = None
            return
        raise self.refusal()

    def refusal(self) -> MQError:
        """What a call gets that comes too late."""
        if self.error is not None:
            return self.error
        what = "the transaction is ending" if self.phase < Phase.OVER else "the transaction is over"
        return InvalidTransactionStateError(what, transactional_id=self.entry.name)
