"""No jump of the wall clock loses a record, breaks an offset or repeats an id, wherever it falls."""

from __future__ import annotations

from mqcore.torture import clock


def test_jumps_of_seconds_to_years_around_everything_that_looks_at_the_clock() -> None:
    report = clock.run(seed=9, faults=60)
    assert report.passed, report.examples
    assert report.faults_injected["jump"] > 600
    assert report.faults_injected["reboot"] > 5
    assert report.notes["expired_topics"] > 20  # the guard lets go of what has expired
