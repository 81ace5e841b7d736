"""T2 and T3 for transactions: power loss after each system call of a transactional pipeline under `fsync`.

The pipeline (eos_workload.py) runs once under the recorder; after each call the disk is rebuilt as each of seven models leaves
it. What opens there must have whole transactions only: sink, offsets and state agree record by record, money is conserved, and
every commit that returned is there. Every fifth store also runs the pipeline to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mqcore.torture import power
from mqcore.torture.attack import workplace
from mqcore.torture.crashfs import MODELS
from mqcore.torture.eos_ledger import EosLedger, EosTally
from mqcore.torture.eos_workload import Job, live
from mqcore.torture.kill_eos import open_and_check
from mqcore.torture.ledger import Found
from mqcore.torture.report import Report

_EXHAUSTIVE = 2000  # states; fewer are drawn at random
_STEPS = 40  # of a workload whose states are drawn
_PARTITIONS = 3


def _job(store: Path, record: Path, seed: int, steps: int, durability: str) -> Job:
    """A step is worth a record in each partition; every third run has two workers."""
    return Job(
        str(store), str(record), seed=seed, partitions=_PARTITIONS, workers=1 + (seed % 3 == 0), durability=durability,
        plant=steps // 2, lives=2,
    )  # fmt: skip


def _command(store: Path, record: Path, seed: int, steps: int, durability: str) -> list[str]:
    job = _job(store, record, seed, steps, durability)
    return [sys.executable, "-P", "-m", "mqcore.torture.eos_workload", job.to_line()]


def _check(
    path: Path, ledger: EosLedger, report: Report, *, durability: str, lossless: bool = True, go_on: bool = False
) -> Found:
    tally = EosTally()
    record = path.with_name("record")
    job = _job(path, record, report.seed, 4, durability)
    found = open_and_check(job, ledger, tally, report)
    if go_on and not found:
        record.unlink(missing_ok=True)
        try:
            live(job)
            ledger_after = EosLedger()
            ledger_after.add_lines(record.read_bytes())
            found = open_and_check(job, ledger_after, tally, report, whole=True)
        except Exception as error:
            found = [("I3", f"after recovery it cannot go on: {type(error).__name__}: {error}")]
    report.read += tally.read
    report.lost += tally.lost
    report.duplicated += tally.duplicated
    report.reordered += tally.reordered
    return found


PIPELINE = power.Subject(_command, EosLedger, _check)


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Every call of a short run under every model, then random states of longer ones; a small count: random states only."""
    report = Report("power-eos", seed, faults_wanted=faults)
    with workplace() as place:
        if faults >= _EXHAUSTIVE:
            power.attack(report, place, progress, PIPELINE)
            return report
        while report.faults_injected["power"] < faults and not report.violations:
            power.sample(
                report, place, _STEPS, faults - report.faults_injected["power"], progress=progress, subject=PIPELINE
            )
            report.seed += 1
        report.seed = seed
    return report


def sampled(seed: int, states: int, models: Sequence[str] = MODELS) -> Report:
    """Some states, for the planted bugs."""
    report = Report("power-eos", seed)
    with workplace() as place:
        power.sample(report, place, _STEPS, states, models, subject=PIPELINE)
    return report
