"""T3: power loss after every system call of a workload, under seven models of what the disk kept.

A worker runs once under the recorder; its trace is replayed call by call, and after each call the disk is rebuilt as each model
leaves it, opened and held against what the worker had been told by then. Under `fsync` nothing acknowledged or seen may be
gone; under `os` only I2 to I5 are promised. Past the exhaustive part, longer runs are sampled at random."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from mqcore.torture.attack import build_recorder, environment, open_and_check, worker_command, workplace
from mqcore.torture.crashfs import MODELS, Call, Disk, Image, Op, materialise, read_trace
from mqcore.torture.ledger import Found, Ledger
from mqcore.torture.report import Report

WORKERS = max(1, min(4, os.cpu_count() or 1))
_SYSTEM_CALLS_MIN = 300  # of the workload that is cut after each call
_STEPS, _MORE_STEPS = 24, 8  # of that workload, and how many more while it is too short
_LONG_CALLS = 150


Opened = Callable[..., Found]  # (path, ledger, report, durability=, lossless=, go_on=): see attack.open_and_check


class Subject(NamedTuple):
    """What runs under the recorder, and how its stores are judged. command: (store, record, seed, calls, durability) ->
    argv; ledger: makes one that takes add_lines, and has acked_count and promise; check: see Opened. lossless: the
    durabilities under which nothing acknowledged may be gone; gone: the invariant that a missing store breaks;
    go_on_every: so many calls apart lie those after which a store is written on."""

    command: Callable[[Path, Path, int, int, str], list[str]]
    ledger: Callable[[], Any]
    check: Opened
    lossless: tuple[str, ...] = ("fsync",)
    gone: str = "I1"
    go_on_every: int = 5


def _log_command(store: Path, record: Path, seed: int, calls: int, durability: str) -> list[str]:
    return worker_command(store, record, seed=seed, calls=calls, durability=durability, reopen_every=calls // 2 + 1)


LOG = Subject(_log_command, Ledger, open_and_check)


def record_run(place: Path, seed: int, calls: int, durability: str, subject: Subject = LOG) -> tuple[list[Call], str]:
    """Run a worker under the recorder; return its trace and the root of its paths."""
    library, store = build_recorder(place), place / f"live-{seed}" / "store"
    store.parent.mkdir()
    record, trace = place / f"record-{seed}", place / f"trace-{seed}"
    record.write_bytes(b"")
    result = subprocess.run(
        subject.command(store, record, seed, calls, durability),
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


def _states(
    calls: list[Call], root: str, seed: int, chosen: dict[int, list[str]], subject: Subject
) -> Iterator[tuple[int, str, Image, Any]]:
    """Crash states after the chosen calls under the chosen models, with the record as it stood then."""
    disk, ledger, told = Disk(root), subject.ledger(), b""
    for number, call in enumerate(calls):
        disk.feed(call)
        if call.op is Op.MARK:
            told += call.data
            whole, _, told = told.rpartition(b"\n")
            ledger.add_lines(whole + b"\n")
        for model in chosen.get(number, ()):
            yield number, model, disk.crash(model, seed), ledger


def _check_states(
    calls: list[Call], root: str, seed: int, chosen: dict[int, list[str]], place: Path, durability: str,
    subject: Subject, out: Connection,
) -> None:  # fmt: skip
    """One worker's share; a line before each state, so that a state that kills the process is known by name."""
    report = Report("power", seed, durability=durability)
    seen, lossless = set(), durability in subject.lossless
    for number, model, image, ledger in _states(calls, root, seed, chosen, subject):
        key = _key(image), ledger.promise
        out.send(("state", f"call {number} {model}"))
        if key in seen:
            continue  # the same disk under the same promises
        seen.add(key)
        target = place / "disk"
        shutil.rmtree(target, ignore_errors=True)
        materialise(image, root, target)
        if not (target / "store").exists():
            found = [(subject.gone, "the store is gone")] if lossless and ledger.acked_count else []
        else:
            go_on = number % subject.go_on_every == 0
            found = subject.check(
                target / "store", ledger, report, durability=durability, lossless=lossless, go_on=go_on
            )
        for invariant, sentence in found:
            out.send(("violation", invariant, f"{sentence} [call {number} {calls[number].op.name} {model}]"))
    report.notes["states_checked"] = len(seen)
    out.send(("done", report))


