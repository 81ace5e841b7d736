"""Whichever allocation of Python fails, the caller gets an error that says so, and what was acknowledged stays."""

from __future__ import annotations

import importlib.util

import pytest

from mqcore.torture import oom


@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="this Python has no _testcapi")
def test_the_first_allocations_of_hot_operations_fail_one_by_one() -> None:
    report = oom.run(seed=0, faults=40, only=("append", "read", "trim", "open"))
    assert report.passed, report.examples
    assert sum(report.faults_injected.values()) >= 100
