"""mqcore log: dump, verify, repair. Looks below the API at a store's files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import counting, escape, print_json, show_facts, stdout, warn
from mqcore.cli.stores import json_option, store_option


@click.group()
def log() -> None:
    """Look into a store's files: dump, verify, repair."""


@log.command()
@click.argument("target")
@click.option("--partition", "-p", type=click.IntRange(0), default=0, show_default=True)
@click.option("--from", "first", type=click.IntRange(0), default=0, show_default=True, help="The first offset.")
@click.option("--max", "limit", type=click.IntRange(1), help="Stop after so many lines.")
@click.option("--records", is_flag=True, help="Every record, not only every batch.")
@store_option
@json_option
def dump(
    target: str, partition: int, first: int, limit: int | None, records: bool, store_path: Path, as_json: bool
) -> None:
    """Print the batches (or records) of a topic's partition, or of one segment file.

    \b
    TARGET is a topic, or the path of a .log file (of mqcore or of Apache Kafka).
    Example: mqcore log dump orders --partition 3 --records
             mqcore log dump demo-data/topics/flights-0/00000000000000000000.log
    """
    from mqcore.log.dump import dump_file, dump_partition

    if target.endswith(".log") and Path(target).is_file():
        lines = dump_file(target, from_offset=first, records=records)
    else:
        lines = dump_partition(str(store_path), target, partition, from_offset=first, records=records)
    shown = islice(lines, limit)
    if as_json:
        for line in shown:
            print_json(line)
        return
    # Lines, not a table: a log is longer than memory, and a table needs all of its rows.
    for line in shown:
        text = " ".join(f"{name}={value}" for name, value in line.items())
        stdout.print(escape(text), markup=False, soft_wrap=True)


@log.command()
@store_option
@json_option
def verify(store_path: Path, as_json: bool) -> None:
    """Check every byte: checksums, offsets, indexes, digests, views. Exit code 1 if anything is wrong.

    \b
    Works on a closed store, and beside a living writer.
    Example: mqcore log verify --store demo-data
    """
    from mqcore.log.verify import verify as verify_store

    with counting("verify", quiet=as_json, unit="bytes") as counter:
        report = verify_store(str(store_path), counter.move_to)
    show_report(report, as_json=as_json)
    if report.problems:
        raise click.exceptions.Exit(1)


@log.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def repair(yes: bool, store_path: Path, as_json: bool) -> None:
    """Move damaged ranges to STORE/quarantine and say what was lost; the store opens again afterwards.

    \b
    Nothing is deleted. Verify first: repair of a sound store changes nothing.
    Example: mqcore log repair --store data --yes
    """
    from mqcore.log.verify import repair as repair_store

    if not yes:
        click.confirm(f"Take damaged ranges out of {store_path} (kept in its quarantine folder)?", abort=True, err=True)
    with counting("repair", quiet=as_json, unit="bytes") as counter:
        report = repair_store(str(store_path), counter.move_to)
    show_report(report, as_json=as_json)
    if report.problems:
        raise click.exceptions.Exit(1)


def show_report(report: Any, *, as_json: bool) -> None:
    """A report's counts, then a line for each problem, loss and remark."""
    facts = dict(report.to_json())
    if as_json:
        show_facts(facts, as_json=True)
        return
    lists = {name: value for name, value in facts.items() if isinstance(value, list | tuple)}
    show_facts({name: value for name, value in facts.items() if name not in lists}, as_json=False)
    for name in lists:
        for item in getattr(report, name):
            warn(f"{name}: {item}")
