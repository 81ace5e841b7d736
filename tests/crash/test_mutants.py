"""Every bug that is planted on purpose is noticed by the attack that is meant for it, which finds nothing without it."""

from __future__ import annotations

from mqcore.torture import mutants, planted


def test_every_planted_bug_is_caught() -> None:
    assert set(mutants.CAUGHT_BY) == set(planted.PLANTED)
    report = mutants.run(seed=5, faults=len(mutants.CAUGHT_BY))
    assert report.passed, report.examples
    assert report.mutants_caught >= 12
