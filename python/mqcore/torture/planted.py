"""Bugs planted on purpose: each breaks one promise of the log, so that the suites can be seen to notice (R14).

A planted bug is a function that patches the engine in this process, or the recorded trace of calls (as if a sync had never
been made). The suite mutants runs the attacks of others with one of them in force; the variable names it to the workers.
Never imported by the engine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from mqcore.torture.crashfs import FLAG_DIRECTORY, FLAG_DSYNC, Call, Op
from mqcore.torture.planted_eos import PLANTED_EOS

VARIABLE = "MQCORE_TORTURE_MUTANT"


def apply_from_environment() -> None:
    """Plant the bug that the environment names; none by default."""
    name = os.environ.get(VARIABLE, "")
    if name:
        PLANTED[name]()


def _patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace owner.name by make(the original)."""
    setattr(owner, name, make(getattr(owner, name)))


# -- syncs that are left out: filtered from the trace ------------------------------------------------------------------


def _without(drops: Callable[[Call], bool]) -> None:
    """Turn the recorded syncs that `drops` names into syncs of nothing; the numbers of calls stay."""
    from mqcore.torture import power

    def change(call: Call) -> Call:
        if call.op in (Op.SYNC, Op.SYNCFS) and drops(call):
            return dataclasses.replace(call, a=0)  # what was written before the 0th call
        if call.op is Op.WRITE and call.flags & FLAG_DSYNC and drops(call):
            return dataclasses.replace(call, flags=call.flags & ~FLAG_DSYNC)
        return call

    def make(record_run: Any) -> Any:
        def recorded(*args: Any, **options: Any) -> tuple[list[Call], str]:
            calls, root = record_run(*args, **options)
            return [change(call) for call in calls], root

        return recorded

    _patch(power, "record_run", make)


def journal_sync_skipped() -> None:
    _without(lambda call: "/journal" in call.path)


def directory_sync_skipped() -> None:
    _without(lambda call: bool(call.flags & FLAG_DIRECTORY) and "/topics" in call.path)


def segment_sync_skipped() -> None:
    _without(lambda call: call.op is Op.SYNCFS or call.path.endswith(".log"))


# -- the engine -------------------------------------------------------------------------------------------------------


def acknowledged_before_the_round() -> None:
    from mqcore.log.partition_log import PartitionLog

    _patch(PartitionLog, "wait_durable", lambda _: lambda self, next_offset, timeout_s=None: None)


def read_above_the_durable_mark() -> None:
    from mqcore.log.partition_log import PartitionLog

    PartitionLog.offsets = property(  # type: ignore[assignment,method-assign]
        lambda self: self._offsets._replace(high_watermark=self._offsets.log_end, last_stable=self._offsets.log_end)
    )
    PartitionLog.high_watermark = property(lambda self: self._offsets.high_watermark)  # type: ignore[assignment,method-assign]


def journal_not_replayed() -> None:
    from mqcore.log.open_store import WriterOpening

    _patch(WriterOpening, "_replay", lambda _: lambda self, find, orphans=None: None)


def ring_freed_before_the_flush() -> None:
    from mqcore.log.group_commit import GroupCommit

    _patch(GroupCommit, "_flush", lambda _: lambda self, submissions: None)


def clean_shutdown_kept_while_writing() -> None:
    from mqcore.log import checkpoints, layout, opening

    def begin(io: Any, where: Any, session: Any) -> None:
        checkpoints.write_session(io, where.path(layout.SESSION), session)

    _patch(opening, "begin_session", lambda _: begin)


class _Believed:
    """What recovery found, with the torn tail taken for data."""

    def __init__(self, found: Any) -> None:
        self._found = found
        self.valid_size = found.file_size
        self.problem = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


def torn_tail_not_cut() -> None:
    from mqcore.log.recovery import PartitionRecovery

    _patch(PartitionRecovery, "_recover", lambda recover: lambda self, base, end: _Believed(recover(self, base, end)))


def bad_batch_skipped_in_silence() -> None:
    from mqcore.errors import CorruptBatchError
    from mqcore.log.reader import PartitionReader

    def make(read: Any) -> Any:
        def skipping(self: Any, max_records: int = 10_000) -> Any:
            while True:
                try:
                    return read(self, max_records)
                except CorruptBatchError:
                    self.seek(self.position + 1)

        return skipping

    _patch(PartitionReader, "read", make)


def checksum_not_checked() -> None:
    from mqcore.log.reader import PartitionReader

    def make(init: Any) -> Any:
        return lambda self, *args, **options: init(self, *args, **{**options, "check_crc": False})

    _patch(PartitionReader, "__init__", make)


