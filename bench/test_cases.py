"""Each case of mqcore.bench under pytest-benchmark: for comparing two commits (`--benchmark-compare`).

    python -P -m pytest bench/test_cases.py --benchmark-autosave -k append

The ratio to the base is in the extra info; the base runs once, before. Not part of `make test`: figures are no facts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mqcore.bench import engine, eos
from mqcore.bench.harness import Case, Row, scratch

pytestmark = pytest.mark.bench


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", [*engine.select(), *eos.select()], ids=lambda case: case.name)
def test_case(benchmark: BenchmarkFixture, case: Case) -> None:
    with scratch(Path.cwd()) as directory:
        comparison = case.build(directory)
        if isinstance(comparison, Row):  # a size or a latency of its own making: nothing to repeat
            benchmark.extra_info |= comparison.to_json()
            benchmark.pedantic(lambda: None)
            assert not comparison.why
            return
        comparison.base.time()
        base_s = comparison.base.time()
        prepared: list[object] = []

        def setup() -> tuple[tuple[object], dict[str, object]]:
            if prepared:
                comparison.ours.clean_up(prepared.pop())
            prepared.append(comparison.ours.prepare())
            return (prepared[0],), {}

        benchmark.pedantic(comparison.ours.run, setup=setup, rounds=5, warmup_rounds=1)
        comparison.ours.clean_up(prepared.pop())
        benchmark.extra_info |= {"goal": case.goal, "base": case.base, "ratio": base_s / benchmark.stats.stats.median}
