"""T7: Ctrl-C at every line of send, of a transaction up to its abort, and of close.

Wherever it comes: nothing of that transaction is there, no destructor complains, and the next one of the same id goes through.
The lines of a commit are not among these."""

from __future__ import annotations

import faulthandler
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture import whole
from mqcore.torture.attack import workplace
from mqcore.torture.ledger import Found
from mqcore.torture.lines import Line, interrupt
from mqcore.torture.report import Report

_PARTS = ("transactions/", "client/transaction.py", "client/dispatch.py", "client/producer.py", "client/group_consumer.py",
          "groups/", "state/", "broker/", "log/partition_log.py", "client/embedded.py", "client/consumer.py")  # fmt: skip
_NEXT = 100_000  # + n: the transaction that follows the n-th
_STUCK_S = 100  # of one line: an operation takes milliseconds
Operation = Callable[[Any, int], Any]


def _aborted(store: Any, number: int) -> None:
    tx = store.transaction("id")
    whole.fill(tx, number)
    tx.abort()


def _sent(store: Any, number: int) -> None:
    """A plain producer beside: its records are no part of any transaction."""
    with store.producer() as producer:
        producer.send(whole.SOURCE, b"%d" % number).result()


OPERATIONS: dict[str, Operation] = {"aborted": _aborted, "sent": _sent}


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Lines spread evenly over every operation, `faults` of them in all, or every line where there are fewer; each operation
    in a process of its own, so that one that is stuck is a violation and not a suite that hangs."""
    report = Report("signals", seed, usual_durability="memory", durability="memory", faults_wanted=faults)
    share = max(1, -(-faults // len(OPERATIONS)))
    for name in (*OPERATIONS, "close"):
        _in_a_process(name, report, seed, share)
        progress(sum(report.faults_injected.values()))
    return report


def _in_a_process(name: str, report: Report, seed: int, share: int) -> None:
    """What main() below tells, counted here."""
    command = [sys.executable, "-P", "-m", "mqcore.torture.signals", name, str(seed), str(share)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        report.violate("T7", f"{name}: stuck, or ended by {ended.returncode}: {ended.stderr[-2000:]}")
        return
    told = json.loads(ended.stdout)
    report.faults_injected[name] += told["interrupts"]
    report.acked += told["acked"]
    report.absorb((invariant, sentence) for invariant, sentence in told["found"])
    if ended.stderr:
        report.violate("T7", f"{name} wrote to stderr: {ended.stderr[-1000:]}")


def main(name: str, seed: int, share: int) -> None:
    """One operation's sweep; what it saw goes to stdout as JSON. An interrupt that leaves it stuck ends the process."""
    sweep = Sweep()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: sweep.found.append(
        ("T7", f"{name}: a destructor complained: {args.exc_value!r} in {args.object!r}")
    )
    try:
        if name == "close":
            _close(sweep, share)
        else:
            _sweep(name, sweep, seed, share)
        gc.collect()
    finally:
        sys.unraisablehook = hook
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"interrupts": sweep.interrupts, "acked": sweep.acked, "found": sweep.found}))


@dataclass(slots=True)
class Sweep:
    """What one process saw."""

    interrupts: int = 0
    acked: int = 0
    found: Found = field(default_factory=list)


def _sweep(name: str, sweep: Sweep, seed: int, share: int) -> None:
    """Lines 1, 1 + step, …, each interrupted once, on one store: what it survives it must survive in a row."""
    with mqcore.memory() as store:
        whole.setup(store)
        lines = _length(store, name)
        step = max(1, lines // share)
        committed = list[int]()
        for number, at in enumerate(range(1 + seed % step, lines + 1, step), start=2):
            faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            line = Line(at, interrupt, _PARTS)
            try:
                with line.watched():
                    OPERATIONS[name](store, number)
            except KeyboardInterrupt:
                pass
            except errors.MQError as error:
                sweep.found.append(("T7", f"{name} at {line.where}: {type(error).__name__}: {error}"))
            sweep.interrupts += line.fired
            if _goes_on(store, number, f"{name} at line {at} ({line.where})", sweep):
                committed.append(_NEXT + number)
        sweep.found += [(i, f"{name}: {sentence}") for i, sentence in whole.check(store, committed)]
        sweep.acked += len(committed)


def _goes_on(store: Any, number: int, where: str, sweep: Sweep) -> bool:
    """Whether the next transaction of the same id, after an interrupt, commits; and none is open any more then."""
    store.tend()
    try:
        with store.transaction("id") as tx:
            whole.fill(tx, _NEXT + number)
    except errors.MQError as error:
        sweep.found.append(("I20", f"after {where}: {type(error).__name__}: {error}"))
        return False
    sweep.found += [(i, f"after {where}: {sentence}") for i, sentence in whole.check_nothing_open(store)]
    return True


def _length(store: Any, name: str) -> int:
    """Lines that the operation runs."""
    line = Line(1 << 60, interrupt, _PARTS)
    with line.watched():
        OPERATIONS[name](store, 1)
    return line.count


def _close(sweep: Sweep, most: int) -> None:
    """Ctrl-C while a store with an open transaction closes: closing again works, and what it leaves opens."""
    with workplace() as place:
        for at in range(1, most + 1):
            faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            path = place / f"close-{at}"
            store = mqcore.open(path, durability="os")
            store.create_topic("t")
            tx = store.transaction("id")
            tx.send("t", b"x")
            line = Line(at, interrupt, ("client/embedded.py", "broker/", "transactions/", "client/transaction.py"))
            with suppress(KeyboardInterrupt), line.watched():
                store.close()
            store.close()
            with mqcore.open(path, durability="os") as again:
                sweep.found += [(i, f"closed at {line.where}: {s}") for i, s in whole.check_nothing_open(again)]
            sweep.interrupts += line.fired
            sweep.acked += 1
            if not line.fired:
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
