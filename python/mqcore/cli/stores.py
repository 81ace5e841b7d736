"""How commands reach a store: the options they share, opening it, and reading a topic's records up to an end."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

import mqcore
from mqcore.errors import StoreFormatError, UnknownTopicError

Function = TypeVar("Function", bound=Callable[..., Any])
DEFAULT_STORE = "mqcore-data"


def store_option(function: Function) -> Function:
    """--store DIR, or the environment's MQCORE_STORE."""
    return click.option(
        "--store",
        "store_path",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_STORE,
        envvar="MQCORE_STORE",
        show_default=True,
        show_envvar=True,
        help="The store's directory.",
    )(function)


def json_option(function: Function) -> Function:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for machines.")(function)


def durability_option(function: Function) -> Function:
    """--durability fsync|os."""
    return click.option(
        "--durability",
        type=click.Choice(["fsync", "os"]),
        default="fsync",
        show_default=True,
        help="What an acknowledgement survives: power loss (fsync), or the death of the process (os).",
    )(function)


def open_to_write(path: Path, durability: str = "fsync") -> Any:
    """Open (or create) a store as its writer."""
    return mqcore.open(str(path), durability=durability)


def open_to_read(path: Path) -> Any:
    """Open an existing store read-only: works beside a living writer, creates nothing."""
    if not path.is_dir():
        raise StoreFormatError(
            "no store here",
            hint="Name one with --store or MQCORE_STORE; `mqcore topic create` makes one",
            path=str(path),
        )
    return mqcore.open(str(path), read_only=True)


def partitions_of(store: Any, topic: str, wanted: tuple[int, ...]) -> list[int]:
    """The partitions to work on: those asked for, or all of the topic's. UnknownTopicError for one it does not have."""
    present = sorted(store.partitions(topic))
    for partition in wanted:
        if partition not in present:
            hint = f"It has 0 to {present[-1]}"
            raise UnknownTopicError("no such partition", hint=hint, topic=topic, partition=partition)
    return sorted(set(wanted)) or present


def parse_config(pairs: tuple[str, ...]) -> dict[str, str]:
    """("retention.ms=1000", …) as a dict; a usage error for what has no '='."""
    config = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--config")
        config[name.strip()] = value.strip()
    return config


def parse_position(text: str) -> tuple[str, int]:
    """What --from says, as (kind, number).

    "earliest", "latest"; "120" an offset; "-10" the last ten of each partition; "@1700000000000" milliseconds since
    1970; "2024-05-01" or "2024-05-01T10:00:00Z" a time (UTC unless it names a zone).
    """
    if text in ("earliest", "latest"):
        return text, 0
    if text.startswith("@") and text[1:].isdigit():
        return "timestamp", int(text[1:])
    if text.lstrip("-").isdigit():
        return ("offset", int(text)) if not text.startswith("-") else ("last", -int(text))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither earliest, latest, an offset, @milliseconds nor an ISO time", param_hint="--from"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return "timestamp", int(moment.timestamp() * 1000)


def open_consumer(store: Any, topic: str, partitions: list[int], position: tuple[str, int], isolation: str) -> Any:
    """A consumer without a group, assigned to these partitions, standing where --from says."""
    kind, number = position
    start: str | int = number if kind == "timestamp" else ("latest" if kind == "latest" else "earliest")
    consumer = store.consumer(topic, start=start, isolation=isolation)
    consumer.assign(partitions)
    if kind in ("offset", "last"):
        begins, ends = store.begin_offsets(topic), store.end_offsets(topic)
        for partition in partitions:
            wanted = number if kind == "offset" else ends[partition] - number
            # Before the log's start (retention took it) means its first record, past the end means the end.
            consumer.seek(partition, min(max(wanted, begins[partition]), ends[partition]))
    return consumer


def read_to_end(store: Any, consumer: Any, topic: str, partitions: list[int]) -> Iterator[Any]:
    """Yield batches until each partition's end as it is now; what is appended meanwhile is not waited for."""
    ends = store.end_offsets(topic)
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        batches = consumer.poll(timeout_s=0.2, max_records=10_000)
        if not batches:  # below the end yet nothing comes: the end is not visible to this reader (open transaction)
            return
        yield from batches


def follow(consumer: Any) -> Iterator[Any]:
    """Yield batches for ever, waiting for more at the end."""
    while True:
        yield from consumer.poll(timeout_s=1.0, max_records=10_000)
