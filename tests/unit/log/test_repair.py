"""After `repair` a store opens, serves every batch that was whole, gives no lost offset again, and has lost no byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.io import FaultyIo
from mqcore.errors import MQError, StoreFormatError, StoreLockedError
from mqcore.log import checkpoints, layout
from mqcore.log.check_report import RepairReport
from mqcore.log.checkpoints import Damage
from mqcore.log.internal_records import read_records
from mqcore.log.manager import LogStore
from mqcore.log.repair import empty_batches, plan_segment, repair
from mqcore.log.verify import verify
from mqcore.types import Durability
from tests.support.store_files import StoreFiles
from tests.unit.log.test_verify import snapshot

SHAPE = {"orders": [[[2, 3], [1, 2, 2], [4]], [[3]]], "sensors": [[[1], [1]]]}
Records = dict[tuple[str, int], dict[int, bytes | None]]


@pytest.fixture
def files(tmp_path: Path) -> StoreFiles:
    return StoreFiles(tmp_path / "store").make(SHAPE)


def contents(path: Path) -> Records:
    """Every record of an opened store: {(topic, partition): {offset: value}}."""
    found: Records = {}
    with LogStore.open(path, durability=Durability.OS) as store:
        for name, info in store.topics().items():
            for number in range(info.partitions):
                log = store.partition(name, number)
                records = read_records(log, log.log_start_offset)
                found[name, number] = {record.offset: record.value for record in records}
    return found


def mended(files: StoreFiles) -> RepairReport:
    report = repair(files.path)
    assert report.problems == []
    json.dumps(report.to_json())
    assert verify(files.path).ok
    return report


def test_a_sound_store_is_not_touched(files: StoreFiles) -> None:
    before = snapshot(files.path)
    report = repair(files.path)
    assert (report.segments_rewritten, report.actions, report.lost, report.problems) == (0, [], [], [])
    assert {k: v for k, v in snapshot(files.path).items() if k != layout.LOCK} == before


def test_a_damaged_batch_goes_to_quarantine_and_the_rest_serves(files: StoreFiles, tmp_path: Path) -> None:
    shutil.copytree(files.path, tmp_path / "good")
    good = contents(tmp_path / "good")
    path = files.segment("orders", 0, 5)
    data = path.read_bytes()
    first = int.from_bytes(data[8:12], "big") + 12
    path.write_bytes(data[: first + 70] + bytes([data[first + 70] ^ 1]) + data[first + 71 :])
    report = mended(files)
    assert [(one.topic, one.partition, one.offset, one.next_offset) for one in report.lost] == [("orders", 0, 6, 8)]
    assert (report.segments_rewritten, report.records_lost) == (1, 2)
    note = json.loads(Path(report.lost[0].quarantined).with_suffix(".json").read_text())
    assert (note["topic"], note["position"], note["offset"], note["next_offset"]) == ("orders", first, 6, 8)
    assert len(Path(report.lost[0].quarantined).read_bytes()) == note["size"]
    del good["orders", 0][6], good["orders", 0][7]
    assert contents(files.path) == good
    with LogStore.open(files.path, durability=Durability.OS) as store:
        assert store.partition("orders", 0).log_end_offset == 14
        assert store.recovery.damaged == []


def test_a_wrong_base_offset_or_epoch_is_put_right_without_loss(files: StoreFiles, tmp_path: Path) -> None:
    shutil.copytree(files.path, tmp_path / "good")
    good = contents(tmp_path / "good")
    path = files.segment("orders", 0, 0)
    data = bytearray(path.read_bytes())
    second = int.from_bytes(data[8:12], "big") + 12
    data[second] ^= 0x80  # a negative base offset
    data[7] ^= 4
    data[14] ^= 1
    path.write_bytes(data)
    report = mended(files)
    assert (report.lost, report.batches_renumbered) == ([], 2)
    assert contents(files.path) == good


@pytest.mark.parametrize("suffix", [layout.INDEX, layout.TIME_INDEX, layout.DIGEST])
def test_companions_are_made_anew(files: StoreFiles, tmp_path: Path, suffix: str) -> None:
    shutil.copytree(files.path, tmp_path / "good")
    path = files.segment("orders", 0, 5, suffix)
    data = path.read_bytes()
    path.write_bytes(data[:3] + bytes([data[3] ^ 1]) + data[4:] if data else b"x")
    report = mended(files)
    assert report.segments_rewritten == 0
    assert contents(files.path) == contents(tmp_path / "good")
    if suffix == layout.DIGEST:
        assert (files.path / layout.QUARANTINE / "orders-0" / path.name).exists()


def test_a_missing_segment_leaves_its_offsets_taken(files: StoreFiles) -> None:
    files.segment("orders", 0, 5).unlink()
    files.segment("orders", 1, 0).write_bytes(b"")
    report = mended(files)
    assert {(one.partition, one.offset, one.next_offset) for one in report.lost} == {(0, 5, 10), (1, 0, 3)}
    found = contents(files.path)
    assert [*found["orders", 0]] == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    with LogStore.open(files.path, durability=Durability.OS) as store:
        assert store.partition("orders", 1).log_end_offset == 3


def test_what_an_open_split_off_is_joined_again(files: StoreFiles) -> None:
    path = files.segment("orders", 0, 5)
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    (files.path / layout.CLEAN_SHUTDOWN).unlink()
    checkpoints.write_offsets(files.io, str(files.path / layout.RECOVERY_POINTS), {})
    checkpoints.write_session(files.io, str(files.path / layout.SESSION), checkpoints.Session(0, Durability.OS))
    with LogStore.open(files.path, durability=Durability.OS) as store:
        assert store.recovery.damaged
    assert not verify(files.path).ok
    report = mended(files)
    assert [(one.offset, one.next_offset) for one in report.lost] == [(5, 6)]
    assert [*contents(files.path)["orders", 0]] == [0, 1, 2, 3, 4, *range(6, 14)]


def test_small_files_and_views(files: StoreFiles, tmp_path: Path) -> None:
    shutil.copytree(files.path, tmp_path / "good")
    (files.directory("orders", 0) / layout.PARTITION_METADATA).write_bytes(b"rubbish")
    (files.directory("orders", 1) / layout.LEADER_EPOCHS).write_bytes(b"rubbish")
    (files.directory("orders", 1) / layout.DAMAGED).write_bytes(b"rubbish")
    (files.path / layout.VIEWS / "data.mdb").write_bytes(b"rubbish" * 5000)
    (files.path / layout.META).write_bytes(b"rubbish")
    report = mended(files)
    assert report.lost == []
    assert len(report.actions) == 4
    assert contents(files.path) == contents(tmp_path / "good")


@pytest.mark.parametrize("views", [True, False])
def test_lost_metadata_is_found_again(files: StoreFiles, tmp_path: Path, views: bool) -> None:
    """From the view, or from the directories' own files: no partition is orphaned by damage to `__metadata`."""
    shutil.copytree(files.path, tmp_path / "good")
    path = files.segment("__metadata", 0, 0)
    path.write_bytes(bytes(b ^ 1 for b in path.read_bytes()))
    if not views:
        (files.path / layout.VIEWS / "data.mdb").unlink()
    report = mended(files)
    assert sum("written again" in action for action in report.actions) == 2
    assert contents(files.path) == contents(tmp_path / "good")
    ids = {name: info.topic_id for name, info in files.infos.items()}
    with LogStore.open(files.path, durability=Durability.OS) as store:
        assert {name: info.topic_id for name, info in store.topics().items()} == ids


