"""T9: the wall clock jumps by a second to ten years, either way, around and inside everything that looks at it.

Each seed is one store on a clock of its own: the wall lies by some amount, real time passes in small steps (now and then in
hours or days), and between them records are sent, half-sent, rolled, retained, looked up by time, and the store is closed or
dropped and opened again. Checked:
    1. I1, I2, I4: what was acknowledged reads back with its offset and timestamp, until retention may take it;
    2. it may: only records older than retention.ms by an honest clock (real time since the start, or a wall that kept
       step with real time for GRACE_S). One of yesterday must survive any jump forward;
    3. and it does: with an honest clock again, what has expired goes;
    4. offset_for_time finds the first record at or after a time, whatever order the timestamps have;
    5. Snowflake ids are unique and rise; 6. nothing raises.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mqcore
from mqcore.clock import ManualClock
from mqcore.ids import Snowflake
from mqcore.log.retention import GRACE_S
from mqcore.torture.attack import workplace
from mqcore.torture.ledger import identify, value
from mqcore.torture.report import Report

_SECOND, _HOUR, _DAY = 1000, 3_600_000, 86_400_000
_YEAR = 365 * _DAY
_LIES_MS = (_SECOND, 3 * _SECOND, 60 * _SECOND, _HOUR, _DAY, 30 * _DAY, _YEAR, 10 * _YEAR)
RETENTION_MS = _DAY
_SLACK_MS = 10_000  # above the guard's own tolerance (retention.STEP_MS)
_STEPS = 60
_KEYS = 5
_STORE = {"journal.ring.bytes": 1 << 20, "maintenance.interval.ms": _DAY}
_BASE: dict[str, str | int] = {"segment.bytes": 2048, "index.interval.bytes": 128, "segment.ms": 10 * 60_000}
TOPICS: dict[str, dict[str, str | int]] = {
    "created": {**_BASE, "retention.ms": RETENTION_MS},
    "appended": {**_BASE, "retention.ms": RETENTION_MS, "message.timestamp.type": "LogAppendTime"},
    "kept": {**_BASE, "retention.ms": -1},
    "compacted": {**_BASE, "cleanup.policy": "compact"},
}


@dataclass(slots=True)
class _Sent:
    """One topic's records by offset: (number, timestamp in ms); and what was ever seen gone."""

    records: dict[int, tuple[int, int]] = field(default_factory=dict)
    count: int = 0
    begin: int = 0


