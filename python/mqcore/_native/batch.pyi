"""Headers of v2 record batches: list, check and stamp them. One native call for a range of batches, not for each.

Positions are bytes in the buffer given. Nothing keeps the buffer after the call.
"""

from typing import Any, NamedTuple

import numpy as np
from _typeshed import ReadableBuffer, WriteableBuffer
from numpy.typing import NDArray

from mqcore._native.columns import Columns as Columns
from mqcore._native.columns import Record as Record
from mqcore._native.columns import Values as Values
from mqcore._native.columns import decode as decode

__all__ = [
    "ROW",
    "BatchHeader",
    "Columns",
    "Problem",
    "Record",
    "Values",
    "assign",
    "check",
    "decode",
    "header",
    "inflated_header",
    "scan",
    "survey",
]

ROW: np.dtype[np.void]
"""A row of `scan`: position, base_offset, last_offset, base_timestamp, max_timestamp, producer_id (int64); size,
leader_epoch, base_sequence, record_count (int32); crc (uint32); producer_epoch (int16); attributes (uint16)."""

class Problem(NamedTuple):
    """Why a scan stopped. status: MQ_ETRUNCATED, MQ_ECRC, MQ_ECORRUPT, MQ_ETOOBIG or MQ_EUNSUPPORTED (magic 0, 1)."""

    position: int
    status: str
    what: str

class BatchHeader(NamedTuple):
    """One batch. size: bytes, header included. codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd (in attributes too)."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    attributes: int
    record_count: int
    codec: int

def check(
    buffer: ReadableBuffer, start: int = 0, end: int = -1, *, max_batch_bytes: int = 268435456, walk: bool = False
) -> int:
    """Check the whole batches in [start, end) (-1: all): headers and CRCs, with walk each record of uncompressed ones.

    Returns the number of offsets that they take. Raises CorruptBatchError (position), RecordTooLargeError (a batch
    over max_batch_bytes), UnsupportedFormatError (message format 0 or 1), ValueError (a range outside the buffer).
    The GIL is released from 256 KiB on: the bytes must not change meanwhile.
    """

def assign(buffer: WriteableBuffer, base_offset: int, leader_epoch: int) -> int:
    """Number the whole batches in the buffer, in place, from base_offset (>= 0) on; return the offset after them.

    leader_epoch: >= -1. Both fields lie outside the CRC, which is not checked. On an error nothing was changed:
    CorruptBatchError, RecordTooLargeError, UnsupportedFormatError.
    """

def header(buffer: ReadableBuffer, position: int, end: int = -1) -> BatchHeader:
    """The header of the batch at byte position; its CRC is not computed. Errors as `check`."""

def inflated_header(buffer: ReadableBuffer, position: int, records_bytes: int) -> bytes:
    """The 61 bytes that make an uncompressed batch of the compressed one at position and its inflated records.

    Attributes without a codec, length for records_bytes; the CRC is the old one, so decode it with check_crc=False.
    """

def scan(
    buffer: ReadableBuffer,
    start: int = 0,
    end: int = -1,
    *,
    max_batch_bytes: int = 268435456,
    check_crc: bool = True,
) -> tuple[NDArray[Any], Problem | None]:
    """List the batches in [start, end) (-1: all): rows of dtype ROW up to the first bad batch, and what is wrong there.

    Never raises for what the bytes hold. Continuity of offsets is the caller's to judge. Runs without the GIL.
    """

def survey(batches: ReadableBuffer, max_batch_bytes: int) -> tuple[int, int, int] | None:
    """What the headers of whole v2 batches back to back say: offsets that they take, least base timestamp, largest
    maximal timestamp (ms). None: it is not that, or one is over max_batch_bytes. No CRC is computed."""
