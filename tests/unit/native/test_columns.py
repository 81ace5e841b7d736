"""Decoding gives back what was encoded, whoever encoded it; damaged bytes raise or end a run, never crash or pass."""

from __future__ import annotations

import gc
import struct
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native import columns
from mqcore._native.batch import assign, check, header, scan
from mqcore._native.columns import Record, decode
from mqcore.errors import CorruptBatchError, MQError, RecordTooLargeError, UnsupportedFormatError
from tests.support.batches import (
    CONTROL,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    Plain,
    encode,
    marker,
    numbered,
    plain_records,
)


def plain(record: Record) -> Plain:
    return Plain(record.value, record.key, tuple(record.headers), record.timestamp, record.offset)


def three_batches() -> tuple[bytes, list[int]]:
    data, ends = b"", []
    for base in (0, 4, 8):
        data += encode([Plain(b"value-%d" % i, b"k%d" % i) for i in range(base, base + 4)], base)
        ends.append(len(data))
    return data, ends


@given(st.lists(plain_records(), min_size=1, max_size=4), st.integers(0, 1 << 50))
def test_decode_gives_back_what_was_encoded(batches: list[list[Plain]], base: int) -> None:
    data, expected, offset = b"", [], base
    for records in batches:
        data += encode(records, offset)
        expected += numbered(records, offset)
        offset += len(records)
    run, position = decode(data, min_offset=base, contiguous=True, topic="t", partition=3)
    assert position == len(data)
    assert run.next_offset == run.expected_offset == offset
    assert [plain(r) for r in run] == expected
    assert run.offsets.tolist() == [r.offset for r in expected]
    assert run.timestamps.tolist() == [r.timestamp for r in expected]
    assert run.values.to_list() == list(run.values.iter_bytes()) == [r.value for r in expected]
    assert run.keys.to_list() == [r.key for r in expected]
    assert [None if v is None else bytes(v) for v in run.values] == [r.value for r in expected]
    assert {(r.topic, r.partition) for r in run} == {("t", 3)}


