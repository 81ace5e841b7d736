"""mqcore group: list, describe, explain, reset-offsets, delete."""

from __future__ import annotations

import csv
import datetime
import re
from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import note, print_json, show_facts, show_rows
from mqcore.cli.stores import json_option, open_to_read, open_to_write, store_option
from mqcore.errors import UnknownTopicError
from mqcore.groups import admin
from mqcore.types import IsolationLevel, TopicPartition

_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)


@click.group()
def group() -> None:
    """List, describe, explain, move and delete consumer groups."""


@group.command("list")
@click.option("--state", help="Only groups in this state (Empty, Stable, …).")
@store_option
@json_option
def list_(state: str | None, store_path: Path, as_json: bool) -> None:
    """List the groups that left anything in the store.

    \b
    Example: mqcore group list
    """
    with open_to_read(store_path) as store:
        views = admin.list_groups(store.groups)
    rows = [
        {
            "group": one.group,
            "state": str(one.state),
            "members": len(one.members),
            "generation": one.generation,
            "assignor": one.protocol,
        }
        for one in views
        if state is None or str(one.state).lower() == state.lower()
    ]
    show_rows(rows, as_json=as_json, empty="no groups; a consumer with group= makes one")


@group.command()
@click.argument("name")
@click.option("--members", is_flag=True, help="Who is in it, instead of how far it is.")
@click.option("--isolation", type=click.Choice(["read_committed", "read_uncommitted"]), default="read_committed")
@store_option
@json_option
def describe(name: str, members: bool, isolation: str, store_path: Path, as_json: bool) -> None:
    """Show how far a group is in each partition: offsets, and the records that it has still to read.

    \b
    Lag counts what the group will be handed: no control markers, no aborted records, nothing that is gone.
    Example: mqcore group describe ledger
    """
    with open_to_read(store_path) as store:
        view = admin.describe(store.groups, name)
        now_ms = store.log.clock.wall_ms()
        if members:
            show_rows([_member_row(one) for one in view.members], as_json=as_json, empty="no members")
            return
        found = admin.describe_offsets(store.groups, name, isolation=IsolationLevel(isolation))
    if not as_json:
        note(f"group {name}: {view.state}, generation {view.generation}, {len(view.members)} members")
    show_rows([_offset_row(one, now_ms) for one in found], as_json=as_json, empty="no offsets")


def _member_row(member: admin.MemberView) -> dict[str, Any]:
    return {
        "member": member.member_id,
        "instance": member.instance_id,
        "client": member.client_id,
        "partitions": " ".join(f"{one.topic}-{one.partition}" for one in member.partitions),
    }


def _offset_row(one: admin.OffsetView, now_ms: int) -> dict[str, Any]:
    lag = one.lag
    behind = None if lag is None else round((now_ms - lag.oldest_ms) / 1000, 1) if lag.oldest_ms >= 0 else 0.0
    return {
        "topic": one.partition.topic,
        "partition": one.partition.partition,
        "committed": None if one.committed is None else one.committed.offset,
        "end": None if lag is None else lag.end,
        "lag": None if lag is None else lag.records,
        "lag_s": behind,
        "exact": lag is None or lag.exact,
        "member": None if one.member is None else one.member.member_id,
    }


@group.command()
@click.argument("name")
@store_option
@json_option
def explain(name: str, store_path: Path, as_json: bool) -> None:
    """Say how a group stands, and why it last rebalanced.

    \b
    Example: mqcore group explain ledger
    """
    with open_to_read(store_path) as store:
        view = admin.describe(store.groups, name)
        notes = admin.notes(store.groups, name)
    causes = [
        {"at": _time(one.at_ms), "generation": one.generation, "reason": one.reason, "member": one.member}
        for one in view.causes
    ]
    facts = {
        "group": name,
        "state": str(view.state),
        "since": _time(view.state_ms),
        "generation": view.generation,
        "members": len(view.members),
    }
    if as_json:
        print_json(facts | {"notes": notes, "causes": causes})
        return
    show_facts(facts, as_json=False)
    for sentence in notes:
        note(sentence)
    show_rows(causes, as_json=False, title="last rebalances", empty="no rebalance is on record")


def _time(at_ms: int) -> str | None:
    if at_ms < 0:
        return None
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")


# -- changes ---------------------------------------------------------------------------------------------------------


