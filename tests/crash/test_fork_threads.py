"""A forked child can do no harm and hangs nowhere, threads may share every object, and an interpreter may end as it likes."""

from __future__ import annotations

from mqcore.torture import fork_threads
from mqcore.torture.fork_points import POINTS


def test_forks_threads_and_exits() -> None:
    report = fork_threads.run(seed=3, faults=len(POINTS), operations=20_000)
    assert report.passed, report.examples
    assert report.faults_injected["exit"] == len(fork_threads.EXITS)
