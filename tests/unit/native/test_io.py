"""Every file call goes through an Io; a failed one is an exception with path and errno, and changed nothing it need not
have; names that exist or are missing stay OSErrors; symbolic links are refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mqcore._native.io import FaultyIo, Io
from mqcore.errors import DiskFullError, RecordTooLargeError, StorageError


def test_files_and_names(tmp_path: Path) -> None:
    io = Io()
    directory = tmp_path / "d"
    io.mkdir(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        io.mkdir(str(directory))
    file = directory / "a"
    io.write_atomic(file, b"hello")
    assert io.read_file(file) == b"hello"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RecordTooLargeError):
        io.read_file(file, limit=4)
    io.link(file, directory / "b")
    io.truncate(file, 2)
    assert io.read_file(directory / "b") == b"he"
    io.rename(file, directory / "c")
    with pytest.raises(FileNotFoundError):
        io.read_file(file)
    with pytest.raises(FileNotFoundError):
        io.unlink(file)
    io.sync_file(directory / "c")
    io.sync_dir(directory)
    io.sync_filesystem(directory)
    with pytest.raises(OSError, match="not empty") as caught:
        io.rmdir(directory)
    assert caught.value.errno == errno.ENOTEMPTY
    io.unlink(directory / "b")
    io.unlink(directory / "c")
    io.rmdir(directory)
    with pytest.raises(ValueError, match="NUL"):
        io.unlink("a\0b")


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    io = Io()
    (tmp_path / "secret").write_bytes(b"x")
    os.symlink(tmp_path / "secret", tmp_path / "link")
    for call in (io.read_file, io.sync_file, lambda path: io.truncate(path, 0)):
        with pytest.raises(StorageError) as caught:
            call(tmp_path / "link")
        assert caught.value.where["errno"] == "ELOOP"
    io.write_atomic(tmp_path / "link", b"new")  # replaces the link, never follows it
    assert (tmp_path / "secret").read_bytes() == b"x"
    os.symlink(tmp_path / "secret", tmp_path / "link.tmp")
    with pytest.raises(StorageError):
        io.write_atomic(tmp_path / "link", b"newer")
    assert (tmp_path / "secret").read_bytes() == b"x"


@pytest.mark.parametrize("short", [-1, 0, 1])
def test_an_atomic_write_fails_at_every_call(tmp_path: Path, short: int) -> None:
    io, path = FaultyIo(), tmp_path / "a"
    for at in range(1, 20):
        io.disarm()
        io.write_atomic(path, b"old")
        io.arm(at, errno.EIO, short=short)
        fired = io.fired
        error = None
        try:
            io.write_atomic(path, b"new")
        except StorageError as raised:
            error = raised
        if error is None:
            assert io.fired == fired
            return
        assert error.where["errno"] == "EIO"
        assert str(tmp_path) in error.where["path"]
        assert path.read_bytes() in (b"old", b"new")
        assert os.listdir(tmp_path) == ["a"]
    pytest.fail("never clean")


def test_faults_are_chosen_by_name(tmp_path: Path) -> None:
    io = FaultyIo()
    io.arm(2, errno.ENOSPC, only="fsync, fdatasync")
    with pytest.raises(DiskFullError, match="directory"):  # the second fsync of an atomic write
        io.write_atomic(tmp_path / "a", b"x")
    io.arm(1, errno.EIO, sticky=True, only="unlink")
    for _ in range(3):
        with pytest.raises(StorageError):
            io.unlink(tmp_path / "a")
    assert io.fired == 4
    io.disarm()
    calls = io.calls
    io.unlink(tmp_path / "a")
    assert io.calls == calls + 1
    with pytest.raises(ValueError, match="no call"):
        io.arm(1, errno.EIO, only="wrote")
    with pytest.raises(ValueError, match="from 1"):
        io.arm(0, errno.EIO)
