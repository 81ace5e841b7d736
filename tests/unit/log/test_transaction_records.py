"""Records of transactions survive encode and decode, have Kafka's bytes, and wrong bytes are errors; a marker is believed
only if a decision bears it out."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import StoreFormatError
from mqcore.log.transaction_records import (
    ABORT,
    COMMIT,
    Decided,
    Status,
    TransactionRecord,
    decides,
    decode_key,
    decode_marker,
    decode_value,
    encode_key,
    encode_partitions,
    encode_value,
    grouped,
    peek,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
records = st.builds(
    TransactionRecord,
    st.integers(-1, 2**63 - 1),
    st.integers(-1, 32767),
    st.integers(0, 2**31 - 1),
    st.sampled_from(Status),
    st.lists(st.tuples(names, st.integers(0, 9999)), max_size=30, unique=True).map(grouped),
    st.integers(0, 2**62),
    st.integers(-1, 2**62),
)


@given(records)
def test_a_value_survives(record: TransactionRecord) -> None:
    value = encode_value(record)
    assert decode_value(value) == record
    assert value == encode_value(record, encode_partitions(record.partitions))
    assert peek(value) == (record.producer_id, Decided(record.epoch, record.status))


@given(records, st.data())
def test_a_cut_or_longer_value_is_an_error(record: TransactionRecord, data: st.DataObject) -> None:
    value = encode_value(record)
    with pytest.raises(StoreFormatError):
        decode_value(value[: data.draw(st.integers(0, len(value) - 1))])
    with pytest.raises(StoreFormatError):
        decode_value(value + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(raw: bytes) -> None:
    for decode in (decode_value, decode_key, lambda value: decode_marker(value, value)):
        with contextlib.suppress(StoreFormatError):
            decode(raw)


def test_the_bytes_are_kafkas() -> None:
    assert encode_key("teller-1") == bytes.fromhex("0000 0008") + b"teller-1"
    record = TransactionRecord(4000, 7, 60_000, Status.PREPARE_COMMIT, (("pay", (0, 3)),), 1_000, 900)
    assert encode_value(record) == (
        bytes.fromhex("0000 0000000000000fa0 0007 0000ea60 02 00000001 0003")
        + b"pay"
        + bytes.fromhex("00000002 00000000 00000003 00000000000003e8 0000000000000384")
    )


def test_a_value_of_kafkas_flexible_version_is_read() -> None:
    value = bytes.fromhex("0001 0000000000000fa0 0007 0000ea60 04 02 04") + b"pay" + bytes.fromhex("02 00000005 00")
    value += struct.pack(">qq", 1_000, 900) + bytes.fromhex("01 02 02 0002")  # one tagged field
    assert decode_value(value).partitions == (("pay", (5,)),)


@given(names)
def test_a_key_survives(name: str) -> None:
    assert decode_key(encode_key(name)) == name


def test_a_marker() -> None:
    assert decode_marker(struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 9)) == (COMMIT, 9)
    assert decode_marker(struct.pack(">hh", 0, 0), struct.pack(">hi", 0, 0)) == (ABORT, 0)
    with pytest.raises(StoreFormatError):
        decode_marker(struct.pack(">hh", 0, 3), struct.pack(">hi", 0, 0))


@pytest.mark.parametrize(
    ("decided", "kind", "believed"),
    [
        (None, COMMIT, False),
        (Decided(4, Status.COMPLETE_COMMIT), COMMIT, False),
        (Decided(5, Status.PREPARE_COMMIT), COMMIT, True),
        (Decided(5, Status.PREPARE_COMMIT), ABORT, False),
        (Decided(5, Status.COMPLETE_ABORT), ABORT, True),
        (Decided(5, Status.COMPLETE_ABORT), COMMIT, False),
        (Decided(5, Status.ONGOING), ABORT, True),
        (Decided(6, Status.PREPARE_ABORT), COMMIT, True),
    ],
)
def test_a_marker_of_epoch_5_is_believed_only_after_its_decision(
    decided: Decided | None, kind: int, believed: bool
) -> None:
    assert decides(decided, 5, kind) is believed
