"""`mqcore.open`: from a path, ":memory:" or a URL to a client.

A store in memory is a store like any other, in a private directory on tmpfs (or in the temporary directory where there
is none): the same code. The directory goes at close; one whose process died is swept by the next open.

Invariants:
    1. A directory is swept only if it is ours (our user's, no link, made by this function) and its lock is free.
    2. The name is made before anybody else can guess it, by mkdtemp: 0700.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping

from mqcore._native.io import Io
from mqcore.client.embedded import Store
from mqcore.clock import Clock
from mqcore.config.keys import ConfigValue
from mqcore.errors import InvalidConfigError, MissingExtraError, MQError
from mqcore.log.lock import StoreLock
from mqcore.log.manager import LogStore
from mqcore.types import Durability

MEMORY = ":memory:"
KAFKA = "kafka://"
_PREFIX = "mqcore-memory-"


def open(
    path: str | os.PathLike[str],
    *,
    durability: Durability | str | None = None,
    read_only: bool = False,
    config: Mapping[str, ConfigValue] | None = None,
    clock: Clock | None = None,
    io: Io | None = None,
) -> Store:
    """Open a store, and make it if it is not there.

    path: a directory (new, empty, or a store), or ":memory:" for one that goes away at close.
    durability: what an acknowledgement survives: "fsync" (power loss; the default), "os" (the death of the process),
    "memory" (nothing; for tests). Topics may set their own (`mqcore.durability`).
    read_only: any number of processes may read beside one that writes; nothing is written.
    config: the store's settings, and defaults for its topics under Kafka's broker names (`log.retention.ms`).
    clock, io: for tests: time and the file system calls.

    Raises StoreLockedError (another process writes it), StoreFormatError (no store, or another format version),
    StoreReadOnlyError, InvalidConfigError, StorageError.
    """
    text = os.fspath(path)
    if text.startswith(KAFKA):
        raise MissingExtraError(
            "clients of a Kafka cluster are not part of this version",
            hint="Open a directory; or use confluent-kafka against the cluster",
            path=text[:200],
        )
    if not text:
        raise InvalidConfigError("the path is empty", hint="Give a directory, or ':memory:'")
    level = _durability(durability, Durability.MEMORY if text == MEMORY else Durability.FSYNC)
    if text != MEMORY:
        log = LogStore.open(path, durability=level, read_only=read_only, io=io, clock=clock, config=config)
        return _started(Store(log))
    if read_only:
        raise InvalidConfigError("a store in memory begins empty: reading only makes no sense")
    return _open_in_memory(io, clock, config)


def memory() -> Store:
    """A store in memory: `mqcore.open(":memory:")`."""
    return open(MEMORY)


def _durability(given: Durability | str | None, default: Durability) -> Durability:
    try:
        return default if given is None else Durability(given)
    except ValueError:
        names = ", ".join(repr(str(one)) for one in Durability)
        raise InvalidConfigError(f"durability must be one of {names}", value=repr(given)[:80]) from None


def _open_in_memory(io: Io | None, clock: Clock | None, config: Mapping[str, ConfigValue] | None) -> Store:
    parent = _memory_parent()
    sweep(parent)
    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    try:
        log = LogStore.open(directory, durability=Durability.MEMORY, io=io, clock=clock, config=config)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Store(log, private_directory=directory)


def _started(store: Store) -> Store:
    """The store, once its parts are ready; abandoned if they cannot be (its log is as after a crash then)."""
    try:
        store.broker.start()
    except BaseException:
        store.log.abandon()
        raise
    return store


def _memory_parent() -> str:
    """Where private directories go: tmpfs if there is one to write to."""
    shared = "/dev/shm"
    return shared if os.path.isdir(shared) and os.access(shared, os.W_OK | os.X_OK) else tempfile.gettempdir()


def sweep(parent: str) -> int:
    """Remove the private directories of processes that died; how many went (invariant 1)."""
    swept = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            if not entry.name.startswith(_PREFIX):
                continue
            with contextlib.suppress(OSError, MQError):
                found = os.lstat(entry.path)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    continue
                path = os.path.join(entry.path, "lock")
                if not os.path.exists(path):
                    continue  # being made this moment
                lock = StoreLock(path)  # StoreLockedError: its process lives
                shutil.rmtree(entry.path, ignore_errors=True)
                lock.close()
                swept += 1
    return swept
