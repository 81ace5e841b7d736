"""The states and tables of a store: found by name, opened at the first need, shared by all who ask.

Invariants:
    1. One StateStore a state, one view a partition of a table, as long as the store is open.
    2. Reading makes nothing: a state that no transaction has opened yet is empty.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mqcore.errors import InvalidConfigError, UnknownTopicError
from mqcore.log import internal_topics, layout
from mqcore.log.views import View
from mqcore.partitioners import partitioner
from mqcore.state import changelog
from mqcore.state.reading import Live
from mqcore.state.store import StateStore
from mqcore.state.transaction import TransactionState

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore
    from mqcore.ports import TransactionWriter


class StateStores:
    """Safe to share between threads."""

    def __init__(self, log: LogStore) -> None:
        self._log = log
        self._lock = threading.Lock()  # guards the maps; held over the opening of a state
        self._stores: dict[str, StateStore] = {}
        self._tables: dict[str, Table] = {}

    def names(self) -> list[str]:
        """The states that are there, sorted."""
        topics = self._log.registry.all(internal=True).values()
        return [info.name[len(changelog.PREFIX) :] for info in topics if info.name.startswith(changelog.PREFIX)]

    def in_transaction(self, tx: TransactionWriter, name: str) -> TransactionState:
        """The state as a transaction sees it, enlisted; made if it is not there. Once a name and transaction.

        Raises InvalidTopicError (the name), StoreReadOnlyError, StorageError, CorruptBatchError.
        """
        state = TransactionState(self.open(name, make=True))
        kept = tx.enlist(("state", name), state)
        assert isinstance(kept, TransactionState)
        if kept is not state:
            state.aborted(tx)
        return kept

    def state(self, name: str) -> State:
        """A state, to be read. Raises InvalidTopicError (the name)."""
        layout.check_topic_name(changelog.topic_of(name))
        return State(self, name)

    def open(self, name: str, *, make: bool) -> StateStore:
        """make: else UnknownTopicError if there is none."""
        self._log.check_usable()
        store = self._stores.get(name)
        if store is not None:
            return store
        with self._lock:
            store = self._stores.get(name)
            if store is None:
                topic = changelog.topic_of(name)
                if make:
                    internal_topics.ensure(self._log, topic, 1, changelog.CONFIG)
                log = self._log.partition(topic, 0)
                store = self._stores[name] = StateStore(self._log.views, name, log, read_only=self._log.read_only)
            return store

    def table(self, topic: str) -> Table:
        """A compacted topic as a map that follows it. Raises UnknownTopicError; InvalidConfigError: not compacted."""
        self._log.check_usable()
        with self._lock:
            table = self._tables.get(topic)
            if table is None or not table.is_current:
                info = self._log.topic(topic)
                if not info.config.compacted:
                    raise InvalidConfigError(
                        "a table needs a compacted topic", hint="Set cleanup.policy to compact.", topic=topic
                    )
                table = self._tables[topic] = Table(self._log, topic)
            return table


class State(Live):
    """`store.state(name)`: what transactions have committed to a state."""

    def __init__(self, stores: StateStores, name: str) -> None:
        self._stores, self.name = stores, name
        self._store: StateStore | None = None

    def __repr__(self) -> str:
        return f"<State {self.name}>"

    def _views(self) -> Sequence[View]:
        store = self._store
        if store is None:
            try:
                store = self._store = self._stores.open(self.name, make=False)
            except UnknownTopicError:
                return ()
        store.follow()
        return (store.view,)


class Table(Live):
    """`store.table(topic)`: the latest value of each key of a compacted topic, all partitions.

    A key that several partitions hold (the partition count was raised, or producers place keys differently) has the
    value of the partition that its partitioner gives it, else of the lowest one that has it.
    """

    def __init__(self, log: LogStore, topic: str) -> None:
        self._log, self.topic = log, topic
        info = log.topic(topic)
        self._topic_id, self._place = info.topic_id, partitioner(info.config.partitioner)
        self._lock = threading.Lock()  # guards the list
        self._parts: list[View] = []

    def __repr__(self) -> str:
        return f"<Table {self.topic}>"

    @property
    def is_current(self) -> bool:
        """Whether its topic is still there: one of the same name may have come after it."""
        return self._log.registry.find(self._topic_id) is not None

    def _views(self) -> Sequence[View]:
        info = self._log.topic(self.topic)
        if info.topic_id != self._topic_id:
            raise UnknownTopicError("the topic of this table was deleted", topic=self.topic)
        parts = self._parts
        if len(parts) < info.partitions:
            with self._lock:
                for number in range(len(parts), info.partitions):
                    name = f"table:{self._topic_id}-{number}"
                    parts.append(View(self._log.views, name, self._log.partition(self.topic, number), None))
        for view in parts:
            view.follow()
        return parts

    def _first(self, key: bytes) -> int:
        return self._place(key, len(self._parts))
