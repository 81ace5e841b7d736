"""`import mqcore` is the package, from anywhere, although the C folder beside it has the same name."""

from __future__ import annotations

import subprocess
import sys

import mqcore
from tests.architecture.project import ROOT


def test_the_package_has_a_file() -> None:
    """A namespace package made of the C folder would have none."""
    assert mqcore.__file__ is not None
    assert mqcore.__file__.endswith("__init__.py")


def test_the_c_folder_is_no_package() -> None:
    assert not (ROOT / "mqcore" / "__init__.py").exists()


def test_the_package_wins_in_the_checkout_without_safe_path() -> None:
    """`python -c` in the checkout puts the current folder first on the path; a regular package still wins."""
    code = "import mqcore; print(mqcore.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("__init__.py"), result.stdout + result.stderr
