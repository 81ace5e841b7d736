"""What `encode` makes is a v2 batch of exactly these records, and `read_records` gives them back in order."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore._native.crc32c import crc32c
from mqcore.errors import CorruptBatchError
from mqcore.log import internal_records
from mqcore.log.internal_records import InternalRecord, encode, read_records
from tests.support.fake_log import FakeLog, decode, decode_slice

pairs = st.lists(st.tuples(st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300)), min_size=1)


@given(pairs, st.integers(0, 2**62), st.integers(0, 2**40))
def test_encoded_records_come_back(records: list[tuple[bytes | None, bytes | None]], time: int, base: int) -> None:
    batch = bytes(encode(records, time))
    assert decode(batch, base) == [InternalRecord(base + i, time, k, v) for i, (k, v) in enumerate(records)]
    length, magic, crc, last_delta = *struct.unpack_from(">i4xbI", batch, 8), struct.unpack_from(">i", batch, 23)[0]
    assert (length, magic, last_delta) == (len(batch) - 12, 2, len(records) - 1)
    assert crc == crc32c(batch[21:])


def test_reading_goes_on_to_the_end_and_stops_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_records, "_decode", decode_slice)
    log = FakeLog()
    for i in range(5):
        log.put(b"%d" % i, None)
    assert [r.offset for r in read_records(log, 2)] == [2, 3, 4]
    assert list(read_records(log, 5)) == []


def test_a_read_that_does_not_move_on_is_damage_not_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_records, "_decode", lambda part, offset: iter(()))
    log = FakeLog()
    log.put(b"", None)
    with pytest.raises(CorruptBatchError):
        list(read_records(log, 0))
