"""T5: one bit flipped in one byte of each file kind of a small store: log, indexes, metadata, view, digests, journal, epochs.

Two stores: one that was closed, and one that was killed with its journal in use. After each flip the store must open or
refuse in words, every record that it gives must be the right one at its offset, a record that it does not give must be
missing with an error, and `verify` must have seen what a reader cannot get. A process that dies is a violation (a
structural flip in LMDB must not reach LMDB)."""

from __future__ import annotations

import logging
import multiprocessing
import random
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mqcore
from mqcore import errors
from mqcore.torture.attack import workplace
from mqcore.torture.report import Report
from mqcore.torture.workload import STORE_CONFIG

_TOPIC, _OTHER = "flipped", "bystander"
_CONFIG = {"segment.bytes": 1024, "index.interval.bytes": 256, "max.message.bytes": 1024}
_CHUNK = 200  # flips a process makes before a new one takes over: a crash costs no more than that
_SKIPPED_KINDS = ("lock.mdb", "lock")  # LMDB's reader table and our lock hold nothing that is believed after a restart

Records = dict[tuple[str, int], list[tuple[int, bytes]]]


def build_stores(closed: Path, killed: Path) -> Records:
    """A store of about 4 KB of records in several segments, closed, and as a kill left it; returns what they hold."""
    rng = random.Random(5)
    path = closed
    with mqcore.open(path, durability="fsync", config=STORE_CONFIG) as store:
        store.create_topic(_TOPIC, partitions=1, config=_CONFIG)
        store.create_topic(_OTHER, partitions=1, config=_CONFIG)
        with store.producer(linger_ms=0) as producer:
            for number in range(24):
                for topic in (_TOPIC, _OTHER):
                    producer.send(topic, rng.randbytes(60), key=b"%d" % number, headers=[("h", b"v")])
                producer.flush()
            store.log.maintain()
            for topic in (_TOPIC, _OTHER):  # what only the journal has synced
                producer.send_many(topic, [rng.randbytes(50) for _ in range(3)]).result()
        store.log._maintenance.stop()
        shutil.copytree(path, killed)  # the page cache outlives a killed process
        return {key: list(records) for key, records in read_store(store).items()}


def read_store(store: Any) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """Every record of every partition up to the first error; the error comes as a last entry (-1, its text)."""
    result: Records = {}
    for topic in sorted(store.topics()):
        for partition in store.partitions(topic):
            records: list[tuple[int, bytes]] = []
            result[topic, partition] = records
            try:
                with store.consumer(topic, start="earliest") as consumer:
                    consumer.assign([partition])
                    end = store.end_offsets(topic)[partition]
                    while consumer.position(partition) < end:
                        for batch in consumer.poll(timeout_s=0):
                            records += [(record.offset, record.value) for record in batch.records()]
            except errors.MQError as error:
                records.append((-1, str(error).encode()))
    return result


def targets(path: Path) -> list[tuple[Path, int]]:
    """(file, bytes of it that may be flipped) of a store; the journal's and LMDB's unused rest is left out."""
    found = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name not in _SKIPPED_KINDS and file.stat().st_size:
            content = file.read_bytes()
            found.append((file.relative_to(path), len(content.rstrip(b"\0"))))
    return found


