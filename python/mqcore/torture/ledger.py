"""The client's own record of what it sent, what was acknowledged and what it saw, and the off-line checker over it.

A value carries who it is: (partition, number, CRC of the rest), so that the checker can tell a wrong byte from a lost, doubled
or invented record without asking the store. Numbers rise by one per partition, in send order.
Lines of the record, one JSON object each, written before (sending, trimming, deleting) or after (acked, seen, created) the act:
    {"k": "send", "p": partition, "s": first number, "n": count}
    {"k": "ack", "p": partition, "s": first number, "n": count, "o": base offset}
    {"k": "seen", "p": partition, "s": number, "o": offset}
    {"k": "trim", "p": partition, "o": offset}            records below may go
    {"k": "topic", "t": name} / {"k": "deleting", "t": name} / {"k": "deleted", "t": name}
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TOPIC = "torture"
_HEAD = struct.Struct("<4sIQI")
_MAGIC = b"MQT1"


def value(partition: int, number: int, seed: int = 0) -> bytes:
    """The value of one record: 20 bytes of identity and 0 to 300 of filling that follow from it."""
    rng = random.Random(f"{seed}/{partition}/{number}")
    filling = rng.randbytes(rng.choice((0, 1, 20, 100, 300)))
    crc = zlib.crc32(filling + struct.pack("<IQ", partition, number))
    return _HEAD.pack(_MAGIC, partition, number, crc) + filling


def identify(raw: bytes) -> tuple[int, int] | None:
    """(partition, number) of a value, or None when a byte of it is wrong."""
    if len(raw) < _HEAD.size:
        return None
    magic, partition, number, crc = _HEAD.unpack_from(raw)
    filling = raw[_HEAD.size :]
    if magic != _MAGIC or crc != zlib.crc32(filling + struct.pack("<IQ", partition, number)):
        return None
    return partition, number


@dataclass(slots=True)
class Ledger:
    """The record, folded: what must be there, what may be there."""

    acked: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))  # partition -> offset -> number
    sent: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # partition -> numbers attempted
    trimmed: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    topics: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)

    def add(self, line: dict[str, Any]) -> None:
        kind = line["k"]
        if kind == "send":
            self.sent[line["p"]] = max(self.sent[line["p"]], line["s"] + line["n"])
        elif kind == "ack":
            for step in range(line["n"]):
                self.acked[line["p"]][line["o"] + step] = line["s"] + step
        elif kind == "seen":  # visible implies durable: what was read counts as acknowledged
            self.acked[line["p"]][line["o"]] = line["s"]
        elif kind == "trim":
            self.trimmed[line["p"]] = max(self.trimmed[line["p"]], line["o"])
        elif kind == "topic":
            self.topics.add(line["t"])
        elif kind == "deleting":
            self.topics.discard(line["t"])
            self.uncertain.add(line["t"])
        elif kind == "deleted":
            self.uncertain.discard(line["t"])
            self.deleted.add(line["t"])

    def add_lines(self, raw: bytes) -> None:
        """Whole lines; a last one that was cut short by a kill is left out."""
        for line in raw.split(b"\n")[:-1]:
            self.add(json.loads(line))

    @property
    def promise(self) -> object:
        """Two ledgers of the same promise ask for the same store."""
        return self.acked_count, len(self.topics), len(self.deleted)

    @property
    def acked_count(self) -> int:
        return sum(len(offsets) for offsets in self.acked.values())


Found = list[tuple[str, str]]


@dataclass(slots=True)
class Tally:
    """Counts of one check, for the report."""

    read: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    offset_reused: int = 0
    wrong_bytes: int = 0


def check_partition(
    ledger: Ledger, partition: int, records: Iterable[tuple[int, bytes]], tally: Tally, *, lossless: bool = True
) -> Found:
    """Compare what a partition gives with the record. records: (offset, value) in the order read; lossless: acknowledged
    records must all be there (False where the durability in force names no such promise)."""
    found: Found = []
    acked, seen_numbers, there = ledger.acked[partition], set(), set()
    last_offset = last_number = -1
    for offset, raw in records:
        tally.read += 1
        there.add(offset)
        if offset <= last_offset:
            found.append(("I2", f"offset {offset} after {last_offset} in partition {partition}"))
        last_offset = offset
        identity = identify(raw)
        if identity is None or identity[0] != partition:
            tally.wrong_bytes += 1
            found.append(("I4", f"wrong bytes at offset {offset} of partition {partition}"))
            continue
        number = identity[1]
        if number >= ledger.sent[partition]:
            tally.wrong_bytes += 1
            found.append(("I4", f"record {number} of partition {partition} was never sent"))
        if number in seen_numbers:
            tally.duplicated += 1
            found.append(("I6", f"record {number} twice in partition {partition}"))
        elif number < last_number:
            tally.reordered += 1
            found.append(("I7", f"record {number} after {last_number} in partition {partition}"))
        seen_numbers.add(number)
        last_number = number
        if acked.get(offset, number) != number:
            tally.offset_reused += 1
            found.append(("I2", f"offset {offset} of partition {partition} held record {acked[offset]}, now {number}"))
    missing = [offset for offset in acked if offset not in there and offset >= ledger.trimmed[partition]]
    if missing and lossless:
        tally.lost += len(missing)
        found.append(
            ("I1", f"{len(missing)} acknowledged records gone from partition {partition}, first {min(missing)}")
        )
    return found


def check_topics(ledger: Ledger, names: set[str]) -> Found:
    """Created topics are there, deleted ones are not; one whose deletion was under way may be either."""
    found: Found = [("I1", f"topic {name} is gone") for name in sorted(ledger.topics - names)]
    return found + [("I1", f"deleted topic {name} came back") for name in sorted(ledger.deleted & names)]
