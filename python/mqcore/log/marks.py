"""The marks page: how far each partition of a store is, for readers in this and in other processes, without polling.

Invariants:
    1. One writer a page: it holds an exclusive flock on the page's file as long as it lives, which the kernel drops
       whatever kills it. A page whose lock is free is dead, whatever it says.
    2. The page is never believed after its writer is gone: the files are the truth. It lies in tmpfs, so a reboot
       leaves none.
    3. A new writer flags the old page before its own page takes the name: nobody sleeps on a dead one. It also
       removes the pages that killed writers of other stores left: those that nobody opens again would stay for ever.
    4. Who reads `sequence()`, then checks, then waits for that sequence, misses nothing; who arms a waker, then checks,
       neither.

Threads: every method, from any thread. `_waker_lock` guards the armed wakers and the giving of slots, and is never
held while a waker is called.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import re
import stat
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Final

from mqcore._native.marks import PAGE_BYTES, MarksPage
from mqcore.log.os_errors import os_errors

_OPEN, _CLOSED, _SUPERSEDED = 0, 1, 2
_SWEPT_MAX = 100  # dead pages that one open removes: a bound on its time
_SHARED_MEMORY: Final = "/dev/shm"
# Memory of the page is taken in these steps, before it is written: a store into a hole of a full tmpfs is a SIGBUS.
_RESERVE_BYTES: Final = 64 << 10
_HEADER_BYTES, _SLOT_BYTES = 4096, 64


def page_path(store_id: bytes, directory: str) -> str | None:
    """Where the page of the store in `directory` lies; None where there is no shared memory for it.

    The directory's device and inode go into the name with the id: a copied store has the id of its original, and both
    may be open.
    """
    if not os.path.isdir(_SHARED_MEMORY) or not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return None
    place = os.stat(directory)
    key = hashlib.blake2s(store_id + f"{place.st_dev}:{place.st_ino}".encode(), digest_size=16).hexdigest()
    return os.path.join(_SHARED_MEMORY, f"mqcore-{place.st_uid}-{key}")


class Marks(MarksPage):
    """A store's page. `Marks.create` for its writer, `Marks.open` for everyone else."""

    _path: str | None = None
    _fd: int = -1
    _reads: bool = False

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        self._waker_lock = threading.Lock()
        self._wakers: dict[Callable[[], None], None] = {}
        self._follower: threading.Thread | None = None
        self._reserved = _RESERVE_BYTES  # bytes of the writer's file that have memory
        self._given = 0  # slots given out

    # ---- the writer ----

    @classmethod
    def create(cls, store_id: bytes, path: str | None) -> Marks:
        """A new page at path (page_path), superseding an older one; anonymous if path is None or cannot be used.

        `shared` says which: with an anonymous page other processes cannot follow.
        """
        if path is not None:
            with contextlib.suppress(OSError):
                return cls._create_file(store_id, path)
        marks = cls(-1, PAGE_BYTES, writable=True)
        marks._format(store_id)
        return marks

    @classmethod
    def _create_file(cls, store_id: bytes, path: str) -> Marks:
        _supersede(store_id, path)
        temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, PAGE_BYTES)  # sparse: slots take memory when they are given out
            os.posix_fallocate(fd, 0, _RESERVE_BYTES)
            marks = cls(fd, PAGE_BYTES, writable=True)
            marks._format(store_id)
            os.rename(temporary, path)  # of a stranger's file in the sticky directory: EPERM, so anonymous
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        marks._fd, marks._path = fd, path
        _sweep(os.path.dirname(path))
        return marks

    def slot(self, topic_id: uuid.UUID, partition: int) -> int:
        """As MarksPage.slot. The writer's: DiskFullError when there is no memory for another one."""
        if self._reads or self._fd < 0:
            return super().slot(topic_id, partition)
        with self._waker_lock:
            if _HEADER_BYTES + (self._given + 1) * _SLOT_BYTES > self._reserved:
                with os_errors("no memory for the marks page", self._path):
                    os.posix_fallocate(self._fd, self._reserved, min(_RESERVE_BYTES, PAGE_BYTES - self._reserved))
                self._reserved += _RESERVE_BYTES
            slot = super().slot(topic_id, partition)
            self._given = max(self._given, slot + 1)
        return slot

    # ---- readers ----

    @classmethod
    def open(cls, store_id: bytes, path: str | None) -> Marks | None:
        """The page of a living writer, for reading; None if there is none (then the files alone are the truth)."""
        if path is None:
            return None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        marks = None
        try:
            found = os.fstat(fd)
            owner = os.path.basename(path).split("-")[1:2] or [""]
            if stat.S_ISREG(found.st_mode) and found.st_size == PAGE_BYTES and _trusted(found.st_uid, owner[0]):
                page = cls(fd, PAGE_BYTES, writable=False)
                page._fd, page._path, page._reads = fd, path, True
                if page._matches(store_id) and not page.closed():
                    marks = page
        finally:
            if marks is None:
                os.close(fd)
        return marks

    # ---- both ----

    @property
    def shared(self) -> bool:
        """Whether other processes can follow this page."""
        return self._path is not None

    def closed(self) -> bool:
        """Whether this object was closed, or (a reader's) its writer is gone or superseded: then open again."""
        if self._ended or self._state != _OPEN:
            return True
        if not self._reads:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the descriptor was closed beside us
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def add_waker(self, callback: Callable[[], None]) -> None:
        """Arm callback: it is called once, after the next publish, from the publishing thread (a reader's: from the
        one follower thread of this page, which may still be at the publish before); also when the page ends. Arm it
        again for the next time.

        It must not block: `loop.call_soon_threadsafe` is what it is for. Arm first, then check, then await.
        """
        with self._waker_lock:
            start = self._reads and self._follower is None and not self._ended
            if start:
                seen = self.sequence()  # before it is armed: any publish from now on wakes the follower
                self._follower = threading.Thread(target=self._follow, args=(seen,), name="mqcore-marks", daemon=True)
                self._follower.start()
            self._wakers[callback] = None
            self._armed = True
        if self.closed():
            self._fire()

    def remove_waker(self, callback: Callable[[], None]) -> None:
        """Disarm callback; it may be running in another thread at this moment."""
        with self._waker_lock:
            self._wakers.pop(callback, None)

    def _fire(self) -> None:
        with self._waker_lock:
            callbacks, self._wakers, self._armed = list(self._wakers), {}, False
        for callback in callbacks:
            try:
                callback()
            except Exception:  # a closed event loop is no reason to fail an append
                sys.excepthook(*sys.exc_info())

    def _follow(self, seen: int) -> None:
        while not self._ended:
            self.wait(seen)
            seen = self.sequence()  # before the wakers: a publish after this line is seen by the next wait
            self._fire()
            if self.closed():
                return

    def close(self) -> None:
        """The writer's: flag the page, wake everyone, remove the file. A reader's: stop following. Idempotent."""
        if self._ended:
            return
        if not self._reads and self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == os.fstat(self._fd).st_ino:  # else a newer writer has the name
                    os.unlink(self._path)
        self._end(_CLOSED)
        self._fire()
        follower = self._follower
        if follower is not None and follower is not threading.current_thread():
            while follower.is_alive():
                self._end(_CLOSED)  # it may have been on its way to sleep
                follower.join(0.01)
        self._close_fd()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's page without a word in it, and without its lock."""
        self._abandon()
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _trusted(uid: int, owner: str) -> bool:
    """A page is believed if it belongs to us, to root, or to the owner of the store, who is in its name."""
    return uid in (os.geteuid(), 0) or str(uid) == owner


def _supersede(store_id: bytes, path: str) -> None:
    """Tell those who still follow an older page (its writer was killed, or lost the store) that it is over."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_size == PAGE_BYTES:
                old = MarksPage(fd, PAGE_BYTES, writable=True)
                if old._matches(store_id):
                    old._end(_SUPERSEDED)
        finally:
            os.close(fd)


def _sweep(directory: str) -> None:
    """Remove this user's pages whose writer was killed. Who still follows one sees for himself that it is dead."""
    name = re.compile(rf"mqcore-{os.geteuid()}-[0-9a-f]{{32}}")
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        found = [entry.path for entry in entries if name.fullmatch(entry.name)]
        random.shuffle(found)  # the living ones are looked at again and again, and must not hide the others
        for path in found[:_SWEPT_MAX]:
            with contextlib.suppress(OSError):
                _remove_if_dead(path)


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_size == PAGE_BYTES:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
            if os.lstat(path).st_ino == found.st_ino:  # else a new writer has the name
                os.unlink(path)
    finally:
        os.close(fd)