@group.command("reset-offsets")
@click.argument("name")
@click.option("--topic", "topics", multiple=True, metavar="TOPIC[:0,1]", help="A topic, or some of its partitions.")
@click.option("--all-topics", is_flag=True, help="All topics of which the group has offsets.")
@click.option("--to-earliest", is_flag=True, help="To the first record that is there.")
@click.option("--to-latest", is_flag=True, help="To the end.")
@click.option("--to-current", is_flag=True, help="To where it is; to the end where it is nowhere.")
@click.option("--to-offset", type=click.IntRange(0))
@click.option("--to-datetime", metavar="TIME", help="To the first record at or after an ISO time (UTC by default).")
@click.option("--by-duration", metavar="PnDTnHnMnS", help="To the first record at or after so long ago.")
@click.option("--shift-by", type=int, help="So many offsets forward, or (negative) back.")
@click.option(
    "--from-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV: topic,partition,offset."
)
@click.option("--execute", is_flag=True, help="Do it; without this only the plan is shown.")
@click.option("--dry-run", is_flag=True, help="Show the plan only (the default).")
@store_option
@json_option
def reset_offsets(
    name: str,
    topics: tuple[str, ...],
    all_topics: bool,
    from_file: Path | None,
    execute: bool,
    dry_run: bool,
    store_path: Path,
    as_json: bool,
    **to: Any,
) -> None:
    """Move a group that nobody is in to other offsets. Targets past the log are moved to its ends.

    \b
    Example: mqcore group reset-offsets ledger --topic payments --to-earliest --execute
             mqcore group reset-offsets ledger --all-topics --by-duration PT2H
    """
    chosen = {option: value for option, value in to.items() if value is not None and value is not False}
    if len(chosen) + (from_file is not None) != 1:
        raise click.UsageError("name one target: --to-earliest, --to-latest, --to-offset, … or --from-file")
    if execute and dry_run:
        raise click.UsageError("--execute or --dry-run, not both")
    if from_file is None and bool(topics) == all_topics:
        raise click.UsageError("name --topic (may repeat), or --all-topics")
    with open_to_write(store_path) if execute else open_to_read(store_path) as store:
        if from_file is not None:
            moves = admin.plan_offsets(store.groups, name, _read_file(from_file))
        else:
            kind, number = _target(chosen, store.log.clock.wall_ms())
            partitions = _partitions(store, name, topics)
            moves = admin.plan_reset(store.groups, name, partitions, kind, number)
        if execute:
            admin.reset(store.groups, name, moves)
    rows = [
        {
            "topic": one.partition.topic,
            "partition": one.partition.partition,
            "before": one.before,
            "after": one.after,
            "done": execute,
        }
        for one in moves
    ]
    show_rows(rows, as_json=as_json, empty="no partitions")
    if not execute and not as_json:
        note("a plan only: --execute does it")


def _target(chosen: dict[str, Any], now_ms: int) -> tuple[admin.To, int]:
    """What was asked for, as plan_reset takes it."""
    option, value = next(iter(chosen.items()))
    if option == "to_offset":
        return "offset", int(value)
    if option == "shift_by":
        return "shift", int(value)
    if option == "to_datetime":
        return "time", _parse_time(value)
    if option == "by_duration":
        return "time", now_ms - _parse_duration(value)
    words: dict[str, admin.To] = {"to_earliest": "earliest", "to_latest": "latest", "to_current": "current"}
    return words[option], 0


def _parse_time(text: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no ISO time", param_hint="--to-datetime") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


def _parse_duration(text: str) -> int:
    """An ISO 8601 duration (weeks, days, hours, minutes, seconds) in ms."""
    found = _DURATION.fullmatch(text)
    parts = {name: int(number) for name, number in (found.groupdict() if found else {}).items() if number}
    if not parts:
        raise click.BadParameter(f"{text!r} is no duration as P1DT2H30M is one", param_hint="--by-duration")
    return int(datetime.timedelta(**parts).total_seconds() * 1000)


def _partitions(store: Any, name: str, topics: tuple[str, ...]) -> list[TopicPartition]:
    if not topics:
        return sorted(store.groups.fetch_offsets(name))
    found = []
    for text in topics:
        topic, colon, numbers = text.partition(":")
        there = store.partitions(topic)
        try:
            wanted = [int(number) for number in numbers.split(",")] if colon else there
        except ValueError:
            raise click.BadParameter(f"{text!r} is not TOPIC:0,1,…", param_hint="--topic") from None
        for number in wanted:
            if number not in there:
                raise UnknownTopicError("no such partition", topic=topic, partition=number)
        found += [TopicPartition(topic, number) for number in wanted]
    return found


def _read_file(path: Path) -> dict[TopicPartition, int]:
    """topic,partition,offset a line, as kafka-consumer-groups exports it."""
    found = {}
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            try:
                topic, partition, offset = (cell.strip() for cell in row)
                found[TopicPartition(topic, int(partition))] = int(offset)
            except ValueError:
                raise click.BadParameter(
                    f"line {number} is not topic,partition,offset", param_hint="--from-file"
                ) from None
    return found


@group.command()
@click.argument("name")
@click.option("--topic", "topics", multiple=True, metavar="TOPIC[:0,1]", help="Only its offsets of these; not itself.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def delete(name: str, topics: tuple[str, ...], yes: bool, store_path: Path, as_json: bool) -> None:
    """Delete a group that nobody is in, and how far it was.

    \b
    Example: mqcore group delete ledger --yes
    """
    with open_to_write(store_path) as store:
        admin.describe(store.groups, name)  # UnknownGroupError before the question
        if not yes:
            click.confirm(f"Delete group {name}?", abort=True, err=True)
        if topics:
            admin.delete_offsets(store.groups, name, _partitions(store, name, topics))
        else:
            admin.delete(store.groups, name)
    show_facts({"group": name, "deleted": True}, as_json=as_json)