class _Flipper:
    """Flips one bit, looks, and puts everything back."""

    def __init__(self, original: Path, place: Path, expected: Records, out: Connection) -> None:
        self._original, self._path, self._expected, self._out = original, place / "store", expected, out

    def flip(self, file: Path, position: int, bit: int, *, writer: bool) -> None:
        state, *rest = file.parts  # "closed" or "killed", and the path in it
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.copytree(self._original / state, self._path)
        victim = self._path.joinpath(*rest)
        content = bytearray(victim.read_bytes())
        content[position] ^= 1 << bit
        victim.write_bytes(content)
        where = f"{file} byte {position} bit {bit}"
        self._out.send(("flip", where))
        try:
            seen_by_verify = self._verify()
            if not writer:
                with mqcore.open(self._path, read_only=True, config=STORE_CONFIG) as store:
                    found = read_store(store)
                # Of a killed store a reader serves what is provably kept, and the flip may have taken the proof: then
                # the writer's open must give the rest.
                self._compare(found, seen_by_verify or state == "killed", where)
            if writer or state == "killed":
                with mqcore.open(self._path, config=STORE_CONFIG) as store:
                    self._compare(read_store(store), seen_by_verify, where)
        except errors.MQError as error:
            if not str(error):
                self._out.send(("violation", "I3", f"refused without a word [{where}]"))
        except Exception as error:
            self._out.send(("violation", "I3", f"{type(error).__name__}: {error} [{where}]"))

    def _verify(self) -> bool:
        from mqcore.log.verify import verify

        return not verify(self._path).ok

    def _compare(self, found: Records, seen_by_verify: bool, where: str) -> None:
        for key, expected in self._expected.items():
            right, records = dict(expected), found.get(key)
            if records is None:
                # What names the topics is damaged: in words, and only there (a partition's own files name no topic).
                if not seen_by_verify or f"/{_TOPIC}-" in where or f"/{_OTHER}-" in where:
                    self._out.send(("violation", "I1", f"topic {key[0]} is gone in silence [{where}]"))
                continue
            failed = bool(records) and records[-1][0] == -1
            good = records[:-1] if failed else records
            self._out.send(("read", len(good)))
            if any(right.get(offset) != value for offset, value in good):
                self._out.send(("violation", "I4", f"a wrong record in {key} [{where}]"))
            if failed and not seen_by_verify:
                self._out.send(("violation", "I3", f"a reader fails, verify saw nothing: {records[-1][1]!r} [{where}]"))
            if not failed and len(good) < len(expected) and not seen_by_verify:
                self._out.send(("violation", "I1", f"{len(expected) - len(good)} records gone in silence [{where}]"))
            if failed and key[0] == _OTHER and f"/{_TOPIC}-" in where:
                self._out.send(("violation", "I1", f"a bystander partition does not serve [{where}]"))


def _work(original: Path, place: Path, expected: Records, flips: list[tuple[Path, int, int]], out: Connection) -> None:
    logging.getLogger("mqcore").setLevel(logging.CRITICAL)
    flipper = _Flipper(original, place, expected, out)
    for number, (file, position, bit) in enumerate(flips):
        flipper.flip(file, position, bit, writer=number % 2 == 0)
    out.send(("done", ""))


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None) -> Report:
    """`faults` flips drawn without repetition, the files in turn; every bit of every file when there are fewer."""
    report = Report("bit-flips", seed, faults_wanted=faults)
    rng = random.Random(seed)
    with workplace() as place:
        original = place / "original"
        original.mkdir()
        expected = build_stores(original / "closed", original / "killed")
        report.acked = sum(map(len, expected.values()))
        files = targets(original)
        report.notes["bits"] = 8 * sum(size for _, size in files)
        report.notes["kinds"] = sorted({file.suffix or file.name for file, _ in files})
        report.faults_wanted = min(faults, report.notes["bits"])
        chosen = _draw(files, report.faults_wanted, rng)
        for start in range(0, len(chosen), _CHUNK):
            _in_a_process(report, original, place, expected, chosen[start : start + _CHUNK])
            progress(report.faults_injected["bit-flip"])
    return report


def _draw(files: list[tuple[Path, int]], count: int, rng: random.Random) -> list[tuple[Path, int, int]]:
    """`count` different (file, byte, bit), the files in turn: small ones whole before the large ones fill the rest."""
    shuffled = [(file, rng.sample(range(8 * size), min(8 * size, count))) for file, size in files]
    chosen: list[tuple[Path, int, int]] = []
    while len(chosen) < count:
        for file, bits in shuffled:
            if bits and len(chosen) < count:
                chosen.append((file, *divmod(bits.pop(), 8)))
    return chosen


def _in_a_process(
    report: Report, original: Path, place: Path, expected: Records, flips: list[tuple[Path, int, int]]
) -> None:
    """Make some flips in a child; one that kills the child is a violation, and the next ones go on in another."""
    while flips:
        mine, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=_work, args=(original, place, expected, flips, theirs)
        )
        child.start()
        theirs.close()
        done, where = 0, ""
        try:
            while True:
                kind, *rest = mine.recv()
                if kind == "flip":
                    done, where = done + 1, rest[0]
                    report.faults_injected["bit-flip"] += 1
                elif kind == "read":
                    report.read += rest[0]
                elif kind == "violation":
                    report.violate(rest[0], rest[1])
                else:
                    break
        except EOFError:
            child.join()
            report.violate("I3", f"the process died with {child.exitcode} [{where}]")
        child.join()
        flips = flips[done:]