@settings(max_examples=300)
@given(plain_records(max_size=5), st.data())
def test_mutated_bytes_never_crash(records: list[Plain], data: st.DataObject) -> None:
    damaged = bytearray(encode(records) + encode(records, len(records)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for check_crc in (True, False):
        try:
            run, _ = decode(cut, check_crc=check_crc)
            for record in run:
                plain(record)
            run.keys.to_list()
        except CorruptBatchError:
            pass
    scan(cut)


@pytest.mark.parametrize("check_crc", [True, False])
def test_every_flipped_bit_is_found_before_a_wrong_record(check_crc: bool) -> None:
    data, ends = three_batches()
    good = [plain(r) for r in decode(data)[0]]
    for bit in range(ends[0] * 8, ends[1] * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        field = bit // 8 - ends[0]
        try:
            run, position = decode(bytes(damaged), contiguous=True, check_crc=check_crc, first_offset=0)
        except CorruptBatchError:
            pytest.fail("the batch before the damaged one is sound")
        served = [plain(r) for r in run]
        if check_crc and not 12 <= field < 16:  # the leader epoch: nobody reads it here
            assert served == good[:4]
            assert position == ends[0]
            if not run.compressed_next:
                with pytest.raises(CorruptBatchError) as caught:
                    decode(bytes(damaged), position, min_offset=4, first_offset=4, contiguous=True)
                assert caught.value.where["position"] >= position
                assert caught.value.where["offset"] == 4


def test_a_run_stops_at_max_records_and_goes_on() -> None:
    data, ends = three_batches()
    run, position = decode(data, max_records=9, contiguous=True)
    assert (len(run), position) == (8, ends[1])
    run, position = decode(
        data, position, max_records=9, contiguous=True, first_offset=run.expected_offset, min_offset=10
    )
    assert (run.offsets.tolist(), position, run.next_offset) == ([10, 11], ends[2], 12)
    assert len(decode(data, max_records=1)[0]) == 4, "one batch is always taken"
    run, position = decode(data, len(data))
    assert (len(run), position, run.next_offset) == (0, len(data), 0)


def test_windows_share_the_block() -> None:
    run, _ = decode(three_batches()[0])
    window = run.slice(3, 9).slice(1, 100)
    assert window.offsets.tolist() == window.slice(-5, 99).offsets.tolist() == [4, 5, 6, 7, 8]
    assert window.next_offset == 9
    assert window.values.to_list() == [b"value-%d" % i for i in range(4, 9)]
    assert window.keys.to_list() == [b"k%d" % i for i in range(4, 9)]
    assert np.shares_memory(window.offsets, run.offsets)
    assert run.slice(7, 3).next_offset == 7
    source, starts, lengths = window.keys.to_numpy()
    assert bytes(source[starts[2] : starts[2] + lengths[2]]) == b"k6"


def test_a_copy_is_private() -> None:
    source = bytearray(b"\0" * 7 + three_batches()[0])
    run, _ = decode(source, 7)
    window = run.slice(2, 9)
    private = window.copy()
    same = (window.values.to_list(), window.keys.to_list(), window.offsets.tolist(), window.next_offset)
    assert run.values.to_list()[2:9] == same[0], "the original is untouched"
    del run, window
    source[:] = b"\xff" * len(source)  # would raise BufferError if anything still pointed into it
    source.clear()
    assert (private.values.to_list(), private.keys.to_list(), private.offsets.tolist(), private.next_offset) == same
    assert private.copy().record(0).headers == []


def test_values_are_a_sequence() -> None:
    run, _ = decode(encode([Plain(b"abc"), Plain(None), Plain(b"")]))
    values = run.values
    assert len(values) == 3
    assert values[0] == b"abc"
    assert values[1] is None
    assert values[-1] == b""
    assert values[::2] == [b"abc", b""]
    assert values.nbytes == 3
    with pytest.raises(IndexError):
        values[3]
    with pytest.raises(IndexError):
        run.record(-4)
    assert run.record(-3).value == b"abc"
    source, starts, lengths = values.to_numpy()
    assert lengths.tolist() == [3, -1, 0]
    assert bytes(source[starts[0] : starts[0] + 3]) == b"abc"


def test_nothing_handed_out_can_write() -> None:
    source = bytearray(three_batches()[0])
    run, _ = decode(source)
    for array in (run.offsets, run.timestamps, run.value_starts, run.value_lengths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    value = run.values[0]
    assert value is not None
    assert value.readonly
    assert run.buffer.readonly
    assert not run.values.to_numpy()[0].flags.writeable


def test_views_keep_the_source_alive() -> None:
    class Source(bytearray):
        """A bytearray that can be watched."""

    source = Source(three_batches()[0])
    watch = weakref.ref(source)
    run, _ = decode(source)
    with pytest.raises(BufferError):
        source.append(0)
    record, value, offsets = run.record(5), run.values[0], run.offsets
    del run, source
    gc.collect()
    assert watch() is not None
    assert (record.value, record.key, value, offsets[0]) == (b"value-5", b"k5", b"value-0", 0)
    del record, value
    gc.collect()
    assert watch() is None, "arrays of numbers rest on their own memory"
    assert offsets.tolist() == list(range(12))


def test_the_collector_releases_the_source() -> None:
    source = bytearray(three_batches()[0])
    cycle: list[object] = [decode(source)[0]]
    cycle.append(cycle)
    del cycle
    gc.collect()
    source.append(0)  # BufferError: the collector let go of the source without releasing it


def test_markers_aborted_data_and_empty_batches_are_passed_over() -> None:
    data = encode([Plain(b"a")], 0, attributes=TRANSACTIONAL, producer_id=5)
    data += encode([Plain(b"b")], 1, attributes=TRANSACTIONAL, producer_id=6)
    data += marker(2, 5, commit=False) + marker(3, 6, commit=True)
    data += encode([], 4, last_offset=6) + encode([Plain(b"c")], 7, attributes=TRANSACTIONAL, producer_id=5)
    run, position = decode(data, aborted=[(5, 0, 2, 0)], contiguous=True)
    assert (run.values.to_list(), run.offsets.tolist()) == ([b"b", b"c"], [1, 7])
    assert (position, run.next_offset) == (len(data), 8)
    assert decode(data)[0].values.to_list() == [b"a", b"b", b"c"]
    only_marker, position = decode(marker(9, 1, commit=True), min_offset=9, contiguous=True)
    assert (len(only_marker), only_marker.next_offset, only_marker.first_offset) == (0, 10, 10)


def test_a_bit_that_makes_data_a_marker_is_found() -> None:
    data = bytearray(encode([Plain(b"a")]))
    data[22] |= CONTROL
    with pytest.raises(CorruptBatchError):
        decode(bytes(data))


def test_log_append_time_is_the_batchs() -> None:
    data = encode([Plain(b"a", timestamp=5), Plain(b"b", timestamp=6)], attributes=LOG_APPEND_TIME, max_timestamp=99)
    assert decode(data)[0].timestamps.tolist() == [99, 99]


def test_a_compressed_batch_ends_a_run() -> None:
    data = encode([Plain(b"a")]) + encode([Plain(b"b")], 1, codec=1)
    run, position = decode(data)
    assert (len(run), run.compressed_next) == (1, True)
    assert header(data, position).codec == 1


def test_a_record_count_that_cannot_be_costs_no_memory() -> None:
    data = bytearray(encode([Plain(b"a")]))
    data[23:27] = data[57:61] = struct.pack(">i", 0x7FFFFFFE)
    with pytest.raises(CorruptBatchError, match="record_count"):
        decode(bytes(data), check_crc=False)


def test_arguments_are_checked() -> None:
    for start, end in ((-1, -1), (3, 2), (0, 99), (99, -1)):
        with pytest.raises(ValueError, match="range"):
            decode(b"x" * 10, start, end)
    with pytest.raises(TypeError):
        decode("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [columns.Columns, columns.Record, columns.Values, columns.RecordIterator])
def test_objects_made_by_hand_fail_at_their_first_use(kind: type) -> None:
    blank = kind.__new__(kind)
    for name in dir(kind):
        if not name.startswith("__") or name in ("__len__", "__iter__", "__next__", "__repr__", "__length_hint__"):
            try:
                member = getattr(blank, name)
                member()
            except (AttributeError, TypeError, StopIteration, IndexError):
                pass


def test_attributes_are_found_by_any_string() -> None:
    record = decode(encode([Plain(b"v", b"k")]))[0].record(0)
    assert getattr(record, "".join(["val", "ue"])) == record.value == b"v"
    assert not hasattr(record, "values")
    with pytest.raises(AttributeError):
        record.value = b"x"  # type: ignore[misc]


def test_odd_header_names_come_back() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    run, _ = decode(encode([Plain(b"v", headers=((name, b"x"), ("", None)))]))
    assert run.headers(0) == run.record(0).headers == [(name, b"x"), ("", None)]


def test_aiokafka_batches_decode() -> None:
    default_records = pytest.importorskip("aiokafka.record.default_records")
    for codec in (0, 1):
        builder = default_records.DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
        rows = [(b"k%d" % i if i % 3 else None, b"v" * i if i % 5 else None, [("h", b"x"), ("n", None)][: i % 3])
                for i in range(100)]  # fmt: skip
        for i, (key, value, headers) in enumerate(rows):
            assert builder.append(i, timestamp=1000 + i, key=key, value=value, headers=headers) is not None
        data = bytes(builder.build())
        assert check(data, walk=True) == 100
        if codec:
            assert decode(data)[0].compressed_next
            continue
        records = list(decode(data, contiguous=True)[0])
        assert [(r.key, r.value, r.headers) for r in records] == rows
        assert [r.timestamp for r in records] == list(range(1000, 1100))


def test_check_and_assign() -> None:
    data, ends = three_batches()
    assert check(data, walk=True) == 12
    assert check(data, ends[0], ends[1]) == 4
    with pytest.raises(RecordTooLargeError):
        check(data, max_batch_bytes=100)
    copy = bytearray(data)
    assert assign(copy, 1 << 40, 7) == (1 << 40) + 12
    assert check(copy, walk=True) == 12
    rows, problem = scan(copy)
    assert problem is None
    assert rows["base_offset"].tolist() == [(1 << 40) + i for i in (0, 4, 8)]
    assert rows["leader_epoch"].tolist() == [7, 7, 7]
    assert rows["position"].tolist() == [0, *ends[:2]]
    copy[ends[1] + 16] = 1
    before = bytes(copy)
    with pytest.raises(UnsupportedFormatError):
        assign(copy, 0, 0)
    assert bytes(copy) == before, "an error changes nothing"


def test_scan_says_what_is_wrong() -> None:
    data, ends = three_batches()
    damaged = bytearray(data)
    damaged[ends[1] + HEADER_BYTES] ^= 1
    rows, problem = scan(bytes(damaged))
    assert (len(rows), problem and problem.status, problem and problem.position) == (2, "MQ_ECRC", ends[1])
    rows, problem = scan(bytes(damaged), check_crc=False)
    assert (len(rows), problem) == (3, None)
    rows, problem = scan(data[:-1])
    assert (len(rows), problem and problem.status) == (2, "MQ_ETRUNCATED")
    many = b"".join(encode([Plain(b"x")], i) for i in range(3000))
    assert scan(many)[0]["base_offset"].tolist() == list(range(3000))


def test_several_threads_may_share_one_object() -> None:
    run, _ = decode(b"".join(encode([Plain(b"v%d" % i, b"k")] * 50, i * 50) for i in range(40)))
    iterator, seen, errors = run.iter_records(), [], []

    def work() -> None:
        try:
            for record in iterator:
                seen.append((record.offset, record.key, record.value))
                assert len(run.keys) == len(run.offsets) == 2000
        except MQError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(seen) == 2000
    assert len(iterator.take_rest()) == 0
    assert iterator.next_offset == 2000
