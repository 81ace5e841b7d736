"""Whatever of the unsynced a power loss takes, after whichever system call, what was acknowledged under fsync is there;
under os every store opens, and gives no wrong record."""

from __future__ import annotations

import shutil

import pytest

from mqcore.torture import power
from tests.support.strict import needs


@pytest.mark.timeout(300)
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_every_call_of_a_workload_under_every_model(durability: str) -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")
    report = power.run(seed=12, faults=2100, durability=durability)
    assert report.passed, report.examples
    assert report.notes["system_calls"] >= 300
    assert report.faults_injected["power"] >= 7 * report.notes["system_calls"]
    assert report.notes["states_checked"] > 800
