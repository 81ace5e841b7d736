"""What the suites share: building the recorder, running the worker under it, opening and checking a store afterwards."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.ledger import TOPIC, Found, Ledger, Tally, check_partition, check_topics
from mqcore.torture.report import Report
from mqcore.torture.workload import STORE_CONFIG


@contextmanager
def workplace(in_memory: bool = True) -> Iterator[Path]:
    """A directory for a suite's stores, removed afterwards; on tmpfs where there is one, for speed: what a crash leaves is
    decided by the recorder's model or by SIGKILL, never by the device."""
    parent = "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="mqcore-torture-", dir=parent))
    logging.getLogger("mqcore").setLevel(logging.CRITICAL)  # each fault is reported by the store: thousands of lines
    try:
        yield path
    finally:
        logging.getLogger("mqcore").setLevel(logging.NOTSET)
        shutil.rmtree(path, ignore_errors=True)


def build_recorder(directory: Path) -> Path:
    """Compile iotrace.c into `directory` and return the library."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise errors.MissingExtraError(
            "no C compiler for the recorder", hint="Install gcc or clang (apt-get install gcc)"
        )
    library = directory / "iotrace.so"
    source = Path(__file__).with_name("iotrace.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def worker_command(
    store: Path,
    record: Path,
    *,
    seed: int,
    calls: int,
    durability: str,
    sent: dict[int, int] | None = None,
    reopen_every: int = 0,
) -> list[str]:
    """The command line of one worker."""
    return [
        sys.executable, "-P", "-m", "mqcore.torture.workload", str(store), str(record),
        "--seed", str(seed), "--calls", str(calls), "--durability", durability,
        "--state", json.dumps(sent or {}), "--reopen-every", str(reopen_every),
    ]  # fmt: skip


def environment(**extra: str) -> dict[str, str]:
    """The worker's environment: this one, with fixed hashing, and `extra`."""
    return os.environ | {"PYTHONHASHSEED": "0"} | extra


def read_all(store: Any, topic: str, partition: int, *, around: bool = False) -> Iterator[tuple[int, bytes]]:
    """Every visible record of a partition, as (offset, value). around: go on behind ranges that recovery noted as
    damaged; where that is no promise broken, a reader is told of each."""
    end = store.end_offsets(topic)[partition]
    with store.consumer(topic, start="earliest") as consumer:
        consumer.assign([partition])
        while consumer.position(partition) < end:
            try:
                batches = consumer.poll(timeout_s=0, max_records=10_000)
            except errors.CorruptBatchError as error:
                if not around or error.where.get("next_offset", -1) <= consumer.position(partition):
                    raise
                consumer.seek(partition, error.where["next_offset"])
                continue
            for batch in batches:
                for record in batch.records():
                    yield record.offset, record.value


def open_and_check(
    path: Path, ledger: Ledger, report: Report, *, durability: str, lossless: bool = True, go_on: bool = False
) -> Found:
    """Open a store after a fault and hold it against the record. go_on: also write to it, close, open again and re-check, for
    a store that opens but cannot live is no success. What cannot be opened must refuse with an error of ours (I3)."""
    tally = Tally()
    try:
        found = _check_open(path, ledger, report, tally, durability=durability, lossless=lossless, go_on=go_on)
    except errors.MQError as error:
        found = [("I1" if lossless and ledger.acked_count else "I3", f"{type(error).__name__}: {error}")]
    except Exception as error:
        found = [("I3", f"{type(error).__name__}: {error}")]
    report.read += tally.read
    report.lost += tally.lost
    report.duplicated += tally.duplicated
    report.reordered += tally.reordered
    report.offset_reused += tally.offset_reused
    report.wrong_bytes += tally.wrong_bytes
    return found


def _check_open(
    path: Path, ledger: Ledger, report: Report, tally: Tally, *, durability: str, lossless: bool, go_on: bool
) -> Found:
    began = time.perf_counter()
    with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
        report.recovery_s.append(time.perf_counter() - began)
        names = set(store.topics())
        found = check_topics(ledger, names) if lossless else []
        if TOPIC in names:
            for partition in store.partitions(TOPIC):
                records = read_all(store, TOPIC, partition, around=not lossless)
                found += check_partition(ledger, partition, records, tally, lossless=lossless)
        if not (go_on and TOPIC in names):
            return found
        before = store.end_offsets(TOPIC)
        with store.producer() as producer:
            for partition in store.partitions(TOPIC):
                at = producer.send(TOPIC, b"after", partition=partition).result().offset
                if at < before[partition]:
                    found.append(("I2", f"offset {at} given again in partition {partition}"))
    with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
        for partition in store.partitions(TOPIC):
            *_, (_, last) = read_all(store, TOPIC, partition, around=not lossless)
            if last != b"after":
                found.append(("I1", f"the record written after recovery is gone from partition {partition}"))
    return found
