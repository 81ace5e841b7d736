"""T2: SIGKILL of the process that owns the store and runs a transactional pipeline, at random system calls.

Each store has 1 to 20 partitions and 1 to 4 workers, under one of the two guarantees. A life dies before, after or in the
middle of its n-th write-family call (iotrace.c); small n hit the open and its recovery. Most lives are followed by a check, the
others by the next life, which then has two deaths to recover from. In the end the pipeline finishes, and everything counts."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import mqcore
from mqcore import errors
from mqcore.torture.attack import build_recorder, environment, workplace
from mqcore.torture.eos_ledger import AT_LEAST_ONCE, EXACTLY_ONCE, EosLedger, EosTally, check
from mqcore.torture.eos_workload import STORE_CONFIG, Job
from mqcore.torture.ledger import Found
from mqcore.torture.report import Report

_LIVES_PER_STORE = 20
_CALLS = 700  # a life dies at a call up to this one; the density is that of 1/n
_RECORDS = 240  # planted for a life
_UNCHECKED = 0.25


class Server:
    """The process that forks lives."""

    def __init__(self, library: Path) -> None:
        command = [sys.executable, "-P", "-m", "mqcore.torture.eos_workload", "--serve"]
        self._errors = open(library.with_name("errors"), "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(LD_PRELOAD=str(library), OPENBLAS_NUM_THREADS="1"),
        )

    def live(self, job: Job) -> int:
        """One life; its exit code. RuntimeError: it failed by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(job.to_line() + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line.strip() not in ("0", str(-signal.SIGKILL)):
            self._errors.seek(0)
            raise RuntimeError(f"the worker failed by itself ({line.strip()}): {self._errors.read()[-3000:].decode()}")
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._errors.close()


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "os") -> Report:
    """Kill `faults` lives, on a new store every twenty."""
    report = Report("kill-eos", seed, durability=durability, usual_durability="os", faults_wanted=faults)
    report.notes |= {"stores": 0, "at_least_once_duplicated": 0, EXACTLY_ONCE: 0, AT_LEAST_ONCE: 0}
    rng = random.Random(seed)
    with workplace() as place, Server(build_recorder(place)) as server:
        while report.faults_injected["kill"] < faults and not report.violations:
            number = report.notes["stores"]
            path = place / f"store-{number}"
            job = Job(
                str(path),
                str(path.with_suffix(".record")),
                partitions=rng.choice((1, 2, 3, 5, 8, 20)),
                workers=rng.choice((1, 1, 2, 4)),
                guarantee=AT_LEAST_ONCE if number % 3 == 2 else EXACTLY_ONCE,
                durability=durability,
            )
            _one_store(
                server, job, report, rng, min(_LIVES_PER_STORE, faults - report.faults_injected["kill"]), progress
            )
            report.notes["stores"] += 1
    return report


def _one_store(
    server: Server, job: Job, report: Report, rng: random.Random, kills: int, progress: Callable[[int], None]
) -> None:
    ledger, read, at = EosLedger(), EosTally(), 0
    while kills > 0 and not report.violations:
        call = int(math.exp(rng.uniform(0, math.log(_CALLS))))
        life = replace(
            job, seed=rng.randrange(1 << 30), kill=call, plant=rng.randrange(2 * _RECORDS // job.partitions + 2)
        )
        killed = server.live(life) == -signal.SIGKILL
        kills -= killed
        report.faults_injected["kill"] += killed
        report.notes[job.guarantee] += killed
        at = _absorb(job, ledger, at)
        if rng.random() >= _UNCHECKED:
            read = EosTally()
            report.absorb(open_and_check(job, ledger, read, report))
        progress(report.faults_injected["kill"])
    if not report.violations:
        server.live(replace(job, seed=rng.randrange(1 << 30), plant=1))
        _absorb(job, ledger, at)
        read = EosTally()
        report.absorb(open_and_check(job, ledger, read, report, whole=True))
    report.acked += ledger.acked_count
    report.read += read.read
    report.lost += read.lost
    report.reordered += read.reordered
    if job.guarantee == EXACTLY_ONCE:
        report.duplicated += read.duplicated
    else:
        report.notes["at_least_once_duplicated"] += read.duplicated


def _absorb(job: Job, ledger: EosLedger, at: int) -> int:
    """Take in what the record got since; where it ends now."""
    if not os.path.exists(job.record):
        return at
    with open(job.record, "rb") as file:
        file.seek(at)
        ledger.add_lines(file.read())
        return file.tell()


def open_and_check(job: Job, ledger: EosLedger, tally: EosTally, report: Report, *, whole: bool = False) -> Found:
    """Open the store after a fault, and hold it against the record."""
    try:
        began = time.perf_counter()
        with mqcore.open(job.store, durability=job.durability, config=STORE_CONFIG) as store:
            report.recovery_s.append(time.perf_counter() - began)
            found = check(store, ledger, tally, guarantee=job.guarantee, whole=whole)
    except errors.MQError as error:
        found = [("I1" if ledger.acked_count else "I3", f"{type(error).__name__}: {error}")]
    except Exception as error:
        found = [("I3", f"{type(error).__name__}: {error}")]
    what = f"{job.guarantee}, {job.partitions} partitions, {job.workers} workers"
    return [(invariant, f"{sentence} [{what}]") for invariant, sentence in found]
