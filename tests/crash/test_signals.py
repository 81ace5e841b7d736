"""Ctrl-C at lines of send, abort and close: nothing is stuck, torn, or printed."""

from __future__ import annotations

from mqcore.torture import signals


def test_interrupts_at_lines() -> None:
    report = signals.run(seed=41, faults=120)
    assert report.passed, report.examples
    assert set(report.faults_injected) == {"aborted", "sent", "close"}
