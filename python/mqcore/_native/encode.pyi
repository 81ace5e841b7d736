from collections.abc import Iterable, Mapping, Sequence

_Headers = Sequence[tuple[str | bytes, bytes | None]] | Mapping[str, bytes | None]

def build_batch(
    records: Iterable[tuple[bytes | None, bytes | None, _Headers | None, int]],
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    attributes: int = 0,
) -> bytearray:
    """Return one whole, uncompressed v2 batch of the records (key, value, headers, timestamp in ms since 1970).

    Key and value: bytes-like, None is null; copied. attributes: the batch's bits (0x10 transactional, 0x20 control),
    not the codec's. base_offset is 0 and the leader epoch -1: the log stamps both. The result is a buffer of its own.
    Raises RecordTooLargeError (limits.h), InvalidRecordError (negative timestamp), ValueError (no records).
    Source: KIP-98.
    """
