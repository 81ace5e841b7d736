"""`verify` finds whatever is wrong with a store and nothing that is not, and changes no byte of it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest

from mqcore.errors import StoreFormatError
from mqcore.log import checkpoints, layout
from mqcore.log.check_report import VerifyReport
from mqcore.log.checkpoints import Damage
from mqcore.log.internal_records import encode
from mqcore.log.verify import by_partition, verify
from tests.support.store_files import StoreFiles
from tests.support.stores import TOPIC, opened

SHAPE = {"orders": [[[2, 3], [1, 2, 2], [4]], [[3]]], "sensors": [[[1], [1]]]}


@pytest.fixture
def files(tmp_path: Path) -> StoreFiles:
    return StoreFiles(tmp_path / "store").make(SHAPE)


def snapshot(path: Path) -> dict[str, tuple[int, int, str]]:
    """Every file's size, modification time and content."""
    return {
        str(file.relative_to(path)): (
            file.stat().st_size,
            file.stat().st_mtime_ns,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def checked(files: StoreFiles) -> VerifyReport:
    """A report, with the promise that nothing was touched."""
    before = snapshot(files.path)
    report = verify(files.path)
    assert snapshot(files.path) == before
    json.dumps(report.to_json())
    return report


def kinds(report: VerifyReport) -> list[tuple[str, str]]:
    return [(problem.kind, os.path.basename(problem.path)) for problem in report.problems]


def test_a_sound_store_is_sound(files: StoreFiles) -> None:
    told: list[tuple[int, int]] = []
    report = verify(files.path, lambda done, total: told.append((done, total)))
    assert (report.problems, report.notes) == ([], [])
    assert report.ok
    assert (report.topics, report.partitions, report.segments, report.records) == (2, 4, 7, 21)
    assert (report.digests, report.clean, report.live) == (3, True, False)
    assert told[-1] == (report.bytes, report.bytes)
    assert checked(files).to_json()["ok"] is True


def test_every_flipped_byte_of_every_file_is_found(tmp_path: Path) -> None:
    """T5 on a store closed cleanly: one bit of each byte, views by stride (tests/unit/log/test_views.py has them)."""
    files = StoreFiles(tmp_path / "store").make({"orders": [[[2, 1], [2]]]})
    stride = {"data.mdb": 613, layout.CLEAN_SHUTDOWN: 3}
    for path in sorted(files.path.rglob("*")):
        if not path.is_file() or path.name in ("lock.mdb", "lock"):
            continue
        good = path.read_bytes()
        for place in range(0, len(good), stride.get(path.name, 1)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
            # The last letter of a topic id in base64 holds four bits that mean nothing.
            harmless = path.name == layout.PARTITION_METADATA and place == len(good) - 1
            assert verify(files.path).problems or harmless, f"{path} byte {place}"
        path.write_bytes(good)
    assert verify(files.path).ok


def test_every_missing_file_is_found_or_is_no_loss(files: StoreFiles) -> None:
    harmless = {"lock.mdb", "data.mdb", "clean", layout.CLEAN_SHUTDOWN, layout.SESSION, layout.RECOVERY_POINTS}
    for path in sorted(files.path.rglob("*")):
        if path.is_file():
            good = path.read_bytes()
            path.unlink()
            report = verify(files.path)
            # An index of the last segment is rebuilt, a digest made: neither is evidence of anything.
            no_loss = path.name in harmless or path.suffix in (".digest", ".index", ".timeindex")
            assert report.problems or no_loss, path
            path.write_bytes(good)
    assert verify(files.path).ok


def test_damage_is_named_with_its_place(files: StoreFiles) -> None:
    path = files.segment("orders", 0, 5)
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    report = checked(files)
    batch = next(problem for problem in report.problems if problem.kind == "batch")
    assert (batch.topic, batch.partition, batch.position, batch.offset, batch.next_offset) == ("orders", 0, 0, 5, 6)
    assert str(batch).startswith("batch: orders-0 ")
    assert set(by_partition(report)) == {("orders", 0)}
    assert ("digest", layout.segment_name(5, layout.DIGEST)) in kinds(report)


def test_a_torn_tail_after_a_crash_is_a_note_and_below_a_recovery_point_damage(files: StoreFiles) -> None:
    path = files.segment("orders", 1, 0)
    path.write_bytes(path.read_bytes()[:-3])
    (files.path / layout.CLEAN_SHUTDOWN).unlink()
    report = checked(files)
    assert kinds(report)[0] == ("batch", path.name)
    (files.path / layout.RECOVERY_POINTS).unlink()
    report = checked(files)
    assert report.ok
    assert any("cuts it off" in note for note in report.notes)


def test_a_base_offset_that_flipped_in_a_compacted_log_is_found(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create_topic(TOPIC, config={"cleanup.policy": "compact"})
        log = store.partition(TOPIC, 0)
        for key in (b"a", b"b", b"a"):
            log.append(encode([(key, b"value")], log.host.clock.wall_ms()))
        path = Path(log.directory) / layout.segment_name(0)
    (tmp_path / "store" / layout.CLEAN_SHUTDOWN).unlink()
    data = bytearray(path.read_bytes())
    second = 12 + int.from_bytes(data[8:12], "big")
    assert verify(tmp_path / "store").ok
    for byte in range(8):  # no checksum covers the base offset, and gaps are usual there
        flipped = data.copy()
        flipped[second + byte] ^= 0x40
        path.write_bytes(flipped)
        assert not verify(tmp_path / "store").ok


def test_missing_segments_partitions_and_tails(files: StoreFiles) -> None:
    files.segment("orders", 0, 5).unlink()
    assert [(p.offset, p.next_offset) for p in checked(files).problems if p.kind == "gap"] == [(5, 10)]
    files.segment("orders", 0, 10).unlink()
    assert [(p.offset, p.next_offset) for p in checked(files).problems if p.kind == "lost"] == [(5, 14)]
    for file in files.directory("sensors", 0).iterdir():
        file.unlink()
    files.directory("sensors", 0).rmdir()
    assert ("lost", "sensors-0") in kinds(checked(files))


def test_foreign_and_deleted_directories(files: StoreFiles) -> None:
    (files.path / layout.TOPICS / "unknown-0").mkdir()
    (files.path / layout.TOPICS / "no partition").mkdir()
    (files.path / layout.TOPICS / f"orders-0.{'0' * 32}-delete").mkdir()
    os.symlink("/etc", files.path / layout.TOPICS / "link-0")
    report = checked(files)
    assert {name for kind, name in kinds(report) if kind == "directory"} == {"unknown-0", "no partition", "link-0"}
    assert any("deleted topic" in note for note in report.notes)


def test_links_inside_a_partition_are_not_followed(files: StoreFiles) -> None:
    path = files.segment("orders", 1, 0)
    path.rename(files.path / "elsewhere")
    os.symlink(files.path / "elsewhere", path)
    assert ("file", path.name) in kinds(checked(files))


def test_another_topics_directory_is_told(files: StoreFiles) -> None:
    metadata = files.directory("orders", 1) / layout.PARTITION_METADATA
    metadata.write_bytes((files.directory("sensors", 0) / layout.PARTITION_METADATA).read_bytes())
    assert ("directory", "orders-1") in kinds(checked(files))


def test_what_recovery_noted_as_damaged_is_one_problem(files: StoreFiles) -> None:
    path = files.segment("orders", 0, 5)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[8:12], "big") + 12
    data[first + 70] ^= 1
    path.write_bytes(data)
    damage = Damage(5, first, len(data), 6, 10)
    checkpoints.write_damage(files.io, str(files.directory("orders", 0) / layout.DAMAGED), [damage])
    report = checked(files)
    assert [(p.kind, p.offset, p.next_offset) for p in report.problems if p.kind == "batch"] == [("batch", 6, 10)]
    assert not [p for p in report.problems if p.kind == "gap"]


def test_a_view_that_disagrees_with_its_log_is_told(tmp_path: Path) -> None:
    files = StoreFiles(tmp_path / "store").make({"a": [[[1]]]}, views=False)
    other = StoreFiles(tmp_path / "other").make({"b": [[[1]]], "c": [[[1]]]})
    (other.path / layout.VIEWS).rename(files.path / layout.VIEWS / "x")
    for file in (files.path / layout.VIEWS / "x").iterdir():
        file.rename(files.path / layout.VIEWS / file.name)
    (files.path / layout.VIEWS / "x").rmdir()
    assert [problem.kind for problem in checked(files).problems] == ["view"]


def test_beside_a_living_writer_nothing_open_is_judged(files: StoreFiles) -> None:
    (files.path / layout.CLEAN_SHUTDOWN).unlink()
    with open(files.path / layout.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(files.segment("orders", 1, 0), "ab") as log:
            log.write(b"half a batch")
        (files.path / layout.VIEWS / "data.mdb").write_bytes(b"being written")
        report = checked(files)
        assert (report.live, report.problems) == (True, [])


def test_no_store_and_another_version(tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError):
        verify(tmp_path / "nothing")
    with pytest.raises(StoreFormatError):
        verify(tmp_path)
    files = StoreFiles(tmp_path / "store").make({})
    (files.path / layout.META).write_bytes(b'{"format":99}\n')
    assert ("file", layout.META) in kinds(checked(files))


def test_a_store_of_rubbish_is_a_report(files: StoreFiles) -> None:
    for number, path in enumerate(sorted(files.path.rglob("*"))):
        if path.is_file():
            path.write_bytes(bytes([number % 256]) * (number * 37 % 5000))
    report = checked(files)
    assert len(report.problems) > 10
