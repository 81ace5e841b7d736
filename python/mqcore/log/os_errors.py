"""From the operating system's errors to ours, for the calls that do not go through an Io (listing, stat, locks, LMDB).

Invariants:
    1. Nothing of a store raises a bare OSError: it is a StorageError, or a DiskFullError where space is what lacks.
    2. The text names the cause by its errno name (EIO, EMFILE, …) and the path that the call was about.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mqcore.errors import DiskFullError, StorageError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# The process or the machine ran out of something: says nothing about the file that was asked for.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


def disk_error(what: str, number: int, path: object) -> StorageError | DiskFullError:
    """Ours for a failed system call. what: the call, in words; number: its errno."""
    text, name = f"{what}: {os.strerror(number)}", errno.errorcode.get(number, str(number))
    if number in NO_SPACE:
        return DiskFullError(text, hint="Free space, then retry; nothing is damaged", errno=name, path=path)
    return StorageError(text, errno=name, path=path)


def translated(error: OSError, what: str, path: object) -> StorageError | DiskFullError:
    """Ours for an OSError. path: where the error names none itself."""
    return disk_error(what, error.errno or errno.EIO, error.filename if error.filename is not None else path)


@contextmanager
def os_errors(what: str, path: object) -> Iterator[None]:
    """An OSError in the block leaves it as ours."""
    try:
        yield
    except OSError as error:
        raise translated(error, what, path) from error


def errno_in(text: str) -> int:
    """The errno whose description ends `text`, as libraries write it; 0 if it is none."""
    return _NUMBERS.get(text.rpartition(": ")[2], 0)
