"""What the instruction gate counts: the cases of the C driver, and how one of them is counted.

Instructions of one call = (Ir of a run with MANY calls - Ir of a run with FEW) / (MANY - FEW): start-up and setting up
cancel. The same binary gives the same count to the last digit, whatever else the machine does.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bench" / "callgrind"
BUILD = ROOT / "build" / "callgrind"
FEW, MANY = 200, 1200
# As setup.py compiles the core, without link-time surprises.
CFLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What a count depends on beside the source: a baseline holds for one of these."""

    machine: str
    gcc: str
    libc: str
    valgrind: str

    @property
    def key(self) -> str:
        return f"{self.machine} gcc {self.gcc} {self.libc} valgrind {self.valgrind}"


def toolchain() -> Toolchain:
    """Of this machine."""
    libc, version = platform.libc_ver()
    valgrind = _output("valgrind", "--version").removeprefix("valgrind-").strip()
    return Toolchain(platform.machine(), _output("gcc", "-dumpfullversion").strip(), f"{libc} {version}", valgrind)


def build_driver() -> Path:
    """Compile the core and the driver; return the program. Raises CalledProcessError; gcc said why."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "driver"
    sources = [*sorted((ROOT / "mqcore" / "src").glob("*.c")), *sorted(HERE.glob("*.c"))]
    include = f"-I{ROOT / 'mqcore' / 'include'}"
    subprocess.run(["gcc", *CFLAGS, include, *map(str, sources), "-o", str(program), "-lpthread"], check=True)
    return program


def case_names(program: Path) -> list[str]:
    return _output(str(program)).split()


def count(program: Path, case: str) -> float:
    """Instructions of one call of a case."""
    return round((_instructions(program, case, MANY) - _instructions(program, case, FEW)) / (MANY - FEW), 2)


def _instructions(program: Path, case: str, calls: int) -> int:
    # A clean environment: its size moves the stack, and MQCORE_CRC32C would choose another code path. Names are
    # relative, or the length of the checkout's path would be counted.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TMPDIR": "."}
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"./{program.name}", case, str(calls)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=BUILD, check=False)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or found is None:
        raise RuntimeError(f"{case}: exit code {result.returncode}\n{result.stderr[-2000:]}")
    return int(found[1])


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
