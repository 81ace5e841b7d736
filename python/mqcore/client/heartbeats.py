"""The thread that keeps a store's group members alive, whatever their users' threads do.

Invariants:
    1. One thread a store, started by the first consumer with a group, joined by `close`. It runs none of the user's code.
    2. Without members it sleeps without a deadline.
    3. An error of one member is logged and does not keep the others waiting.
Lock: `_changed` guards the members and the flag; nothing else is locked while it is held.
"""

from __future__ import annotations

import logging
import threading

from mqcore.client.membership import Membership
from mqcore.errors import MQError, StoreClosedError
from mqcore.groups.coordinator import Coordinator

logger = logging.getLogger("mqcore.groups")

HEARTBEAT_S = 3.0  # Kafka's heartbeat.interval.ms; a session shorter than four of them makes it shorter
LEAST_S = 0.01


class Heartbeats:
    """The thread, and whom it looks after."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._changed = threading.Condition()
        self._members: list[Membership] = []
        self._thread: threading.Thread | None = None
        self._stopping = False

    def add(self, membership: Membership) -> None:
        with self._changed:
            if self._stopping:
                raise StoreClosedError("the store is closed")
            self._members.append(membership)
            if self._thread is None:
                # daemon: at interpreter exit the store's close joins it.
                self._thread = threading.Thread(target=self._run, name="mqcore-heartbeats", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, membership: Membership) -> None:
        with self._changed:
            if membership in self._members:
                self._members.remove(membership)

    def close(self) -> None:
        """Stop and join the thread. Consumers are closed before."""
        with self._changed:
            self._stopping = True
            self._members.clear()
            self._changed.notify()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def interval_s(self) -> float:
        """The longest time between two looks that keeps every session."""
        with self._changed:
            return min([HEARTBEAT_S, *(one.session_timeout_s / 4 for one in self._members)])

    def look(self) -> float | None:
        """Look after every member, and after the time-outs of all groups, once; seconds until the next time-out, None:
        there is none. The thread calls it, and a test that moves its clock."""
        with self._changed:
            members = list(self._members)
        for member in members:
            if not self._look_after(member):
                self.remove(member)
        return self._tick()

    def _run(self) -> None:
        due_s: float | None = 0.0
        while True:
            with self._changed:
                if not self._stopping:
                    wait_s = self.interval_s if due_s is None else min(self.interval_s, due_s)
                    self._changed.wait(max(LEAST_S, wait_s) if self._members else None)
                if self._stopping:
                    return
            due_s = self.look()

    def _look_after(self, member: Membership) -> bool:
        try:
            return member.look_after()
        except StoreClosedError:
            return False
        except Exception:
            logger.exception("group %s: a member's heartbeat failed", member.group)
            return True

    def _tick(self) -> float | None:
        try:
            return self._coordinator.tick()
        except MQError as error:
            logger.warning("groups: %s", error)
            return None
