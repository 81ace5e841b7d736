"""mqcore topic: create, list, describe, alter, delete, adopt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mqcore.cli.output import note, show_facts, show_rows
from mqcore.cli.stores import durability_option, json_option, open_to_read, open_to_write, parse_config, store_option

MAX_PARTITIONS = 10_000


@click.group()
def topic() -> None:
    """Create, list, describe, alter, delete and adopt topics."""


def facts_of(store: Any, name: str) -> dict[str, Any]:
    """What there is to say about a topic in one line."""
    info = store.topics()[name]
    begins, ends = store.begin_offsets(name), store.end_offsets(name)
    return {
        "topic": name,
        "topic_id": str(info.topic_id),
        "partitions": info.partitions,
        "records": sum(ends.values()) - sum(begins.values()),
        "config": info.config.to_dict(),
    }


@topic.command()
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1, MAX_PARTITIONS), default=1, show_default=True)
@click.option("--config", "-c", "pairs", multiple=True, metavar="KEY=VALUE", help="A topic setting, by Kafka's name.")
@click.option("--if-not-exists", is_flag=True, help="Leave a topic of this name as it is.")
@store_option
@durability_option
@json_option
def create(
    name: str,
    partitions: int,
    pairs: tuple[str, ...],
    if_not_exists: bool,
    store_path: Path,
    durability: str,
    as_json: bool,
) -> None:
    """Create a topic; the store too, if there is none yet.

    \b
    Example: mqcore topic create orders --partitions 12 -c retention.ms=604800000
    """
    config = parse_config(pairs)
    with open_to_write(store_path, durability) as store:
        if not (if_not_exists and name in store.topics()):
            store.create_topic(name, partitions=partitions, config=config or None)
        show_facts(facts_of(store, name), as_json=as_json)


@topic.command("list")
@store_option
@json_option
def list_(store_path: Path, as_json: bool) -> None:
    """List the topics with their partitions and records.

    \b
    Example: mqcore topic list --store demo-data
    """
    with open_to_read(store_path) as store:
        rows = [facts_of(store, name) for name in sorted(store.topics())]
    if not as_json:
        for row in rows:
            del row["topic_id"]
    show_rows(rows, as_json=as_json, empty="no topics yet; mqcore topic create NAME makes one")


@topic.command()
@click.argument("name")
@store_option
@json_option
def describe(name: str, store_path: Path, as_json: bool) -> None:
    """Show a topic's settings and each partition's offsets.

    \b
    Example: mqcore topic describe orders
    """
    with open_to_read(store_path) as store:
        begins, ends = store.begin_offsets(name), store.end_offsets(name)  # raises for an unknown topic, with a hint
        facts = facts_of(store, name)
    rows = [
        {
            "partition": number,
            "begin_offset": begins[number],
            "end_offset": ends[number],
            "records": ends[number] - begins[number],
        }
        for number in sorted(ends)
    ]
    if as_json:
        show_facts(facts | {"partition_offsets": rows}, as_json=True)
        return
    show_facts(facts, as_json=False)
    show_rows(rows, as_json=False)


@topic.command()
@click.argument("name")
@click.option(
    "--config", "-c", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting; empty VALUE: the default."
)
@click.option("--partitions", type=click.IntRange(1, MAX_PARTITIONS), help="Grow to this many partitions.")
@store_option
@json_option
def alter(name: str, pairs: tuple[str, ...], partitions: int | None, store_path: Path, as_json: bool) -> None:
    """Change settings, or add partitions (keys then move: an order per key holds only within a partition).

    \b
    Example: mqcore topic alter orders -c cleanup.policy=compact
    """
    config = parse_config(pairs)
    if not config and partitions is None:
        raise click.UsageError("nothing to change: give --config or --partitions")
    with open_to_write(store_path) as store:
        if config:
            store.alter_topic(name, {key: value if value != "" else None for key, value in config.items()})
        if partitions is not None:
            store.add_partitions(name, partitions)
        show_facts(facts_of(store, name), as_json=as_json)


@topic.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def delete(name: str, yes: bool, store_path: Path, as_json: bool) -> None:
    """Delete a topic and its records.

    \b
    Example: mqcore topic delete orders --yes
    """
    with open_to_write(store_path) as store:
        records = facts_of(store, name)["records"] if name in store.topics() else None
        if records is not None and not yes:
            click.confirm(f"Delete topic {name} with {records:,} records?", abort=True, err=True)
        store.delete_topic(name)
    show_facts({"topic": name, "deleted": True, "records": records}, as_json=as_json)


@topic.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--as", "name", metavar="TOPIC", help="The topic's name here (default: from the directory's name).")
@click.option(
    "--partition", type=click.IntRange(0), help="The partition's number (default: from the directory's name)."
)
@store_option
@durability_option
@json_option
def adopt(
    directory: Path, name: str | None, partition: int | None, store_path: Path, durability: str, as_json: bool
) -> None:
    """Take in a partition directory that Apache Kafka wrote (a copy: the original is not changed).

    \b
    Every batch is checked on the way in; indexes are rebuilt.
    Example: mqcore topic adopt /var/lib/kafka/orders-0 --store data
    """
    with open_to_write(store_path, durability) as store:
        adopted = store.adopt(str(directory), topic=name, partition=partition)
        note(f"checked {adopted.records:,} records in {adopted.batches:,} batches")
        show_facts(
            {
                "topic": adopted.topic,
                "partition": adopted.partition,
                "records": adopted.records,
                "batches": adopted.batches,
                "begin_offset": adopted.log_start_offset,
                "end_offset": adopted.log_end_offset,
            },
            as_json=as_json,
        )
