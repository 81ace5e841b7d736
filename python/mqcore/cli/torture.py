"""mqcore torture: run a fault suite of mqcore.torture by name; thin, the attack and the checker live there."""

from __future__ import annotations

import importlib
import inspect
import random
from typing import Any

import click

from mqcore.cli.output import counting, print_json, show_facts, warn
from mqcore.cli.stores import json_option

# suite -> faults of a full run; each is mqcore.torture.<name with _>.run(seed, faults, progress, …) -> Report.
SUITES = {
    "kill": 1000,
    "kill-eos": 2000,
    "power": 12_000,
    "power-eos": 6000,
    "io-errors": 3000,
    "bit-flips": 200_000,
    "oom": 500,
    "signals": 400,
    "fork-threads": 21,
    "clock": 200,
    "buffers": 10_000,
    "zombies": 10_000,
    "hanging": 500,
    "ids": 100_000,
    "rebalance-storm": 2000,
    "mutants": 36,
    "soak": 100_000_000,  # records
}


@click.command()
@click.argument("suite", type=click.Choice([*SUITES, "all"]))
@click.option("--seed", type=click.IntRange(0), help="Same seed, same faults (default: random, and printed).")
@click.option("--faults", type=click.IntRange(1), help="How many (default: a full run's count).")
@click.option(
    "--durability", type=click.Choice(["fsync", "os"]), help="Of the stores under attack (default: the suite's)."
)
@json_option
def torture(suite: str, seed: int | None, faults: int | None, durability: str | None, as_json: bool) -> None:
    """Attack a store with faults and check what it promised.

    \b
    Exit code 1 unless every promise held. A run without faults, or without an acknowledged record, is a failure too.
    Example: mqcore torture kill --faults 60 --seed 7 --json
    """
    chosen = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    passed = True
    for name in SUITES if suite == "all" else (suite,):
        report = run_suite(name, chosen, faults or SUITES[name], durability, quiet=as_json)
        passed = passed and bool(report["passed"])
        if as_json:
            print_json(report)
            continue
        examples = report.pop("examples", [])
        show_facts(report, as_json=False, title=f"torture {name}")
        for sentence in examples:
            warn(sentence)
    if not passed:
        raise click.exceptions.Exit(1)


def run_suite(name: str, seed: int, faults: int, durability: str | None = None, *, quiet: bool) -> dict[str, Any]:
    """Run one suite; its report as JSON has it. durability: None for what the suite is usually run under."""
    module = importlib.import_module(f"mqcore.torture.{name.replace('-', '_')}")
    with counting(f"torture {name}", total=faults, quiet=quiet, unit="faults") as counter:
        options = {} if durability is None else {"durability": durability}
        if options and "durability" not in inspect.signature(module.run).parameters:
            raise click.UsageError(f"{name} runs under one durability only")
        report = module.run(seed, faults, counter.move_to, **options)
    facts: dict[str, Any] = report.to_json()
    return facts
