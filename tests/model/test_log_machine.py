"""A partition log is a Python list of values, whatever we append, roll, delete, kill and recover."""

import os

from hypothesis import settings

from tests.model.log_machine import FsyncLogMachine, LogMachine

EXAMPLES = int(os.environ.get("MQCORE_MODEL_EXAMPLES", "60"))
SETTINGS = settings(settings.get_profile("default"), max_examples=EXAMPLES, stateful_step_count=40)

TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = SETTINGS
TestFsyncLogMachine = FsyncLogMachine.TestCase
TestFsyncLogMachine.settings = SETTINGS
