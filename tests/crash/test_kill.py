"""A writer that is killed at any system call loses nothing that it was told is acknowledged."""

from __future__ import annotations

import shutil

import pytest

from mqcore.torture import kill
from tests.support.strict import needs


@pytest.mark.timeout(300)
def test_sixty_killed_workers() -> None:
    needs(shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), "a C compiler", "apt-get install gcc")
    report = kill.run(seed=11, faults=60)
    assert report.passed, report.examples
    assert report.faults_injected["kill"] == 60
    assert report.acked > 5000
