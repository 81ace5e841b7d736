"""Transactional pipelines that are killed, or lose power, at any system call: nothing lost, doubled, moved, or torn."""

from __future__ import annotations

import shutil

import pytest

from mqcore.torture import kill_eos, power_eos
from tests.support.strict import needs

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _compiler() -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")


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
