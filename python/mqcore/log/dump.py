"""Print what is in a log: each batch, or each record, as a line of plain values. Works on any file, damaged or not.

Invariants:
    1. Reads only, in bounded pieces; a damaged range is a line like any other, and what follows it is shown.
    2. Bytes are shown as text where they are UTF-8, else as hex with `0x` before it: a line never fails to print.

The fields of a batch are those of KIP-98's header, named as Kafka's DumpLogSegments names them where it has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mqcore.codecs import Codec
from mqcore.errors import MQError, UnknownTopicError
from mqcore.log import layout
from mqcore.log.layout import Layout
from mqcore.log.os_errors import translated
from mqcore.log.segment_check import BadRange, Bytes, SegmentChecker, columns_of

Line = dict[str, Any]
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL, _DELETE_HORIZON = 0x07, 0x08, 0x10, 0x20, 0x40
_MARKERS = {0: "abort", 1: "commit"}


def dump_partition(
    store: str | os.PathLike[str], topic: str, partition: int, *, from_offset: int = 0, records: bool = False
) -> Iterator[Line]:
    """Yield a line for each batch (or record) of a partition from from_offset on, damaged ranges included.

    Works on a closed store and beside a writer; needs no lock. Raises UnknownTopicError, StorageError.
    """
    directory = Layout(os.path.realpath(store)).partition_dir(topic, partition)
    if not layout.require_kind(directory, "dir"):
        raise UnknownTopicError("no directory of this partition", topic=topic, partition=partition, path=directory)
    bases = layout.list_segments(directory)
    for base, following in zip(bases, [*bases[1:], None], strict=True):
        if following is None or following > from_offset:
            yield from dump_file(
                os.path.join(directory, layout.segment_name(base)), from_offset=from_offset, records=records
            )


def dump_file(path: str | os.PathLike[str], *, from_offset: int = 0, records: bool = False) -> Iterator[Line]:
    """Yield a line for each batch (or record) of a segment file, mqcore's or Kafka's, from from_offset on.

    Raises StorageError if the file cannot be opened.
    """
    path = os.fspath(path)
    parsed = layout.parse_segment_file(os.path.basename(path))
    try:
        file = Bytes(path)
    except OSError as error:
        raise translated(error, "cannot open", path) from error
    with file:
        rows: list[Any] = []
        base = parsed.base_offset if parsed is not None else _first_offset(file)
        checker = SegmentChecker(file, base, allow_gaps=True, on_rows=rows.append)
        told = 0
        for _ in checker.steps():
            bad = checker.found.bad
            yield from _in_order(file, rows, bad[told:], from_offset, records)
            told = len(bad)
            rows.clear()


def _first_offset(file: Bytes) -> int:
    """The base offset that a file without a telling name begins with."""
    return max(0, int.from_bytes(file.read(0, 8), "big", signed=True))


def _in_order(file: Bytes, runs: list[Any], bad: list[BadRange], from_offset: int, records: bool) -> Iterator[Line]:
    """The lines of one step: runs of rows and the damage between them, by position."""
    damage = sorted(bad, reverse=True)
    for rows in runs:
        for row in rows:
            while damage and damage[-1].position < int(row["position"]):
                yield _bad_line(damage.pop())
            if int(row["last_offset"]) >= from_offset:
                if records:
                    yield from _record_lines(file, row, from_offset)
                else:
                    yield _batch_line(row)
    while damage:
        yield _bad_line(damage.pop())


def _bad_line(bad: BadRange) -> Line:
    return {
        "damaged": bad.what,
        "position": bad.position,
        "size": bad.end - bad.position,
        "offset": bad.offset,
        "next_offset": bad.next_offset,
    }


def _batch_line(row: Any) -> Line:
    attributes = int(row["attributes"])
    return {
        "base_offset": int(row["base_offset"]),
        "last_offset": int(row["last_offset"]),
        "count": int(row["record_count"]),
        "position": int(row["position"]),
        "size": int(row["size"]),
        "leader_epoch": int(row["leader_epoch"]),
        "codec": Codec(attributes & _CODEC).name.lower(),
        "timestamp_type": "LogAppendTime" if attributes & _LOG_APPEND_TIME else "CreateTime",
        "base_timestamp": int(row["base_timestamp"]),
        "max_timestamp": int(row["max_timestamp"]),
        "producer_id": int(row["producer_id"]),
        "producer_epoch": int(row["producer_epoch"]),
        "base_sequence": int(row["base_sequence"]),
        "transactional": bool(attributes & _TRANSACTIONAL),
        "control": bool(attributes & _CONTROL),
        "delete_horizon": bool(attributes & _DELETE_HORIZON),
        "crc": int(row["crc"]),
    }


def _record_lines(file: Bytes, row: Any, from_offset: int) -> Iterator[Line]:
    position, size = int(row["position"]), int(row["size"])
    batch = bytes(file.read(position, size))
    if int(row["attributes"]) & _CONTROL:
        yield {"offset": int(row["base_offset"]), "timestamp": int(row["max_timestamp"]), "marker": _marker(batch)}
        return
    try:
        columns = columns_of(batch)
    except MQError as error:
        yield _bad_line(
            BadRange(position, position + size, int(row["base_offset"]), int(row["last_offset"]) + 1, error.what)
        )
        return
    for record in columns.iter_records():
        if record.offset >= from_offset:
            yield {
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": text_of(record.key),
                "value": text_of(record.value),
                "headers": [[name, text_of(value)] for name, value in record.headers],
            }


def _marker(batch: bytes) -> str:
    """The kind of a control record: its key is a version and a type, i16 each, behind length, attributes, deltas."""
    at = _skip_varint(batch, 61)  # the record's length
    at = _skip_varint(batch, _skip_varint(batch, at + 1))  # attributes, timestamp delta, offset delta
    at = _skip_varint(batch, at)  # the key's length
    kind = int.from_bytes(batch[at + 2 : at + 4], "big")
    return _MARKERS.get(kind, f"type {kind}")


def _skip_varint(data: bytes, at: int) -> int:
    while at < len(data) and data[at] & 0x80:
        at += 1
    return at + 1


def text_of(value: bytes | memoryview | None) -> str | None:
    """Return bytes as text if they are UTF-8, else as hex."""
    if value is None:
        return None
    raw = bytes(value)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "0x" + raw.hex()
