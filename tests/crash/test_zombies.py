"""Holders of transactions that sleep, go away, or come once: the winner's is there, whole, and nobody waits for the others."""

from __future__ import annotations

from mqcore.torture import hanging, ids, zombies


def test_a_sleeper_at_any_line_and_his_successor() -> None:
    report = zombies.run(seed=31, faults=600)
    assert report.passed, report.examples
    assert report.faults_injected["revoked"] == 60
    assert report.acked > 600


def test_clients_that_go_away_hold_nobody_back() -> None:
    report = hanging.run(seed=32, faults=100)
    assert report.passed, report.examples
    assert set(report.faults_injected) == set(hanging.WAYS)


def test_ids_that_are_used_once_cost_nothing_later() -> None:
    report = ids.run(seed=33, faults=3000)
    assert report.passed, report.examples
    assert report.faults_injected["killed"] == 300
