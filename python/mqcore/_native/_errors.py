"""From a status of the core to an exception of `mqcore.errors`: the one table."""

from __future__ import annotations

import errno
import os
from typing import Any

from mqcore import errors

_CLASSES: dict[str, type[errors.MQError]] = {
    "MQ_ETOOBIG": errors.RecordTooLargeError,
    "MQ_ETRUNCATED": errors.CorruptBatchError,
    "MQ_ECRC": errors.CorruptBatchError,
    "MQ_ECORRUPT": errors.CorruptBatchError,
    "MQ_EUNSUPPORTED": errors.UnsupportedFormatError,
    "MQ_ESTATE": errors.StoreClosedError,
    "MQ_EFULL": errors.InvariantError,
}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def error_of(status: str, sys_errno: int, position: int, offset: int, what: str, path: str) -> BaseException:
    """The exception for a failed call; position is bytes, offset -1 where unknown."""
    where: dict[str, Any] = {
        "path": path or None,
        "position": position or None,
        "offset": offset if offset >= 0 else None,
    }
    if status == "MQ_EIO":
        name = errno.errorcode.get(sys_errno, str(sys_errno))
        text = f"{what}: {os.strerror(sys_errno)}"
        if sys_errno in _NO_SPACE:
            return errors.DiskFullError(text, hint="Free space, then retry; nothing is damaged", errno=name, **where)
        return errors.StorageError(text, errno=name, **where)
    if status == "MQ_EINVAL":
        return ValueError(what)
    if status == "MQ_ENOMEM":
        return MemoryError(what)
    if status == "MQ_ENOTFOUND":
        return KeyError(what)
    return _CLASSES[status](what, **where)
