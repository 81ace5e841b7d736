"""The store's background thread: seals, checkpoints, retention, compaction, view commits.

Invariants:
    1. A pass that fails says so (log, `last_error`) and the next one tries again; the thread never dies of it. What
       cannot be retried (a failed fsync) the segment or the journal remembers itself.
    2. `stop` returns when no pass is running and none will.
Lock: `_wake` guards the three flags only; a pass runs without it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from mqcore.errors import MQError, StoreClosedError

if TYPE_CHECKING:
    from mqcore.log.manager import LogStore

logger = logging.getLogger("mqcore.store")


class Maintenance:
    """One thread a store, started by the first need. It holds the store weakly: a store that nobody closed can go."""

    def __init__(self, store: LogStore, interval_s: float) -> None:
        self._store, self._interval_s = weakref.ref(store), interval_s
        self._wake = threading.Condition()
        self._due = self._stopping = False
        self._thread: threading.Thread | None = None
        self.last_error: BaseException | None = None

    def start(self) -> None:
        """Have the thread running. Cheap when it is."""
        if self._thread is not None:
            return
        with self._wake:
            if self._thread is None and not self._stopping:
                # daemon: at interpreter exit atexit closes the store, which joins it; a non-daemon thread would be
                # waited for before atexit runs.
                self._thread = threading.Thread(target=self._run, name="mqcore-maintenance", daemon=True)
                self._thread.start()

    def hurry(self) -> None:
        """Run a pass soon."""
        self.start()
        with self._wake:
            self._due = True
            self._wake.notify()

    def stop(self) -> None:
        """Wait for a running pass and end the thread. Again: nothing."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._due and not self._stopping:
                    self._wake.wait(self._interval_s)
                if self._stopping:
                    return
                self._due = False
            store = self._store()
            if store is None:
                return
            try:
                store.maintain()
                self.last_error = None
            except StoreClosedError:
                return
            except MQError as error:
                self._failed(error)
            except Exception as error:  # a bug of ours must not stop checkpoints for ever
                self._failed(error)
                logger.exception("maintenance of %s", store.path)
            del store

    def _failed(self, error: Exception) -> None:
        if str(error) != str(self.last_error):
            logger.error("maintenance: %s", error)
        self.last_error = error
