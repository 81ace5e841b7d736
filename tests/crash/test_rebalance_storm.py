"""Members that join, leave, stall and die every few milliseconds skip no record, share no partition, and commit only as
the current generation."""

from __future__ import annotations

from mqcore.torture import rebalance_storm


def test_a_storm_of_rebalances() -> None:
    report = rebalance_storm.run(seed=5, faults=300)
    assert report.passed, report.examples
    assert report.read > 1000
    assert report.notes["zombies_refused"] > 200
    assert set(report.faults_injected) == {"join", "leave", "stall", "die", "wake"}
