"""Power loss and kills in the middle of transactions: every system call of a transactional workload is a crash.

Under fsync the disk is left as each model of crashfs.py leaves it, under os as a killed process leaves the page cache (model m2,
at every call): what the store gives afterwards is held against what the worker had been told by then (txn_workload.check)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

from mqcore.torture import power
from mqcore.torture.attack import workplace
from mqcore.torture.crashfs import MODELS, Op
from mqcore.torture.report import Report
from mqcore.torture.txn_workload import Told, check


def _command(store: Path, record: Path, seed: int, transactions: int, durability: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "mqcore.torture.txn_workload", str(store), str(record)]
    return [*command, "--seed", str(seed), "--transactions", str(transactions), "--durability", durability]


TRANSACTIONS = power.Subject(_command, Told, check, lossless=("fsync", "os"), gone="I15", go_on_every=3)


def run(
    seed: int,
    faults: int,
    progress: Callable[[int], None] = lambda _: None,
    durability: str = "fsync",
    transactions: int = 20,
) -> Report:
    """At most `faults` crash states of one workload, drawn by the seed from every call under every model."""
    report = Report("txn-power", seed, durability=durability)
    report.notes["states_checked"] = 0
    models = MODELS if durability == "fsync" else ("m2",)
    with workplace() as place:
        calls, root = power.record_run(place, seed, transactions, durability, TRANSACTIONS)
        every = [(number, model) for number, call in enumerate(calls) if call.op is not Op.MARK for model in models]
        report.notes["states"] = len(every)
        report.faults_wanted = min(faults, len(every))
        report.acked = power.acked(calls, TRANSACTIONS)
        rng = random.Random(seed)
        chosen: dict[int, list[str]] = {}
        for number, model in sorted(rng.sample(every, min(faults, len(every)))):
            chosen.setdefault(number, []).append(model)
        power.attack_states(report, place, calls, root, chosen, progress, TRANSACTIONS)
    return report
