"""Whoever follows the marks page, in this process or another, sees whole slots, wakes at every publish, and learns that
the writer is gone however it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqcore.errors import InvariantError
from mqcore.log.marks import Marks, page_path

STORE_ID, TOPIC = bytes(range(16)), uuid.UUID(int=7)

pytestmark = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no shared memory here")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    found = page_path(STORE_ID, str(tmp_path))
    assert found is not None
    yield found
    for name in os.listdir("/dev/shm"):
        if name.startswith(os.path.basename(found)):
            os.unlink(os.path.join("/dev/shm", name))


def other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python with `Marks`, STORE_ID, TOPIC and path at hand; say() prints a line at once."""
    head = (
        "import os, sys, time, uuid\nfrom mqcore.log.marks import Marks\n"
        "STORE_ID, TOPIC, path = bytes(range(16)), uuid.UUID(int=7), sys.argv[1]\n"
        "def say(*words): print(*words, flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-c", head + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_living_is_what_a_new_writer_says_at_once(path: str) -> None:
    """The lock of a writer is looked at now and then; a page that was superseded, or closed, says so itself."""
    writer = Marks.create(STORE_ID, path)
    reader = Marks.open(STORE_ID, path)
    assert reader is not None
    assert reader.living()
    second = Marks.create(STORE_ID, path)
    assert not reader.living()
    last = Marks.open(STORE_ID, path)
    assert last is not None
    assert last.living()
    second.close()
    assert not last.living()
    for marks in (writer, reader, last):
        marks.close()
        assert not marks.living()


def test_slots_are_written_once_and_found_by_readers(path: str) -> None:
    writer = Marks.create(STORE_ID, path)
    assert writer.shared
    assert writer.slot(TOPIC, 3) == 0
    assert writer.slot(TOPIC, 4) == 1
    assert writer.slot(TOPIC, 3) == 0
    writer.publish(1, 5, 7, 6, 9)
    reader = Marks.open(STORE_ID, path)
    assert reader is not None
    assert reader.slot(TOPIC, 4) == 1
    assert reader.slot(TOPIC, 5) == -1
    assert reader.read(1) == (5, 7, 6, 9) == writer.read(1)
    assert reader.nonce == writer.nonce
    assert reader.writer_pid == os.getpid()
    for slot in (2, 1 << 20):
        with pytest.raises(ValueError, match="slot"):
            reader.read(slot)
        with pytest.raises(InvariantError):
            writer.publish(slot, 0, 0, 0, 0)
    with pytest.raises(InvariantError):
        reader.publish(1, 0, 0, 0, 0)
    writer.close()
    writer.close()
    writer.publish(1, 0, 0, 0, 0)
    assert reader.read(1) == (5, 7, 6, 9)  # mapped still, and closed
    assert reader.closed()
    assert Marks.open(STORE_ID, path) is None
    reader.close()


def test_an_anonymous_page_works_in_its_process() -> None:
    marks = Marks.create(STORE_ID, None)
    assert not marks.shared
    slot = marks.slot(TOPIC, 0)
    seen = marks.sequence(slot)
    marks.publish(slot, 0, 1, 1, 1)
    assert marks.wait(seen, 0.0, slot)
    assert not marks.wait(marks.sequence(slot), 0.0, slot)
    marks.close()
    assert marks.closed()
    assert Marks.open(STORE_ID, None) is None


@pytest.mark.parametrize("path_in_use", ["", "/nonexistent/page"])
def test_without_a_usable_place_the_page_is_anonymous(path_in_use: str) -> None:
    marks = Marks.create(STORE_ID, path_in_use)
    assert not marks.shared
    marks.close()


def test_foreign_pages_are_not_believed(path: str, tmp_path: Path) -> None:
    writer = Marks.create(STORE_ID, path)
    assert Marks.open(b"x" * 16, path) is None
    link = tmp_path / "link"
    link.symlink_to(path)
    assert Marks.open(STORE_ID, str(link)) is None
    for junk in (b"", b"junk" * 1000):
        (tmp_path / "junk").write_bytes(junk)
        assert Marks.open(STORE_ID, str(tmp_path / "junk")) is None
    writer.close()


@pytest.mark.parametrize("own_slot", [True, False])
def test_a_wait_in_another_thread_wakes(path: str, own_slot: bool) -> None:
    marks = Marks.create(STORE_ID, path)
    slot = marks.slot(TOPIC, 0)
    where = slot if own_slot else -1
    seen, woken = [0], threading.Event()

    def follow() -> None:
        while seen[0] < 500:
            word = marks.sequence(where)
            seen[0] = marks.read(slot)[1]
            if seen[0] < 500:
                assert marks.wait(word, 30, where)
        woken.set()

    thread = threading.Thread(target=follow)
    thread.start()
    for i in range(1, 501):
        marks.publish(slot, 0, i, i, i)
    assert woken.wait(30)
    thread.join()
    marks.close()


def test_another_process_wakes_at_each_publish(path: str) -> None:
    marks = Marks.create(STORE_ID, path)
    slot = marks.slot(TOPIC, 0)
    reader = other_process(
        "m = Marks.open(STORE_ID, path); slot = m.slot(TOPIC, 0); last = 0\n"
        "say('ready')\n"
        "while last < 50:\n"
        "    word = m.sequence(slot); now = m.read(slot)[1]\n"
        "    if now != last: last = now; say(now)\n"
        "    elif not m.wait(word, 30, slot): sys.exit(1)\n",
        path,
    )
    assert line(reader) == "ready"
    for i in range(1, 51):
        marks.publish(slot, 0, i, i, i)
        assert line(reader) == str(i)
    assert reader.wait(30) == 0
    marks.close()


def test_a_reader_never_sees_a_torn_slot(path: str) -> None:
    marks = Marks.create(STORE_ID, path)
    slot = marks.slot(TOPIC, 0)
    marks.publish(slot, 0, 0, 0, ~0)
    reader = other_process(
        "m = Marks.open(STORE_ID, path); slot = m.slot(TOPIC, 0); reads = last = 0\n"
        "say('ready')\n"
        "while not m.closed():\n"
        "    for _ in range(1000):\n"
        "        a, b, c, d = m.read(slot); reads += 1\n"
        "        assert b == a * 3 and c == a * 7 and d == ~a and a >= last, (a, b, c, d, last)\n"
        "        last = a\n"
        "say(reads)\n",
        path,
    )
    assert line(reader) == "ready"
    end, i = time.monotonic() + 1.0, 0
    while time.monotonic() < end:
        for _ in range(1000):
            i += 1
            marks.publish(slot, i, i * 3, i * 7, ~i)
    marks.close()
    assert int(line(reader)) > 100
    assert reader.wait(30) == 0


@pytest.mark.parametrize("how", ["close", "kill", "supersede"])
def test_a_sleeping_reader_learns_that_the_writer_is_gone(path: str, how: str) -> None:
    writer = other_process(
        "m = Marks.create(STORE_ID, path); m.publish(m.slot(TOPIC, 0), 1, 2, 3, 4); say('ready')\n"
        "sys.stdin.readline(); m.close()",
        path,
    )
    assert line(writer) == "ready"
    reader = Marks.open(STORE_ID, path)
    assert reader is not None
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(reader.wait(reader.sequence(), 60)))
    thread.start()
    new = None
    if how == "close":
        writer.communicate("\n")
    elif how == "kill":
        writer.kill()
    else:
        new = Marks.create(STORE_ID, path)
    thread.join(30)
    assert woken == [True]
    assert reader.closed()
    again = Marks.open(STORE_ID, path)
    if new is not None:
        assert again is not None
        assert again.nonce == new.nonce != reader.nonce
        writer.communicate("\n")  # the old writer's close must leave the new page alone
        assert os.path.exists(path)
        again.close()
        new.close()
    else:
        assert again is None
        writer.communicate()
    reader.close()


