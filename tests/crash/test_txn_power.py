"""Whatever system call of a transaction is the last before a kill or a power loss: the reopened store has all of it or nothing,
in every partition and in the state; what was acknowledged is there, what was aborted is not, and nothing holds readers back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from mqcore.torture import txn_power
from mqcore.torture.attack import environment
from mqcore.torture.mutants import CAUGHT_BY
from tests.support.strict import needs


@pytest.fixture(autouse=True)
def compiler() -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")


def test_a_kill_at_every_call_of_a_transactional_workload() -> None:
    report = txn_power.run(seed=5, faults=100_000, durability="os", transactions=30)
    assert report.passed, report.examples
    assert report.faults_injected["power"] == report.notes["states"] > 250
    assert report.acked >= 20


def test_a_power_loss_at_any_call_under_every_model() -> None:
    report = txn_power.run(seed=6, faults=1500, durability="fsync", transactions=20)
    assert report.passed, report.examples
    assert report.notes["states_checked"] > 1000
    assert report.acked >= 10


@pytest.mark.slow
@pytest.mark.parametrize("bug", [name for name, attack in CAUGHT_BY.items() if attack.startswith("txn-")])
def test_a_planted_bug_is_noticed(bug: str) -> None:
    """A checker that has never failed is none."""
    code = (
        "from mqcore.torture import planted; planted.apply_from_environment()\n"
        "from mqcore.torture.mutants import ATTACKS\n"
        f"print(sum(ATTACKS[{CAUGHT_BY[bug]!r}](3).violations.values()))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment(MQCORE_TORTURE_MUTANT=bug, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-1]) > 0
