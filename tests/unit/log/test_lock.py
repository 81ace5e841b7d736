"""One writer process: a second one is told who holds the store, and the lock dies with its holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqcore.errors import StoreFormatError, StoreLockedError, StoreReadOnlyError
from mqcore.log.lock import StoreLock

HOLD = (
    "import sys; from mqcore.log.lock import StoreLock; lock = StoreLock(sys.argv[1]); "
    "print('held', flush=True); sys.stdin.read()"
)


def hold(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    child = hold(tmp_path / "lock")
    with pytest.raises(StoreLockedError, match=f"another process writes this store .*pid={child.pid}") as caught:
        StoreLock(str(tmp_path / "lock"))
    assert caught.value.where["pid"] == child.pid
    child.send_signal(signal.SIGKILL)
    child.wait()
    StoreLock(str(tmp_path / "lock")).close()


def test_a_second_open_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    lock = StoreLock(str(tmp_path / "lock"))
    with pytest.raises(StoreLockedError, match="this process"):
        StoreLock(str(tmp_path / "lock"))
    lock.close()
    lock.close()
    StoreLock(str(tmp_path / "lock")).close()


def test_a_forked_child_does_not_take_the_lock_away(tmp_path: Path) -> None:
    lock = StoreLock(str(tmp_path / "lock"))
    pid = os.fork()
    if pid == 0:
        lock.forked()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(StoreLockedError):
        StoreLock(str(tmp_path / "lock"))
    lock.close()


def test_an_error_after_the_lock_was_taken_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(MemoryError):
            StoreLock(str(tmp_path / "lock"))
    StoreLock(str(tmp_path / "lock")).close()


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFormatError):
        StoreLock(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreReadOnlyError):
        StoreLock(str(tmp_path / "lock"))
