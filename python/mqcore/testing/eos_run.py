"""A user's worker process under SIGKILL, with the EOS checker's ids going through it.

Invariants:
    1. One process writes the store at a time: records are planted while no worker runs; beside one, the store is read only.
    2. A kill takes the worker's whole process group, without a warning.
    3. The last life is not killed: it gets the time to finish, and is asked to end (SIGTERM) when nothing comes any more.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mqcore.client.open import open as open_store
from mqcore.errors import MQError
from mqcore.testing.eos_checker import Id, Plant, Verdict, check

_LOOK_S = 0.02
_UNPROMPTED = 4  # one kill of so many does not wait for a sign of life: it hits the start, and recovery
_END_S = 30.0


@dataclass(slots=True)
class Run:
    """What happened. kills: lives that ended by our SIGKILL; exits: return codes of lives that ended by themselves."""

    verdict: Verdict
    seed: int
    kills: int = 0
    exits: list[int] = field(default_factory=list)
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "kills": self.kills,
            "exits": self.exits,
            "finished": self.finished,
            **self.verdict.to_json(),
        }


@dataclass(slots=True)
class Plan:
    """What to run. path: the store; command: the worker, which consumes `source` and writes to `sink`.

    records: ids to plant, spread over the lives; partitions: of topics that are made here. kill_after_s: a life is
    killed at a random moment up to so long after its first output. quiet_s: finished when nothing came for so long.
    """

    path: str
    source: str
    sink: str
    command: Sequence[str]
    records: int = 10_000
    kills: int = 10
    partitions: int = 4
    state: str | None = None
    truth: Callable[[Plant], Mapping[bytes, bytes]] | None = None
    durability: str | None = None
    template: str = '{{"id": "{id}", "n": {n}}}'
    kill_after_s: float = 0.5
    start_s: float = 30.0
    quiet_s: float = 5.0


def run(plan: Plan, seed: int, progress: Callable[[int], None] = lambda _: None) -> Run:
    """Plant, run, kill, again; then check. progress: called with the number of kills.

    Raises MQError (the store cannot be opened), OSError (the command cannot be run).
    """
    rng, plant = random.Random(seed), Plant(template=plan.template)
    result = Run(Verdict(), seed)
    share = plan.records // (plan.kills + 1)
    for number in range(plan.kills):
        _plant(plan, plant, share)
        _life(plan, rng, result, prompted=number % _UNPROMPTED != _UNPROMPTED - 1)
        progress(result.kills)
    _plant(plan, plant, plan.records - share * plan.kills)
    with _worker(plan) as process:
        result.finished = _finish(plan, plant, process)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
    with open_store(plan.path, durability=plan.durability) as store:
        truth = None if plan.truth is None else plan.truth(plant)
        result.verdict = check(store, plant, source=plan.source, sink=plan.sink, state=plan.state, truth=truth)
    return result


def _plant(plan: Plan, plant: Plant, count: int) -> None:
    with open_store(plan.path, durability=plan.durability) as store:
        for topic in (plan.source, plan.sink):
            if topic not in store.topics():
                store.create_topic(topic, partitions=plan.partitions)
        plant.into(store, plan.source, count)


@contextmanager
def _worker(plan: Plan) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(plan.command, start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _life(plan: Plan, rng: random.Random, result: Run, *, prompted: bool) -> None:
    with _worker(plan) as process:
        if prompted:
            _await_output(plan, process)
        deadline = time.monotonic() + rng.uniform(0, plan.kill_after_s)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
        if process.poll() is None:
            result.kills += 1
        else:
            result.exits.append(process.returncode)


def _await_output(plan: Plan, process: subprocess.Popen[bytes]) -> None:
    """Until something new is in the sink, the process ends, or it takes too long."""
    with open_store(plan.path, read_only=True) as store:
        before, looks_left = _ends(store, plan.sink), plan.start_s / _LOOK_S
        while process.poll() is None and looks_left > 0 and _ends(store, plan.sink) == before:
            looks_left -= 1
            time.sleep(_LOOK_S)


def _finish(plan: Plan, plant: Plant, process: subprocess.Popen[bytes]) -> bool:
    """Look on until every id is in the sink and nothing comes for a moment, or nothing came for `quiet_s`.

    Looks are counted, not time: a machine that stood still was not quiet.
    """
    found: set[Id] = set()
    positions: dict[int, int] = {}
    looks_left = (plan.start_s + plan.quiet_s) / _LOOK_S
    with open_store(plan.path, read_only=True) as store:
        while looks_left > 0:
            ended = process.poll() is not None
            new = list(plant.read(store, plan.sink, positions))
            positions |= {seen.partition: seen.offset + 1 for seen in new}
            found |= {seen.id for seen in new if seen.id is not None}
            whole = len(found) >= len(plant.placed)
            if ended:
                return whole
            if new:
                looks_left = (plan.quiet_s / 5 if whole else plan.quiet_s) / _LOOK_S
            looks_left -= 1
            time.sleep(_LOOK_S)
    return whole


def _ends(store: Any, topic: str) -> dict[int, int]:
    try:
        ends: dict[int, int] = store.end_offsets(topic)
        return ends
    except MQError:
        return {}