def view_ahead_believed() -> None:
    from mqcore.log.views import View

    _patch(View, "_doubt", lambda _: lambda self, stored: "")


def proven_offsets_given_again() -> None:
    from mqcore.log.recovery import PartitionRecovery

    def make(redo: Any) -> Any:
        def forgetful(self: Any, *args: Any) -> None:
            before = self.proven
            redo(self, *args)
            self.proven = before

        return forgetful

    _patch(PartitionRecovery, "redo", make)


class _Late:
    """A delivery whose records are encoded when somebody waits for them."""

    def __init__(self, send: Callable[[], Any]) -> None:
        self._send = send
        self._delivery: Any = None

    def result(self, timeout: float | None = None) -> Any:
        if self._delivery is None:
            self._delivery = self._send()
        return self._delivery.result(timeout)


def buffer_not_copied() -> None:
    from mqcore.client.producer import Producer

    def make(send_many: Any) -> Any:
        return lambda self, *args, **options: _Late(lambda: send_many(self, *args, **options))

    _patch(Producer, "send_many", make)


def retention_believes_the_clock() -> None:
    from mqcore.log.retention import RetentionClock

    _patch(RetentionClock, "now_ms", lambda _: lambda self: self._clock.wall_ms())


def ids_go_by_the_wall_clock() -> None:
    from mqcore.ids import Snowflake

    def take(self: Any, count: int) -> int:
        return int((self._wall_ms() - self.epoch_ms) * 4096)

    _patch(Snowflake, "_take", lambda _: take)


def lock_not_taken() -> None:
    import fcntl

    real = fcntl.flock
    fcntl.flock = lambda fd, how: None if how & fcntl.LOCK_EX else real(fd, how)


def child_is_not_told() -> None:
    from mqcore.log.manager import LogStore

    _patch(LogStore, "forked", lambda _: lambda self: None)


def generation_ignored() -> None:
    """A member of a generation that is over commits offsets."""
    from mqcore.groups.classic import ClassicGroup

    _patch(ClassicGroup, "_check_generation", lambda _: lambda self, member_id, generation: None)


# -- transactions -------------------------------------------------------------------------------------------------------


def prepare_before_data() -> None:
    from mqcore.client.transaction import Transaction
    from mqcore.transactions import states

    def make(commit: Any) -> Any:
        def decided_first(self: Any) -> None:
            tx, coordinator = self._open, self._broker.transactions
            for sink in self._sender.open_sinks:
                tx.logs[self._sender._open_log(sink.topic.name, sink.partition)] = None
            record = states.prepare(tx.state, (), tx.state.updated_ms, commit=True)
            coordinator._log.append(tx.entry.log, tx.entry.key, record, tx.entry.partitions(tx.logs))
            commit(self)

        return decided_first

    _patch(Transaction, "commit", make)


def marker_believed_without_its_decision() -> None:
    from mqcore.log.recovery import PartitionRecovery

    _patch(PartitionRecovery, "_first_unfounded", lambda _: lambda self, found: None)


def decision_believed_without_proof() -> None:
    from mqcore.log.recovery import PartitionRecovery

    def make(init: Any) -> Any:
        def believing(self: Any, *args: Any, **options: Any) -> None:
            init(self, *args, **{**options, "only_proven": False})

        return believing

    _patch(PartitionRecovery, "__init__", make)


def decisions_synced_in_place() -> None:
    from mqcore.log.group_commit import GroupCommit

    _patch(GroupCommit, "submit", lambda submit: lambda self, *args, ordered=False: submit(self, *args))


def open_transactions_left_open() -> None:
    from mqcore.transactions import recovery

    _patch(recovery, "_undecided", lambda _: lambda store: {})


PLANTED: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        journal_sync_skipped, directory_sync_skipped, segment_sync_skipped, acknowledged_before_the_round,
        read_above_the_durable_mark, journal_not_replayed, ring_freed_before_the_flush,
        clean_shutdown_kept_while_writing, torn_tail_not_cut, bad_batch_skipped_in_silence, checksum_not_checked,
        view_ahead_believed, proven_offsets_given_again, buffer_not_copied,
        prepare_before_data, marker_believed_without_its_decision, decision_believed_without_proof,
        decisions_synced_in_place, open_transactions_left_open, *PLANTED_EOS,
        retention_believes_the_clock, ids_go_by_the_wall_clock, lock_not_taken, child_is_not_told,
        generation_ignored,
    )
}  # fmt: skip
