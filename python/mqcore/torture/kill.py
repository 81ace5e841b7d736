"""T1: SIGKILL at random system calls of a writing process; the next worker goes on where it died.

The worker dies before, after or in the middle of its n-th write-family call (iotrace.c), n drawn by the seed. Nothing that it
was told is acknowledged may be gone; under every durability, because a killed process leaves the page cache whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from mqcore.torture.attack import build_recorder, environment, open_and_check, worker_command, workplace
from mqcore.torture.ledger import Ledger
from mqcore.torture.report import Report

_KILLS_PER_STORE = 20


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "os") -> Report:
    """Kill `faults` workers; a new store every twenty kills keeps the files small."""
    report = Report("kill", seed, durability=durability, usual_durability="os", faults_wanted=faults)
    rng = random.Random(seed)
    with workplace() as place:
        library = build_recorder(place)
        while report.faults_injected["kill"] < faults and not report.violations:
            store, ledger = place / f"store-{report.faults_injected['kill']}", Ledger()
            for _ in range(_KILLS_PER_STORE):
                if report.faults_injected["kill"] >= faults:
                    break
                killed = _one_life(library, store, ledger, rng, durability)
                report.faults_injected["kill"] += killed
                report.absorb(open_and_check(store, ledger, report, durability=durability))
                progress(report.faults_injected["kill"])
            report.acked += ledger.acked_count
    return report


def _one_life(library: Path, store: Path, ledger: Ledger, rng: random.Random, durability: str) -> int:
    """Run one worker until its call number n kills it; 1 if it was killed, 0 if it ended before."""
    record = store.with_suffix(".record")
    before = record.stat().st_size if record.exists() else 0
    command = worker_command(
        store,
        record,
        seed=rng.randrange(1 << 30),
        calls=60,
        durability=durability,
        sent=dict(ledger.sent),
        reopen_every=25,
    )
    env = environment(
        LD_PRELOAD=str(library),
        MQTRACE_ROOT=str(store),
        MQTRACE_FILE=os.devnull,
        MQTRACE_KILL=str(rng.randrange(1, 400)),
    )
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    with open(record, "rb") as file:
        file.seek(before)
        ledger.add_lines(file.read())
    if result.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the worker failed by itself: {result.stderr[-2000:]}")
    return int(result.returncode == -signal.SIGKILL)
