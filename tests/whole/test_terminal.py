"""On a terminal, long commands show a bar with messages a second, on standard error; results stay on standard output,
and without a terminal there is no bar."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import MQCORE

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LINES = "".join(f"k{number % 7},{number}\n" for number in range(30_000))


def run_on_a_terminal(*arguments: object) -> tuple[str, str, str]:
    """Run a command whose standard error is a terminal: (standard output, what the terminal got, without its escapes)."""
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [*MQCORE, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=side, env=environment
    ) as process:
        os.close(side)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the last end of the terminal was closed
            while part := os.read(main, 1 << 16):
                shown += part
        os.close(main)
        assert process.stdout is not None
        output = process.stdout.read().decode()
    text = shown.decode()
    assert process.returncode == 0, (output, text)
    return output, text, ESCAPE.sub("", text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_text("key,value\n" + LINES)
    return path


def test_produce_shows_its_progress(tmp_path: Path, source: Path) -> None:
    command = ("produce", "csv", source, "--key-field", "key", "--create", "--store", tmp_path / "s")
    output, raw, plain = run_on_a_terminal(*command)
    assert re.search(r"produce csv .*30000.* [\d,]+ msg/s", plain.replace(",", ""))
    assert "\x1b[?25l" in raw  # the cursor, hidden under the bar ...
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")  # ... and shown again
    assert "msg/s" not in output
    *_, quiet = run_on_a_terminal(*command, "--json")
    assert "\x1b" not in quiet
    assert "msg/s" not in quiet
    result = subprocess.run([*MQCORE, *map(str, command)], capture_output=True, check=True)
    assert b"\x1b" not in result.stderr


def test_the_demo_shows_its_progress(tmp_path: Path, source: Path) -> None:
    output, _, plain = run_on_a_terminal("demo", "--input", source, "--store", tmp_path / "s", "--partitions", "3")
    for step in ("write", "read"):
        assert re.search(rf"{step} .*30000/(30000|\?) \d+ msg/s", plain.replace(",", ""))
    assert "30,000" in output
