"""What the io-errors suite does while calls fail: each operation on a fresh copy of the template that it names."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqcore
from mqcore.torture.attack import read_all
from mqcore.torture.ledger import TOPIC, Ledger
from mqcore.torture.workload import PARTITIONS, STORE_CONFIG, TOPIC_CONFIG, Worker

COMPACTED = "compacted"
_SEED = 7  # of every run: call n must be the same call under each n


class Inside(Worker):
    """The worker of the other suites, telling a ledger in this process."""

    def __init__(self, ledger: Ledger, store: mqcore.Store | None = None) -> None:
        super().__init__(store, -1, _SEED, ledger.sent)
        self._ledger = ledger

    def open(self, path: Path, durability: str) -> None:
        self.store = mqcore.open(path, durability=durability, config=STORE_CONFIG)
        if TOPIC in self.store.topics():
            self.setup()

    def tell(self, **line: Any) -> None:
        self._ledger.add(line)

    # -- operations -------------------------------------------------------------------------------------------------

    def append(self) -> None:
        for _ in range(3):
            self.send_and_wait()

    def roll(self) -> None:
        for _ in range(6):
            self.send_everywhere()

    def commit(self) -> None:
        for _ in range(2):
            self.send_everywhere()

    def each(self) -> None:
        for _ in range(3):
            self.send_each()

    def compact(self) -> None:
        """All that runs in the background, with something to do for each step."""
        self.send_everywhere()
        for partition in range(PARTITIONS):
            self.store.log.partition(TOPIC, partition).roll()
        for number in range(10):
            self.producer.send(COMPACTED, b"y" * 50, key=b"%d" % (number % 3))
        self.producer.flush()
        self.store.log.partition(COMPACTED, 0).roll()
        self.store.log.maintain()

    def views(self) -> None:
        for _ in range(3):
            self.topics()
        self.store.log.maintain()

    def trim(self) -> None:
        for partition in range(PARTITIONS):
            end = self.store.end_offsets(TOPIC)[partition]
            self.tell(k="trim", p=partition, o=end - 5)
            self.store.delete_before(TOPIC, {partition: end - 5})

    def read_everything(self) -> None:
        for partition in range(PARTITIONS):
            for _ in read_all(self.store, TOPIC, partition):
                pass
            self.store.log.partition(TOPIC, partition).offset_for_time(0)

    def close(self) -> None:
        self.send_everywhere()
        self.store.close()

    def nothing(self) -> None:
        pass

    def make_and_send(self) -> None:
        self.setup()
        self.send_and_wait()

    def write_on(self) -> None:
        """One acknowledged batch in each partition, whatever happened before."""
        self.setup()
        self.send_everywhere()
        self.producer.close()


@dataclass(frozen=True, slots=True)
class Operation:
    """opens: the store is opened under the fault too. template: what it starts from (Templates)."""

    name: str
    act: Callable[[Inside], None]
    opens: bool = False
    template: str = "closed"


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("create", Inside.make_and_send, opens=True, template="nothing"),
        Operation("open", Inside.nothing, opens=True),
        Operation("recover", Inside.nothing, opens=True, template="killed"),
        Operation("append", Inside.append),
        Operation("roll", Inside.roll),
        Operation("commit", Inside.commit),
        Operation("each", Inside.each),
        Operation("compaction", Inside.compact),
        Operation("view", Inside.views),
        Operation("trim", Inside.trim),
        Operation("read", Inside.read_everything),
        Operation("close", Inside.close),
    )
}


class Templates:
    """ "closed": a small store with several segments and a compacted topic; "killed": the same, as a kill leaves it in
    the middle of its work; "nothing": no directory. Each with the record of what it holds."""

    def __init__(self, place: Path, durability: str) -> None:
        self._place = place
        place.mkdir()
        ledger, path = Ledger(), place / "closed"
        self._ledgers = {"nothing": Ledger()}
        with mqcore.open(path, durability=durability, config=STORE_CONFIG) as store:
            worker = Inside(ledger, store)
            worker.setup()
            for _ in range(6):
                worker.send_everywhere()
            store.create_topic(COMPACTED, config={**TOPIC_CONFIG, "cleanup.policy": "compact", "segment.bytes": 4096})
            for number in range(200):
                worker.producer.send(COMPACTED, b"x" * 50, key=b"%d" % (number % 5))
            worker.producer.flush()
            store.log._maintenance.stop()  # or files go while they are copied, as in no crash
            self._ledgers["killed"] = copy.deepcopy(ledger)
            shutil.copytree(path, place / "killed")  # the page cache outlives a killed process
            worker.send_everywhere()
            worker.producer.close()
        self._ledgers["closed"] = ledger

    @property
    def acked_count(self) -> int:
        return self._ledgers["closed"].acked_count

    def copy(self, name: str, target: Path) -> Ledger:
        """Put a template at `target`, which is not there; its record."""
        if name != "nothing":
            shutil.copytree(self._place / name, target)
        return copy.deepcopy(self._ledgers[name])
