"""Batches whose records carry message ids in a header (see ids.pyi). Native per batch: no Python object a record."""

from typing import Any

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

from mqcore._native.inputs import Column

def places(keys: Column, partitions: int, consistent: bool) -> NDArray[np.int32]:
    """The partition of each key: an int32 array of shape (n,), -1 for a null key. partitions: at least 1."""

def build(
    values: Column,
    keys: Column | None,
    ids: ReadableBuffer,
    width: int,
    rows: ReadableBuffer,
    times: Any,
    timestamp: int,
    *,
    batch_bytes: int,
    batch_max: int,
    identity: tuple[int, int, int] | None = None,
) -> bytearray:
    """Return whole, uncompressed v2 batches of the rows that `rows` (int64) names, in that order, each with its id.

    ids: width (8 or 16) bytes for each value, big-endian. times: int64 (ms), one a value, or None: `timestamp` for all.
    batch_bytes: where a batch ends; batch_max: of one batch. identity: (producer id, epoch, sequence of the first record)
    of the transaction that they belong to. Raises RecordTooLargeError, InvalidRecordError (with the
    row as `index`), ValueError (not as many).
    """