@pytest.mark.slow
@pytest.mark.parametrize("sticky", [False, True])
def test_a_failure_at_any_call_can_be_repaired_again(tmp_path: Path, sticky: bool) -> None:
    """T4 for repair: the n-th write fails, n = 1, 2, …, alone or with all that follow (a crash); then once more."""
    template = StoreFiles(tmp_path / "template").make(SHAPE)
    good = contents(template.path)
    path = template.segment("orders", 0, 5)
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    other = template.segment("sensors", 0, 0)
    other.write_bytes(other.read_bytes()[:-7])
    metadata = template.segment("__metadata", 0, 0)
    metadata.write_bytes(b"x" + metadata.read_bytes()[1:])
    del good["orders", 0][5], good["sensors", 0][0]
    at = failures = 0
    while True:
        at += 1
        store = tmp_path / f"store{at}"
        shutil.copytree(template.path, store)
        io = FaultyIo()
        io.arm(at, 5, sticky=sticky)
        try:
            repair(store, io=io)
        except (MQError, OSError):
            failures += 1
        if not io.fired:
            break
        assert repair(store).problems == []
        assert contents(store) == good, at
    assert failures > 25


def test_repair_needs_the_lock_and_a_store(files: StoreFiles, tmp_path: Path) -> None:
    with LogStore.open(files.path, durability=Durability.OS), pytest.raises(StoreLockedError):
        repair(files.path)
    with pytest.raises(StoreFormatError):
        repair(tmp_path / "nothing")


