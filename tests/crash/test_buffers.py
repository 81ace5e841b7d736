"""A buffer that was sent is its owner's again, and a view that was read keeps its bytes, whatever happens to its file."""

from __future__ import annotations

from mqcore.torture import buffers


def test_operations_on_poisoned_buffers_and_kept_views_leave_every_byte_as_it_was_sent() -> None:
    report = buffers.run(seed=17, faults=4000)
    assert report.passed, report.examples
    assert report.faults_injected["timeout-in-flight"] > 50
    assert report.notes["views_kept"] > 100