def test_ctrl_c_ends_a_wait(path: str) -> None:
    marks = Marks.create(STORE_ID, path)
    killer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        marks.wait(marks.sequence(), 60)
    killer.join()
    marks.close()


def test_a_handled_signal_does_not_end_a_wait(path: str) -> None:
    marks = Marks.create(STORE_ID, path)
    slot, caught = marks.slot(TOPIC, 0), []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    try:
        strike = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        publish = threading.Timer(0.2, marks.publish, (slot, 0, 1, 1, 1))
        strike.start()
        publish.start()
        assert marks.wait(marks.sequence(), 60)
        assert caught == [1]
        assert marks.read(slot)[1] == 1
        strike.join()
        publish.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
        marks.close()


@pytest.mark.parametrize("same_process", [True, False])
def test_an_armed_waker_is_called_once_a_publish(path: str, same_process: bool) -> None:
    writer = Marks.create(STORE_ID, path)
    slot = writer.slot(TOPIC, 0)
    marks = writer if same_process else Marks.open(STORE_ID, path)
    assert marks is not None
    calls = threading.Semaphore(0)
    count = [0]

    def waker() -> None:
        count[0] += 1
        calls.release()

    for i in range(1, 20):
        marks.add_waker(waker)
        writer.publish(slot, 0, i, i, i)
        assert calls.acquire(timeout=30)
    if same_process:  # a reader's follower may be late: it may call once more for a publish before the arming
        writer.publish(slot, 0, 0, 0, 0)
        marks.add_waker(waker)
        marks.remove_waker(waker)
        writer.publish(slot, 0, 0, 0, 0)
        assert count[0] == 19
    marks.add_waker(waker)
    writer.close()  # the end wakes, too
    assert calls.acquire(timeout=30)
    if not same_process:
        marks.close()
    assert not any(t.name == "mqcore-marks" for t in threading.enumerate())


def test_a_forked_child_lets_go_without_a_trace(path: str) -> None:
    marks = Marks.create(STORE_ID, path)
    slot = marks.slot(TOPIC, 0)
    marks.publish(slot, 1, 2, 3, 4)
    child = os.fork()
    if child == 0:
        marks.abandon()
        marks.publish(slot, 9, 9, 9, 9)
        marks.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    reader = Marks.open(STORE_ID, path)
    assert reader is not None
    assert reader.read(slot) == (1, 2, 3, 4)
    reader.close()
    marks.close()


def test_pages_of_killed_writers_do_not_pile_up(path: str, tmp_path: Path) -> None:
    """A store that is never opened again would leave its page in memory for ever: other stores' writers remove it."""
    (tmp_path / "dead").mkdir()
    (tmp_path / "alive").mkdir()
    dead, alive = (page_path(STORE_ID, str(tmp_path / name)) for name in ("dead", "alive"))
    assert dead is not None
    process = other_process("page = Marks.create(STORE_ID, path); say(); time.sleep(60)", dead)
    line(process)
    process.kill()
    process.wait()
    living = Marks.create(STORE_ID, alive)
    for _ in range(1000):  # each looks at some of what is there
        if not os.path.exists(dead):
            break
        Marks.create(STORE_ID, path).close()
    assert not os.path.exists(dead)
    assert Marks.open(STORE_ID, alive) is not None
    living.close()
