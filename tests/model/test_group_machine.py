"""The coordinator of groups behaves as a model of some hundred lines does, whatever members do and whenever."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.model.group_machine import GroupMachine

TestGroups = GroupMachine.TestCase
TestGroups.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