def test_another_format_version_is_left_alone(files: StoreFiles) -> None:
    (files.path / layout.META).write_bytes(b'{"format":99}\n')
    assert repair(files.path).problems
    assert (files.path / layout.META).read_bytes() == b'{"format":99}\n'


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_damage_to_logs_leaves_a_store_that_opens(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever ranges are overwritten: the store opens, no record is wrong, none is invented, offsets go on behind."""
    files = StoreFiles(tmp_path_factory.mktemp("store") / "store").make(SHAPE)
    good = contents(files.path)
    files.close()
    logs = sorted(p for p in files.path.rglob("*.log") if "__metadata" not in str(p))
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(logs))
        raw = bytearray(path.read_bytes())
        if raw:
            at = data.draw(st.integers(0, len(raw) - 1))
            end = min(len(raw), at + data.draw(st.integers(1, 200)))
            raw[at:end] = data.draw(st.binary(min_size=end - at, max_size=end - at))
            path.write_bytes(raw)
    report = repair(files.path)
    assert report.problems == []
    found = contents(files.path)
    lost = {(one.topic, one.partition, o) for one in report.lost for o in range(one.offset, one.next_offset)}
    for key, records in good.items():
        assert found[key].items() <= records.items()
        assert {(*key, offset) for offset in records.keys() - found[key].keys()} <= lost
    with LogStore.open(files.path, durability=Durability.OS) as store:
        for key, state in files.states.items():
            if key.topic != "__metadata":
                assert store.partition(*key).log_end_offset == state.log_end


def test_empty_batches_take_any_number_of_offsets() -> None:
    from mqcore._native.batch import scan

    rows, problem = scan(empty_batches(5, 5 + 2**31 + 10, 7))
    assert problem is None
    assert [(int(r["base_offset"]), int(r["last_offset"]), int(r["record_count"])) for r in rows] == [
        (5, 5 + 2**31 - 2, 0),
        (5 + 2**31 - 1, 5 + 2**31 + 9, 0),
    ]
    assert set(rows["leader_epoch"]) == {7}


def test_planning_a_good_segment_plans_nothing(files: StoreFiles) -> None:
    from mqcore.log.partition_check import CheckedSegment
    from mqcore.log.segment_check import SegmentCheck

    found = SegmentCheck(0, size=10, next_offset=5)
    assert plan_segment(CheckedSegment(0, "", found), 10, 5, gaps=False) is None
    assert plan_segment(CheckedSegment(0, "", found), 10, 9, gaps=True) is None
    damaged = CheckedSegment(0, "", found, Damage(0, 10, 20, 5, 8))
    plan = plan_segment(damaged, 30, 8, gaps=False)
    assert plan is not None
    assert [tuple(piece) for piece in plan.pieces] == [(0, 10), (5, 8)]
