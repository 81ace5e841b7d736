"""A seal is the digest that sha256sum computes, it is made once, and a changed byte or exchanged file breaks it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore._native.io import Io
from mqcore.config.topic import TopicConfig
from mqcore.errors import StorageError, StoreFormatError
from mqcore.log import seal
from mqcore.log.layout import DIGEST, segment_name
from mqcore.log.seal import Digest, Pace, Sealer, format_digest, parse_digest, read_digest


@dataclass
class Entry:
    base_offset: int
    size: int
    sealed: bool = True
    compacted: bool = False


@dataclass
class Log:
    directory: str
    config: TopicConfig = field(default_factory=TopicConfig)
    segments: list[Entry] = field(default_factory=list)


def filled(path: Path, algorithm: str = "blake3", count: int = 3) -> Log:
    log = Log(str(path), TopicConfig.parse({"mqcore.digest": algorithm}))
    for i in range(count):
        (path / segment_name(i * 10)).write_bytes(b"%d" % i * 1000)
        log.segments.append(Entry(i * 10, 1000))
    log.segments[-1].sealed = False
    return log


def digests(log: Log) -> list[Digest | None]:
    return [read_digest(f"{log.directory}/{segment_name(e.base_offset, DIGEST)}") for e in log.segments]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_agrees(tmp_path: Path) -> None:
    log = filled(tmp_path, "sha256")
    Sealer(Io()).seal(log, 1 << 30)
    command = ["sha256sum", "--strict", "-c", segment_name(0, DIGEST), segment_name(10, DIGEST)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / segment_name(10)).write_bytes(b"x" * 1000)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


@pytest.mark.parametrize(("algorithm", "digest"), [("blake3", blake3.blake3), ("sha256", hashlib.sha256)])
def test_sealed_segments_get_a_chained_digest_once(tmp_path: Path, algorithm: str, digest: type) -> None:
    log = filled(tmp_path, algorithm)
    sealer = Sealer(Io())
    assert sealer.seal(log, 1 << 30) == 2000
    assert sealer.seal(log, 1 << 30) == Sealer(Io()).seal(log, 1 << 30) == 0
    first, second, active = digests(log)
    assert first is not None
    assert second is not None
    assert active is None
    assert first.digest == digest(b"0" * 1000).hexdigest()
    assert (first.previous, second.previous) == ("", first.chain)
    log.segments[-1].sealed = True
    assert sealer.seal(log, 1 << 30) == 1000


def test_a_budget_bounds_one_pass_and_nothing_is_left_out(tmp_path: Path) -> None:
    log = filled(tmp_path, count=6)
    sealer = Sealer(Io())
    assert [sealer.seal(log, 1500) for _ in range(4)] == [2000, 2000, 1000, 0]
    assert sum(d is not None for d in digests(log)) == 5


def test_unsealed_and_compacted_segments(tmp_path: Path) -> None:
    log = filled(tmp_path, count=4)
    log.segments[0].sealed = False
    log.segments[2].compacted = True
    Sealer(Io()).seal(log, 1 << 30)
    assert [d and (d.base_offset, d.previous) for d in digests(log)] == [None, (10, ""), (20, ""), None]


def test_a_damaged_digest_file_is_not_remade(tmp_path: Path) -> None:
    log = filled(tmp_path)
    path = tmp_path / segment_name(0, DIGEST)
    path.write_bytes(b"nonsense")
    sealer = Sealer(Io())
    sealer.seal(log, 1 << 30)
    sealer.forget(log)
    sealer.seal(log, 1 << 30)
    assert path.read_bytes() == b"nonsense"
    second = read_digest(str(tmp_path / segment_name(10, DIGEST)))
    assert second is not None
    assert second.previous == ""
    with pytest.raises(StoreFormatError):
        read_digest(str(path))


def test_a_short_or_missing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(StorageError, match="shorter"):
        seal.hash_file(str(tmp_path / "a"), 4, "blake3")
    with pytest.raises(StorageError):
        seal.hash_file(str(tmp_path / "b"), 4, "blake3")
    made = seal.write_digest(Io(), str(tmp_path / "a"), str(tmp_path / "a.digest"), 7, 3, "sha256")
    assert read_digest(str(tmp_path / "a.digest")) == made
    assert made.digest == hashlib.sha256(b"abc").hexdigest()


hexes = st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}")


@given(st.integers(0, 2**62), st.sampled_from(["blake3", "sha256"]), st.integers(0, 2**40), hexes, st.just("") | hexes)
def test_every_bit_of_a_digest_file_matters(base: int, algorithm: str, size: int, hexed: str, previous: str) -> None:
    digest = Digest(base, algorithm, size, hexed, previous, bool(base % 2))
    data = format_digest(digest)
    assert parse_digest(data, "") == digest
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            other = parse_digest(changed, "")
        except StoreFormatError:
            continue
        # What the chain value does not cover is compared with the file and its name by `verify`.
        assert other.digest == hexed
        assert other != digest


@given(st.binary(max_size=400))
def test_no_bytes_make_a_decode_error(data: bytes) -> None:
    with pytest.raises(StoreFormatError):
        parse_digest(data, "")


def test_pace_holds_the_rate() -> None:
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    pace = Pace(1000, lambda: now, sleep)
    for _ in range(10):
        pace(500)
    assert 4.0 <= sum(slept) <= 5.0
