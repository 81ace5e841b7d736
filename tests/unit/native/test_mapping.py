"""A view shows the bytes of its segment and outlives all that may happen to it; a file that was cut or cannot be read
is a StorageError at populate, never a signal."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mqcore._native.io import Io
from mqcore._native.segment import Mapping, Segment
from mqcore.errors import StorageError
from tests.support.batches import Plain, encode

LIMITS: dict[str, Any] = {
    "index_interval_bytes": 4096,
    "index_max_bytes": 1 << 20,
    "segment_bytes": 1 << 28,
    "preallocate": False,
}


def filled(directory: Path, batches: int = 200) -> tuple[Segment, bytes]:
    segment = Segment.create(Io(), directory, 0, **LIMITS)
    chunk = bytearray(encode([Plain(b"v" * 100)] * 20) * batches)
    segment.append(chunk, 0, 0)
    return segment, bytes(chunk)


def test_one_mapping_serves_a_growing_segment(tmp_path: Path) -> None:
    segment, expected = filled(tmp_path)
    mapping = segment.view(100)
    assert (mapping.size, len(mapping), mapping.path) == (100, 100, segment.path)
    assert bytes(memoryview(mapping)) == expected[:100]
    old = memoryview(mapping)
    assert segment.view(segment.size) is mapping
    assert (len(old), mapping.size) == (100, segment.size)
    segment.append(bytearray(encode([Plain(b"w")])), segment.next_offset, 0)
    assert segment.view(segment.size) is mapping
    assert memoryview(mapping)[-1] == 0  # a record's header count, the last byte
    array = np.frombuffer(mapping, np.uint8)
    assert mapping.exports == 2
    assert not array.flags.writeable
    with pytest.raises(TypeError):
        memoryview(mapping)[0] = 1
    with pytest.raises(TypeError):
        Mapping()
    old.release()
    assert mapping.exports == 1


def test_views_outlive_the_segment(tmp_path: Path) -> None:
    segment, expected = filled(tmp_path)
    view = memoryview(segment.view(segment.size))
    segment.seal()
    segment.close()
    os.unlink(segment.path)
    del segment
    gc.collect()
    assert bytes(view) == expected


def test_views_outlive_a_truncation(tmp_path: Path) -> None:
    segment, expected = filled(tmp_path)
    size = segment.size
    view = memoryview(segment.view(size))
    segment.truncate_to(1000)
    assert segment.size < size
    assert bytes(view) == expected
    chunk = bytearray(encode([Plain(b"other")] * 50))
    position, _ = segment.append(chunk, segment.next_offset, 5)
    assert bytes(memoryview(segment.view(segment.size))[position:]) == bytes(chunk)
    assert bytes(view) == expected


def test_a_file_cut_by_others_is_an_error(tmp_path: Path) -> None:
    segment, _ = filled(tmp_path)
    mapping = segment.view(segment.size)
    mapping.populate(0, segment.size)
    os.truncate(segment.path, 5000)
    mapping.populate(0, 5000)
    with pytest.raises(StorageError) as caught:
        mapping.populate(0, segment.size)
    assert caught.value.where["path"] == segment.path
    for start, end in ((-1, 5), (5, 4), (0, segment.size + 1)):
        with pytest.raises(ValueError, match="range"):
            mapping.populate(start, end)
    mapping.populate(7, 7)
