"""Names of a store round-trip, cannot leave it, and links are refused."""

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import InvalidTopicError, StoreFormatError
from mqcore.log import layout

TOPICS = st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True).filter(lambda name: name not in (".", ".."))


@given(TOPICS, st.integers(0, (1 << 31) - 1))
def test_partition_directories_round_trip(topic: str, partition: int) -> None:
    assert layout.parse_partition_dir(layout.partition_dir_name(topic, partition)) == (topic, partition)


@given(TOPICS, st.integers(0, 100_000))
def test_deleted_directories_are_known_and_fit_a_file_name(topic: str, partition: int) -> None:
    name = layout.deleted_dir_name(topic, partition, uuid.uuid4())
    assert layout.is_deleted_dir(name)
    assert len(name) <= 255
    assert layout.parse_partition_dir(name) is None


@given(
    st.integers(0, (1 << 63) - 1), st.sampled_from(layout.SEGMENT_SUFFIXES), st.sampled_from(["", ".cleaned", ".swap"])
)
def test_segment_files_round_trip(base: int, suffix: str, state: str) -> None:
    assert layout.parse_segment_file(layout.segment_name(base, suffix) + state) == layout.SegmentFile(
        base, suffix, state
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "ü", "a" * 250, "a\n", " a"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(InvalidTopicError):
        layout.Layout("/store").partition_dir(name, 0)


@given(st.text(max_size=40))
def test_foreign_file_names_are_none(name: str) -> None:
    parsed = layout.parse_segment_file(name)
    assert parsed is None or name.startswith(f"{parsed.base_offset:020d}")


def test_links_are_refused(tmp_path: "os.PathLike[str]") -> None:
    target = os.path.join(tmp_path, "target")
    os.mkdir(target)
    os.symlink(target, os.path.join(tmp_path, "link"))
    with pytest.raises(StoreFormatError, match="symbolic link"):
        layout.require_kind(os.path.join(tmp_path, "link"), "dir")
    os.symlink("/etc/passwd", os.path.join(target, layout.segment_name(0)))
    with pytest.raises(StoreFormatError, match="symbolic link"):
        layout.list_segments(target)


def test_segments_are_listed_in_order_and_other_files_are_not(tmp_path: "os.PathLike[str]") -> None:
    for name in [
        "00000000000000000100.log",
        "00000000000000000000.log",
        "00000000000000000000.index",
        "00000000000000000200.log.deleted",
        "notes.txt",
    ]:
        open(os.path.join(tmp_path, name), "w").close()
    assert layout.list_segments(os.fspath(tmp_path)) == [0, 100]
    assert layout.list_segments(os.path.join(tmp_path, "missing")) == []
