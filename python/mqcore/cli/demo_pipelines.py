"""The demo's second part: the same pipeline under both guarantees, its process killed again and again, side by side.

Invariants:
    1. The truth comes from the input, the outcome from the store; the process under test reports neither.
    2. Rates come from runs without kills, the two guarantees in turns; what those runs wrote is removed.
    3. Every run is checked. Exactly once with one event lost, doubled or out of order fails the command, and so does at
       least once with one lost.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mqcore.cli import demo_kills
from mqcore.cli.demo_check import Verdict, check
from mqcore.cli.demo_load import TOPIC, Written
from mqcore.cli.demo_worker import Plan
from mqcore.cli.output import stdout
from mqcore.cli.stores import open_to_write
from mqcore.errors import InvariantError, UnknownGroupError

GUARANTEES = ("at_least_once", "exactly_once")
_CALM = (*GUARANTEES, *reversed(GUARANTEES))  # each once as the first and once as the second
_CALM_NAME = "calm"
RECEIPTS_PARTITIONS = 4
_RECEIPTS_CONFIG = {"retention.ms": -1}


@dataclass(frozen=True, slots=True)
class Pipelines:
    """What all runs share."""

    store: Path
    durability: str
    meter: str
    written: Written
    kills: int
    seed: int
    quiet: bool

    def plan(self, guarantee: str, name: str) -> Plan:
        return Plan(str(self.store), self.durability, TOPIC, guarantee, name, self.meter)


@dataclass(slots=True)
class Result:
    """One guarantee's column of the table. rate_per_s: without kills."""

    guarantee: str
    events: int
    kills: int
    again: int  # events that were handed to the function once more after a kill
    verdict: Verdict
    seconds: float
    rate_per_s: float = 0.0
    overhead_percent: float = 0.0

    def to_json(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "guarantee": self.guarantee,
            "in": self.events,
            "out": verdict.out,
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "out_of_order": verdict.out_of_order,
            "state_equal": verdict.state_equal,
            "kills_survived": self.kills,
            "processed_again": self.again,
            "msg_per_s": round(self.rate_per_s),
            "overhead_percent": round(self.overhead_percent, 1),
            "seconds": round(self.seconds, 2),
        }


def run(pipelines: Pipelines) -> list[Result]:
    """Both guarantees under kills, then both without; InvariantError: a promise was broken."""
    rng = random.Random(pipelines.seed)
    results = []
    rates: dict[str, list[float]] = {guarantee: [] for guarantee in GUARANTEES}
    for guarantee in GUARANTEES:
        plan = pipelines.plan(guarantee, guarantee.replace("_", "-"))
        result, rate = _run_one(pipelines, plan, rng, pipelines.kills)
        results.append(result)
        if not pipelines.kills:
            rates[guarantee].append(rate)
    for guarantee in _CALM if pipelines.kills else ():
        plan = pipelines.plan(guarantee, _CALM_NAME)
        rates[guarantee].append(_run_one(pipelines, plan, rng, 0)[1])
    if pipelines.kills:
        with open_to_write(pipelines.store, pipelines.durability) as store:
            forget(store, _CALM_NAME)
    for result in results:
        result.rate_per_s = statistics.fmean(rates[result.guarantee])
        if result.rate_per_s:
            result.overhead_percent = 100 * (results[0].rate_per_s / result.rate_per_s - 1)
    return results


def _run_one(pipelines: Pipelines, plan: Plan, rng: random.Random, kills: int) -> tuple[Result, float]:
    """Run one pipeline to its end and check it: its result, and the rate of its last life."""
    events = pipelines.written.records
    with open_to_write(pipelines.store, pipelines.durability) as store:
        forget(store, plan.name)
        store.create_topic(plan.receipts, partitions=RECEIPTS_PARTITIONS, config=_RECEIPTS_CONFIG)
    outcome = demo_kills.run(plan, total=events, kills=kills, rng=rng, quiet=pipelines.quiet)
    with open_to_write(pipelines.store, pipelines.durability) as store:
        verdict = check(store, plan, pipelines.written.totals, quiet=pipelines.quiet)
    if verdict.lost or (plan.guarantee == "exactly_once" and not verdict.is_exact):
        raise InvariantError(f"{plan.guarantee} did not hold", kills=outcome.kills, verdict=verdict)
    result = Result(plan.guarantee, events, outcome.kills, outcome.attempted - events, verdict, outcome.seconds)
    return result, outcome.rate_per_s


def forget(store: Any, name: str) -> None:
    """Remove what an earlier run of a pipeline left: its receipts, its group's offsets, its state."""
    from mqcore.groups import admin

    topic = f"receipts-{name}"
    if topic in store.topics():
        store.delete_topic(topic)
    with contextlib.suppress(UnknownGroupError):
        admin.delete(store.groups, name)
    with store.transaction(f"demo-forgets-{name}") as tx:
        state = tx.state(name)
        for key in list(state.keys()):
            del state[key]


def show(results: list[Result]) -> None:
    """The guarantees side by side."""
    table = Table(title="The same pipeline, killed and started again", title_justify="left", title_style="bold",
                  header_style="bold")  # fmt: skip
    table.add_column("")
    columns = [result.to_json() for result in results]
    for facts in columns:
        table.add_column(facts["guarantee"].replace("_", " "), justify="right")
    for name in columns[0]:
        if name != "guarantee":
            table.add_row(name.replace("_", " "), *(_text(name, facts[name]) for facts in columns))
    stdout.print(table)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "overhead_percent":
        return f"{value:+.1f} %" if value else "-"
    return f"{value:,}"
