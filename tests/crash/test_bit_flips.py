"""One flipped bit in any file of a store is seen, or harmless; never a wrong record, never a crash."""

from __future__ import annotations

import pytest

from mqcore.torture import bit_flips


@pytest.mark.timeout(300)
def test_flips_spread_over_every_kind_of_file() -> None:
    report = bit_flips.run(seed=15, faults=3000)
    assert report.passed, report.examples
    assert report.faults_injected["bit-flip"] == 3000
    assert {".log", ".index", ".timeindex", ".journal", ".mdb", ".json", ".metadata"} <= set(report.notes["kinds"])
