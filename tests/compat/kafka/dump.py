"""Kafka's DumpLogSegments over our files, and its answer as plain values.

It prints a line a batch, a line a record, and its complaints between them: everything that is neither a known line nor
a heading counts as a complaint, so that a new wording of Kafka's cannot pass unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.kafka import jvm

_TOOL = "org.apache.kafka.tools.DumpLogSegments"
_HEADING = re.compile(r"^(Dumping |Log starting offset: |Snapshot end offset: |\s*$)")
_BATCH = re.compile(
    r"^baseOffset: (?P<base>\d+) lastOffset: (?P<last>\d+) count: (?P<count>\d+) .*isvalid: (?P<valid>\w+)"
)
_RECORD = re.compile(
    r"^\| offset: (?P<offset>\d+) (?:isValid: \w+ )?(?:crc: \w+ )?"
    r"(?P<kind>CreateTime|LogAppendTime): (?P<timestamp>-?\d+) keySize: (?P<key_size>-?\d+) "
    r"valueSize: (?P<value_size>-?\d+) sequence: (?P<sequence>-?\d+) headerKeys: \[(?P<headers>[^\]]*)\](?P<rest>.*)$",
    re.DOTALL,
)
_INDEX_ENTRY = re.compile(r"^(offset: \d+ position: \d+|timestamp: -?\d+ offset: \d+)\s*$")
_ABORTED = re.compile(r"^version: \d+ producerId: \d+ firstOffset: \d+ lastOffset: \d+ lastStableOffset: \d+\s*$")
_PASSED = re.compile(r"^\S+ (passed sanity check|is empty)\.\s*$")


@dataclass(frozen=True, slots=True)
class DumpedRecord:
    """A record as the tool prints it; key and payload are None where the record has none (or is a control record)."""

    offset: int
    timestamp: int
    timestamp_kind: str
    key: str | None
    payload: str | None
    header_names: tuple[str, ...]
    is_control: bool


@dataclass(slots=True)
class Dump:
    """batches: (base offset, last offset, count); complaints: lines that should not be there."""

    batches: list[tuple[int, int, int]] = field(default_factory=list)
    records: list[DumpedRecord] = field(default_factory=list)
    index_entries: int = 0
    complaints: list[str] = field(default_factory=list)
    text: str = ""


def dump_logs(files: Iterable[Path]) -> Dump:
    """Every batch and record of .log files, deep iteration, data printed."""
    return _run(files, "--deep-iteration", "--print-data-log")


def dump_indexes(files: Iterable[Path], *, sanity: bool = False) -> Dump:
    """Check .index, .timeindex or .txnindex files against the .log files beside them."""
    return _run(files, "--index-sanity-check" if sanity else "--verify-index-only")


def dump_with(files: Iterable[Path], decoder: str) -> Dump:
    """Records of an internal topic, read by one of the tool's decoders."""
    return _run(files, decoder)


def dump_raw(files: Iterable[Path]) -> Dump:
    """Print files without options: entries of indexes."""
    return _run(files)


def _run(files: Iterable[Path], *options: str) -> Dump:
    names = ",".join(str(path) for path in files)
    result = jvm.run("tools", _TOOL, "--files", names, *options)
    dump = parse(result.stdout)
    dump.complaints += [line for line in result.stderr.splitlines() if line.strip()]
    dump.complaints = _without_slips(dump.complaints)
    if result.returncode != 0:
        dump.complaints.append(f"exit code {result.returncode}")
    return dump


def parse(text: str) -> Dump:
    """The tool's output as values."""
    dump = Dump(text=text)
    for line in text.splitlines():
        batch, record = _BATCH.match(line), _RECORD.match(line)
        if batch:
            dump.batches.append((int(batch["base"]), int(batch["last"]), int(batch["count"])))
            if batch["valid"] != "true":
                dump.complaints.append(line)
        elif record:
            dump.records.append(_record(record))
        elif _INDEX_ENTRY.match(line) or _ABORTED.match(line):
            dump.index_entries += 1
        elif not (_HEADING.match(line) or _PASSED.match(line)):
            dump.complaints.append(line)
    return dump


# Slips of the tool, which it makes over Kafka's own files too (test_harness.py): heading -> line below it.
_SLIPS = {
    # A file that does not begin at offset 0: "-1 is followed by 4800".
    "Non-consecutive offsets in ": r"\s*-1 is followed by \d+\s*",
    # A batch of which compaction left the header: the index has its timestamp, the tool looks at records only.
    "Found timestamp mismatch in ": r"\s*Index timestamp: \d+, log timestamp: -1\s*",
}


def _without_slips(complaints: list[str]) -> list[str]:
    """Complaints without the tool's own slips; anything else below the same heading stays, with the heading."""
    kept: list[str] = []
    slip = heading = ""
    for line in complaints:
        found = next((start for start in _SLIPS if line.startswith(start)), None)
        if found is not None:
            heading, slip = line, _SLIPS[found]
        elif not (slip and re.fullmatch(slip, line)):
            kept += [heading, line] if heading and line.startswith(" ") else [line]
            heading = ""
    return kept


def _record(match: re.Match[str]) -> DumpedRecord:
    rest = match["rest"]
    is_control = " endTxnMarker: " in rest
    key = payload = None
    if not is_control:
        found = re.match(r"^(?: key: (?P<key>.*?))?(?: payload: (?P<payload>.*))?$", rest, re.DOTALL)
        assert found is not None, rest
        key = found["key"] if int(match["key_size"]) >= 0 else None
        payload = found["payload"] if int(match["value_size"]) >= 0 else None
    names = tuple(name for name in match["headers"].split(",") if name)
    return DumpedRecord(
        int(match["offset"]), int(match["timestamp"]), match["kind"], key, payload, names, is_control
    )  # fmt: skip
