"""mqcore consume: print the records of a topic, up to its end or for ever."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from mqcore.cli.output import counting, escape, json_default, note, text_of
from mqcore.cli.stores import (
    follow as follow_batches,
)
from mqcore.cli.stores import (
    json_option,
    open_consumer,
    open_to_read,
    parse_position,
    partitions_of,
    read_to_end,
    store_option,
)

FORMATS = ("text", "json", "raw", "template")
ISOLATION = ("read_committed", "read_uncommitted")
FROM_HELP = "earliest, latest, an offset, -N (the last N of each partition), @milliseconds, or an ISO time."
TEMPLATE_HELP = "With {topic}, {partition}, {offset}, {timestamp}, {key}, {value}, {headers}; \\t and \\n are known."
Formatter = Callable[[Any, str, int], bytes]


@click.command()
@click.argument("topic")
@click.option("--from", "start", default="earliest", show_default=True, metavar="WHERE", help=FROM_HELP)
@click.option("--partition", "-p", "wanted", type=click.IntRange(0), multiple=True, help="Only this one (may repeat).")
@click.option("--follow", "-f", is_flag=True, help="Wait for more at the end; ^C ends.")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option(
    "--template", help="For --format template: {topic} {partition} {offset} {timestamp} {key} {value} {headers}."
)
@click.option("--max", "limit", type=click.IntRange(1), help="Stop after so many records.")
@click.option("--isolation", type=click.Choice(ISOLATION), default=ISOLATION[0], show_default=True)
@store_option
@json_option
def consume(
    topic: str,
    start: str,
    wanted: tuple[int, ...],
    follow: bool,
    kind: str,
    template: str | None,
    limit: int | None,
    isolation: str,
    store_path: Path,
    as_json: bool,
) -> None:
    """Print records of a topic.

    \b
    Reads beside a living writer. Order holds within a partition; partitions come one after the other.
    Example: mqcore consume orders --from -10 --json
             mqcore consume orders --follow --format template --template '{offset} {key} {value}'
    """
    if (template is not None) != (kind == "template"):
        raise click.UsageError("--format template and --template TEXT go together")
    position = parse_position(start)
    formatter = formatter_of("json" if as_json else kind, template or "")
    with open_to_read(store_path) as store:
        partitions = partitions_of(store, topic, wanted)
        with open_consumer(store, topic, partitions, position, isolation) as consumer:
            batches = follow_batches(consumer) if follow else read_to_end(store, consumer, topic, partitions)
            try:
                count = print_records(batches, formatter, sys.stdout.buffer, limit, flush=follow)
            except KeyboardInterrupt:
                if not follow:
                    raise
                return
    if not as_json and kind == "text":
        note(f"{count:,} records")


def print_records(
    batches: Iterator[Any], formatter: Formatter, stream: BinaryIO, limit: int | None, *, flush: bool
) -> int:
    """Write each record; return how many. flush: after each batch, so that a follower's reader waits for nothing."""
    count = 0
    # A bar only where the records go elsewhere: on one terminal they would mix.
    with counting("consume", quiet=flush or stream.isatty()) as counter:
        for batch in batches:
            for record in batch:
                stream.write(formatter(record, batch.topic, batch.partition))
                count += 1
                if count == limit:
                    stream.flush()
                    return count
            counter.advance(len(batch))
            if flush:
                stream.flush()
    stream.flush()
    return count


def formatter_of(kind: str, template: str) -> Formatter:
    """What turns a record into the bytes that are printed, line end included."""
    if kind == "json":
        return format_json
    if kind == "raw":
        return lambda record, _topic, _partition: (record.value or b"") + b"\n"
    if kind == "template":
        return template_formatter(template)
    return format_text


def format_json(record: Any, topic: str, partition: int) -> bytes:
    """One JSON object, which `mqcore produce --format jsonl` takes: bytes are text if UTF-8, else {"base64": …}."""
    body = {
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": None if record.key is None else text_of(bytes(record.key)),
        "value": None if record.value is None else text_of(bytes(record.value)),
        "headers": [[name, None if value is None else text_of(bytes(value))] for name, value in record.headers],
    }
    return json.dumps(body, ensure_ascii=False, default=json_default).encode() + b"\n"


def printable(raw: Any) -> str:
    """Bytes for a terminal: control characters and what is no UTF-8 are escaped."""
    return "null" if raw is None else escape(bytes(raw).decode("utf-8", "backslashreplace"))


def format_text(record: Any, topic: str, partition: int) -> bytes:
    """partition:offset, key if there is one, value."""
    key = f" {printable(record.key)}" if record.key is not None else ""
    return f"{partition}:{record.offset}{key} {printable(record.value)}\n".encode()


def template_formatter(template: str) -> Formatter:
    """A template by str.format's rules, over plain strings and numbers only: a template cannot reach attributes."""
    names = {"topic", "partition", "offset", "timestamp", "key", "value", "headers"}
    pieces = _parse_template(template.replace("\\t", "\t").replace("\\n", "\n"), names)

    def render(record: Any, topic: str, partition: int) -> bytes:
        values = {
            "topic": topic,
            "partition": str(partition),
            "offset": str(record.offset),
            "timestamp": str(record.timestamp),
            "key": printable(record.key),
            "value": printable(record.value),
            "headers": ",".join(f"{name}={printable(value)}" for name, value in record.headers),
        }
        return ("".join(values[text] if is_field else text for is_field, text in pieces) + "\n").encode()

    return render


def _parse_template(template: str, names: set[str]) -> list[tuple[bool, str]]:
    """(is a field, text) pieces of a template; a usage error names what it does not know."""
    pieces: list[tuple[bool, str]] = []
    rest = template
    while rest:
        before, brace, after = rest.partition("{")
        pieces.append((False, before))
        if not brace:
            break
        name, closed, rest = after.partition("}")
        if not closed or name not in names:
            raise click.BadParameter(f"{{{name}}}: known are {', '.join(sorted(names))}", param_hint="--template")
        pieces.append((True, name))
    return pieces
