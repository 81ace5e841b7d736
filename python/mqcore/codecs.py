"""Compression of record batches: gzip, snappy, lz4 and zstd under Kafka's ids, the output bounded before it is made.

Invariants:
    1. Nobody's length is believed: `decompress` never makes more than `limit` bytes, whatever the input claims.
       The bound is the output buffer itself (its pages are touched only as far as they are filled), so a bomb costs
       at most `limit` bytes and the time to fill them, and an input that makes nothing costs its own length.
    2. What `compress` makes, Kafka's Java client reads: snappy in xerial's framing (blocks of 32 KiB), lz4 as a frame
       of independent blocks (its reader refuses linked ones), gzip and zstd as plain frames.
    3. No codec object outlives a call: sharing one between threads has crashed processes. Several threads may call.

Sources: Kafka's `CompressionType` (ids), xerial snappy-java `SnappyOutputStream`, the LZ4 frame format 1.6.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import cramjam
import numpy as np

from mqcore.errors import CorruptBatchError, InvalidConfigError, RecordTooLargeError, UnsupportedFormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Codec(IntEnum):
    """Kafka's compression ids, as in the low three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


NAMES: dict[str, Codec] = {
    "none": Codec.NONE,
    "uncompressed": Codec.NONE,
    "gzip": Codec.GZIP,
    "snappy": Codec.SNAPPY,
    "lz4": Codec.LZ4,
    "zstd": Codec.ZSTD,
}

# Speed first: lz4 4 (cramjam's own default) is ten times slower than 1 for a sixth of the size; zstd 3 is its authors'.
_LEVELS: dict[Codec, int] = {Codec.GZIP: 6, Codec.LZ4: 1, Codec.ZSTD: 3}

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + (1).to_bytes(4, "big") + (1).to_bytes(4, "big")  # version, oldest compatible one
_XERIAL_BLOCK_BYTES = 32 * 1024
_FIRST_TRY_BYTES = 1 << 20  # most batches need no more: malloc reuses small buffers, but maps large ones anew
_OVERFLOW = "failed to write whole buffer"  # cramjam's words when the output buffer is full


def codec_of(name: str | None) -> Codec:
    """The codec of a `compression.type` (None and "" mean none; "producer" is the caller's to resolve).

    Raises InvalidConfigError for an unknown name.
    """
    try:
        return NAMES[(name or "none").lower()]
    except KeyError:
        raise InvalidConfigError(
            "unknown compression", compression=name, hint="One of none, gzip, snappy, lz4, zstd"
        ) from None


def compress(codec: int, data: Buffer, level: int | None = None) -> Buffer:
    """Compress the records section of one batch; the result is a new bytes-like object.

    data: contiguous bytes-like; read during the call, not kept. level: the codec's own scale (gzip 0-9, lz4 1-12,
    zstd 1-22; ignored by snappy), None for the default of this module. The GIL is released while compressing.
    Raises UnsupportedFormatError for a codec id that is not Kafka's.
    """
    if codec == Codec.NONE:
        return data
    if codec == Codec.SNAPPY:
        return _compress_xerial(data)
    if codec not in _LEVELS:
        raise UnsupportedFormatError("unknown compression codec", codec=codec)
    chosen = _LEVELS[Codec(codec)] if level is None else level
    if codec == Codec.GZIP:
        return cramjam.gzip.compress(data, level=chosen)
    if codec == Codec.ZSTD:
        return cramjam.zstd.compress(data, level=chosen)
    frame = cramjam.lz4.Compressor(level=chosen, content_checksum=False, block_linked=False)  # invariant 2
    frame.compress(data if isinstance(data, bytes) else bytes(data))  # this one method takes nothing else
    return frame.finish()


def decompress(codec: int, data: Buffer, *, limit: int) -> memoryview:
    """Inflate the records section of one batch; the result is a new read-only buffer of at most `limit` bytes.

    data: contiguous bytes-like of any origin, not trusted. limit: bytes the output may take (invariant 1).
    The GIL is released while inflating. Raises RecordTooLargeError (more than `limit` bytes), CorruptBatchError
    (not what its codec id says, or cut short), UnsupportedFormatError (a codec id that is not Kafka's).
    """
    if codec == Codec.NONE:
        view = memoryview(data).cast("B")
        if len(view) > limit:
            raise _too_large(limit)
        return view.toreadonly()
    view = memoryview(data).cast("B")
    if codec == Codec.SNAPPY:
        return _decompress_snappy(view, limit)
    module = _MODULES.get(codec)
    if module is None:
        raise UnsupportedFormatError("unknown compression codec", codec=codec)
    first = min(limit, max(_FIRST_TRY_BYTES, 8 * len(view)))
    for size in (first, limit) if first < limit else (limit,):
        output: Any = np.empty(size, np.uint8)
        try:
            made = module.decompress_into(view, output)
        except cramjam.DecompressionError as error:
            if _OVERFLOW not in str(error):
                raise _corrupt(error, codec) from None
            continue
        return _trimmed(output, made)
    raise _too_large(limit)


_MODULES: dict[int, Any] = {Codec.GZIP: cramjam.gzip, Codec.LZ4: cramjam.lz4, Codec.ZSTD: cramjam.zstd}


def _trimmed(output: Any, made: int) -> memoryview:
    """The filled part; copied where the rest of the buffer would be held for little."""
    if made < output.size // 2:
        return memoryview(output[:made].tobytes())
    return memoryview(output)[:made].toreadonly()


def _too_large(limit: int) -> RecordTooLargeError:
    return RecordTooLargeError("compressed records inflate to more than the limit", limit=limit)


def _corrupt(error: Exception, codec: int) -> CorruptBatchError:
    return CorruptBatchError(f"compressed records do not inflate: {error}", codec=Codec(codec).name)


def _compress_xerial(data: Buffer) -> bytes:
    view = memoryview(data).cast("B")
    parts: list[bytes] = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _snappy_blocks(view: memoryview) -> list[memoryview]:
    """The raw blocks of a stream: xerial's framing (Java's clients), or one bare block (librdkafka, others)."""
    if bytes(view[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return [view]
    blocks = []
    at = len(_XERIAL_HEADER)
    while at < len(view):
        size = int.from_bytes(view[at : at + 4], "big")
        at += 4
        if not 0 < size <= len(view) - at:
            raise CorruptBatchError("a snappy block passes the end of its stream", position=at, codec="SNAPPY")
        blocks.append(view[at : at + size])
        at += size
    return blocks


def _decompress_snappy(view: memoryview, limit: int) -> memoryview:
    blocks = _snappy_blocks(view)
    try:
        sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
        total = sum(sizes)
        if total > limit:
            raise _too_large(limit)
        output: Any = np.empty(total, np.uint8)
        at = 0
        for block, size in zip(blocks, sizes, strict=True):
            if cramjam.snappy.decompress_raw_into(block, output[at : at + size]) != size:
                raise CorruptBatchError("a snappy block is shorter than it says", codec="SNAPPY")
            at += size
    except cramjam.DecompressionError as error:
        raise _corrupt(error, Codec.SNAPPY) from None
    return memoryview(output).toreadonly()
