"""T4: EIO, ENOSPC, EMFILE, EINTR, short and slow writes at the n-th system call, n = 1, 2, 3 … until nothing fails any more.

The suite runs itself under iotrace.so, so that the fault hits whatever really made the call: the engine, LMDB or Python.
For each operation and each kind of fault the store is a fresh copy; the operation runs with the fault armed, then
    1. the error, if any, is an error of ours that names its cause (EINTR, short and slow writes are no errors at all),
    2. the store reads on, and writes on or says that it is read-only; after a full disk it writes on,
    3. a reopened store keeps all that was acknowledged.
The operations are in io_operations.py."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.attack import build_recorder, environment, open_and_check, read_all, workplace
from mqcore.torture.io_operations import OPERATIONS, Inside, Operation, Templates
from mqcore.torture.ledger import TOPIC, Ledger
from mqcore.torture.report import Report

OPENS, READS, OVERWRITES, SYNCS, NAMES, SIZES, CREATES, REMOVALS, GROWTH = (1 << bit for bit in range(9))
WRITES = OVERWRITES | GROWTH
_ALL = 511
_FAIL_ONCE, _FAIL_ALWAYS, _SHORT_WRITE, _SLOW = range(4)
_CALLS_MAX = 3000  # of one operation: more, and it does not end


@dataclass(frozen=True, slots=True)
class Fault:
    """How the n-th call fails. mode, kinds: as iotrace.c's enums; harmless: the operation must succeed all the same;
    passing: once it is over the open store must write on as if nothing had been."""

    name: str
    error: int
    mode: int
    kinds: int = _ALL
    harmless: bool = False
    passing: bool = False


FAULTS = (
    Fault("eio", errno.EIO, _FAIL_ONCE),
    Fault("eio-from-then-on", errno.EIO, _FAIL_ALWAYS),
    Fault("enospc-from-then-on", errno.ENOSPC, _FAIL_ALWAYS),
    # What a full disk refuses, and what not: reads, removals, writes and syncs of what has its blocks.
    Fault("disk-full", errno.ENOSPC, _FAIL_ALWAYS, GROWTH | NAMES | SIZES | CREATES, passing=True),
    Fault("emfile", errno.EMFILE, _FAIL_ONCE, OPENS | CREATES),
    Fault("eintr", errno.EINTR, _FAIL_ONCE, OPENS | READS | WRITES, harmless=True),
    Fault("short-write", 0, _SHORT_WRITE, WRITES, harmless=True),
    Fault("slow-write", 0, _SLOW, WRITES | SYNCS, harmless=True),
)


class _Attack:
    """One operation under one kind of fault, n = 1 … until it runs clean."""

    def __init__(self, place: Path, report: Report, durability: str) -> None:
        self._library = ctypes.CDLL(None)
        self._path, self._report, self._durability = place / "store", report, durability
        self._templates = Templates(place / "templates", durability)
        report.acked = self._templates.acked_count

    def exhaust(self, operation: Operation, fault: Fault, *, first: int, every: int) -> None:
        """The fault at call `first`, and at each `every`-th after it."""
        n = first
        while self._once(operation, fault, n):
            self._report.faults_injected[fault.name] += 1
            n += every
            if n > _CALLS_MAX:
                self._report.violate("I3", f"{operation.name} under {fault.name} never runs clean")
                return

    def _once(self, operation: Operation, fault: Fault, n: int) -> bool:
        """One run with the fault at call n; False when the operation made fewer calls than that."""
        where = f"{operation.name} {fault.name} at call {n}"
        shutil.rmtree(self._path, ignore_errors=True)
        ledger = self._templates.copy(operation.template, self._path)
        worker = Inside(ledger)
        caught: BaseException | None = None
        try:
            if not operation.opens:
                worker.open(self._path, self._durability)
            self._library.mqtrace_arm(n, fault.error, fault.mode, fault.kinds)
            if operation.opens:
                worker.open(self._path, self._durability)
            operation.act(worker)
        except Exception as error:
            caught = error
        fired: int = self._library.mqtrace_disarm()
        if caught is not None:
            self._judge_error(caught, fault, where)
        if worker.store is not None:
            self._judge_store(worker.store, ledger, fault, where)
        found = open_and_check(self._path, ledger, self._report, durability=self._durability, go_on=n % 7 == 0)
        self._report.absorb((invariant, f"{sentence} [{where}]") for invariant, sentence in found)
        return fired > 0

    def _judge_error(self, error: BaseException, fault: Fault, where: str) -> None:
        if fault.mode == _SHORT_WRITE and "/views" in str(error) and isinstance(error, errors.MQError):
            return  # LMDB takes a short write for a full disk; the views are rebuilt or live in memory
        if fault.harmless:
            self._report.violate("I29", f"{type(error).__name__}: {error} [{where}]")
        elif not isinstance(error, errors.MQError):
            self._report.violate("I3", f"{type(error).__name__}, not an error of ours: {error} [{where}]")
        elif errno.errorcode[fault.error] not in str(error):
            self._report.violate("I3", f"the cause is not named: {type(error).__name__}: {error} [{where}]")
        elif fault.passing and not isinstance(error, errors.DiskFullError):
            self._report.violate("I3", f"not to be retried: {type(error).__name__}: {error} [{where}]")

    def _judge_store(self, store: mqcore.Store, ledger: Ledger, fault: Fault, where: str) -> None:
        """The store that met the fault: it reads what was acknowledged, writes on or refuses in words, and closes."""
        closed = store.closed
        try:
            for partition, acked in {} if closed else ledger.acked.items():
                begin = ledger.trimmed[partition]
                have = {offset for offset, _ in read_all(store, TOPIC, partition)}
                if gone := [offset for offset in acked if offset not in have and offset >= begin]:
                    self._report.violate("I1", f"{len(gone)} acknowledged records unreadable after the error [{where}]")
        except Exception as error:
            self._report.violate("I3", f"reading on: {type(error).__name__}: {error} [{where}]")
        try:
            Inside(ledger, store).write_on()
        except errors.MQError as error:  # read-only from now on, in words
            if (fault.passing or fault.harmless) and not closed:
                self._report.violate("I3", f"writing on: {type(error).__name__}: {error} [{where}]")
        except Exception as error:
            self._report.violate("I3", f"writing on: {type(error).__name__}: {error} [{where}]")
        try:
            store.close()
        except errors.MQError:
            pass
        except Exception as error:
            self._report.violate("I3", f"closing: {type(error).__name__}: {error} [{where}]")


def _child(place: Path, report: Report, only: Sequence[str], every: int) -> None:
    """The suite proper, in a process that runs under iotrace.so; a line a step, the report in `place` at the end."""
    attack = _Attack(place, report, report.durability)
    for name in only or OPERATIONS:
        for index, fault in enumerate(FAULTS):
            first = 1 + (report.seed + index) % every
            attack.exhaust(OPERATIONS[name], fault, first=first, every=every)
            print(sum(report.faults_injected.values()), flush=True)
    (place / "report").write_bytes(pickle.dumps(report))


def run(
    seed: int,
    faults: int,
    progress: Callable[[int], None] = lambda _: None,
    durability: str = "fsync",
    *,
    only: Sequence[str] = (),
    every: int = 1,
) -> Report:
    """All operations under all faults, exhaustively, again under the other durability while `faults` are not reached.

    only: names of operations (default: all). every: the n-th call only for each `every`-th n; the seed says which."""
    report = Report("io-errors", seed, durability=durability, faults_wanted=faults)
    first = _run_child(report, only, every, progress)
    if sum(first.faults_injected.values()) < faults and not first.violations:
        first.notes["also"] = other = "os" if durability == "fsync" else "fsync"
        first.durability = other
        first = _run_child(first, only, every, progress)
        first.durability = durability
    return first


def _run_child(report: Report, only: Sequence[str], every: int, progress: Callable[[int], None]) -> Report:
    with workplace() as place:
        library, root = build_recorder(place), place / "root"
        root.mkdir()
        (root / "report").write_bytes(pickle.dumps(report))
        command: list[str] = [sys.executable, "-P", "-m", __name__, str(root), ",".join(only), str(every)]
        env = environment(LD_PRELOAD=str(library), MQTRACE_ROOT=str(root))
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                progress(int(line))
        if child.returncode != 0:
            report.violate("I3", f"the process under attack died with {child.returncode}")
            return report
        done: Any = pickle.loads((root / "report").read_bytes())  # our own child's
        assert isinstance(done, Report)
        return done


if __name__ == "__main__":
    _root = Path(sys.argv[1])
    # A child's stderr would fill with what the attacked stores say of each fault.
    if os.environ.get("MQCORE_TORTURE_QUIET"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _child(
        _root, pickle.loads((_root / "report").read_bytes()), [n for n in sys.argv[2].split(",") if n], int(sys.argv[3])
    )
