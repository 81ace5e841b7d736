"""mqcore txn: list, describe, abort."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import note, show_facts, show_rows
from mqcore.cli.stores import json_option, open_to_read, open_to_write, store_option
from mqcore.errors import FatalError
from mqcore.log.transaction_records import Status
from mqcore.transactions import admin


@click.group()
def txn() -> None:
    """List, describe and abort transactions."""


@txn.command("list")
@click.option("--hanging", is_flag=True, help="Only those that are open longer than their time-out.")
@store_option
@json_option
def list_(hanging: bool, store_path: Path, as_json: bool) -> None:
    """List the transactional ids, and what is open.

    \b
    Works beside a living writer. A row without an id: the first transaction of an id, still open.
    Example: mqcore txn list --hanging
    """
    with open_to_read(store_path) as store:
        views = admin.list_transactions(store.log)
        if hanging:
            views = admin.hanging(store.log, views)
    show_rows([_row(view) for view in views], as_json=as_json, empty="no transactions")


@txn.command()
@click.argument("name")
@store_option
@json_option
def describe(name: str, store_path: Path, as_json: bool) -> None:
    """Show one transactional id: its state, producer id, epoch, partitions, times.

    \b
    Example: mqcore txn describe teller-1
    """
    with open_to_read(store_path) as store:
        found = [view for view in admin.list_transactions(store.log) if view.transactional_id == name]
    if not found:
        raise FatalError("no such transactional id", hint="`mqcore txn list` shows them", transactional_id=name)
    show_facts(_row(found[0]), as_json=as_json)


@txn.command()
@click.argument("names", nargs=-1)
@click.option("--hanging", is_flag=True, help="All that are open longer than their time-out.")
@store_option
@json_option
def abort(names: tuple[str, ...], hanging: bool, store_path: Path, as_json: bool) -> None:
    """Abort open transactions, of the ids that are named or that hang.

    \b
    Opens the store itself: nobody else may have it open for writing. What a crash left open is aborted by any open.
    Example: mqcore txn abort --hanging
    """
    if bool(names) == hanging:
        raise click.UsageError("name transactional ids, or give --hanging")
    with open_to_read(store_path) as store:
        views = [view for view in admin.list_transactions(store.log) if view.status is Status.ONGOING]
        chosen = admin.hanging(store.log, views) if hanging else [v for v in views if v.transactional_id in names]
        durability = str(store.durability)
    if chosen:
        with open_to_write(store_path, durability) as store:
            admin.abort(store.log, [view.producer_id for view in chosen])
    elif not as_json:
        note("nothing to abort")
    show_rows([_row(view) for view in chosen], as_json=as_json)


def _row(view: admin.TransactionView) -> dict[str, Any]:
    return {
        "id": view.transactional_id,
        "state": view.status.name,
        "producer_id": view.producer_id,
        "epoch": view.epoch,
        "partitions": " ".join(f"{topic}-{number}" for topic, number in view.partitions),
        "timeout_ms": view.timeout_ms,
        "started": _time(view.started_ms),
        "updated": _time(view.updated_ms),
    }


def _time(ms: int) -> str | None:
    return (
        None if ms < 0 else datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")
    )
