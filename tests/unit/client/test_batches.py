"""A batch is the same records whichever way it is read, objects, numpy, Arrow, pandas, and shares memory as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.client.batches import Batch
from mqcore.log.reader import PartitionReader
from tests.support.batches import Plain, encode, plain_records
from tests.support.memory_store import FakeLog

pa = pytest.importorskip("pyarrow")


def batch_of(records: list[Plain], codec: int = 0, before: bytes = b"") -> Batch:
    log = FakeLog()
    if before:
        log.append(before)
    log.add(encode(records, log.end_offset, codec=codec))
    reader = PartitionReader(log, int(bool(before)))
    columns = reader.read()
    assert columns is not None
    return Batch(columns)


@given(plain_records(), st.sampled_from([0, 4]), st.booleans(), st.sampled_from([b"", b"before"]))
def test_every_form_says_the_same(records: list[Plain], codec: int, zero_copy: bool, before: bytes) -> None:
    batch = batch_of(records, codec, before)
    first = int(bool(before))
    assert len(batch) == len(batch.values) == len(batch.keys) == len(batch.headers) == len(records)
    assert [r.value for r in batch] == [r.value for r in batch.records()] == [r.value for r in records]
    assert [list(h) for h in batch.headers] == [list(r.headers) for r in records]
    table = batch.to_arrow(zero_copy=zero_copy)
    table.validate(full=True)
    assert table.column("offset").to_pylist() == list(range(first, first + len(records)))
    assert table.column("timestamp").cast(pa.int64()).to_pylist() == [r.timestamp for r in records]
    assert table.column("key").to_pylist() == [r.key for r in records]
    assert table.column("value").to_pylist() == [r.value for r in records]
    assert table.schema.field("value").type == (pa.binary_view() if zero_copy else pa.binary())
    if len(records) > 2:
        middle = batch[1:-1]
        assert middle.to_arrow(zero_copy=zero_copy).equals(table.slice(1, len(records) - 2))
        assert (middle.first_offset, middle.next_offset) == (first + 1, first + len(records) - 1)


def test_pandas() -> None:
    pd = pytest.importorskip("pandas")
    frame = batch_of([Plain(b"a", b"k", timestamp=1_700_000_000_123), Plain(None, None, timestamp=-5)]).to_pandas()
    assert frame["offset"].tolist() == [0, 1]
    assert frame["value"].tolist() == [b"a", None]
    assert frame["key"].tolist() == [b"k", None]
    assert frame["timestamp"][0] == pd.Timestamp(1_700_000_000_123, unit="ms", tz="UTC")


def test_what_is_shared_is_shared() -> None:
    batch = batch_of([Plain(b"a value of more than twelve bytes")] * 3)
    assert np.shares_memory(batch.offsets, batch.to_arrow().column("offset").to_numpy())
    source, starts, lengths = batch.values.to_numpy()
    assert bytes(source[starts[2] : starts[2] + lengths[2]]) == b"a value of more than twelve bytes"
    data = np.frombuffer(batch.to_arrow(zero_copy=True).column("value").buffers()[2], np.uint8)
    assert np.shares_memory(source, data)
    copy = batch.copy()
    assert not np.shares_memory(copy.values.to_numpy()[0], source)
    assert copy.to_arrow(zero_copy=True).equals(batch.to_arrow(zero_copy=True))


def test_a_batch_is_cut_like_a_sequence() -> None:
    batch = batch_of([Plain(b"%d" % i) for i in range(5)])
    assert batch[-1].value == b"4"
    assert batch[1:3].values.to_list() == [b"1", b"2"]
    assert len(batch[4:2]) == 0
    with pytest.raises(IndexError):
        batch[5]
    with pytest.raises(ValueError, match="steps"):
        batch[::2]
    assert "5 records from offset 0" in repr(batch)
