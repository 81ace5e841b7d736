"""What build_batch makes, aiokafka's reader of the same format reads back, record for record."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.encode import build_batch
from mqcore.errors import InvalidRecordError, RecordTooLargeError

DefaultRecordBatch = pytest.importorskip("aiokafka.record.default_records").DefaultRecordBatch

cell = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=10), cell), max_size=4)
records = st.lists(st.tuples(cell, cell, headers, st.integers(0, 2**62)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(records=records)
def test_aiokafka_reads_what_build_batch_makes(records: list[tuple]) -> None:
    batch = DefaultRecordBatch(bytes(build_batch(records)))
    assert batch.validate_crc()
    assert [(r.key, r.value, r.headers, r.timestamp) for r in batch] == records


def test_it_grows_and_stays_one_batch() -> None:
    made = build_batch([(None, bytes(100_000), None, 5)] * 7, producer_id=4, producer_epoch=1, base_sequence=9)
    batch = DefaultRecordBatch(bytes(made))
    assert len(list(batch)) == 7
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (4, 1, 9)
    assert int.from_bytes(made[8:12], "big") + 12 == len(made)


def test_header_shapes() -> None:
    for given_headers in ({"a": b"1"}, [("a", bytearray(b"1"))], ((b"a", memoryview(b"1")),)):
        assert next(iter(DefaultRecordBatch(bytes(build_batch([(None, b"", given_headers, 1)]))))).headers == [
            ("a", b"1")
        ]
    for wrong in ([("a", "text")], [1], [("a",)]):
        with pytest.raises((TypeError, ValueError)):
            build_batch([(None, b"", wrong, 1)])
    with pytest.raises(RecordTooLargeError):
        build_batch([(None, b"", [("h", b"")] * 70_000, 1)])


def test_what_is_refused() -> None:
    with pytest.raises(InvalidRecordError):
        build_batch([(None, b"x", None, -1)])
    with pytest.raises(ValueError, match="at least one"):
        build_batch([])
    with pytest.raises(TypeError):
        build_batch([(None, "text", None, 1)])
