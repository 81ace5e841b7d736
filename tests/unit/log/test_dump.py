"""`dump` shows every batch and record of any file in order, damage included, and never fails to print a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import StorageError, StoreFormatError, UnknownTopicError
from mqcore.log import layout
from mqcore.log.dump import dump_file, dump_partition, text_of
from tests.support.batches import LOG_APPEND_TIME, Plain, encode, marker
from tests.support.store_files import StoreFiles


def write(path: Path, *batches: bytes) -> Path:
    path.write_bytes(b"".join(batches))
    return path


def test_batches_of_all_kinds(tmp_path: Path) -> None:
    path = write(
        tmp_path / layout.segment_name(5),
        encode([Plain(b"a"), Plain(b"b")], 5, codec=4),
        encode([Plain(b"c")], 7, attributes=LOG_APPEND_TIME, leader_epoch=2),
        marker(8, 99, commit=True),
        marker(9, 99, commit=False),
    )
    lines = list(dump_file(path))
    assert [(line["base_offset"], line["last_offset"], line["count"], line["codec"]) for line in lines] == [
        (5, 6, 2, "zstd"),
        (7, 7, 1, "none"),
        (8, 8, 1, "none"),
        (9, 9, 1, "none"),
    ]
    assert [line["control"] for line in lines] == [False, False, True, True]
    assert (lines[1]["timestamp_type"], lines[1]["leader_epoch"], lines[2]["producer_id"]) == ("LogAppendTime", 2, 99)
    records = list(dump_file(path, records=True))
    assert [line.get("value") or line.get("marker") for line in records] == ["a", "b", "c", "commit", "abort"]
    assert [line["offset"] for line in dump_file(path, from_offset=6, records=True)] == [6, 7, 8, 9]
    json.dumps(lines + records)


def test_damage_is_a_line_and_what_follows_is_shown(tmp_path: Path) -> None:
    batches = [encode([Plain(b"%d" % i)], i) for i in range(4)]
    batches[1] = batches[1][:-1] + b"x"
    path = write(tmp_path / layout.segment_name(0), *batches)
    lines = list(dump_file(path))
    assert [line.get("base_offset", "damaged") for line in lines] == [0, "damaged", 2, 3]
    assert (lines[1]["position"], lines[1]["size"]) == (len(batches[0]), len(batches[1]))
    assert (lines[1]["offset"], lines[1]["next_offset"]) == (1, 2)


def test_a_partition_of_a_store(tmp_path: Path) -> None:
    files = StoreFiles(tmp_path / "s").make({"a": [[[2], [3]], [[1]]]})
    assert [line["base_offset"] for line in dump_partition(files.path, "a", 0)] == [0, 2]
    assert [line["offset"] for line in dump_partition(files.path, "a", 0, from_offset=1, records=True)] == [1, 2, 3, 4]
    with pytest.raises(UnknownTopicError):
        list(dump_partition(files.path, "a", 7))
    with pytest.raises(StorageError):
        list(dump_file(tmp_path / "none.log"))


def test_a_file_of_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "copy.log", encode([Plain(b"x")], 1000))
    assert [line["base_offset"] for line in dump_file(path)] == [1000]


@given(st.binary(max_size=2000))
def test_any_bytes_are_lines(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.mktemp("d") / layout.segment_name(0), data)
    for records in (False, True):
        json.dumps(list(dump_file(path, records=records)))


def test_text() -> None:
    assert [text_of(v) for v in (None, b"", b"\xc3\xa9", b"\xff\0", memoryview(b"a"))] == [None, "", "é", "0xff00", "a"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "real", encode([Plain(b"x")], 0))
    (tmp_path / layout.segment_name(0)).symlink_to(tmp_path / "real")
    with pytest.raises((StorageError, StoreFormatError)):
        list(dump_file(tmp_path / layout.segment_name(0)))
