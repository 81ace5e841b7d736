"""mqcore eos-check: a user's worker under SIGKILL, and what became of every record; thin, the work is mqcore.testing's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import counting, show_facts, warn
from mqcore.cli.stores import json_option
from mqcore.testing.eos_run import Plan, run


@click.command("eos-check", context_settings={"ignore_unknown_options": True})
@click.argument("store_path", metavar="STORE", type=click.Path(path_type=Path, file_okay=False))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--source", required=True, help="Topic that records with ids are planted in; made if it is not there.")
@click.option("--sink", required=True, help="Topic that the command writes to; made if it is not there.")
@click.option("--state", help="State that must be what its changelog says.")
@click.option("--records", type=click.IntRange(1), default=10_000, show_default=True, help="Ids to plant.")
@click.option("--kills", type=click.IntRange(0), default=10, show_default=True, help="Lives that end by SIGKILL.")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Of topics made here.")
@click.option("--guarantee", type=click.Choice(["exactly_once", "at_least_once"]), default="exactly_once")
@click.option("--durability", type=click.Choice(["fsync", "os"]), help="As the command opens the store.")
@click.option("--template", default='{{"id": "{id}", "n": {n}}}', help="Values: {id}, {n}, {key}; braces are doubled.")
@click.option("--quiet", "quiet_s", type=float, default=5.0, show_default=True, help="Seconds without output: done.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same moments of the kills (default: random).")
@json_option
def eos_check(as_json: bool, guarantee: str, store_path: Path, seed: int | None, **options: Any) -> None:
    """Plant ids, run a worker, kill it at random moments; tell what was lost, duplicated, out of order.

    \b
    The command opens STORE, consumes the source and writes to the sink; each output holds the id of its input
    (eos-…, anywhere in value, key or headers). Exit code 1 if the guarantee was broken.
    Example: mqcore eos-check data --source in --sink out --kills 20 -- python worker.py data
    """
    chosen = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    plan = Plan(path=str(store_path), **options)
    with counting("eos-check", total=plan.kills, quiet=as_json, unit="kills") as counter:
        result = run(plan, chosen, counter.move_to)
    facts = {"guarantee": guarantee, **result.to_json()}
    verdict = result.verdict
    facts["passed"] = passed = verdict.passed if guarantee == "exactly_once" else verdict.at_least_once
    examples = {} if as_json else facts.pop("examples")
    show_facts(facts, as_json=as_json, title="eos-check")
    for kind, sentences in examples.items():
        for sentence in sentences:
            warn(f"{kind}: {sentence}")
    if not passed:
        raise click.exceptions.Exit(1)
