"""mqcore produce: append records from standard input or files, acknowledged before it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mqcore.cli.inputs import FORMATS, Headers, Item, format_of, read_items
from mqcore.cli.output import counting, human_bytes, show_facts
from mqcore.cli.stores import durability_option, json_option, open_to_write, store_option
from mqcore.errors import UnknownTopicError

_PROGRESS_EVERY = 1000


@click.command()
@click.argument("topic")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), help="Of the input (default: by the file's name, else lines)."
)
@click.option("--key-field", metavar="NAME", help="JSONL or CSV: the field that is the record's key.")
@click.option("--key-separator", metavar="TEXT", help="Lines: what stands before it is the key.")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME=VALUE", help="A header for each record.")
@click.option("--partition", type=click.IntRange(0), help="Send all to this partition (default: by key, or sticky).")
@click.option(
    "--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), help="Default: the topic's."
)
@click.option("--create", is_flag=True, help="Create the topic with one partition if it is missing.")
@store_option
@durability_option
@json_option
def produce(
    topic: str,
    files: tuple[Path, ...],
    kind: str | None,
    key_field: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    compression: str | None,
    create: bool,
    store_path: Path,
    durability: str,
    as_json: bool,
) -> None:
    """Append records from standard input or files.

    \b
    A JSONL object with "value" may have "key", "headers" and "timestamp"; one without is itself the value.
    Example: echo hello | mqcore produce orders
             mqcore produce flights flights.csv --key-field tailnum --create
    """
    extra = parse_headers(headers)
    options = {"key_field": key_field, "key_separator": key_separator}
    with open_to_write(store_path, durability) as store:
        if topic not in store.topics():
            if not create:
                store.partitions(topic)  # raises UnknownTopicError with the nearest names
                raise UnknownTopicError("no such topic", hint="--create makes it", topic=topic)
            store.create_topic(topic)
        settings: dict[str, Any] = {"compression": compression} if compression else {}
        with store.producer(**settings) as producer:
            facts = send_all(producer, topic, items_of(files, kind, options), extra, partition, quiet=as_json)
        facts["end_offsets"] = sum(store.end_offsets(topic).values())
    show_facts({"topic": topic} | facts, as_json=as_json)


def parse_headers(pairs: tuple[str, ...]) -> Headers:
    """("name=value", …) as headers; a usage error for what has no '='."""
    headers: Headers = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--header")
        headers.append((name, value.encode()))
    return headers


def items_of(files: tuple[Path, ...], kind: str | None, options: dict[str, Any]) -> Iterator[Item]:
    """The records of all inputs in order; '-' or no file is standard input."""
    for path in files or (Path("-"),):
        with ExitStack() as stack:
            if str(path) == "-":
                yield from read_items(sys.stdin.buffer, kind or "lines", "standard input", **options)
            else:
                stream = stack.enter_context(open(path, "rb"))
                yield from read_items(stream, kind or format_of(path), str(path), **options)


def send_all(
    producer: Any, topic: str, items: Iterator[Item], extra: Headers, partition: int | None, *, quiet: bool
) -> dict[str, Any]:
    """Send every item and wait until all are acknowledged; return counts and rates."""
    size = 0
    pending = 0
    with counting(f"produce {topic}", quiet=quiet) as counter:
        for item in items:
            headers = (item.headers or []) + extra if extra else item.headers
            producer.send(
                topic, item.value, key=item.key, headers=headers, timestamp=item.timestamp_ms, partition=partition
            )
            size += len(item.value or b"") + len(item.key or b"")
            pending += 1
            if pending == _PROGRESS_EVERY:
                counter.advance(pending)
                pending = 0
        producer.flush()  # errors of earlier sends surface here: nothing counts as sent before it
        counter.advance(pending)
        return {
            "records": counter.count,
            "bytes": size,
            "size": human_bytes(size),
            "seconds": round(counter.seconds, 3),
            "records_per_s": round(counter.rate_per_s),
        }
