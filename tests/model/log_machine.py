"""A partition log beside its model, a Python list of values: appended, rolled, read, killed, without power, opened.

The model knows three numbers besides: where the log starts, up to where it was acknowledged, and up to where a reader
was shown it. After any crash everything below both is there, in place, and nothing else came up below the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mqcore._native.io import Io
from mqcore.errors import OffsetOutOfRangeError
from mqcore.log.checkpoints import PartitionKey, read_offsets
from mqcore.log.manager import LogStore
from mqcore.log.partition_log import PartitionLog
from tests.support.stores import TOPIC, batch_positions, kill, put, segment_files, values_of

VALUES = st.lists(st.binary(max_size=300), min_size=1, max_size=20)
FAST_DIRECTORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class LogMachine(RuleBasedStateMachine):
    """One partition of a store under `durability`."""

    durability = "os"

    @initialize(segment_bytes=st.sampled_from([500, 3000, 1 << 20]))
    def make(self, segment_bytes: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mqcore-model-", dir=FAST_DIRECTORY))
        self.opens = 0
        self.path = self.root / "0"
        self.model: list[bytes] = []
        self.start = self.acknowledged = self.shown = 0
        self.open()
        self.store.create_topic(TOPIC, config={"segment.bytes": segment_bytes, "index.interval.bytes": 200})

    def open(self) -> None:
        self.store = LogStore.open(self.path, durability=self.durability)
        self.store._maintenance.stop()  # its work is a rule here: an example must run the same way twice

    @property
    def log(self) -> PartitionLog:
        return self.store.partition(TOPIC, 0)

    # -- what a user does -------------------------------------------------------------------------------------------

    @rule(values=VALUES)
    def append(self, values: list[bytes]) -> None:
        end = put(self.log, *values, wait=False)
        self.model += values
        assert end == len(self.model)
        if self.durability == "os":
            self.acknowledged = end

    @rule(values=VALUES)
    def append_and_wait(self, values: list[bytes]) -> None:
        self.append(values)
        self.wait()

    @rule()
    def wait(self) -> None:
        self.log.wait_durable(len(self.model))
        self.acknowledged = len(self.model)
        assert self.log.high_watermark == len(self.model)

    @rule(share=st.floats(0, 1))
    def read_from(self, share: float) -> None:
        end = self.log.high_watermark
        offset = self.start + int((end - self.start) * share)
        assert values_of(self.log, offset) == self.model[offset:end]
        self.shown = max(self.shown, end)

    @rule()
    def read_outside(self) -> None:
        for offset in (self.start - 1, len(self.model) + 1):
            try:
                self.log.read(offset)
            except OffsetOutOfRangeError:
                continue
            raise AssertionError(f"offset {offset} is outside, and was read")

    @rule(share=st.floats(0, 1))
    def delete_before(self, share: float) -> None:
        self.start += int((self.log.last_stable_offset - self.start) * share)
        self.log.delete_before(self.start)

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule()
    def maintain(self) -> None:
        self.store.maintain()

    # -- the end of a process, and the next one ---------------------------------------------------------------------

    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self.open()
        assert self.store.recovery.clean
        self.acknowledged = len(self.model)  # a clean close makes durable what nobody waited for
        assert self.log.high_watermark == len(self.model)

    @rule()
    def crash(self) -> None:
        """A kill of the process."""
        self._die()
        self._recover()

    @rule(torn_bytes=st.integers(0, 400))
    def lose_power(self, torn_bytes: int) -> None:
        """Under fsync: what was not synced goes, up to torn_bytes of it. (Under os nothing is promised.)"""
        self._die()
        if self.durability == "fsync":
            self._lose_unsynced(torn_bytes)
        self._recover()

    def _die(self) -> None:
        self.opens += 1
        image = kill(self.store, self.root / str(self.opens))
        shutil.rmtree(self.path)
        self.path = image

    def _recover(self) -> None:
        self.open()
        end = self.log.log_end_offset
        assert max(self.acknowledged, self.shown) <= end <= len(self.model)
        assert self.store.recovery.damaged == []
        del self.model[end:]
        self.acknowledged = end  # recovery made it durable
        assert self.log.high_watermark == end

    def _lose_unsynced(self, torn_bytes: int) -> None:
        """Cut the last segment up to torn_bytes behind its recovery point: what is acknowledged the journal has."""
        files = segment_files(self.path)
        if not files:
            return
        points = read_offsets(Io(), str(self.path / "recovery-point-offset-checkpoint"))
        point = points.get(PartitionKey(TOPIC, 0), 0)
        data = files[-1].read_bytes()
        for position, _ in batch_positions(files[-1]):
            if int.from_bytes(data[position : position + 8], "big") >= point:
                os.truncate(files[-1], min(position + torn_bytes, len(data)))
                return

    # -- always -----------------------------------------------------------------------------------------------------

    @invariant()
    def offsets_are_in_order(self) -> None:
        if not hasattr(self, "store"):
            return
        offsets = self.log.offsets.checked()
        assert offsets.log_start == self.start
        assert self.acknowledged <= offsets.high_watermark <= offsets.log_end == len(self.model)

    @invariant()
    def reads_equal_the_model(self) -> None:
        if hasattr(self, "store"):
            assert values_of(self.log) == self.model[self.start : self.log.high_watermark]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.abandon()
            shutil.rmtree(self.root, ignore_errors=True)


class FsyncLogMachine(LogMachine):
    """The same, under fsync: acknowledged is what survives the power."""

    durability = "fsync"
