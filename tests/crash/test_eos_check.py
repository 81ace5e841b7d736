"""`mqcore eos-check` sees through a worker under SIGKILL: what it promises, and what it only seems to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_WORKERS = str(Path(__file__).with_name("eos_workers.py"))


def _check(store: Path, kind: str, *options: str) -> tuple[int, dict[str, Any]]:
    command = [
        sys.executable, "-P", "-m", "mqcore.cli.main", "eos-check", str(store), "--source", "in", "--sink", "out",
        "--records", "1500", "--kills", "6", "--seed", "3", "--durability", "os", "--quiet", "2", *options,
        "--json", "--", sys.executable, "-P", _WORKERS, str(store), kind,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode in (0, 1), result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, told


@pytest.mark.timeout(120)
def test_offsets_after_the_output_lose_nothing(fast_path: Path) -> None:
    code, told = _check(fast_path / "store", "after", "--guarantee", "at_least_once")
    assert code == 0, json.dumps(told)
    assert (told["kills"], told["planted"], told["lost"]) == (6, 1500, 0)
    assert told["finished"]


@pytest.mark.timeout(120)
def test_offsets_before_the_output_are_found_out(fast_path: Path) -> None:
    code, told = _check(fast_path / "store", "before", "--guarantee", "at_least_once")
    assert code == 1
    assert told["lost"] > 0
    assert "in the source at partition" in told["examples"]["lost"][0]
