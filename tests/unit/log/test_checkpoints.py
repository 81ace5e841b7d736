"""Small files come back as they were written; a flipped bit or a cut in one is noticed; never a decode error."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore._native.io import Io
from mqcore.errors import StoreFormatError
from mqcore.log import checkpoints
from mqcore.log.checkpoints import Damage, Meta, PartitionKey, PartitionState, SegmentState, Session
from mqcore.log.leader_epochs import EpochStart, LeaderEpochs
from mqcore.types import Durability

IO = Io()
TOPIC_ID = uuid.UUID("0123456789abcdef0123456789abcdef")
OFFSETS = {PartitionKey("a", 0): 5, PartitionKey("b-c", 7): 1 << 40}
STATES = {
    PartitionKey("a", 0): PartitionState(TOPIC_ID, 3, 9, [SegmentState(0, 100, 5, 7, 6), SegmentState(5, 50, 9, 8, 8)])
}
DAMAGE = [Damage(0, 100, 200, 5, 6), Damage(7, 0, 10, 7, 9)]

# name: (write, read, value); those with a checksum notice every flip.
CHECKED = {
    "offsets": (checkpoints.write_offsets, checkpoints.read_offsets, OFFSETS),
    "meta": (checkpoints.write_meta, checkpoints.read_meta, Meta(b"0123456789abcdef")),
    "session": (checkpoints.write_session, checkpoints.read_session, Session(4, Durability.OS)),
    "clean": (checkpoints.write_clean_shutdown, checkpoints.read_clean_shutdown, STATES),
    "damage": (checkpoints.write_damage, checkpoints.read_damage, DAMAGE),
}
KAFKAS = {
    "epochs": (checkpoints.write_leader_epochs, checkpoints.read_leader_epochs),
    "topic id": (checkpoints.write_topic_id, checkpoints.read_topic_id),
}


@pytest.mark.parametrize("kind", CHECKED)
def test_what_is_written_is_read(tmp_path: Path, kind: str) -> None:
    write, read, value = CHECKED[kind]
    assert read(IO, str(tmp_path / "file")) in (None, {}, [])
    write(IO, str(tmp_path / "file"), value)  # type: ignore[operator]
    assert read(IO, str(tmp_path / "file")) == value


@pytest.mark.parametrize("kind", CHECKED)
def test_every_flipped_bit_is_noticed(tmp_path: Path, kind: str) -> None:
    write, read, value = CHECKED[kind]
    path = tmp_path / "file"
    write(IO, str(path), value)  # type: ignore[operator]
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            path.write_bytes(bad)
            with pytest.raises(StoreFormatError):
                read(IO, str(path))
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(StoreFormatError):
            read(IO, str(path))


@pytest.mark.parametrize("kind", [*CHECKED, *KAFKAS])
@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, kind: str, data: bytes) -> None:
    read = (CHECKED | KAFKAS)[kind][1]
    path = tmp_path_factory.getbasetemp() / "foreign"
    path.write_bytes(data)
    with pytest.raises(StoreFormatError):
        read(IO, str(path))


def test_kafkas_files_byte_for_byte(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    checkpoints.write_leader_epochs(IO, path, LeaderEpochs([EpochStart(0, 0), EpochStart(3, 120)]))
    assert Path(path).read_bytes() == b"0\n2\n0 0\n3 120\n"
    assert checkpoints.read_leader_epochs(IO, path).entries == ((0, 0), (3, 120))
    checkpoints.write_topic_id(IO, path, TOPIC_ID)
    assert Path(path).read_bytes() == b"version: 0\ntopic_id: ASNFZ4mrze8BI0VniavN7w"
    assert checkpoints.read_topic_id(IO, path) == TOPIC_ID
    assert checkpoints.parse_offsets(b"0\n1\nmy-topic 2 77\n", path) == {PartitionKey("my-topic", 2): 77}


@pytest.mark.parametrize("text", ["2\n3 0\n3 5\n", "2\n1 5\n2 5\n", "1\n-1 0\n", "1\n0 -1\n", "3\n0 0\n"])
def test_epochs_that_do_not_rise_are_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text("0\n" + text)
    with pytest.raises(StoreFormatError):
        checkpoints.read_leader_epochs(IO, str(tmp_path / "file"))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"0\n0\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StoreFormatError, match="symbolic link"):
        checkpoints.read_leader_epochs(IO, str(tmp_path / "link"))
