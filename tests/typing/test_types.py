"""Users get exact types: mypy --strict accepts the examples as they are written, refuses what is wrong, and the package
says that it is typed (PEP 561), in a wheel too."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mqcore
from tests.architecture.project import ROOT
from tests.support.strict import needs

HERE = Path(__file__).parent


def run_mypy(*files: Path, cache: Path) -> list[str]:
    """The lines of errors that mypy --strict finds in files of a user, who has the package and none of our settings."""
    settings = cache / "mypy.ini"
    settings.write_text("[mypy]\nstrict = True\nmypy_path = " + str(ROOT / "python") + "\n")
    command = [sys.executable, "-P", "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(cache)]
    result = subprocess.run([*command, *map(str, files)], cwd=cache, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if ": error:" in line]


def has_mypy() -> bool:
    return (
        subprocess.run([sys.executable, "-P", "-m", "mypy", "--version"], capture_output=True, check=False).returncode
        == 0
    )


def test_the_examples_are_typed_and_what_is_wrong_is_refused(tmp_path: Path) -> None:
    needs(has_mypy(), "mypy", "pip install --group lint")
    found = run_mypy(HERE / "examples.py", HERE / "wrong.py", cache=tmp_path)
    assert [line for line in found if "wrong.py" not in line] == []
    lines = (HERE / "wrong.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    told = {int(match[1]) for line in found if (match := re.search(r"wrong\.py:(\d+):", line))}
    assert told == marked, found


def test_the_examples_run() -> None:
    result = subprocess.run(
        [sys.executable, "-P", str(HERE / "examples.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_package_says_that_it_is_typed() -> None:
    """The marker and every stub lie beside the code, and are named as data of the wheel."""
    package = Path(mqcore.__file__).parent
    assert (package / "py.typed").is_file()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mqcore"]
    assert {"py.typed", "_native/*.pyi"} <= set(data)
    modules = {path.name.partition(".")[0] for path in (package / "_native").glob("*.so")}
    assert modules <= {path.stem for path in (package / "_native").glob("*.pyi")}


def test_a_wheel_holds_the_marker_and_the_stubs(tmp_path: Path) -> None:
    """setuptools' own answer: what `build_py`, the step that fills a wheel, copies."""
    script = (
        "import sys; from setuptools import setup; from setuptools.command.build_py import build_py;"
        "sys.argv = ['setup.py', '-q', 'build_py', '--build-lib', sys.argv[1]]; setup()"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "lib")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "lib" / "mqcore" / "py.typed").is_file()
    assert {path.stem for path in (tmp_path / "lib" / "mqcore" / "_native").glob("*.pyi")} >= {"batch", "segment", "io"}
