"""I28: a store that is written, followed, rolled, retained and compacted for very long grows in nothing.

Records of 100 bytes, numbered, go to partitions of which retention keeps the last few segments, and one in a thousand to
a compacted topic of few keys; a consumer follows and checks every number. Memory, descriptors, threads and bytes on disk
are sampled all along: what they are at the end must be what they were once the store had been filled.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mqcore
from mqcore.torture.attack import workplace
from mqcore.torture.report import Report

PARTITIONS = 4
RECORD_BYTES = 100
BLOCK = 50_000  # records of a call
SEGMENT_BYTES, KEPT_BYTES = 32 << 20, 128 << 20  # of a partition
KEYS = 500
SAMPLES = 40
# Above what the middle of the run needed: allocators and LMDB take what they take in steps.
SLACK_BYTES, SLACK_COUNT = 8 << 20, 4


class Sample(NamedTuple):
    """What the process and the store hold."""

    memory: int  # bytes: RssAnon; of a store on tmpfs, RssShmem has its mapped files
    descriptors: int
    threads: int
    disk: int  # bytes of the store's files


def run(
    seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, durability: str = "os", **sizes: int
) -> Report:
    """Send and follow `faults` records. sizes: block, segment_bytes and kept_bytes, for a short run."""
    report = Report("soak", seed, durability=durability, usual_durability="os", faults_wanted=faults)
    samples: list[Sample] = []
    with workplace(in_memory=False) as place:
        began = time.perf_counter()
        with mqcore.open(place / "store", durability=durability, config={"maintenance.interval.ms": 200}) as store:
            _soak(store, place / "store", report, random.Random(seed), samples, progress, **sizes)
        seconds = time.perf_counter() - began
    report.absorb(growth(samples))
    report.notes = {
        "records_per_s": round(report.acked / seconds),
        "first": samples[0]._asdict(),
        "middle": _most(samples[len(samples) // 3 : len(samples) * 2 // 3])._asdict(),
        "end": samples[-1]._asdict(),
    }
    return report


def _soak(
    store: Any,
    path: Path,
    report: Report,
    rng: random.Random,
    samples: list[Sample],
    progress: Callable[[int], None],
    block: int = BLOCK,
    segment_bytes: int = SEGMENT_BYTES,
    kept_bytes: int = KEPT_BYTES,
) -> None:
    size = {"segment.bytes": segment_bytes}
    store.create_topic("long", partitions=PARTITIONS, config={**size, "retention.bytes": kept_bytes})
    store.create_topic("few-keys", config={**size, "cleanup.policy": "compact"})
    rows = np.zeros((block, RECORD_BYTES), np.uint8)
    numbers = rows[:, :8].view(np.int64)
    sent, seen, last = [0] * PARTITIONS, [0] * PARTITIONS, 0
    with store.producer() as producer, store.consumer("long", start="earliest") as consumer:
        while report.acked < report.faults_wanted:
            partition = rng.randrange(PARTITIONS)
            count = min(block, report.faults_wanted - report.acked)
            numbers[:count, 0] = np.arange(sent[partition], sent[partition] + count)
            delivery = producer.send_many("long", rows[:count], partition=partition)
            for _ in range(max(1, count // 1000)):
                producer.send("few-keys", rng.randbytes(RECORD_BYTES), key=b"%d" % rng.randrange(KEYS))
            producer.flush()
            delivery.result()
            sent[partition] += count
            report.acked += count
            report.faults_injected["records"] += count
            while sum(seen) < sum(sent):
                batches = consumer.poll(timeout_s=10, max_records=block)
                if not batches:
                    report.violate("I11", f"nothing comes after {seen} of {sent}")
                    return
                for batch in batches:
                    _check(batch, seen, report)
            report.read = sum(seen)
            if report.acked * SAMPLES // report.faults_wanted > last:
                last = report.acked * SAMPLES // report.faults_wanted
                store.log.maintain()  # what is to go by now is gone: else the disk's figure is that of a moment
                samples.append(sample(path))
                progress(report.acked)


def _check(batch: Any, seen: list[int], report: Report) -> None:
    """Each record is the next one of its partition."""
    data, starts, lengths = batch.values.to_numpy()
    expected = seen[batch.partition] + np.arange(len(starts))
    found = data[starts[:, None] + np.arange(8)].view(np.int64)[:, 0]
    if not (lengths == RECORD_BYTES).all() or not (found == expected).all() or not (batch.offsets == expected).all():
        report.wrong_bytes += 1
        report.violate("I4", f"partition {batch.partition}: not the records from {seen[batch.partition]} on")
    seen[batch.partition] += len(starts)


def sample(path: Path) -> Sample:
    """What this process, and the store in `path`, hold now."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    memory = int(fields["RssAnon"].split()[0]) * 1024
    disk = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                disk += os.stat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # retention was faster
    return Sample(memory, len(os.listdir("/proc/self/fd")), threading.active_count(), disk)


def growth(samples: list[Sample]) -> list[tuple[str, str]]:
    """(invariant, sentence) of each figure that the last third of a run needed more of than the middle one."""
    middle = _most(samples[len(samples) // 3 : len(samples) * 2 // 3])
    end = _most(samples[len(samples) * 2 // 3 :])
    found = []
    for name, before, after in zip(Sample._fields, middle, end, strict=True):
        slack = max(SLACK_BYTES, before // 10) if name in ("memory", "disk") else SLACK_COUNT
        if after > before + slack:
            found.append(("I28", f"{name} grew from {before} to {after}"))
    return found


def _most(samples: list[Sample]) -> Sample:
    return Sample(*(max(values) for values in zip(*samples, strict=True)))
