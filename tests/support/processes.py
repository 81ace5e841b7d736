"""Other processes in tests: the command line, a writer that can be killed, and a mount namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = (sys.executable, "-P")
MQCORE = (*PYTHON, "-m", "mqcore.cli.main")

_WRITER = """
import sys, mqcore
store = mqcore.open(sys.argv[1], durability=sys.argv[2])
if "t" not in store.topics():
    store.create_topic("t", partitions=2)
producer = store.producer()
print("ready", flush=True)
for line in sys.stdin:  # each line is acknowledged before the next is read
    done = producer.send("t", line.rstrip().encode(), partition=len(line) % 2).result()
    print(done.partition, done.offset, flush=True)
"""


def mqcore(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> list[Any]:
    """Run `mqcore … --json`; its JSON lines: of standard output, or of standard error where it is to fail."""
    command = [*MQCORE, *map(str, arguments), "--json"]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=100)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    text = result.stdout if code == 0 or result.stdout else result.stderr
    return [json.loads(line) for line in text.decode().splitlines()]


def mqcore_text(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Run `mqcore …` as a person does; standard output."""
    command = [*MQCORE, *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=100)
    assert result.returncode == 0, (arguments, result.stdout, result.stderr)
    return result.stdout.decode()


class Writer:
    """A process that writes a store: `send` returns when the record is acknowledged there."""

    def __init__(self, path: Path, durability: str = "os") -> None:
        self.process = subprocess.Popen(
            [*PYTHON, "-c", _WRITER, str(path), durability], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"
        self.sent: dict[tuple[int, int], bytes] = {}  # (partition, offset) -> value, as acknowledged

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, value: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(value + "\n")
        self.process.stdin.flush()
        partition, offset = map(int, self._line().split())
        self.sent[partition, offset] = value.encode()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self._reap()

    def _reap(self) -> None:
        self.process.wait(60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def writing(path: Path, durability: str = "os") -> Iterator[Writer]:
    """A writer process that does not outlive the block."""
    writer = Writer(path, durability)
    try:
        yield writer
    finally:
        if writer.process.poll() is None:
            writer.kill()


def can_mount() -> bool:
    """Whether this process may make a mount namespace of its own and mount in it."""
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def run_read_only(path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a mount namespace in which `path` (a directory) is mounted read-only. sys.argv[1]: path."""
    shell = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", shell, str(path), *PYTHON, "-c", script, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
