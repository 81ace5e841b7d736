"""Transactional pipelines that are killed, or lose power, at any system call: nothing lost, doubled, moved, or torn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mqcore
from mqcore.torture import kill_eos, power_eos
from mqcore.torture.eos_ledger import SOURCE
from mqcore.torture.eos_workload import STORE_CONFIG, Job, Life
from tests.support.strict import needs

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _compiler() -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")


def test_a_life_with_empty_partitions_is_through_once_the_others_are(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "store"), str(tmp_path / "record"), partitions=3)
    with mqcore.open(job.store, config=STORE_CONFIG) as store:
        life = Life(store, job, record_fd=-1)
        life.setup()
        assert life.is_through(), "nothing was planted"
        with store.producer() as producer:
            producer.send(SOURCE, b"0:0", partition=0).result()
        assert not life.is_through(), "a record waits, two partitions are empty"


def test_a_hundred_killed_pipelines() -> None:
    report = kill_eos.run(seed=21, faults=100)
    assert report.passed, report.examples
    assert (report.lost, report.duplicated, report.reordered) == (0, 0, 0)
    assert report.notes["exactly_once"] > 50
    assert report.notes["at_least_once"] > 10


def test_kills_under_fsync() -> None:
    report = kill_eos.run(seed=22, faults=20, durability="fsync")
    assert report.passed, report.examples


def test_power_loss_at_two_hundred_points_of_transactional_pipelines() -> None:
    report = power_eos.run(seed=23, faults=200)
    assert report.passed, report.examples
    assert report.acked > 100
