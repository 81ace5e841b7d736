"""Every bug that is planted on purpose is noticed by the attack that is meant for it, which finds nothing without it."""

from __future__ import annotations

import pytest

from mqcore.torture import mutants, planted


def test_every_planted_bug_has_its_attack() -> None:
    assert set(mutants.CAUGHT_BY) == set(planted.PLANTED)
    assert set(mutants.CAUGHT_BY.values()) == set(mutants.ATTACKS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", sorted(mutants.ATTACKS))
def test_every_planted_bug_is_caught(attack: str) -> None:
    report = mutants.run(seed=5, faults=len(mutants.CAUGHT_BY), attack=attack)
    assert report.passed, report.examples
    assert report.mutants_caught >= 1
