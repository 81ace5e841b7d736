"""Run the demo's pipeline to its end, over the deaths of its process.

Invariants:
    1. Every kill is SIGKILL, at a moment drawn by the seed; what was through before its kill came was not killed.
    2. No worker process is left behind.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from mqcore.cli.demo_worker import Plan
from mqcore.cli.output import Counter, counting
from mqcore.errors import InvariantError

# A kill comes up to so long after a batch was begun: in the function, in the commit, or after it. Of few events less, or
# one life would be through with all of them.
DELAY_S = 0.02
_EVENTS_PER_S = 2e6  # no worker is faster
_LAST_KILL = 0.9  # as a share of the events: later, the worker could be through before


@dataclass(slots=True)
class Outcome:
    """kills: how many it survived. attempted: events handed to the function in all lives. rate_per_s: of the last life."""

    kills: int = 0
    attempted: int = 0
    rate_per_s: float = 0.0
    seconds: float = 0.0


def run(plan: Plan, *, total: int, kills: int, rng: random.Random, quiet: bool) -> Outcome:
    """Start workers until one says that it is done. Raises InvariantError if one fails by itself."""
    due = sorted((rng.uniform(0.0, _LAST_KILL) * total for _ in range(kills)), reverse=True)
    delay_s = min(DELAY_S, total / max(kills, 1) / _EVENTS_PER_S)
    outcome, began = Outcome(), time.monotonic()
    title = plan.guarantee.replace("_", " ")
    with counting(f"{title}, {kills} kills" if kills else title, total=total, quiet=quiet) as bar:
        while not _one_life(plan, outcome, due, rng, delay_s, bar):
            outcome.kills += 1
    outcome.seconds = time.monotonic() - began
    return outcome


def _one_life(plan: Plan, outcome: Outcome, due: list[float], rng: random.Random, delay_s: float, bar: Counter) -> bool:
    """From start to death; True: it got through."""
    with _worker(plan) as (process, errors):
        assert process.stdout is not None
        for line in process.stdout:
            word, _, number = line.partition(" ")
            if word == "done":
                outcome.rate_per_s = float(number)
                continue
            outcome.attempted += int(number)
            bar.move_to(outcome.attempted)
            if due and outcome.attempted >= due[-1]:
                due.pop()
                time.sleep(rng.uniform(0.0, delay_s))
                if process.poll() is None:
                    process.kill()
                    rest = process.stdout.read()  # what it began while we waited; every line was one write
                    outcome.attempted += sum(int(one.split()[1]) for one in rest.splitlines())
                    return False
        if process.wait() != 0:
            errors.seek(0)
            raise InvariantError(
                "the demo's worker failed", exit_code=process.returncode, stderr=errors.read()[-2000:].strip()
            )
    return True


@contextmanager
def _worker(plan: Plan) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    command = [sys.executable, "-P", "-m", "mqcore.cli.demo_worker", plan.to_json()]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()
