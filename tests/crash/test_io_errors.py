"""Every system call may fail: the caller hears of it in words, and nothing acknowledged is lost."""

from __future__ import annotations

import shutil

import pytest

from mqcore.torture import io_errors
from mqcore.torture.io_operations import OPERATIONS
from tests.support.strict import needs

WHOLE = ("append", "roll", "commit")


@pytest.fixture(autouse=True)
def _compiler() -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")


@pytest.mark.timeout(300)
def test_each_call_of_append_roll_and_commit() -> None:
    report = io_errors.run(seed=13, faults=1000, only=WHOLE)
    assert report.passed, report.examples
    assert set(report.faults_injected) == {fault.name for fault in io_errors.FAULTS}


@pytest.mark.timeout(300)
def test_some_calls_of_everything_else() -> None:
    report = io_errors.run(seed=14, faults=300, only=[name for name in OPERATIONS if name not in WHOLE], every=9)
    assert report.passed, report.examples
