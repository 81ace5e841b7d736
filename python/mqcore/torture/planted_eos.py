"""Bugs planted in transactions, groups and state: see planted.py, which knows them all by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def offsets_committed_before_results() -> None:
    from mqcore.client.transaction import Transaction

    def make(_: Any) -> Any:
        def early(self: Any, source: Any, group: Any = None) -> None:
            if hasattr(source, "group_metadata"):
                source.commit()
            else:
                self._broker.groups.commit_offsets(group, source)

        return early

    _patch(Transaction, "commit_offsets", make)


def marker_missed() -> None:
    from mqcore.transactions import markers

    _patch(
        markers, "write", lambda write: lambda logs, *args, **options: write(list(logs)[:-1] or logs, *args, **options)
    )


def old_holder_not_fenced() -> None:
    from mqcore.transactions.coordinator import Coordinator

    _patch(Coordinator, "_fence", lambda _: lambda self, tx: None)


def epoch_not_raised() -> None:
    from mqcore.transactions import states

    _patch(states, "prepare", lambda prepare: lambda state, *args, **options:
           prepare(state, *args, **options)._replace(epoch=state.epoch))  # fmt: skip


def member_not_checked() -> None:
    from mqcore.groups.classic import ClassicGroup

    _patch(ClassicGroup, "check_commit", lambda _: lambda self, *args, **options: None)


def conflicts_ignored() -> None:
    from mqcore.state.store import StateStore

    _patch(StateStore, "_compare", lambda _: lambda self, transaction, until: None)


def state_shown_before_the_decision() -> None:
    from mqcore.state.transaction import TransactionState

    def make(prepare: Any) -> Any:
        def early(self: Any, tx: Any) -> None:
            prepare(self, tx)
            if self._commit is not None:
                self._store.applied(self._commit)
                self._commit = None

        return early

    _patch(TransactionState, "prepare", make)


def open_transactions_are_read() -> None:
    from mqcore.log.offsets import Offsets

    _patch(Offsets, "visible", lambda visible: lambda self, mark, open_transaction=None: visible(self, mark))


def last_stable_offset_off_by_one() -> None:
    from mqcore.log.offsets import Offsets

    _patch(Offsets, "visible", lambda visible: lambda self, mark, open_transaction=None:
           visible(self, mark, None if open_transaction is None else open_transaction + 1))  # fmt: skip


def aborts_not_indexed() -> None:
    from mqcore.log.partition_log import PartitionLog

    _patch(PartitionLog, "_index_abort", lambda _: lambda self, begun: None)


def time_outs_ignored() -> None:
    from mqcore.transactions.coordinator import Coordinator

    _patch(Coordinator, "tend", lambda _: lambda self: None)


def decided_ones_aborted_at_open() -> None:
    from mqcore.transactions import recovery

    def make(complete: Any) -> Any:
        def undone(store: Any, log: Any, left: Any) -> None:
            from mqcore.log.transaction_records import Status

            complete(store, log, left._replace(state=left.state._replace(status=Status.PREPARE_ABORT)))

        return undone

    _patch(recovery, "_complete", make)


PLANTED_EOS: tuple[Callable[[], None], ...] = (
    offsets_committed_before_results, marker_missed, old_holder_not_fenced, epoch_not_raised, member_not_checked,
    conflicts_ignored, state_shown_before_the_decision, open_transactions_are_read, last_stable_offset_off_by_one,
    aborts_not_indexed, time_outs_ignored, decided_ones_aborted_at_open,
)  # fmt: skip
