"""Every command, with every option, stands in docs/cli.md as it is."""

from __future__ import annotations

import subprocess
import sys

from tests.architecture.project import ROOT


def test_the_page_is_what_the_commands_say() -> None:
    command = [sys.executable, "-P", str(ROOT / "tools" / "cli_docs.py"), "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
