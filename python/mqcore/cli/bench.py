"""mqcore bench: run a benchmark suite of mqcore.bench by name; thin, the figures are made there."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import note, print_json, show_rows
from mqcore.cli.stores import json_option
from mqcore.errors import MissingExtraError

SUITES = ("engine", "eos")


@click.command()
@click.argument("suite", type=click.Choice(SUITES), default="engine")
@click.option("--only", default="", metavar="REGEX", help="Only the rows whose name matches.")
@click.option(
    "--rounds", type=click.IntRange(1), default=15, show_default=True, help="Rounds; a ratio is their median."
)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Where the files go (default: here; a tmpfs would measure memory).")  # fmt: skip
@json_option
def bench(suite: str, only: str, rounds: int, directory: Path | None, as_json: bool) -> None:
    """Measure this machine, each figure beside its limit.

    \b
    A ratio is ours to the base, both measured in the same rounds; 1 is the limit itself.
    Example: mqcore bench engine --only 'append|read' --json
    """
    try:
        module = importlib.import_module(f"mqcore.bench.{suite}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed", hint="pip install --group bench") from error
    rows = []
    for row in module.run(only, rounds=rounds, directory=directory):
        facts: dict[str, Any] = row.to_json()
        if as_json:
            print_json(facts)
            continue
        note(f"{row.name}: {row.ratio:.2f}" + (f" ({row.why})" if row.why else ""))
        rows.append(_narrow(facts))
    if not as_json:
        show_rows(rows, as_json=False, title=f"bench {suite}", empty="no row of that name")


def _narrow(facts: dict[str, Any]) -> dict[str, Any]:
    """A row as 80 columns hold it: the base, which is the longest, last, or why the row did not run."""
    return {
        "row": facts["name"],
        "ratio": f"{facts['ratio']:.2f}",
        "goal": f"{facts['goal']:.2f}",
        "ok": facts["reached"],
        "figure": facts["figure"],
        "base": facts["why"] or facts["base"],
    }
