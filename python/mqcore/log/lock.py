"""The writer's lock of a store: one writer process, any number of readers.

flock, because it dies with its holder whatever the way; a pid file alone would outlive a kill -9.

Invariants:
    1. The lock is held from before the first look at the store's files until after the last write.
    2. A forked child never unlocks: it only closes its copy of the descriptor (flock belongs to the open file, which
       parent and child share; LOCK_UN in the child would take the parent's lock away).
    3. The file is never removed: a removed and remade lock file has two holders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from mqcore.errors import StoreFormatError, StoreLockedError, StoreReadOnlyError
from mqcore.log.os_errors import translated


class StoreLock:
    """The held lock. path: STORE/lock."""

    def __init__(self, path: str) -> None:
        """Take the lock, without waiting. StoreLockedError names the holder; StoreReadOnlyError where the file cannot
        be written; StoreFormatError if it is a link."""
        self.path = path
        self._fd = _open(path)
        try:
            self._take()
        except BaseException:
            self.close()  # whatever went wrong (no memory, Ctrl-C): a lock that nobody has an object for is never released
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _holder(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise translated(error, "cannot lock", self.path) from error
            mine = pid == os.getpid()
            raise StoreLockedError(
                "this process has the store open for writing already" if mine else "another process writes this store",
                hint="Share the open store object" if mine else "Close it there, or open with read_only=True",
                path=os.path.dirname(self.path),
                pid=pid,
            ) from None
        # For people and for the message above only; never evidence: the flock is. So not synced, not through the
        # store's I/O seam, which is for data, and no reason to refuse: a full disk has no room for it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the lock up. Again: nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def forked(self) -> None:
        """In a forked child: drop the inherited descriptor, so that the lock dies with the parent (invariant 2)."""
        self.close()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreFormatError("the lock is a symbolic link", hint="Remove it", path=path) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnlyError(
                f"the store cannot be written: {error.strerror}",
                hint="Open with read_only=True, or fix the permissions",
                path=os.path.dirname(path),
            ) from None
        raise translated(error, "cannot open the lock", path) from error


def _holder(fd: int) -> int | None:
    """The pid in the lock file; None where it holds none (the holder is between lock and write) or cannot be read."""
    with contextlib.suppress(OSError):
        text = os.pread(fd, 32, 0).strip()
        return int(text) if text.isdigit() else None
    return None
