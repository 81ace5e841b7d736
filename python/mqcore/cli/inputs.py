"""Where produced records come from: lines, JSONL, CSV. Each reader yields one Item a record and keeps none.

A line that cannot be read is an error that names file and line: nothing is skipped in silence.
"""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqcore.errors import InvalidRecordError

FORMATS = ("lines", "jsonl", "csv")
Headers = list[tuple[str, bytes | None]]


@dataclass(slots=True)
class Item:
    """One record to send. timestamp_ms: None takes the time of sending."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None


def format_of(path: Path | None) -> str:
    """The format that a file's name says; standard input (None) is lines."""
    suffix = path.suffix.lower() if path else ""
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}.get(suffix, "lines")


def read_items(stream: io.BufferedIOBase | Iterable[bytes], kind: str, name: str, **options: Any) -> Iterator[Item]:
    """Yield the records of a stream. kind: one of FORMATS; name: for error messages; options: of that reader."""
    if kind == "jsonl":
        return read_jsonl(stream, name, key_field=options.get("key_field"))
    if kind == "csv":
        return read_csv(stream, name, key_field=options.get("key_field"))
    return read_lines(stream, key_separator=options.get("key_separator"))


def read_lines(stream: Iterable[bytes], *, key_separator: str | None = None) -> Iterator[Item]:
    """A value a line, without its line end; with a separator, what stands before its first occurrence is the key."""
    separator = key_separator.encode() if key_separator else None
    for line in stream:
        value = line.removesuffix(b"\n").removesuffix(b"\r")
        if separator and separator in value:
            key, _, value = value.partition(separator)
            yield Item(value, key)
        else:
            yield Item(value)


def read_jsonl(stream: Iterable[bytes], name: str, *, key_field: str | None = None) -> Iterator[Item]:
    """An object a line: {"value", "key", "headers", "timestamp"}; an object without "value" is the value itself, and
    key_field then names the field that becomes its key."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise InvalidRecordError(f"not JSON: {error}", file=name, line=number) from None
        if not isinstance(parsed, dict) or "value" not in parsed:
            key = parsed.get(key_field) if isinstance(parsed, dict) and key_field else None
            yield Item(line.strip(), as_bytes(key))
            continue
        try:
            yield Item(
                as_bytes(parsed["value"]),
                as_bytes(parsed.get("key", parsed.get(key_field) if key_field else None)),
                headers_of(parsed.get("headers")),
                timestamp_of(parsed.get("timestamp")),
            )
        except (TypeError, ValueError) as error:
            raise InvalidRecordError(f"not a record: {error}", file=name, line=number) from None


def read_csv(stream: Iterable[bytes], name: str, *, key_field: str | None = None) -> Iterator[Item]:
    """A row a record: its value is the row as a JSON object by the header's names; key_field names the key's column."""
    try:
        rows = csv.DictReader((line.decode("utf-8-sig") for line in stream), strict=True)
        if key_field and key_field not in (rows.fieldnames or ()):
            hint = f"The columns are {', '.join(rows.fieldnames or ())}"
            raise InvalidRecordError("no such column", hint=hint, file=name, column=key_field)
        for row in rows:
            if None in row or None in row.values():
                raise InvalidRecordError("the row has another number of fields", file=name, line=rows.line_num)
            key = row[key_field].encode() if key_field else None
            yield Item(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode(), key or None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidRecordError(f"not CSV: {error}", file=name) from None


def as_bytes(value: Any) -> bytes | None:
    """A JSON value as record bytes: text as UTF-8, {"base64": …} decoded, null as none, anything else as JSON."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"], validate=True)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(value: Any) -> Headers | None:
    """{"name": value} or [["name", value], …] as Kafka's list of headers (names may repeat in the second form)."""
    if not value:
        return None
    pairs = value.items() if isinstance(value, dict) else value
    return [(str(name), as_bytes(item)) for name, item in pairs]


def timestamp_of(value: Any) -> int | None:
    """Milliseconds since 1970, or an ISO time (UTC unless it names a zone)."""
    if value is None or isinstance(value, int):
        return value
    moment = datetime.datetime.fromisoformat(value)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