def _key(image: Image) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path, content in image.items():
        digest.update(path.encode() + b"\0" + (b"/" if content is None else content))
    return digest.digest()


def attack_states(report: Report, place: Path, calls: list[Call], root: str, chosen: dict[int, list[str]],
            progress: Callable[[int], None], subject: Subject = LOG) -> None:  # fmt: skip
    """Share the states among processes and collect what they find."""
    running = []
    for index in range(WORKERS):
        share = {number: models for number, models in chosen.items() if number % WORKERS == index}
        mine, theirs = multiprocessing.Pipe(duplex=False)
        folder = place / f"worker-{index}"
        folder.mkdir(exist_ok=True)
        process = multiprocessing.get_context("fork").Process(
            target=_check_states, args=(calls, root, report.seed, share, folder, report.durability, subject, theirs)
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
                    report.add_counts(rest[0])
                    report.notes["states_checked"] += rest[0].notes["states_checked"]
                    break
        except EOFError:
            process.join()
            report.violate("I3", f"the process died with {process.exitcode} at {state}")
        process.join()


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "fsync") -> Report:
    """Every call of the first workload under every model; then random states of longer ones until `faults` is reached."""
    report = Report("power", seed, durability=durability, faults_wanted=faults)
    with workplace() as place:
        attack(report, place, progress)
    return report


def attack(report: Report, place: Path, progress: Callable[[int], None], subject: Subject = LOG) -> None:
    """See run; of any subject, until the report has the faults it wants."""
    seed, faults, durability = report.seed, report.faults_wanted, report.durability
    rng = random.Random(seed)
    steps, system_calls = _STEPS, 0
    while system_calls < _SYSTEM_CALLS_MIN:
        calls, root = record_run(place, seed, steps, durability, subject)
        system_calls = sum(call.op is not Op.MARK for call in calls)
        steps += _MORE_STEPS
    report.notes |= {"system_calls": system_calls, "states_checked": 0}
    report.acked += acked(calls, subject)
    every = {n: list(MODELS) for n, call in enumerate(calls) if call.op is not Op.MARK}
    attack_states(report, place, calls, root, every, progress, subject)
    step = 1
    while report.faults_injected["power"] < faults and not report.violations:
        calls, root = record_run(place, seed + step, _LONG_CALLS, durability, subject)
        report.acked += acked(calls, subject)
        left = min(faults - report.faults_injected["power"], 4000)
        chosen: dict[int, list[str]] = {}
        for _ in range(left):
            chosen.setdefault(rng.randrange(len(calls)), []).append(rng.choice(MODELS))
        attack_states(report, place, calls, root, chosen, progress, subject)
        step += 1


def sample(
    report: Report,
    place: Path,
    steps: int,
    states: int,
    models: Sequence[str] = MODELS,
    progress: Callable[[int], None] = lambda _: None,
    subject: Subject = LOG,
) -> None:
    """So many states of one workload of `steps` steps, at random calls, each under one of `models` at random."""
    report.notes.setdefault("states_checked", 0)
    rng = random.Random(report.seed)
    calls, root = record_run(place, report.seed, steps, report.durability, subject)
    report.acked += acked(calls, subject)
    numbers = [number for number, call in enumerate(calls) if call.op is not Op.MARK]
    chosen: dict[int, list[str]] = {}
    for number in rng.sample(numbers, min(len(numbers), states)):
        chosen[number] = [rng.choice(models)]
    attack_states(report, place, calls, root, chosen, progress, subject)


def acked(calls: list[Call], subject: Subject = LOG) -> int:
    ledger = subject.ledger()
    ledger.add_lines(b"".join(call.data for call in calls if call.op is Op.MARK))
    count: int = ledger.acked_count
    return count
