"""What mqcore's own tests use, for the tests of its users.

def test_mine(mqcore_store, mqcore_clock): ...       # fixtures of the pytest plugin that comes with mqcore
crashes.attack(my_processor, feed=..., check=...)    # faults at every step of a processor, replayed by their seed
mqcore eos-check data/ --source in --sink out -- python my_worker.py    # the same checker for a whole process
"""

from mqcore.testing import crashes
from mqcore.testing.clock import DrivenClock
from mqcore.testing.stores import open_store

__all__ = ["DrivenClock", "crashes", "open_store"]
