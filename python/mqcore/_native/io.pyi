"""The seam between mqcore and files."""

from os import PathLike
from typing import Any

from _typeshed import ReadableBuffer

_Path = str | PathLike[str]

class Io:
    """The machine's own calls. Every write to a store's files goes through one Io; safe to share between threads.

    All methods raise FileNotFoundError, FileExistsError or another OSError about a *name* as the system gave it
    (ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR), DiskFullError for a full disk or quota, StorageError for every other
    failure, a symbolic link as the last part of an opened path included.
    """

    def __init__(self) -> None: ...
    def write_atomic(self, path: _Path, data: ReadableBuffer, mode: int = 0o600, *, durable: bool = True) -> None:
        """Replace the file as a whole, durably: <path>.tmp, fsync, rename, fsync of the directory.

        durable=False: without the two fsyncs; the caller syncs (sync_filesystem, many files at once).

        On an error the old content is still there, but for a failed fsync of the directory: then either may be.
        """

    def read_file(self, path: _Path, limit: int = 64 << 20) -> bytes:
        """The whole file. RecordTooLargeError: it has more than limit bytes (nothing is read then)."""

    def write_at(self, path: _Path, data: ReadableBuffer, position: int, mode: int = 0o600) -> None:
        """Write bytes at a position of a file, made if it is not there; durable after sync_file (and sync_dir)."""

    def mkdir(self, path: _Path, mode: int = 0o700) -> None:
        """Make one directory; durable after sync_dir of its parent."""

    def rename(self, old: _Path, new: _Path) -> None:
        """Rename, replacing new; durable after sync_dir of the parents."""

    def link(self, old: _Path, new: _Path) -> None:
        """A second name for old; durable after sync_dir."""

    def unlink(self, path: _Path) -> None:
        """Remove a file's name; durable after sync_dir."""

    def rmdir(self, path: _Path) -> None:
        """Remove an empty directory; durable after sync_dir of its parent."""

    def truncate(self, path: _Path, size: int) -> None:
        """Set the file's size in bytes, durably (ftruncate and fdatasync)."""

    def sync_file(self, path: _Path) -> None:
        """fsync the file. A failure is final (Linux forgets the failed pages): never call again and believe it."""

    def sync_dir(self, path: _Path) -> None:
        """fsync the directory: what makes names in it durable."""

    def sync_filesystem(self, path: _Path) -> None:
        """syncfs: everything of the file system that path lies in; cheaper than many fsyncs of new files."""

    def _handle(self) -> Any:
        """PyCapsule "mqcore.io" around the C table (mq_io *); valid while this Io lives."""

class FaultyIo(Io):
    """An Io that counts its calls and spoils chosen ones.

    Counted: open (for writing), open_read, pread, pwritev, fdatasync, fsync, syncfs, ftruncate, fallocate, rename,
    link, unlink, mkdir, rmdir. close is not.
    """

    @property
    def calls(self) -> int:
        """Calls so far, of all kinds."""

    @property
    def fired(self) -> int:
        """Calls that were spoiled so far."""

    def arm(
        self, at: int, errno: int, *, short: int = -1, sticky: bool = False, only: str = "", delay_s: float = 0.0
    ) -> None:
        """Spoil the at-th call from now (1: the next) among those of `only` (names, comma between; "": all).

        errno: fail with it (0: do not fail). short: pwritev and pread first transfer that many bytes; with errno 0
        they return short, else the write is torn and fails. sticky: all later chosen calls fail too. delay_s: sleep
        before. ValueError: at < 1, or an unknown name.
        """

    def disarm(self) -> None:
        """From now on every call passes; counters stay."""
