"""Power loss and kills in the middle of transactions: every system call of a transactional workload is a crash.

Under fsync the disk is left as each model of crashfs.py leaves it, under os as a killed process leaves the page cache (model m2,
at every call): what the store gives afterwards is held against what the worker had been told by then (txn_workload.check)."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from mqcore.torture.attack import build_recorder, environment, workplace
from mqcore.torture.crashfs import MODELS, Call, Disk, Op, materialise, read_trace
from mqcore.torture.power import _key
from mqcore.torture.report import Report
from mqcore.torture.txn_workload import check

WORKERS = max(1, min(4, os.cpu_count() or 1))


def record_run(place: Path, seed: int, transactions: int, durability: str) -> tuple[list[Call], str]:
    """Run the workload under the recorder; return its trace and the root of its paths."""
    library, store = build_recorder(place), place / f"live-{seed}" / "store"
    store.parent.mkdir()
    record, trace = place / f"record-{seed}", place / f"trace-{seed}"
    record.write_bytes(b"")
    command = [sys.executable, "-P", "-m", "mqcore.torture.txn_workload", str(store), str(record)]
    result = subprocess.run(
        [*command, "--seed", str(seed), "--transactions", str(transactions), "--durability", durability],
        env=environment(
            LD_PRELOAD=str(library), MQTRACE_ROOT=str(store.parent), MQTRACE_FILE=str(trace), MQTRACE_MARK=str(record)
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"the worker failed without a fault: {result.stderr[-2000:]}")
    shutil.rmtree(store.parent)
    return read_trace(trace), str(store.parent)


def _check_states(
    calls: list[Call], root: str, seed: int, chosen: dict[int, list[str]], place: Path, durability: str, out: Connection
) -> None:
    """One process's share. Sends ("state", place) before each, what it finds, and at the end how many differed."""
    disk, told, seen = Disk(root), b"", set()
    for number, call in enumerate(calls):
        disk.feed(call)
        if call.op is Op.MARK:
            told += call.data
        for model in chosen.get(number, ()):
            where = f"call {number} {call.op.name} {model}"
            out.send(("state", where))
            image = disk.crash(model, seed)
            key = _key(image), told.count(b"\n")
            if key in seen:
                continue
            seen.add(key)
            target = place / "disk"
            shutil.rmtree(target, ignore_errors=True)
            materialise(image, root, target)
            lines = told.split(b"\n")[:-1]
            if (target / "store").exists():
                found = check(target / "store", lines, durability=durability, go_on=number % 3 == 0)
            else:
                found = [("I15", "the store is gone")] if b'"committed"' in told else []
            for invariant, sentence in found:
                out.send(("violation", invariant, f"{sentence} [{where}]"))
    out.send(("done", len(seen)))


def attack(
    report: Report,
    place: Path,
    calls: list[Call],
    root: str,
    chosen: dict[int, list[str]],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Share the states among processes and collect what they find."""
    running = []
    for index in range(WORKERS):
        share = {number: models for number, models in chosen.items() if number % WORKERS == index}
        mine, theirs = multiprocessing.Pipe(duplex=False)
        folder = place / f"worker-{index}"
        folder.mkdir(exist_ok=True)
        process = multiprocessing.get_context("fork").Process(
            target=_check_states, args=(calls, root, report.seed, share, folder, report.durability, theirs)
        )
        process.start()
        theirs.close()
        running.append((process, mine))
    for process, pipe in running:
        state = "start"
        try:
            while True:
                kind, *rest = pipe.recv()
                if kind == "state":
                    state = rest[0]
                    report.faults_injected["power"] += 1
                    progress(report.faults_injected["power"])
                elif kind == "violation":
                    report.violate(rest[0], rest[1])
                else:
                    report.notes["states_checked"] += rest[0]
                    break
        except EOFError:
            process.join()
            report.violate("I3", f"the process died with {process.exitcode} at {state}")
        process.join()


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
        calls, root = record_run(place, seed, transactions, durability)
        every = [(number, model) for number, call in enumerate(calls) if call.op is not Op.MARK for model in models]
        report.notes["states"] = len(every)
        report.faults_wanted = min(faults, len(every))
        report.acked = sum(call.data.count(b'"committed"') for call in calls if call.op is Op.MARK)
        rng = random.Random(seed)
        chosen: dict[int, list[str]] = {}
        for number, model in sorted(rng.sample(every, min(faults, len(every)))):
            chosen.setdefault(number, []).append(model)
        attack(report, place, calls, root, chosen, progress)
    return report
