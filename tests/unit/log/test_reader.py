"""A reader hands out every visible record once, in order, however batches are compressed, cut and mixed; damage is an
error that names its place and moves nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native.batch import assign
from mqcore.errors import CorruptBatchError, OffsetOutOfRangeError
from mqcore.log import reader as reader_module
from mqcore.log.reader import PartitionReader, first_at_or_after
from mqcore.types import IsolationLevel
from tests.support.batches import TRANSACTIONAL, Plain, encode, marker, numbered, plain_records
from tests.support.memory_store import FakeLog

CODECS = (0, 1, 2, 3, 4)


def read_all(reader: PartitionReader[FakeLog], max_records: int = 10_000) -> list[Plain]:
    found = []
    while (columns := reader.read(max_records)) is not None:
        assert 0 < len(columns) <= max_records
        found += [Plain(r.value, r.key, tuple(r.headers), r.timestamp, r.offset) for r in columns]
        assert reader.position >= found[-1].offset + 1
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(plain_records(max_size=6), st.sampled_from(CODECS)), min_size=1, max_size=6),
    st.integers(1, 9),
    st.sampled_from([1, 200, 1 << 20]),
    st.booleans(),
    st.data(),
)
def test_everything_once_and_in_order(
    batches: list[tuple[list[Plain], int]], max_records: int, max_bytes: int, copy: bool, data: st.DataObject
) -> None:
    log, expected = FakeLog(), []
    for records, codec in batches:
        expected += numbered(records, log.end_offset)
        log.add(encode(records, log.end_offset, codec=codec))
    start = data.draw(st.integers(0, log.end_offset))
    reader = PartitionReader(log, start, max_bytes=max_bytes, copy=copy)
    assert read_all(reader, max_records) == expected[start:]
    assert reader.position == log.end_offset
    assert reader.read() is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("copy", [False, True])
def test_damage_names_its_place_and_moves_nothing(codec: int, copy: bool) -> None:
    log = FakeLog()
    for base in range(0, 40, 10):
        log.append(*[b"value %d" % (base + i) for i in range(10)], codec=codec)
    good = read_all(PartitionReader(log))
    first, second = log.rows[0][2], log.rows[1][2]
    sound = log.data
    for position in range(first, second):
        log.data = sound[:position] + bytes([sound[position] ^ 0x10]) + sound[position + 1 :]
        reader = PartitionReader(log, copy=copy)
        found = reader.read()
        if 12 <= position - first < 16:  # the leader epoch, which nothing protects and nobody reads
            continue
        assert found is not None
        assert found.values.to_list() == [r.value for r in good[:10]]
        for _ in range(2):
            with pytest.raises(CorruptBatchError) as caught:
                reader.read()
            where = caught.value.where
            assert (where["topic"], where["partition"], where["offset"]) == ("t", 0, 10)
            assert where["path"].endswith(".log")
            assert first <= where["position"] < second
            assert reader.position == 10
        reader.seek(20)
        assert [r.value for r in read_all(reader)] == [r.value for r in good[20:]], "a seek goes past it"


def test_a_base_offset_that_was_hit_is_found_after_a_seek_too() -> None:
    log = FakeLog()
    for base in range(0, 30, 10):
        log.append(*[b"%d" % (base + i) for i in range(10)])
    log.data = log.data[:7] + b"\x01" + log.data[8:]  # offsets 1 .. 10: holds 5, but does not meet the next batch
    with pytest.raises(CorruptBatchError):
        PartitionReader(log, 5).read()


def test_gaps_of_a_compacted_log_are_no_damage() -> None:
    log = FakeLog(compacted=True)
    log.add(encode([Plain(b"a", offset=2), Plain(b"b", offset=7)], 0, last_offset=9))
    log.add(encode([Plain(b"c", offset=25)], 20, last_offset=29, codec=4))
    assert [(r.offset, r.value) for r in read_all(PartitionReader(log))] == [(2, b"a"), (7, b"b"), (25, b"c")]
    assert [r.offset for r in read_all(PartitionReader(log, 8))] == [25]
    log.compacted = False
    with pytest.raises(CorruptBatchError):
        read_all(PartitionReader(log))


@pytest.mark.parametrize("codec", [0, 1])
def test_read_committed_leaves_out_aborted_and_open_transactions(codec: int) -> None:
    log = FakeLog(aborted_transactions=[(7, 1, 3, 4)])
    log.append(b"plain")
    log.add(encode([Plain(b"x"), Plain(b"y")], 1, attributes=TRANSACTIONAL, producer_id=7, codec=codec))
    log.add(marker(3, 7, commit=False))
    log.add(encode([Plain(b"kept")], 4, attributes=TRANSACTIONAL, producer_id=7, codec=codec))
    log.add(marker(5, 7, commit=True))
    log.add(encode([Plain(b"open")], 6, attributes=TRANSACTIONAL, producer_id=8, codec=codec))
    log.stable = 6
    committed = PartitionReader(log)
    assert [r.value for r in read_all(committed)] == [b"plain", b"kept"]
    assert committed.position == 6
    everything = PartitionReader(log, isolation=IsolationLevel.READ_UNCOMMITTED)
    assert [r.value for r in read_all(everything)] == [b"plain", b"x", b"y", b"kept", b"open"]
    assert everything.position == 7


def test_only_markers_move_the_position() -> None:
    log = FakeLog()
    log.add(marker(0, 1, commit=True) + marker(1, 2, commit=True))
    reader = PartitionReader(log)
    assert reader.read() is None
    assert reader.position == 2


def test_what_was_read_can_be_given_back() -> None:
    log = FakeLog()
    log.append(*[b"%d" % i for i in range(10)])
    reader = PartitionReader(log)
    for take, rest in ((4, 1), (10, 3)):  # with and without a remainder behind it
        before = reader.position
        taken = reader.read(take)
        assert taken is not None
        reader.unread(taken.slice(rest, len(taken)))
        assert reader.position == before + rest
    assert [r.value for r in read_all(reader)] == [b"%d" % i for i in range(4, 10)]
    with pytest.raises(ValueError, match="end of what was read"):
        reader.unread(taken.slice(0, 2))


def test_a_bomb_stops_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "INFLATED_BATCH_BYTES_MAX", 10_000)
    log = FakeLog()
    log.append(b"\0" * 9_000, codec=1)
    log.append(b"\0" * 11_000, codec=1)
    reader = PartitionReader(log)
    assert len(reader.read() or ()) == 1
    with pytest.raises(CorruptBatchError):
        reader.read()


def test_copies_hold_no_mapping() -> None:
    log = FakeLog()
    log.append(b"a", b"b")
    shared, private = PartitionReader(log).read(), PartitionReader(log, copy=True).read()
    assert shared is not None
    assert private is not None
    assert shared.buffer.obj is not None
    assert isinstance(private.buffer.obj, bytes)
    assert private.values.to_list() == shared.values.to_list()


def test_an_offset_out_of_range_is_the_logs_error() -> None:
    log = FakeLog(log_start_offset=5)
    with pytest.raises(OffsetOutOfRangeError):
        PartitionReader(log, 4).read()


def test_first_at_or_after_takes_offset_order() -> None:
    log = FakeLog()
    for timestamp in (100, 300, 200):
        log.append(b"a", b"b", timestamp=timestamp)
    assert first_at_or_after(log, 0, 0) == (0, 100)
    assert first_at_or_after(log, 0, 101) == first_at_or_after(log, 0, 300) == (2, 300)
    assert first_at_or_after(log, 4, 101) == (4, 200)
    assert first_at_or_after(log, 0, 301) is None


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_another_encoder(codec: int) -> None:
    default_records = pytest.importorskip("aiokafka.record.default_records")
    rows = [
        (b"k%d" % i if i % 3 else None, b"v" * i if i % 5 else None, [("h", b"x"), ("n", None)][: i % 3])
        for i in range(300)
    ]
    log = FakeLog()
    for base in (0, 100, 200):
        builder = default_records.DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
        for i, (key, value, headers) in enumerate(rows[base : base + 100]):
            assert builder.append(i, timestamp=1000 + base + i, key=key, value=value, headers=headers) is not None
        data = bytearray(builder.build())
        assign(data, base, 0)
        log.add(bytes(data))
    found = read_all(PartitionReader(log))
    assert [(r.key, r.value, list(r.headers)) for r in found] == rows
    assert [r.timestamp for r in found] == list(range(1000, 1300))
