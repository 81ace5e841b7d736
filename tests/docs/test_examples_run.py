"""Every Python example of a page runs as it stands, in the order of the page; every program of examples/ runs, and its
tutorial shows all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.project import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/quickstart.md", "docs/processing.md", "docs/state.md", "docs/ids-and-dedup.md"]
)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    blocks = _BLOCK.findall((ROOT / page).read_text())
    assert blocks, f"{page} has no example"
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    result = subprocess.run(
        [sys.executable, "-P", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


PROGRAMS = sorted((ROOT / "examples").glob("*.py"))


def test_the_four_use_cases_are_there() -> None:
    names = {path.stem for path in PROGRAMS}
    assert names >= {"payments_ledger", "log_aggregation", "sensor_averages", "notifications"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs(program: Path, tmp_path: Path) -> None:
    """In memory, and into a directory: their own assertions check what they did."""
    for arguments in ([], [str(tmp_path / "store")]):
        command = [sys.executable, "-P", str(program), *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
        assert result.returncode == 0, result.stderr
        assert result.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_its_tutorial_shows_all_of_it(program: Path) -> None:
    page = ROOT / "docs" / "tutorials" / (program.stem.replace("_", "-") + ".md")

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line]

    assert lines("\n".join(_BLOCK.findall(page.read_text()))) == lines(program.read_text())
