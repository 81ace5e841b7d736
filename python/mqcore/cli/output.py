"""What commands print: tables for people, one JSON object a line for machines, progress for the impatient.

Invariants:
    1. Standard output carries results only. With as_json it carries JSON lines and nothing else.
    2. Progress appears on standard error, and only if that is a terminal.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

# soft_wrap in the table's stead: a narrow pipe must not cut values off.
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def json_default(value: Any) -> Any:
    """What json does not know: bytes (text if UTF-8, else base64), paths, numpy numbers, dataclasses, sets."""
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of(bytes(value))
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


def text_of(raw: bytes) -> str | dict[str, str]:
    """Bytes as text if they are UTF-8, else {"base64": …}, so that JSON loses nothing."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode("ascii")}


def escape(text: str) -> str:
    """Text for a terminal: control characters are escaped, since a record must not drive a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def print_json(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(value, default=json_default, ensure_ascii=False))


def show_rows(
    rows: Iterable[Mapping[str, Any]], *, as_json: bool, title: str = "", columns: Sequence[str] = (), empty: str = ""
) -> None:
    """Print rows as a table, or one JSON object each. columns: names and order (default: those of the first row);
    empty: the note for people when there is no row."""
    if as_json:
        for row in rows:
            print_json(dict(row))
        return
    materialised = [dict(row) for row in rows]
    if not materialised:
        stderr.print(empty or "nothing to show", style="dim")
        return
    names = list(columns) or list(materialised[0])
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in materialised)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in materialised:
        table.add_row(*(cell(row.get(name)) for name in names))
    stdout.print(table)


def show_facts(facts: Mapping[str, Any], *, as_json: bool, title: str = "") -> None:
    """Print one object: its fields below each other, or as one line of JSON."""
    if as_json:
        print_json(dict(facts))
        return
    table = Table(title=title or None, title_justify="left", title_style="bold", show_header=False)
    table.add_column("name", style="bold")
    table.add_column("value", overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), cell(value))
    stdout.print(table)


def cell(value: Any) -> Text:
    """A value as a table shows it: grouped digits, short floats, no markup taken from data."""
    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}")
    if isinstance(value, Mapping):
        return Text(escape(", ".join(f"{key}={item}" for key, item in value.items())) or "-")
    if isinstance(value, list | tuple | set | frozenset):
        return Text(escape(", ".join(map(str, value))) or "-")
    return Text(escape(str(value)))


def note(text: str) -> None:
    """A remark for people, on standard error."""
    stderr.print(Text(text, style="dim"))


def warn(text: str) -> None:
    """A warning for people, on standard error."""
    stderr.print(Text(text, style="yellow"))


def human_bytes(size: float) -> str:
    """Bytes in binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


class _Rate(ProgressColumn):
    """Units per second since the start: messages, or bytes in their own units."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        if not task.elapsed:
            return Text("")
        rate = task.completed / task.elapsed
        shown = f"{human_bytes(rate)}/s" if self._unit == "bytes" else f"{rate:,.0f} {self._unit}/s"
        return Text(shown, style="cyan")


class Counter:
    """Counts messages of a long command; draws a bar only at intervals, since it is called per batch or per line."""

    def __init__(self, progress: Progress | None, total: int | None, description: str) -> None:
        self.count = 0
        self._total = total
        self.began = time.perf_counter()
        self._progress = progress
        self._task = progress.add_task(description, total=total) if progress else None

    def advance(self, messages: int) -> None:
        self.move_to(self.count + messages)

    def move_to(self, count: int, total: int | None = None) -> None:
        """So many are done; total: of how many, where that becomes known only now."""
        self.count = count
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=count, total=total or self._total)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def rate_per_s(self) -> float:
        return self.count / max(self.seconds, 1e-9)


@contextmanager
def counting(
    description: str, *, total: int | None = None, quiet: bool = False, unit: str = "msg"
) -> Iterator[Counter]:
    """A progress bar with msg/s around a long loop; only counts where standard error is no terminal, or quiet.

    unit: what is counted, as the rate shows it: "msg", "bytes", "faults".
    """
    if quiet or not stderr.is_terminal:
        yield Counter(None, total, description)
        return
    done = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), done, _Rate(unit), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        yield Counter(progress, total, description)


def histogram(values_ms: Sequence[float], *, title: str, bars: int = 12, width: int = 48) -> Table:
    """A log-scaled histogram of latencies (milliseconds) as a table of bars."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("ms", justify="right")
    table.add_column("count", justify="right")
    table.add_column("")
    for upper, count in histogram_counts(values_ms, bars):
        filled = round(width * count / max(1, len(values_ms)) * 2) / 2
        table.add_row(
            f"≤ {upper:.3g}", f"{count:,}", Text("█" * int(filled) + ("▌" if filled % 1 else ""), style="cyan")
        )
    return table


def histogram_counts(values: Sequence[float], bars: int) -> list[tuple[float, int]]:
    """(upper edge, count) of buckets whose edges grow by one factor from the smallest to the largest value."""
    if not values:
        return []
    low, high = max(min(values), 1e-6), max(max(values), 1e-6)
    factor = (high / low) ** (1 / bars) if high > low else 1.0
    edges = [low * factor ** (number + 1) for number in range(bars)] if factor > 1 else [high]
    edges[-1] = high
    counts = [0] * len(edges)
    for value in values:
        counts[next((index for index, edge in enumerate(edges) if value <= edge), len(edges) - 1)] += 1
    return list(zip(edges, counts, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0..1) of the values lies; 0.0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
