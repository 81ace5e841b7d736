"""T4: EIO, ENOSPC, EMFILE, EINTR, short and slow writes at the n-th system call, n = 1, 2, 3 … until nothing fails any more.

The suite runs itself under iotrace.so, so that the fault hits whatever really made the call: the engine, LMDB or Python. For
each operation and each kind of fault the store is a fresh copy; the operation runs with the fault armed, then
    1. the error, if any, is an error of ours that names its cause (EINTR, short and slow writes are no errors at all),
    2. the store reads on, and writes on or says that it is read-only,
    3. a reopened store keeps all that was acknowledged."""

from __future__ import annotations

import ctypes
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.attack import build_recorder, environment, open_and_check, read_all, workplace
from mqcore.torture.ledger import TOPIC, Ledger
from mqcore.torture.report import Report
from mqcore.torture.workload import STORE_CONFIG, TOPIC_CONFIG, Worker

OPENS, READS, WRITES, SYNCS, NAMES, SIZES = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Fault:
    """How the n-th call fails. mode, kinds: as iotrace.c's enums; harmless: the operation must succeed all the same."""

    name: str
    error: int
    mode: int
    kinds: int = OPENS | READS | WRITES | SYNCS | NAMES | SIZES
    harmless: bool = False


FAULTS = (
    Fault("eio", errno.EIO, 0),
    Fault("eio-from-then-on", errno.EIO, 1),
    Fault("enospc-from-then-on", errno.ENOSPC, 1),
    Fault("emfile", errno.EMFILE, 0, OPENS),
    Fault("eintr", errno.EINTR, 0, OPENS | READS | WRITES, harmless=True),
    Fault("short-write", 0, 2, WRITES, harmless=True),
    Fault("slow-write", 0, 3, WRITES | SYNCS, harmless=True),
)


class _Inside(Worker):
    """The worker of the other suites, telling a ledger in this process."""

    def __init__(self, store: Any, ledger: Ledger, seed: int) -> None:
        super().__init__(store, -1, seed, ledger.sent)
        self._ledger = ledger

    def tell(self, **line: Any) -> None:
        self._ledger.add(line)

    def append(self) -> None:
        for _ in range(3):
            self.send_and_wait()

    def roll(self) -> None:
        for _ in range(6):
            self.send_everywhere()

    def compact(self) -> None:
        self.store.log.maintain()


OPERATIONS: dict[str, Callable[[_Inside], None]] = {
    "append": _Inside.append,
    "roll": _Inside.roll,
    "commit": _Inside.send_everywhere,
    "compaction": _Inside.compact,
    "view": _Inside.topics,
    "read": _Inside.read,
}


def _template(path: Path, durability: str) -> Ledger:
    """A small closed store with several segments, a compacted topic and a record of what it holds."""
    ledger = Ledger()
    with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
        worker = _Inside(store, ledger, 1)
        worker.setup()
        for _ in range(6):
            worker.send_everywhere()
        store.create_topic("compacted", config={**TOPIC_CONFIG, "cleanup.policy": "compact", "segment.bytes": 4096})
        for number in range(200):
            worker.producer.send("compacted", b"x" * 50, key=b"%d" % (number % 5))
        worker.producer.close()
    return ledger


def _copy(ledger: Ledger) -> Ledger:
    fresh = Ledger(topics=set(ledger.topics))
    fresh.sent.update(ledger.sent)
    for partition, acked in ledger.acked.items():
        fresh.acked[partition].update(acked)
    return fresh


