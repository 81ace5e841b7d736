"""Doctor says what is off, and is silent about what is fine: its judgements are pure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqcore.cli import doctor
from mqcore.log import machine

GOOD = machine.FileSystem("ext4", "/", "/dev/sda", ("rw",), 1 << 40, 1 << 39, 1 << 20)
COST = machine.SyncCost(100, 3, 5, 100, 300)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "tmpfs"}, "in memory"),
        ({"kind": "nfs4"}, "network"),
        ({"kind": "fuse.sshfs"}, "user-space"),
        ({"options": ("ro",)}, "read-only"),
        ({"options": ("rw", "nobarrier")}, "nobarrier"),
    ],
)
def test_weak_file_systems_are_named(change: dict[str, object], says: str) -> None:
    finding = doctor.judge_file_system(Path("x"), dataclasses.replace(GOOD, **change))
    assert finding.state == "off"
    assert says in finding.remedy


def test_a_good_disk_has_no_remedy() -> None:
    assert doctor.judge_file_system(Path("x"), GOOD).remedy == ""
    assert doctor.judge_space(GOOD).remedy == ""
    assert all(finding.remedy == "" for finding in doctor.judge_sync(COST, "ext4"))


def test_full_disks_and_odd_syncs() -> None:
    assert doctor.judge_space(dataclasses.replace(GOOD, free_bytes=1 << 20)).state == "off"
    assert doctor.judge_space(dataclasses.replace(GOOD, free_inodes=5)).state == "off"
    assert doctor.judge_sync(dataclasses.replace(COST, sync_p50_us=20_000), "ext4")[-1].state == "slow"
    assert doctor.judge_sync(dataclasses.replace(COST, sync_p50_us=2), "ext4")[-1].state == "off"
    assert doctor.judge_sync(None, "ext4")[-1].state == "off"


def test_limits() -> None:
    low = doctor.look_at_limits({"nofile": 256, "max_map_count": 1000, "memlock_bytes": None})
    assert [finding.state for finding in low] == ["ok", "slow", "slow"]
    fine = doctor.look_at_limits({"nofile": None, "max_map_count": None, "memlock_bytes": 1 << 20})
    assert not any(finding.remedy for finding in fine)


def test_the_command_finds_this_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor.doctor, ["--store", str(tmp_path / "not-yet"), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    names = {finding["name"] for finding in report["findings"]}
    assert {"crc32c", "file system", "free space", "fdatasync", "/dev/shm", "open files", "mappings"} <= names
    assert [level["durability"] for level in report["durability"]] == ["fsync", "os", "memory"]
    assert not (tmp_path / "not-yet").exists()
    assert list(tmp_path.iterdir()) == []
