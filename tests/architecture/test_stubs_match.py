"""Each native module has a stub, and the stub says what the module has (mypy.stubtest)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from tests.architecture.project import ROOT
from tests.support.strict import needs


def test_stubs_match() -> None:
    needs(importlib.util.find_spec("mypy") is not None, "mypy", "pip install --group lint")
    command = [sys.executable, "-P", str(ROOT / "tools" / "check_stubs.py")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