class _Attack:
    """One operation under one kind of fault, n = 1 … until it runs clean."""

    def __init__(self, place: Path, report: Report, durability: str) -> None:
        self._library = ctypes.CDLL(None)
        self._place, self._report, self._durability = place, report, durability
        self._ledger = _template(place / "template", durability)

    def exhaust(self, operation: str, fault: Fault) -> None:
        n = 1
        while self._once(operation, fault, n):
            self._report.faults_injected[fault.name] += 1
            n += 1
            if n > 3000:
                self._report.violate("I3", f"{operation} under {fault.name} never runs clean")
                return

    def _once(self, operation: str, fault: Fault, n: int) -> bool:
        """One run with the fault at call n; False when the operation made fewer calls than that."""
        path, ledger = self._place / "store", _copy(self._ledger)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self._place / "template", path)
        where = f"{operation} {fault.name} at call {n}"
        store = None
        caught: BaseException | None = None
        try:
            if operation != "open":
                store = mqcore.open(path, durability=self._durability, config=STORE_CONFIG)
                worker = _Inside(store, ledger, n)
                worker.setup()
            self._library.mqtrace_arm(n, fault.error, fault.mode, fault.kinds)
            if operation == "open":
                store = mqcore.open(path, durability=self._durability, config=STORE_CONFIG)
            elif operation == "close":
                assert store is not None
                store.close()
            else:
                OPERATIONS[operation](worker)
        except Exception as error:
            caught = error
        fired = self._library.mqtrace_disarm()
        if caught is not None:
            self._judge_error(caught, fault, where)
        if store is not None:
            self._judge_store(store, ledger, where)
        found = open_and_check(path, ledger, self._report, durability=self._durability, go_on=n % 7 == 0)
        self._report.absorb((invariant, f"{sentence} [{where}]") for invariant, sentence in found)
        return bool(fired > 0)

    def _judge_error(self, error: BaseException, fault: Fault, where: str) -> None:
        if fault.harmless:
            self._report.violate("I29", f"{type(error).__name__}: {error} [{where}]")
        elif not isinstance(error, errors.MQError):
            self._report.violate("I3", f"{type(error).__name__}, not an error of ours: {error} [{where}]")
        elif errno.errorcode[fault.error] not in str(error):
            self._report.violate("I3", f"the cause is not named: {error} [{where}]")

    def _judge_store(self, store: Any, ledger: Ledger, where: str) -> None:
        """The store that met the fault: it reads what was acknowledged, writes on or refuses in words, and closes."""
        try:
            for partition, acked in ledger.acked.items():
                begin = ledger.trimmed[partition]
                have = {offset for offset, _ in read_all(store, TOPIC, partition)}
                if gone := [offset for offset in acked if offset not in have and offset >= begin]:
                    self._report.violate("I1", f"{len(gone)} acknowledged records unreadable after the error [{where}]")
        except errors.StoreClosedError:
            pass  # the operation was close itself
        except Exception as error:
            self._report.violate("I3", f"reading on: {type(error).__name__}: {error} [{where}]")
        try:
            worker = _Inside(store, ledger, 99)
            worker.setup()
            worker.send_and_wait()
            worker.producer.close()
        except errors.MQError:
            pass  # read-only from now on, in words
        except Exception as error:
            self._report.violate("I3", f"writing on: {type(error).__name__}: {error} [{where}]")
        try:
            store.close()
        except errors.MQError:
            pass
        except Exception as error:
            self._report.violate("I3", f"closing: {type(error).__name__}: {error} [{where}]")


def _child(place: Path, seed: int, faults: int, durability: str, only: str) -> None:
    """The suite proper, in a process that runs under iotrace.so."""
    report = Report("io-errors", seed, durability=durability, faults_wanted=faults)
    attack = _Attack(place, report, durability)
    operations = [name for name in (*OPERATIONS, "close", "open") if not only or name in only.split(",")]
    for operation in operations:
        for fault in FAULTS:
            attack.exhaust(operation, fault)
            print(json.dumps({"done": sum(report.faults_injected.values())}), flush=True)
    report.acked = attack._ledger.acked_count
    print(json.dumps(report.to_json()), flush=True)


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "fsync",
        only: str = "") -> dict[str, Any]:  # fmt: skip
    """All operations under all faults, exhaustively; `only` names operations, with commas. Returns the report as JSON."""
    with workplace() as place:
        library, root = build_recorder(place), place / "root"
        root.mkdir()
        command = [
            sys.executable,
            "-P",
            "-m",
            "mqcore.torture.io_errors",
            str(root),
            str(seed),
            str(faults),
            durability,
            only,
        ]
        env = environment(LD_PRELOAD=str(library), MQTRACE_ROOT=str(root))
        last: dict[str, Any] = {}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                last = json.loads(line)
                progress(last.get("done", 0))
        if child.returncode != 0:
            raise RuntimeError(f"the suite died with {child.returncode}")
        return last


if __name__ == "__main__":
    _child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] if len(sys.argv) > 5 else "")