class _Time:
    """The clock under test, and what is honest about it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.clock = ManualClock()
        self._start_ms, self._passed_s = self.clock.wall_ms(), 0.0
        self._lie_ms = 0
        self._steady_s = 0.0  # since the last jump
        self._believed_ms = 0  # what a wall that kept step for so long is ahead of real time

    def real_ms(self) -> int:
        return self._start_ms + int(self._passed_s * 1000)

    def honest_ms(self) -> int:
        """The latest time that anybody may believe."""
        return self.real_ms() + max(0, self._believed_ms)

    def lie(self, lie_ms: int | None = None) -> None:
        """Set the wall so far from real time; None: drawn."""
        if lie_ms is None:
            lie_ms = self._rng.choice((0, *_LIES_MS)) * self._rng.choice((1, -1))
            # No two lies alike: a wall that is wrong by the same hours before and behind a jump looks like one in step.
            lie_ms += self._rng.randrange(-1000, 1000) * 1000 * (abs(lie_ms) >= _HOUR)
        self.clock.jump(lie_ms - self._lie_ms)
        self._lie_ms, self._steady_s = lie_ms, 0.0

    def pass_by(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._passed_s += seconds
        self._steady_s += seconds
        if self._steady_s >= GRACE_S - 1:
            self._believed_ms = max(self._believed_ms, self._lie_ms)


class _Life:
    """One seed."""

    def __init__(self, path: Path, seed: int, report: Report) -> None:
        self._path, self._report, self._rng = path, report, random.Random(seed)
        self._where = f"seed {seed}"
        self._time = _Time(self._rng)
        self._sent = {name: _Sent() for name in TOPICS}
        clock = self._time.clock
        self._ids = Snowflake(
            seed % 1024,
            wall_ms=clock.wall_ms,
            monotonic_ms=lambda: int(self._time.real_ms()),
            sleep=lambda seconds: self._time.pass_by(max(seconds, 0.001)),
        )
        self._last_id = -1
        self._durability = self._rng.choice(("fsync", "os"))
        self._open()
        for name, config in TOPICS.items():
            self._store.create_topic(name, config=config)

    def _open(self) -> None:
        self._store = mqcore.open(self._path, durability=self._durability, clock=self._time.clock, config=_STORE)
        self._producer = self._store.producer(linger_ms=60_000, batch_bytes=1024)

    def _violate(self, invariant: str, sentence: str) -> None:
        self._report.violate(invariant, f"{sentence} [{self._where}]")

    # -- steps ------------------------------------------------------------------------------------------------------

    def jump(self) -> None:
        self._time.lie()
        self._report.faults_injected["jump"] += 1

    def pass_by(self) -> None:
        seconds = self._rng.choice((0.001, 0.01, 1.0, 1.0, 60.0, 60.0, 300.0, 7200.0, 30 * 3600.0))
        self._time.pass_by(seconds)

    def send(self) -> None:
        """Some records, with a jump in the middle of them or between the send and the append."""
        name = self._rng.choice(list(TOPICS))
        sent, sending = self._sent[name], []
        for _ in range(self._rng.choice((1, 3, 12))):
            number, sent.count = sent.count, sent.count + 1
            stamp = self._time.clock.wall_ms()
            key = b"%d" % (number % _KEYS)
            sending.append((number, stamp, self._producer.send(name, value(0, number), key=key, partition=0)))
            if self._rng.random() < 0.1:
                self.jump()
        if self._rng.random() < 0.2:
            self.jump()
        self._producer.flush()
        for number, stamp, delivery in sending:
            result = delivery.result()
            if name != "appended" and result.timestamp_ms != stamp:
                self._violate("I4", f"{name} offset {result.offset} sent at {stamp}, stamped {result.timestamp_ms}")
            if result.offset in sent.records:
                self._violate("I2", f"{name} offset {result.offset} given twice")
            sent.records[result.offset] = (number, result.timestamp_ms)
            self._report.acked += 1

    def roll(self) -> None:
        self._store.log.partition(self._rng.choice(list(TOPICS)), 0).roll()

    def maintain(self) -> None:
        self._store.log.maintain()

    def ids(self) -> None:
        """Ids before and behind a jump."""
        for _ in range(3):
            batch = self._ids.batch(self._rng.choice((1, 10, 5000)))
            found = np.concatenate((np.array([max(self._last_id, 0)], np.uint64), batch))
            if self._last_id >= 0 and not bool((found[1:] > found[:-1]).all()):
                self._violate("I6", "an id does not rise")
            self._last_id = int(batch[-1])
            if self._rng.random() < 0.5:
                self.jump()

    def look_up(self) -> None:
        """offset_for_time, at a time of some record and around it."""
        name = self._rng.choice(("created", "appended", "kept"))
        log = self._store.log.partition(name, 0)
        begin = log.log_start_offset
        there = [(offset, stamp) for offset, (_, stamp) in sorted(self._sent[name].records.items()) if offset >= begin]
        if not there:
            return
        wanted = self._rng.choice(there)[1] + self._rng.choice((-1, 0, 1))
        right = next(((offset, stamp) for offset, stamp in there if stamp >= wanted), None)
        found = log.offset_for_time(wanted)
        if found != right and log.log_start_offset == begin:
            self._violate("I11", f"{name}: offset_for_time({wanted}) is {found}, not {right}")

    def check(self) -> None:
        """Everything that must be there is, with its bytes and its timestamp; what is gone may be gone."""
        for name, sent in self._sent.items():
            there = set()
            with self._store.consumer(name, start="earliest", on_out_of_range="earliest", follow=False) as consumer:
                for record in consumer:
                    there.add(record.offset)
                    self._check_record(name, record)
            honest, begin = self._time.honest_ms(), self._store.begin_offsets(name)[0]
            for offset, (number, stamp) in list(sent.records.items()):
                if offset in there:
                    continue
                del sent.records[offset]
                expires = TOPICS[name].get("retention.ms") == RETENTION_MS
                may_go = expires and honest - stamp > RETENTION_MS - _SLACK_MS and offset < begin
                if name == "compacted":
                    may_go = any(o > offset and n % _KEYS == number % _KEYS for o, (n, _) in sent.records.items())
                if not may_go:
                    self._report.lost += 1
                    age = (honest - stamp) / _HOUR
                    self._violate("I1", f"{name} offset {offset} (record {number}) is gone at the age of {age:.2f} h")

    def _check_record(self, name: str, record: Any) -> None:
        self._report.read += 1
        expected = self._sent[name].records.get(record.offset)
        if expected is None:
            self._violate("I2", f"{name} offset {record.offset} was gone or never given, and is read")
        elif identify(record.value) != (0, expected[0]):
            self._report.wrong_bytes += 1
            self._violate("I4", f"{name} offset {record.offset} has wrong bytes")
        elif record.timestamp != expected[1]:
            self._violate("I4", f"{name} offset {record.offset} is of {expected[1]}, read as {record.timestamp}")

    def reopen(self) -> None:
        """Close, or (where that loses nothing) drop the store as a crash does; time may jump in between."""
        self._producer.close()
        if self._rng.random() < 0.5:
            self._store.close()
        else:
            self._store.log.abandon()
        if self._rng.random() < 0.5:
            self.jump()
        if self._rng.random() < 0.2:
            self._time.clock.reboot()
            self._report.faults_injected["reboot"] += 1
        self._open()

    # -- a life -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        steps = [self.send] * 6 + [self.jump] * 4 + [self.pass_by] * 5 + [self.maintain] * 4
        steps += [self.look_up] * 2 + [self.roll, self.ids, self.check, self.reopen]
        name = "open"
        try:
            for _ in range(_STEPS):
                step = self._rng.choice(steps)
                name = step.__name__
                step()
            name = "the end"
            self.check()
            self._expire()
            self._store.close()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
            self._violate("I3", f"{name}: {type(error).__name__}: {error} ({at})")
            self._store.log.abandon()

    def _expire(self) -> None:
        """With an honest clock and enough time, what is old goes: a guard that deletes nothing would be none."""
        self._time.lie(0)
        self.check()
        for _ in range(3):
            self._time.pass_by(GRACE_S + 60)
            self._store.log.maintain()
        self._time.pass_by(2 * RETENTION_MS / 1000)
        self._store.log.maintain()
        self._store.log.maintain()
        now = self._time.real_ms()
        for name, config in TOPICS.items():
            if config.get("retention.ms") != RETENTION_MS:
                continue
            stamps = [stamp for _, stamp in self._sent[name].records.values()]
            if all(now - stamp > RETENTION_MS for stamp in stamps) and stamps:
                self._report.notes["expired_topics"] = self._report.notes.get("expired_topics", 0) + 1
                if self._store.begin_offsets(name) != self._store.end_offsets(name):
                    self._violate("I28", f"{name} keeps what has expired by any clock")
        self.check()


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` seeds; each injects some twenty jumps (counted beside)."""
    report = Report("clock", seed, durability="fsync and os, by seed", faults_wanted=faults)
    with workplace() as place:
        for number in range(faults):
            _Life(place / f"store-{number}", seed * 1_000_003 + number, report).run()
            report.faults_injected["seed"] += 1
            progress(number + 1)
    return report
